package node

import (
	"slices"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

// This file is pure: how many nodes boot from an image at the same time.
//
// All nodes of a large pool at once would read their image so slowly that none has
// booted when its time is up. So they are launched in waves, as wide as boots are
// quick: a window that begins at a quarter of what a replica may have, grows with
// each quick boot, and shrinks to what a slow one says that the replicas can do.
// None is launched while a boot has taken half of its limit.

// Source is what the nodes of a pool boot from.
type Source struct {
	// Image names what is read, however many pools boot from it.
	Image string
	// Replicas is how many there are in the region; 0 for what is read from this
	// host, without a limit.
	Replicas int
}

// Window is what is known of the boots from one image. It is kept from plan to plan
// and begins anew with the server.
type Window struct {
	// Size is how many may boot from each replica at the same time.
	Size float64
	// Flights are the boots under way, by node.
	Flights map[string]Flight
}

// Flight is one boot: since when the machine runs, and with how many others it had
// to share at most.
type Flight struct {
	Since time.Time
	With  int
}

// bootsPerReplica is Config.BootsPerReplica without one: with what a boot of
// Debian reads, a replica that serves 500 MiB/s is busy with 250 (docs/benchmarks).
const bootsPerReplica = 400

// first and least are the window's size at the beginning and when boots are slow.
func (c Config) first() float64 { return max(1, float64(c.BootsPerReplica)/4) }
func (c Config) least() float64 { return max(1, float64(c.BootsPerReplica)/16) }

// landed is the window after a boot has ended that took so long.
func (w Window) landed(c Config, f Flight, took time.Duration, replicas int) Window {
	quick := c.BootLimit / 4
	switch {
	case took <= quick:
		w.Size = min(float64(c.BootsPerReplica), w.Size+1/float64(replicas))
	case took > c.BootLimit/2:
		can := float64(f.With) / float64(replicas) * float64(quick) / float64(took)
		w.Size = max(c.least(), min(w.Size, can))
	}
	return w
}

// wave is the boots from one image in one plan.
type wave struct {
	Window
	replicas, booting int
	// late is set while a boot has taken longer than half of its limit.
	late bool
}

func (w *wave) full() bool {
	return w.late || w.booting >= max(1, int(w.Size*float64(w.replicas)))
}

// waves looks at the boots of each image whose replicas are known.
func (p *planner) waves(machines map[string]*launch.Status) map[string]*wave {
	out := map[string]*wave{}
	flights := map[string]map[string]Flight{}
	for _, h := range p.Nodes {
		src := p.Source(h)
		if src.Replicas < 1 {
			continue
		}
		w := out[src.Image]
		if w == nil {
			w = &wave{Window: p.Windows[src.Image], replicas: src.Replicas}
			if w.Size == 0 {
				w.Size = p.Config.first()
			}
			out[src.Image], flights[src.Image] = w, map[string]Flight{}
		}
		key := h.ID.Key()
		m := machines[key]
		f, flew := w.Flights[key]
		if m == nil || m.Generation != h.Generation || m.Phase != launch.Preparing && m.Phase != launch.Running || !booting(h) || p.Contact(h.ID).Live {
			if flew && !f.Since.IsZero() {
				w.Window = w.landed(p.Config, f, p.Now.Sub(f.Since), src.Replicas)
			}
			continue
		}
		w.booting++
		if h.State == millpond.NodeStarting {
			f.Since = later(h.Changed, p.Started)
			w.late = w.late || p.Now.Sub(f.Since) > p.Config.BootLimit/2
		}
		flights[src.Image][key] = f
	}
	for image, w := range out {
		w.Flights = flights[image]
		for key, f := range w.Flights {
			f.With = max(f.With, w.booting)
			w.Flights[key] = f
		}
	}
	return out
}

// booting says whether a node with a machine has still to speak.
func booting(h sqlite.NodeHead) bool {
	switch h.State {
	case millpond.NodeCreating, millpond.NodeReimaging, millpond.NodeUpgradingOS, millpond.NodeStarting:
		return true
	}
	return false
}

// underWay says whether anything boots, or did when the windows were kept: what the
// last boots took is noted by the plan after them, or the next would take the time
// until then for theirs.
func underWay(nodes []sqlite.NodeHead, windows map[string]Window) bool {
	for _, w := range windows {
		if len(w.Flights) > 0 {
			return true
		}
	}
	return slices.ContainsFunc(nodes, booting)
}

// bounded leaves launches out that have to wait for others, and notes the windows
// for the next plan. Whoever boots, fails or is given up wakes the loop.
func (p *planner) bounded(actions []Action, launching map[string]sqlite.NodeHead, machines map[string]*launch.Status) []Action {
	if p.Source == nil {
		return actions
	}
	all := p.waves(machines)
	out := actions[:0]
	for _, a := range actions {
		if a.What == Launch {
			key := a.Node.Key()
			if w := all[p.Source(launching[key]).Image]; w != nil {
				if w.full() {
					p.out.Waiting++
					continue
				}
				w.booting++
			}
		}
		out = append(out, a)
	}
	p.out.Windows = make(map[string]Window, len(all))
	for image, w := range all {
		p.out.Windows[image] = w.Window
	}
	return out
}
