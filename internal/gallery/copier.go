package gallery

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/sqlite"
)

const (
	// copiesPerVersion is how many replicas of one version are copied at a time,
	// and copiesInAll how many of all. The second is first come, first served.
	copiesPerVersion = 4
	copiesInAll      = 8
	// triesBeforeFailure is how often a copy is tried before its operation fails;
	// it is tried again after that, too.
	triesBeforeFailure = 3
)

// retries are the waits before a failed copy is tried again; the last one holds
// for all further tries.
func retries() []time.Duration {
	return []time.Duration{time.Second, 4 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute}
}

// place is where one replica of a version is to be.
type place struct {
	version string // key
	region  string
	ordinal int32
	store   string
}

func placeOf(r millpond.Replica) place { return place{r.Version, r.Region, r.Ordinal, r.Store} }

// attempt is how a copy has gone so far; it is in memory, because after a
// restart everything may be tried at once.
type attempt struct {
	n    int
	next time.Time
	err  *millpond.Error
}

// retryAt is when the first failed copy of a version is to be tried again; zero
// without one.
func (s *Service) retryAt(id millpond.ResourceID) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, a := range s.attempts {
		if p.version == id.Key() && (next.IsZero() || a.next.Before(next)) {
			next = a.next
		}
	}
	return next
}

// forget makes every copy of a version one that was never tried, as a user's
// update does.
func (s *Service) forget(id millpond.ResourceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.attempts {
		if p.version == id.Key() {
			delete(s.attempts, p)
		}
	}
}

// copier copies the replicas of one version. It is for the goroutine of the
// version's worker; only the copies themselves run beside it.
type copier struct {
	s       *Service
	v       *millpond.ImageVersion
	have    []millpond.Replica // the rows as last read
	running map[place]context.CancelFunc
	results chan result
}

type result struct {
	r   millpond.Replica
	err error
}

func newCopier(s *Service, v *millpond.ImageVersion) *copier {
	return &copier{s: s, v: v, running: map[place]context.CancelFunc{}, results: make(chan result, copiesPerVersion)}
}

func (c *copier) busy(r millpond.Replica) bool { return c.running[placeOf(r)] != nil }
func (c *copier) idle() bool                   { return len(c.running) == 0 }

func (c *copier) tries(r millpond.Replica) attempt {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.attempts[placeOf(r)]
}

// abandon ends the copies of replicas that are not wanted any more.
func (c *copier) abandon(work []millpond.Replica) {
	wanted := map[place]bool{}
	for _, r := range work {
		wanted[placeOf(r)] = true
	}
	for p, cancel := range c.running {
		if !wanted[p] {
			cancel()
		}
	}
}

