package launch

import (
	"context"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/wake"
)

// Part is a launcher as one of several owners sees it: List tells the machines
// that the owner claims, so that nobody destroys another's as orphans. What is
// done to one machine goes through as it is.
type Part struct {
	Launcher
	claims  func(millpond.NodeID) bool
	changed *wake.Signal
}

// Parts divides a launcher between owners, each of whom claims machines by their
// names. Run forwards the launcher's news to all of them until ctx ends.
func Parts(l Launcher, claims ...func(millpond.NodeID) bool) (parts []*Part, run func(ctx context.Context)) {
	for _, c := range claims {
		parts = append(parts, &Part{Launcher: l, claims: c, changed: wake.New()})
	}
	return parts, func(ctx context.Context) {
		n, ok := l.(Notifier)
		if !ok {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-n.Changed():
				for _, p := range parts {
					p.changed.Wake()
				}
			}
		}
	}
}

// List tells the owner's machines.
func (p *Part) List(ctx context.Context) ([]Status, error) {
	all, err := p.Launcher.List(ctx)
	kept := all[:0]
	for _, st := range all {
		if p.claims(st.Node) {
			kept = append(kept, st)
		}
	}
	return kept, err
}

// Changed is received from after any machine may have changed.
func (p *Part) Changed() <-chan struct{} { return p.changed.C() }

// Console is the launcher's, if it has any.
func (p *Part) Console(ctx context.Context, node millpond.NodeID, tail int64) ([]byte, error) {
	c, ok := p.Launcher.(Consoler)
	if !ok {
		return nil, nil
	}
	return c.Console(ctx, node, tail)
}

// SetPorts is the launcher's, if it can.
func (p *Part) SetPorts(ctx context.Context, node millpond.NodeID, ports []Port, filters Filters) error {
	l, ok := p.Launcher.(Porter)
	if !ok {
		return &HostError{Step: "set ports", Err: errNoPorts}
	}
	return l.SetPorts(ctx, node, ports, filters)
}

var (
	_ Launcher = (*Part)(nil)
	_ Notifier = (*Part)(nil)
	_ Consoler = (*Part)(nil)
	_ Porter   = (*Part)(nil)
)

type partError string

func (e partError) Error() string { return string(e) }

const errNoPorts = partError("this launcher opens no ports")
