package node

import (
	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

// This file is pure: how many nodes boot from an image at the same time.
//
// All nodes of a large pool at once would read their image so slowly that none has
// booted when its time is up. So they are launched in waves: a number for each
// replica of the image, which grows with every node that has booted, and none while
// one takes suspiciously long.

// Source is what the nodes of a pool boot from.
type Source struct {
	// Image names what is read, however many pools boot from it.
	Image string
	// Replicas is how many there are in the region; 0 for what is read from this
	// host, without a limit.
	Replicas int
}

// wave is the boots from one image.
type wave struct {
	replicas int
	// booting have been launched and have not spoken; booted have, some time.
	booting, booted int
	// late is set while a boot has taken longer than half of its limit.
	late bool
}

// mayBoot is how many boots there may be at the same time.
func (w wave) mayBoot(c Config) int {
	return w.replicas * min(c.BootsPerReplica, c.BootsPerReplica/4+w.booted/w.replicas)
}

// waves counts the boots of each image whose replicas are known.
func (p *planner) waves(machines map[string]*launch.Status) map[string]*wave {
	if p.Source == nil {
		return nil
	}
	out := map[string]*wave{}
	for _, h := range p.Nodes {
		src := p.Source(h)
		if src.Replicas < 1 {
			continue
		}
		w := out[src.Image]
		if w == nil {
			w = &wave{replicas: src.Replicas}
			out[src.Image] = w
		}
		m := machines[h.ID.Key()]
		switch {
		case m == nil || m.Generation != h.Generation || m.Phase != launch.Preparing && m.Phase != launch.Running:
		case booting(h) && !p.Contact(h.ID).Live:
			w.booting++
			if h.State == millpond.NodeStarting && p.Now.Sub(later(h.Changed, p.Started)) > p.Config.BootLimit/2 {
				w.late = true
			}
		default:
			w.booted++
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

// bounded leaves launches out that have to wait for others. Whoever boots, fails or
// is given up wakes the loop.
func (p *planner) bounded(actions []Action, heads map[string]sqlite.NodeHead, machines map[string]*launch.Status) []Action {
	var all map[string]*wave
	out := actions[:0]
	for _, a := range actions {
		if a.What == Launch && p.Source != nil {
			if all == nil {
				all = p.waves(machines)
			}
			if w := all[p.Source(heads[a.Node.Key()]).Image]; w != nil {
				if w.late || w.booting >= w.mayBoot(p.Config) {
					p.waiting++
					continue
				}
				w.booting++
			}
		}
		out = append(out, a)
	}
	return out
}

// bootsPerReplica is Config.BootsPerReplica without one: with what a boot of
// Debian reads, a replica that serves 500 MiB/s is busy with 250 (docs/benchmarks).
const bootsPerReplica = 400
