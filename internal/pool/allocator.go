package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// Allocator is the loop that brings pools to their size.
func (s *Service) Allocator() reconcile.Loop {
	return reconcile.Loop{Name: "allocator", Every: s.Config.Every, Wake: s.Wakes.Allocator, Run: s.allocate}
}

func (s *Service) allocate(ctx context.Context) (string, time.Time, error) {
	if until, early := s.pace.Early(s.Clock.Now()); early {
		return "waits for more changes", until, nil
	}
	var pools []millpond.Pool
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		pools, err = tx.UnsettledPools()
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var next time.Time
	var failed error
	for _, p := range pools {
		at, err := s.bring(ctx, p)
		if err != nil {
			// One pool's trouble must not hold up the others.
			failed = errors.Join(failed, fmt.Errorf("pool %s: %w", p.Spec.ID, err))
			at = s.Clock.Now().Add(5 * time.Second)
		}
		next = reconcile.Sooner(next, at)
	}
	// Preempted nodes come after everybody who was promised a node.
	at, err := s.recoverNodes(ctx)
	failed = errors.Join(failed, err)
	return fmt.Sprintf("%d pools change their size", len(pools)), reconcile.Sooner(next, at), failed
}

// bring plans one pool and carries the plan out.
func (s *Service) bring(ctx context.Context, p millpond.Pool) (time.Time, error) {
	snap, acct, err := s.snapshot(ctx, p)
	if err != nil {
		return time.Time{}, err
	}
	plan := Make(snap)
	boot := p.Boot
	if plan.CreateDedicated+plan.CreateLow > 0 {
		// The image is resolved at each allocation: a reference without a version
		// means the latest of now, and an exact one may have been deleted.
		boot, err = s.Images.ResolveForPool(ctx, p.Creator, acct, p.Spec.Image, p.Spec.NodeAgentSKU)
		if err != nil {
			e := millpond.AsError(err)
			if e.Kind == millpond.Internal || e.Kind == millpond.Unavailable {
				return time.Time{}, err
			}
			snap.Hindrance = "The specified image is not found or cannot be used: " + e.Message
			plan = Make(snap)
		}
	}
	var effects ledger.Effects
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := read(tx, p.Account, p.Spec.ID)
		if err != nil || now.Phase() != p.Phase() || !now.ResizeStarted.Equal(p.ResizeStarted) {
			// The pool changed since; its change has waked this loop.
			return ignoreMissing(err)
		}
		book := ledger.Open(tx)
		if err := s.carryOut(tx, book, acct, now, boot, plan); err != nil {
			return err
		}
		err = book.Close()
		effects = book.Effects
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	s.apply(effects)
	if plan.CreateDedicated+plan.CreateLow+len(plan.Retire)+len(plan.Withdraw)+len(plan.Preempt) > 0 {
		s.Wakes.Nodes.Wake()
	}
	if plan.Settle || plan.Remove {
		s.Log.Info("pool settled", "account", p.Account, "pool", p.Spec.ID, "errors", len(plan.Errors), "removed", plan.Remove)
	}
	return plan.Next, nil
}

func ignoreMissing(err error) error {
	if millpond.KindOf(err) == millpond.NotFound {
		return nil
	}
	return err
}