// begin starts copies: the first replica of every region before the second of
// any, so that each region can be used as soon as possible.
func (c *copier) begin(ctx context.Context, work []millpond.Replica) {
	sort.SliceStable(work, func(i, j int) bool { return work[i].Ordinal < work[j].Ordinal })
	now := c.s.Clock.Now()
	for _, r := range work {
		if len(c.running) >= copiesPerVersion {
			return
		}
		if c.busy(r) || c.tries(r).next.After(now) {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		c.running[placeOf(r)] = cancel
		sources := c.sources(r)
		go func() { c.results <- result{r, c.s.copyReplica(ctx, c.v, r, sources)} }()
	}
}

// wait ends all copies and joins them.
func (c *copier) wait() {
	for _, cancel := range c.running {
		cancel()
	}
	for len(c.running) > 0 {
		r := <-c.results
		delete(c.running, placeOf(r.r))
	}
}

// ended books the outcome of a copy.
func (c *copier) ended(done result) {
	p := placeOf(done.r)
	c.running[p]()
	delete(c.running, p)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch {
	case done.err == nil:
		delete(c.s.attempts, p)
	case errors.Is(done.err, context.Canceled):
		// It is not wanted any more, or the server ends.
	default:
		c.s.attempts[p] = c.s.failed(c.s.attempts[p], done.err)
	}
}

// failed is the attempt after one more failure.
func (s *Service) failed(a attempt, err error) attempt {
	waits := s.Retries
	a.n++
	a.next = s.Clock.Now().Add(waits[min(a.n, len(waits))-1])
	a.err = millpond.AsError(err)
	return a
}

// failure sums up why the replicas are not there; final once one of them has
// been tried often enough.
func (c *copier) failure(left []millpond.Replica) (e *millpond.Error, final bool) {
	seen := map[string]bool{}
	text := ""
	for _, r := range left {
		a := c.tries(r)
		if a.err == nil {
			continue
		}
		final = final || a.n >= triesBeforeFailure
		if line := fmt.Sprintf("%s: %s", r.Region, a.err.Message); !seen[line] {
			seen[line] = true
			text += " " + line
		}
		if e == nil || a.n >= triesBeforeFailure {
			e = a.err
		}
	}
	if e == nil {
		return nil, false
	}
	return millpond.Errorf(e.Kind, e.Code, "Replication of %s failed.%s It is tried again from time to time; to try at once, update the version: az sig image-version update", c.v.ID, text), final
}

// sources are the stores that a replica can be copied from, the nearest first:
// replicas of its own region, where the disk was frozen, then other regions.
func (c *copier) sources(r millpond.Replica) []string {
	var near, far []string
	for _, h := range c.have {
		switch {
		case h.State != millpond.ReplicaCompleted || h.Store == r.Store:
		case h.Region == r.Region:
			near = append(near, h.Store)
		default:
			far = append(far, h.Store)
		}
	}
	// Copies that run beside each other begin with different ones.
	if n := len(near); n > 0 {
		k := int(r.Ordinal) % n
		near = append(near[k:n:n], near[:k]...)
	}
	var out []string
	seen := map[string]bool{}
	for _, name := range append(append(near, c.v.OSDisk.Store), far...) {
		if !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out
}

// copyReplica copies the contents of a version into one store and records how
// far it is.
func (s *Service) copyReplica(ctx context.Context, v *millpond.ImageVersion, r millpond.Replica, sources []string) error {
	if err := s.copies.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.copies.Release(1)
	// The row uses the contents already; the hold keeps one that is found there
	// from being deleted for another version at this moment.
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	r.Total = size(v)
	dst, err := s.Keeper.Store(r.Store)
	var before int64
	var last time.Time
	var moved image.Moved // of all disks
	for _, d := range v.Disks() {
		if err != nil {
			break
		}
		from := sources
		if d.Store != v.OSDisk.Store {
			from = append([]string{d.Store}, sources...)
		}
		var stores []image.Store
		for _, name := range from {
			// One that is not configured any more is passed over.
			if st, serr := s.Keeper.Store(name); serr == nil {
				stores = append(stores, st)
			}
		}
		var now image.Moved
		_, err = hold.Fetch(ctx, dst, image.ContentID(d.Content), func(m image.Moved) {
			now = m
			// The row counts the disks' sizes, which are known before their data is.
			r.Done = before + int64(float64(d.SizeBytes)*float64(m.Done)/float64(max(m.Total, 1)))
			if t := s.Clock.Now(); t.Sub(last) > 250*time.Millisecond {
				last = t
				if err := s.putReplica(ctx, r); err != nil && ctx.Err() == nil {
					s.Log.Warn("progress not recorded", "version", v.ID.String(), "region", r.Region, "err", err)
				}
			}
		}, stores...)
		before += d.SizeBytes
		moved.Total, moved.Moved, moved.Bytes = moved.Total+now.Total, moved.Moved+now.Moved, moved.Bytes+now.Bytes
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.mu.Lock()
		a := s.failed(s.attempts[placeOf(r)], err)
		s.mu.Unlock()
		// A reader learns of the store and the reason at once; the region has
		// failed when it has been tried often enough.
		if a.n >= triesBeforeFailure {
			r.State = millpond.ReplicaFailed
		}
		r.Details = fmt.Sprintf("try %d to copy to the store %s failed: %s The next is at %s.", a.n, r.Store, a.err.Message, a.next.UTC().Format(time.TimeOnly))
		return errors.Join(err, s.putReplica(ctx, r))
	}
	r.State, r.Done, r.Details = millpond.ReplicaCompleted, r.Total, effort(moved)
	return s.putReplica(ctx, r)
}

// effort says what a copy cost: only chunks that the store lacked were moved.
func effort(m image.Moved) string {
	const mib = 1 << 20
	if m.Moved == 0 {
		return fmt.Sprintf("all %.1f MiB of data were there", float64(m.Total)/mib)
	}
	return fmt.Sprintf("%.1f MiB of data moved, %.1f MiB compressed; %.1f MiB were there", float64(m.Moved)/mib, float64(m.Bytes)/mib, float64(m.Total-m.Moved)/mib)
}

// putReplica writes a replica's row if it is still the one that is wanted.
func (s *Service) putReplica(ctx context.Context, r millpond.Replica) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		have, err := tx.Replicas(r.Version)
		if err != nil {
			return err
		}
		for _, h := range have {
			if placeOf(h) == placeOf(r) {
				return tx.PutReplica(r)
			}
		}
		return nil
	})
}
