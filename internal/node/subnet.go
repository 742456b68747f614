package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// place is where a node is in the subnet of its pool; the zero Card for a pool in
// none.
func (s *Service) place(tx *sqlite.Tx, p millpond.Pool, id millpond.NodeID) (launch.Card, error) {
	if p.Spec.Subnet == "" || s.Networks == nil {
		return launch.Card{}, nil
	}
	c, ok, err := s.Networks.NodePlace(tx, id)
	if err == nil && !ok {
		err = fmt.Errorf("node %s has no address in the subnet of its pool", id)
	}
	return c, err
}

// Guards is the loop that has the machines of nodes in subnets filter as the
// subnets' security groups say now; w is woken when these change.
func (s *Service) Guards(w *wake.Signal) reconcile.Loop {
	return reconcile.Loop{Name: "filters of nodes", Every: s.Config.Every, Wake: w, Run: s.guard}
}

func (s *Service) guard(ctx context.Context) (string, time.Time, error) {
	porter, ok := s.Launcher.(launch.Porter)
	if !ok || s.Networks == nil {
		return "", time.Time{}, nil
	}
	machines, err := s.Launcher.List(ctx)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("list machines: %w", err)
	}
	filters := map[millpond.NodeID]launch.Filters{}
	ports := map[millpond.NodeID][]launch.Port{}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		any, err := tx.HasSubnetAddresses()
		if err != nil || !any {
			return err
		}
		for _, m := range machines {
			if m.Phase != launch.Running {
				continue
			}
			c, ok, err := s.Networks.NodePlace(tx, m.Node)
			if err != nil {
				return err
			}
			if !ok || c.Filters.Equal(m.Filters) {
				continue
			}
			n, err := tx.Node(m.Node)
			if errors.Is(err, sqlite.ErrNoRow) {
				continue
			}
			if err != nil {
				return err
			}
			p, err := tx.Pool(n.Account, n.Pool)
			if err != nil {
				return err
			}
			filters[n.ID], ports[n.ID] = c.Filters, card(p, n).Ports
		}
		return nil
	})
	for id, f := range filters {
		err = errors.Join(err, porter.SetPorts(ctx, id, ports[id], f))
	}
	return fmt.Sprintf("%d machines filter anew", len(filters)), time.Time{}, err
}
