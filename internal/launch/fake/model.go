package fake

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"time"

	"millpond.dev/millpond/internal/launch"
)

// Model is what machines need to boot, so that the start of a pool takes as long
// as it would on hosts that are not there. With a Model a machine counts as
// running once it is launched, as real ones do, and boots from then on; Behaviour's
// delays come before that, its failures are at their end. The zero value needs
// nothing.
type Model struct {
	// Boot is the median of what a boot takes beside reading its image. Spread is
	// the standard deviation of its logarithm: with 0.25 one in twenty takes half as
	// long again.
	Boot   time.Duration
	Spread float64
	// Slow is the share, 0–1, of machines whose boot takes SlowBy times as long.
	Slow, SlowBy float64
	// ImageMiB is what a boot reads of its image.
	ImageMiB float64
	// ReplicaMiBps is what one replica of an image serves to all its readers, in
	// equal parts; NodeMiBps is the most that one machine takes. 0 is no limit.
	ReplicaMiBps, NodeMiBps float64
	// AtOnce is how many machines the hosts launch and boot at the same time; the
	// others wait. 0 is no limit.
	AtOnce int
}

// zero says whether the model asks for nothing.
func (m Model) zero() bool { return m == Model{} }

// world is what machines of a model share.
type world struct {
	model Model
	speed float64
	slots chan struct{} // nil without a limit

	mu       sync.Mutex
	replicas map[string]*replica
}

func newWorld(m Model, speed float64) *world {
	w := &world{model: m, speed: speed, replicas: map[string]*replica{}}
	if m.AtOnce > 0 {
		w.slots = make(chan struct{}, m.AtOnce)
	}
	return w
}

// enter waits for a host that can take one more boot; false when ctx ended first.
func (w *world) enter(ctx context.Context) bool {
	if w.slots == nil {
		return ctx.Err() == nil
	}
	select {
	case w.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *world) leave() {
	if w.slots != nil {
		<-w.slots
	}
}

// boot waits as long as a boot takes; normal is a standard normal deviate and slow
// whether the machine is one of the slow ones.
func (w *world) boot(ctx context.Context, spec launch.Spec, normal float64, slow bool) bool {
	m := w.model
	d := time.Duration(float64(m.Boot) * math.Exp(m.Spread*normal))
	if slow {
		d = time.Duration(float64(d) * max(1, m.SlowBy))
	}
	// The loader and the kernel are read, then it computes, and so on; the middle
	// stands for all.
	return wait(ctx, w.real(d/2)) && w.read(ctx, spec) && wait(ctx, w.real(d/2))
}

func (w *world) real(d time.Duration) time.Duration { return time.Duration(float64(d) / w.speed) }

// read waits until a machine has read of its image from the replica that it was
// told to ask first.
func (w *world) read(ctx context.Context, spec launch.Spec) bool {
	m := w.model
	if m.ImageMiB <= 0 || m.ReplicaMiBps <= 0 && m.NodeMiBps <= 0 {
		return true
	}
	name := ""
	if len(spec.OSDisk.Stores) > 0 {
		name = spec.OSDisk.Stores[0].Name
	}
	w.mu.Lock()
	r := w.replicas[name]
	if r == nil {
		r = &replica{rate: limit(m.ReplicaMiBps) * w.speed, most: limit(m.NodeMiBps) * w.speed}
		w.replicas[name] = r
	}
	w.mu.Unlock()
	return r.read(ctx, m.ImageMiB)
}

func limit(v float64) float64 {
	if v <= 0 {
		return math.Inf(1)
	}
	return v
}

// replica serves its readers in equal parts. All have the same rate at a time, so
// that it keeps one figure, what each reader has had since the beginning, and wakes
// them in the order in which they have enough: a reader costs a logarithm, not a
// look at all others.
type replica struct {
	rate, most float64 // MiB/s of real time: of all, and of one reader

	mu      sync.Mutex
	readers readers
	served  float64 // MiB that a reader has had that was here all the time
	at      time.Time
	timer   *time.Timer
}

// reader has enough when served is until.
type reader struct {
	until float64
	done  chan struct{}
	index int // in the heap; -1 when out of it
}

// each is what one reader gets in a second; the mutex is held.
func (r *replica) each() float64 { return min(r.most, r.rate/float64(max(1, len(r.readers)))) }

// advance brings served to now; the mutex is held.
func (r *replica) advance(now time.Time) {
	if len(r.readers) > 0 {
		r.served += now.Sub(r.at).Seconds() * r.each()
	}
	r.at = now
}

// settle lets go who has enough, and comes again when the next one will have; the
// mutex is held and served is of now.
func (r *replica) settle() {
	const nearly = 1e-6 // of a MiB: time has nanoseconds
	for len(r.readers) > 0 && r.readers[0].until <= r.served+nearly {
		x := heap.Pop(&r.readers).(*reader)
		close(x.done)
	}
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	if len(r.readers) > 0 {
		in := time.Duration(math.Ceil((r.readers[0].until - r.served) / r.each() * float64(time.Second)))
		r.timer = time.AfterFunc(in, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.advance(time.Now())
			r.settle()
		})
	}
}

func (r *replica) read(ctx context.Context, mib float64) bool {
	x := &reader{done: make(chan struct{})}
	r.mu.Lock()
	r.advance(time.Now())
	x.until = r.served + mib
	heap.Push(&r.readers, x)
	r.settle()
	r.mu.Unlock()
	select {
	case <-x.done:
		return true
	case <-ctx.Done():
		r.mu.Lock()
		defer r.mu.Unlock()
		if x.index >= 0 {
			r.advance(time.Now())
			heap.Remove(&r.readers, x.index)
			r.settle()
		}
		return false
	}
}

// readers is a heap by until.
type readers []*reader

func (h readers) Len() int           { return len(h) }
func (h readers) Less(i, j int) bool { return h[i].until < h[j].until }
func (h readers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *readers) Push(x any) {
	r := x.(*reader)
	r.index = len(*h)
	*h = append(*h, r)
}

func (h *readers) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = nil
	r.index = -1
	*h = old[:len(old)-1]
	return r
}

var _ heap.Interface = (*readers)(nil)