func (s *Service) carryOut(tx *sqlite.Tx, book *ledger.Book, acct millpond.BatchAccount, p millpond.Pool, boot millpond.BootImage, plan Plan) error {
	if plan.Remove {
		return tx.DeletePool(p.Account, p.Spec.ID)
	}
	grown := plan.CreateDedicated + plan.CreateLow
	changed := grown > 0 && p.Boot.VersionID != boot.VersionID
	switch u := p.Spec.Upgrade; {
	case changed && u.Rolls() && u.AutomaticOS:
		// Before the new nodes, which are of its revision.
		s.renew(&p, boot, tx.Now)
	case changed:
		p.Boot = boot
	}
	fresh := make([]millpond.Node, grown)
	ids := make([]millpond.NodeID, grown)
	for i := range fresh {
		fresh[i] = s.newNode(tx, p, boot, i < plan.CreateDedicated)
		ids[i] = fresh[i].ID
	}
	if p.Spec.Subnet != "" && grown > 0 {
		given, err := s.Subnets.GiveAddresses(tx, p.Spec.Subnet, acct, p.Spec.ID, ids)
		if err != nil {
			return err
		}
		if given < grown {
			// Somebody took addresses since the plan was made; the next sees it.
			fresh = fresh[:given]
			s.Wakes.Allocator.Wake()
		}
	}
	for _, n := range fresh {
		if err := tx.InsertNode(n); err != nil {
			return err
		}
	}
	for _, id := range plan.Preempt {
		n, err := tx.Node(id)
		if errors.Is(err, sqlite.ErrNoRow) {
			continue
		}
		if err != nil {
			return err
		}
		if outcome, _ := n.Preempt(tx.Now.Add(s.Config.Notice)); outcome != millpond.Accepted {
			continue
		}
		if err := tx.PutNode(n); err != nil {
			return err
		}
		book.Sessions[id] = struct{}{}
	}
	for _, list := range []struct {
		ids    []millpond.NodeID
		option millpond.DeallocationOption
		why    string
	}{{plan.Retire, plan.Option, "the pool shrinks"}, {plan.Withdraw, millpond.DeallocateRequeue, "its machine did not start before the resize ended"}} {
		for _, id := range list.ids {
			n, err := tx.Node(id)
			if errors.Is(err, sqlite.ErrNoRow) {
				continue
			}
			if err != nil {
				return err
			}
			if err := retire(tx, book, n, list.option, list.why); err != nil {
				return err
			}
		}
	}
	if plan.Settle {
		if err := shift(&p, millpond.PoolSettled, tx.Now); err != nil {
			return err
		}
		p.ResizeErrors, changed = plan.Errors, true
	}
	if !changed {
		return nil
	}
	return tx.PutPool(p)
}

func (s *Service) newNode(tx *sqlite.Tx, p millpond.Pool, boot millpond.BootImage, dedicated bool) millpond.Node {
	boot.Findings = nil // the pool tells them
	suffix := "_p"
	if dedicated {
		suffix = "_d"
	}
	return millpond.Node{
		Account: p.Account, Pool: p.Spec.ID, ID: millpond.NodeID("tvmps_" + s.NewID() + suffix), Generation: 1, Dedicated: dedicated,
		State: millpond.NodeCreating, StateTransition: tx.Now, Scheduling: millpond.SchedulingEnabled,
		VMSize: p.Spec.VMSize, Boot: boot, ImageRevision: p.ImageRevision, Created: tx.Now, Request: p.ResizeRequest,
		History: []millpond.NodeChange{{State: millpond.NodeCreating, Reason: "the pool grows", Time: tx.Now}},
	}
}

// retire sends a node away: its machine is destroyed, then its tasks go where
// option says, then its row is removed. Package node does that.
func retire(tx *sqlite.Tx, book *ledger.Book, n millpond.Node, option millpond.DeallocationOption, why string) error {
	if !n.Enter(millpond.NodeLeave, why, tx.Now) {
		return nil
	}
	if err := book.StopAll(n.ID, option, "its node was removed from the pool"); err != nil {
		return err
	}
	n.Pending, n.PendingOption = millpond.NodeLeave, option
	return tx.PutNode(n)
}

