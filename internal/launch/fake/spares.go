package fake

import (
	"context"
	"encoding/json"
	"time"

	"millpond.dev/millpond/internal/launch"
)

// spares are machines of a kind that wait for a node. A fake one is a number: what
// it needed to boot has passed, so that the node's boot takes no time.
type spares struct {
	ready, coming int
	// wanted is of all owners; a kind that nobody wants has none.
	wanted int
	spec   launch.Spec
}

var _ launch.Parker = (*Launcher)(nil)

// kindOf is equal for specs whose machines are; the empty kind has no spares.
func kindOf(s launch.Spec) string {
	if s.Cold || s.FirstBoot != nil || s.Card != nil && s.Card.LAN != "" {
		return ""
	}
	s.Node, s.Generation, s.Labels, s.Channel, s.Hostname, s.Card, s.Greeting = "", 0, nil, launch.Channel{}, "", nil, nil
	// Which replica is asked first differs from node to node.
	s.OSDisk.Stores = nil
	s.DataDisks = append([]launch.Disk(nil), s.DataDisks...)
	for i := range s.DataDisks {
		s.DataDisks[i].Stores = nil
	}
	b, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	return string(b)
}

// Park implements launch.Parker.
func (l *Launcher) Park(_ context.Context, wanted []launch.Spares) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = append([]launch.Spares(nil), wanted...)
	for _, s := range l.spares {
		s.wanted = 0
	}
	for _, w := range wanted {
		key := kindOf(w.Spec)
		if key == "" {
			continue
		}
		s := l.spares[key]
		if s == nil {
			s = &spares{spec: w.Spec}
			l.spares[key] = s
		}
		s.wanted += w.Count
	}
	for key, s := range l.spares {
		s.ready = min(s.ready, s.wanted)
		if s.wanted == 0 {
			delete(l.spares, key)
		}
	}
	l.refill()
	return nil
}

// Parked implements launch.Parker.
func (l *Launcher) Parked(context.Context) ([]launch.Parked, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]launch.Parked, len(l.wanted))
	kinds := map[string][]int{}
	for i, w := range l.wanted {
		out[i] = launch.Parked{Owner: w.Owner, Wanted: w.Count}
		if key := kindOf(w.Spec); key != "" {
			kinds[key] = append(kinds[key], i)
		} else {
			out[i].Why = "Its nodes boot."
		}
	}
	for key, list := range kinds {
		shares := make([]launch.Parked, 0, len(list))
		for _, i := range list {
			shares = append(shares, out[i])
		}
		launch.Share(shares, l.spares[key].ready, 0)
		for k, i := range list {
			out[i] = shares[k]
		}
	}
	return out, nil
}

// refill begins what is missing and fits beside the machines of nodes; the mutex is
// held.
func (l *Launcher) refill() {
	for key, s := range l.spares {
		for s.ready+s.coming < s.wanted && len(l.vms)+l.parked() < l.cfg.VMs && l.ctx.Err() == nil {
			s.coming++
			l.wg.Add(1)
			go l.boot(key, s)
		}
	}
}

// parked are the spares of all kinds, those that come too; the mutex is held.
func (l *Launcher) parked() (n int) {
	for _, s := range l.spares {
		n += s.ready + s.coming
	}
	return n
}

// boot is a spare's way to where it waits.
func (l *Launcher) boot(key string, s *spares) {
	defer l.wg.Done()
	f := l.draw(launch.Spec{})
	came := wait(l.ctx, f.delay) && l.world.enter(l.ctx)
	if came {
		came = l.world.boot(l.ctx, s.spec, f.normal, f.slow)
		l.world.leave()
	}
	if f.failHost || f.failBoot {
		came = false
		wait(l.ctx, time.Second)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.coming--
	if came && l.spares[key] == s && s.ready < s.wanted && len(l.vms)+l.parked() < l.cfg.VMs {
		s.ready++
		l.changed.Wake()
	}
	l.refill()
}

// take gives a spare to a machine of the spec; the mutex is held.
func (l *Launcher) take(spec launch.Spec) bool {
	if len(l.spares) == 0 {
		return false
	}
	s := l.spares[kindOf(spec)]
	if s == nil || s.ready == 0 {
		return false
	}
	s.ready--
	return true
}

// yield gives room to a machine of a node; the mutex is held.
func (l *Launcher) yield() {
	for _, s := range l.spares {
		if s.ready > 0 && len(l.vms)+l.parked() >= l.cfg.VMs {
			s.ready--
		}
	}
}
