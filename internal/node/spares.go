package node

import (
	"context"
	"fmt"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// Spares is the loop that tells the launcher how many machines each pool wants to be
// kept ready. A pool's change wakes it; what a host does about it, it does by itself.
func (s *Service) Spares() reconcile.Loop {
	return reconcile.Loop{Name: "spares", Every: s.Config.Every, Wake: s.spares, Run: s.park}
}

func (s *Service) park(ctx context.Context) (string, time.Time, error) {
	parker := launch.ParkerOf(s.Launcher)
	if parker == nil {
		return "the launcher keeps none", time.Time{}, nil
	}
	var pools []millpond.Pool
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		pools, err = tx.AllPools()
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var wanted []launch.Spares
	failed := map[string]millpond.Spares{}
	count := 0
	for _, p := range pools {
		n := p.Spec.SparesOr(s.Config.Spares)
		if n == 0 || p.State != millpond.PoolActive {
			continue
		}
		owner := spareOwner(p.Account, p.Spec.ID)
		spec, err := s.spareSpec(ctx, p)
		if err != nil {
			failed[owner] = millpond.Spares{Wanted: n, Reason: millpond.AsError(err).Message}
			continue
		}
		count += n
		wanted = append(wanted, launch.Spares{Owner: owner, Spec: spec, Count: n})
	}
	s.mu.Lock()
	s.unspared = failed
	s.mu.Unlock()
	if err := parker.Park(ctx, wanted); err != nil {
		return "", time.Time{}, fmt.Errorf("tell the launcher of spares: %w", err)
	}
	return fmt.Sprintf("%d wanted by %d pools, %d pools cannot have any", count, len(wanted), len(failed)), time.Time{}, nil
}

// spareOwner is what the launcher calls a pool.
func spareOwner(acct millpond.AccountName, pool millpond.PoolID) string {
	return acct.Key() + "/" + pool.Key()
}

// spareSpec is the machine of a node that a pool would get now.
func (s *Service) spareSpec(ctx context.Context, p millpond.Pool) (launch.Spec, error) {
	n := millpond.Node{Account: p.Account, Pool: p.Spec.ID, ID: "spare", VMSize: p.Spec.VMSize, Boot: p.Boot}
	spec, err := s.spec(ctx, n, p, "")
	if err != nil {
		return spec, err
	}
	if p.Spec.Subnet != "" {
		spec.Card.LAN = "of a subnet"
	}
	return spec, nil
}

// SparesOf tells how many spares of a pool are there; ok is false for a pool that
// wants none.
func (s *Service) SparesOf(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID) (out millpond.Spares, ok bool) {
	parker := launch.ParkerOf(s.Launcher)
	if parker == nil {
		return out, false
	}
	owner := spareOwner(acct, pool)
	s.mu.Lock()
	out, ok = s.unspared[owner]
	s.mu.Unlock()
	if ok {
		return out, true
	}
	all, err := parker.Parked(ctx)
	if err != nil {
		return out, false
	}
	for _, x := range all {
		if x.Owner == owner {
			return millpond.Spares{Wanted: x.Wanted, Ready: x.Ready, MemoryMiB: x.MemoryMiB, Reason: x.Why}, true
		}
	}
	return out, false
}