func (s *Service) snapshot(ctx context.Context, p millpond.Pool) (Snapshot, millpond.BatchAccount, error) {
	snap := Snapshot{Pool: p, Room: -1, Addresses: -1, QuotaDedicated: -1, QuotaLow: -1, Now: s.Clock.Now()}
	acct, err := s.Accounts.Account(ctx, p.Account)
	if err != nil && p.State != millpond.PoolDeleting {
		return snap, acct, err
	}
	size, ok := s.Sizes(p.Spec.VMSize)
	if ok {
		snap.Hindrance = unfit(p.Spec, p.Boot, size)
	} else {
		snap.Hindrance = "The VM size " + p.Spec.VMSize + " is not available any more."
	}
	var capacity launch.Capacity
	launched := map[string]bool{}
	if p.State != millpond.PoolDeleting {
		if capacity, err = s.Machines.Capacity(ctx); err != nil {
			return snap, acct, fmt.Errorf("ask the launcher for its capacity: %w", err)
		}
		list, err := s.Machines.List(ctx)
		if err != nil {
			return snap, acct, fmt.Errorf("ask the launcher for its machines: %w", err)
		}
		for _, st := range list {
			launched[st.Node.Key()] = true
		}
	}
	// After the machines: a row is always older than its machine.
	all, err := s.DB.Heads(ctx)
	if err != nil {
		return snap, acct, err
	}
	// Three looks: at the machines, at the rows, and at what is left of the host.
	s.pace.Rest(snap.Now, 3*len(all))
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		for _, h := range all {
			if h.Account.Key() != p.Account.Key() || h.Pool != p.Spec.ID.Key() {
				continue
			}
			v := NodeView{ID: h.ID, Dedicated: h.Dedicated, State: h.State, Came: !h.Allocated.IsZero(), Tasks: h.RunningTasks}
			if h.LaunchFailed && !v.Came {
				full, err := tx.Node(h.ID)
				if errors.Is(err, sqlite.ErrNoRow) {
					continue // gone since
				}
				if err != nil {
					return err
				}
				v.Failure = lastError(full)
			}
			snap.Nodes = append(snap.Nodes, v)
		}
		if p.State == millpond.PoolDeleting || !ok {
			return nil
		}
		if p.Spec.Subnet != "" {
			if snap.Addresses, err = s.Subnets.FreeAddresses(tx, p.Spec.Subnet); err != nil {
				return err
			}
		}
		s.limits(&snap, all, acct, size, capacity, launched)
		return nil
	})
	return snap, acct, err
}

func lastError(n millpond.Node) string {
	if len(n.Errors) == 0 {
		return "The machine could not be launched."
	}
	e := n.Errors[len(n.Errors)-1]
	return strings.TrimSpace(e.Code + ": " + e.Message)
}

// limits fills in what the launcher and the quota still allow.
func (s *Service) limits(snap *Snapshot, all []sqlite.NodeHead, acct millpond.BatchAccount, size millpond.VMSize, c launch.Capacity, launched map[string]bool) {
	// Rows that the launcher has not been told of take room as well.
	waiting, waitingMiB, cores, lowCores := 0, int64(0), 0, 0
	sizes := map[string]millpond.VMSize{}
	var spot []sqlite.NodeHead
	for _, h := range all {
		switch {
		case h.Pending == millpond.NodePreempt:
			snap.Freeing++
		case !h.Dedicated && h.Pending == "" && launched[h.ID.Key()] && h.State != millpond.NodeDeallocated && h.State != millpond.NodeLeavingPool && h.State != millpond.NodePreempted:
			spot = append(spot, h)
		}
		z, known := sizes[h.VMSize]
		if !known {
			z, _ = s.Sizes(h.VMSize)
			sizes[h.VMSize] = z
		}
		if !launched[h.ID.Key()] && h.State != millpond.NodeLeavingPool && h.State != millpond.NodePreempted && !(h.LaunchFailed && h.Allocated.IsZero()) {
			waiting++
			waitingMiB += int64(z.MemoryMiB)
		}
		if h.Account.Key() == snap.Pool.Account.Key() {
			if h.Dedicated {
				cores += z.VCPUs
			} else {
				lowCores += z.VCPUs
			}
		}
	}
	// Those with the fewest tasks lose the least, and the youngest have done least.
	slices.SortStableFunc(spot, func(a, b sqlite.NodeHead) int {
		return cmp.Or(cmp.Compare(a.RunningTasks, b.RunningTasks), b.Allocated.Compare(a.Allocated))
	})
	for _, h := range spot {
		snap.Preemptible = append(snap.Preemptible, h.ID)
	}
	if c.VMs > 0 {
		snap.Room = max(0, c.VMs-c.UsedVMs-waiting)
	}
	if c.MemoryMiB > 0 && size.MemoryMiB > 0 {
		fits := max(0, int((c.MemoryMiB-c.UsedMemoryMiB-waitingMiB)/int64(size.MemoryMiB)))
		if snap.Room < 0 || fits < snap.Room {
			snap.Room = fits
		}
	}
	// A quota of 0 is one that nobody has set.
	if acct.CoreQuota > 0 && size.VCPUs > 0 {
		snap.QuotaDedicated = max(0, (acct.CoreQuota-cores)/size.VCPUs)
		snap.QuotaLow = max(0, (acct.CoreQuota-lowCores)/size.VCPUs)
	}
}
