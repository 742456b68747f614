package pool

import (
	"context"
	"errors"
	"slices"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// recoverNodes gives preempted nodes new machines under their ids, as far as
// there is room after everybody else. It returns when to look again.
func (s *Service) recoverNodes(ctx context.Context) (time.Time, error) {
	waiting := map[poolKey][]millpond.NodeID{}
	var pools []millpond.Pool
	var next time.Time
	now := s.Clock.Now()
	heads, err := s.DB.Heads(ctx)
	if err != nil {
		return next, err
	}
	s.pace.Rest(now, len(heads))
	heads = slices.DeleteFunc(heads, func(h sqlite.NodeHead) bool { return h.State != millpond.NodePreempted })
	if len(heads) == 0 {
		return next, nil
	}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		for _, h := range heads {
			if at := h.Changed.Add(s.Config.Rest); now.Before(at) {
				next = reconcile.Sooner(next, at)
				continue
			}
			k := poolKey{h.Account.Key(), h.Pool}
			if waiting[k] == nil {
				p, err := tx.Pool(h.Account, millpond.PoolID(h.Pool))
				if errors.Is(err, sqlite.ErrNoRow) {
					continue
				}
				if err != nil {
					return err
				}
				pools = append(pools, p)
			}
			waiting[k] = append(waiting[k], h.ID)
		}
		return nil
	})
	if err != nil {
		return time.Time{}, err
	}
	for _, p := range pools {
		if p.State == millpond.PoolDeleting {
			continue
		}
		snap, _, err := s.snapshot(ctx, p)
		if err != nil {
			return time.Time{}, err
		}
		ids := waiting[poolKey{p.Account.Key(), p.Spec.ID.Key()}]
		if snap.Room >= 0 && snap.Room < len(ids) {
			ids = ids[:snap.Room]
			// Room elsewhere wakes nobody here.
			next = reconcile.Sooner(next, now.Add(s.Config.Rest))
		}
		if len(ids) == 0 {
			continue
		}
		err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
			for _, id := range ids {
				n, err := tx.Node(id)
				if errors.Is(err, sqlite.ErrNoRow) {
					continue
				}
				if err != nil {
					return err
				}
				if n.State != millpond.NodePreempted || !n.Enter(millpond.NodeRelaunch, "there is room again", tx.Now) {
					continue
				}
				n.Relaunches = 0
				n.Boot, n.ImageRevision, n.RolledBack = p.Boot, p.ImageRevision, false
				n.Boot.Findings = nil
				if err := tx.PutNode(n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return time.Time{}, err
		}
		s.Wakes.Nodes.Wake()
	}
	return next, nil
}
