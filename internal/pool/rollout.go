package pool

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// Rollouts is the loop that brings the nodes of pools to a new image or start
// task.
func (s *Service) Rollouts() reconcile.Loop {
	return reconcile.Loop{Name: "rollouts", Every: s.Config.Every, Wake: s.Wakes.Rollouts, Run: s.rollOut}
}

func (s *Service) rollOut(ctx context.Context) (string, time.Time, error) {
	var pools []millpond.Pool
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		pools, err = tx.RollingPools()
		return err
	})
	s.rolling.Store(len(pools) > 0)
	if err != nil {
		return "", time.Time{}, err
	}
	s.forgetLooks(pools)
	if len(pools) == 0 {
		return "no pool changes its nodes", time.Time{}, nil
	}
	var next time.Time
	var failed error
	for _, p := range pools {
		if u := p.Spec.Upgrade; u.Rolls() && u.AutomaticOS {
			at, err := s.look(ctx, p)
			failed = errors.Join(failed, err)
			next = reconcile.Sooner(next, at)
		}
		at, err := s.step(ctx, p)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("pool %s: %w", p.Spec.ID, err))
			at = s.Clock.Now().Add(5 * time.Second)
		}
		next = reconcile.Sooner(next, at)
	}
	return fmt.Sprintf("%d pools change their nodes", len(pools)), next, failed
}

// forgetLooks keeps of looked what is of these pools.
func (s *Service) forgetLooks(pools []millpond.Pool) {
	old := s.looked
	s.looked = make(map[poolKey]time.Time, len(pools))
	for _, p := range pools {
		key := poolKey{p.Account.Key(), p.Spec.ID.Key()}
		if at, did := old[key]; did {
			s.looked[key] = at
		}
	}
}

// look resolves the image of a pool anew and begins a rollout of a newer version.
// It returns when to look again.
func (s *Service) look(ctx context.Context, p millpond.Pool) (time.Time, error) {
	key := poolKey{p.Account.Key(), p.Spec.ID.Key()}
	now := s.Clock.Now()
	if due := s.looked[key].Add(s.Config.ImageCheck); now.Before(due) {
		return due, nil
	}
	s.looked[key] = now
	due := now.Add(s.Config.ImageCheck)
	acct, err := s.Accounts.Account(ctx, p.Account)
	if err != nil {
		return due, err
	}
	boot, err := s.Images.ResolveForPool(ctx, p.Creator, acct, p.Spec.Image, p.Spec.NodeAgentSKU)
	if err != nil || boot.VersionID == p.Boot.VersionID {
		if err != nil {
			s.Log.Warn("the image of a pool cannot be looked up", "account", p.Account, "pool", p.Spec.ID, "err", err)
		}
		return due, nil
	}
	return due, s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		row, err := read(tx, p.Account, p.Spec.ID)
		if err != nil || row.Version != p.Version || row.Boot.VersionID != p.Boot.VersionID {
			return ignoreMissing(err)
		}
		s.renew(&row, boot, tx.Now)
		return tx.PutPool(row)
	})
}

// renew makes a newer version the pool's image and begins to roll it out.
func (s *Service) renew(p *millpond.Pool, boot millpond.BootImage, now time.Time) {
	s.Log.Info("a newer version of an image is rolled out", "account", p.Account, "pool", p.Spec.ID, "image", boot.VersionID)
	p.Rollout = rolloutAfter(p.Rollout, millpond.Rollout{Started: now, Automatic: true, WasBoot: p.Boot, WasStart: p.Spec.StartTask})
	p.Boot = boot
	p.ImageRevision++
	s.Wakes.Rollouts.Wake()
}

// step plans one rollout and carries the plan out, both on the rows as they are.
func (s *Service) step(ctx context.Context, p millpond.Pool) (time.Time, error) {
	var plan RolloutPlan
	var effects ledger.Effects
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		row, err := read(tx, p.Account, p.Spec.ID)
		if err != nil || row.State == millpond.PoolDeleting || row.Rollout == nil || row.Rollout.State != millpond.RolloutRunning {
			return ignoreMissing(err)
		}
		if !row.Spec.Upgrade.Rolls() {
			// The policy was taken away under way: what has changed stays.
			ended := *row.Rollout
			ended.State, ended.Ended, ended.Nodes = millpond.RolloutDone, tx.Now, nil
			row.Rollout = &ended
			return tx.PutPool(row)
		}
		nodes, err := tx.AllNodes(row.Account, row.Spec.ID)
		if err != nil {
			return err
		}
		views := make([]RolloutView, len(nodes))
		byID := make(map[string]millpond.Node, len(nodes))
		for i, n := range nodes {
			image := n.ImageRevision
			if n.RolledBack && n.Boot.VersionID != row.Boot.VersionID {
				image = -1 // its revision is of the image that it failed with
			}
			views[i] = RolloutView{ID: n.ID, State: n.State, Pending: n.Pending != "", Image: image, Start: n.StartRevision, RolledBack: n.RolledBack, Tasks: n.RunningTasks}
			byID[n.ID.Key()] = n
		}
		plan = MakeRollout(row, views, tx.Now)
		book := ledger.Open(tx)
		option := row.Spec.Upgrade.Limits().Option
		for _, list := range []struct {
			ids      []millpond.NodeID
			event    millpond.NodeEvent
			rollBack bool
		}{{plan.Upgrade, millpond.NodeUpgrade, false}, {plan.Reboot, millpond.NodeReboot, false}, {plan.RollBack, "", true}} {
			for _, id := range list.ids {
				n := byID[id.Key()]
				event := list.event
				if n.RolledBack = list.rollBack; list.rollBack {
					event = millpond.NodeReboot
					if n.Boot.VersionID != plan.Rollout.WasBoot.VersionID {
						event = millpond.NodeUpgrade
					}
				}
				if err := begin(tx, book, n, event, option, list.rollBack); err != nil {
					return err
				}
			}
		}
		if err := book.Close(); err != nil {
			return err
		}
		effects = book.Effects
		if reflect.DeepEqual(plan.Rollout, *row.Rollout) {
			return nil
		}
		if e := plan.Rollout.Error; e != nil {
			s.Log.Warn("a rollout was stopped", "account", row.Account, "pool", row.Spec.ID, "code", e.Code, "message", e.Message)
		}
		row.Rollout = &plan.Rollout
		return tx.PutPool(row)
	})
	if err != nil {
		return time.Time{}, err
	}
	s.apply(effects)
	if len(plan.Upgrade)+len(plan.Reboot)+len(plan.RollBack) > 0 {
		s.Wakes.Nodes.Wake()
	}
	return plan.Next, nil
}

// begin makes a node's upgrade or reboot pending, as a user's would be.
func begin(tx *sqlite.Tx, book *ledger.Book, n millpond.Node, event millpond.NodeEvent, option millpond.DeallocationOption, back bool) error {
	why := "the pool's image or start task changed"
	if back {
		why = "it was unhealthy with the pool's new image or start task"
	}
	if !n.Enter(event, why, tx.Now) {
		return nil
	}
	if err := book.StopAll(n.ID, option, "its node was upgraded"); err != nil {
		return err
	}
	n.Pending, n.PendingOption, n.Relaunches = event, option, 0
	return tx.PutNode(n)
}
