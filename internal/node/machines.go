package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// Machines is the loop that makes machines match node rows.
func (s *Service) Machines() reconcile.Loop {
	return reconcile.Loop{Name: "machines", Every: s.Config.Every, Wake: s.Wakes.Nodes, Run: s.match}
}

// Forward wakes the machines' loop whenever the launcher says that a machine
// changed, until ctx ends.
func (s *Service) Forward(ctx context.Context) {
	n, ok := s.Launcher.(launch.Notifier)
	if !ok {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.Changed():
			s.Wakes.Nodes.Wake()
			s.Wakes.Allocator.Wake()
		}
	}
}

// atOnce bounds the actions that run at the same time.
const atOnce = 8

func (s *Service) match(ctx context.Context) (string, time.Time, error) {
	if until, early := s.pace.Early(s.Clock.Now()); early {
		return "waits for more changes", until, nil
	}
	// The machines are listed before the rows are read: a row is always older
	// than its machine, so a machine without a row is an orphan for sure.
	machines, err := s.Launcher.List(ctx)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("list machines: %w", err)
	}
	s.holds.See(machines, s.Log)
	snap := Snapshot{Machines: machines, Started: s.started, Config: s.Config, Contact: s.contactOf}
	if snap.Nodes, err = s.DB.Heads(ctx); err != nil {
		return "", time.Time{}, err
	}
	retained := map[string]bool{}
	arriving := underWay(snap.Nodes, s.windows)
	sources := map[[2]string]Source{}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		snap.Now = tx.Now
		for _, h := range snap.Nodes {
			if h.Pending == "" || h.Option != millpond.DeallocateRetainedData {
				continue
			}
			if retained[h.ID.Key()], err = tx.HasTaskDirectories(h.ID); err != nil {
				return err
			}
		}
		if !arriving {
			return nil
		}
		pools, err := tx.AllPools()
		for _, p := range pools {
			sources[[2]string{p.Account.Key(), p.Spec.ID.Key()}] = Source{Image: p.Boot.VersionID, Replicas: p.Boot.Replicas}
		}
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	if arriving {
		snap.Source = func(h sqlite.NodeHead) Source { return sources[[2]string{h.Account.Key(), h.Pool}] }
	}
	snap.Retained = func(id millpond.NodeID) bool { return retained[id.Key()] }
	snap.Windows = s.windows
	plan := Make(snap)
	actions, next := plan.Actions, plan.Next
	if arriving {
		s.windows = plan.Windows
	}
	s.pace.Rest(snap.Now, len(snap.Nodes))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	errs := make([]error, len(actions))
	for i, a := range actions {
		g.Go(func() error {
			// One node's trouble must not hold up the others.
			if err := s.act(gctx, a); err != nil {
				errs[i] = fmt.Errorf("%s node %s: %w", a.What, a.Node, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	_, notifies := s.Launcher.(launch.Notifier)
	for _, a := range actions {
		switch a.What {
		case Relaunch, Reimage:
			// The launch comes next.
			s.Wakes.Nodes.Wake()
		case Launch:
			if !notifies {
				next = reconcile.Sooner(next, snap.Now.Add(time.Second))
			}
		}
	}
	return fmt.Sprintf("%d nodes, %d machines, %d actions, %d launches wait for others to boot", len(snap.Nodes), len(machines), len(actions), plan.Waiting), next, errors.Join(errs...)
}

func (s *Service) contactOf(id millpond.NodeID) Contact {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[id.Key()]
	return Contact{Live: x != nil && x.ready, Last: s.contact[id.Key()], Asked: s.asked[id.Key()]}
}

func (s *Service) act(ctx context.Context, a Action) error {
	switch a.What {
	case Launch:
		return s.launch(ctx, a.Node)
	case Launched:
		return s.launched(ctx, a)
	case Retry:
		return s.retry(ctx, a)
	case Fail:
		console := s.evidence(ctx, a.Node)
		return s.edit(ctx, a.Node, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
			return s.fail(tx, book, n, failureFault(a.Status.Err, stage(a.Status), console, tx.Now))
		})
	case BootTimeout:
		return s.bootTimeout(ctx, a)
	case Relaunch:
		return s.relaunch(ctx, a)
	case Restart:
		return s.restart(ctx, a)
	case Lose:
		return s.edit(ctx, a.Node, func(tx *sqlite.Tx, _ *ledger.Book, n *millpond.Node) error {
			// It may have spoken since this was planned. Its Hello is noted before
			// the row is written, so that one of the two sees the other.
			if c := s.contactOf(n.ID); c.Live || tx.Now.Sub(c.Last) < s.Config.Silence {
				return nil
			}
			if n.Enter(millpond.NodeLost, "nothing was heard of its agent", tx.Now) {
				s.Log.Warn("contact with a node is lost", "pool", n.Pool, "node", n.ID)
			}
			return nil
		})
	case Reboot:
		return s.reboot(ctx, a.Node)
	case Reimage:
		return s.reimage(ctx, a.Node)
	case Deallocate:
		return s.deallocate(ctx, a.Node)
	case Preempt:
		return s.preempt(ctx, a.Node)
	case Remove:
		return s.remove(ctx, a.Node)
	case Orphan:
		s.Log.Warn("a machine that no node has is destroyed", "node", a.Node)
		return s.Launcher.Destroy(ctx, a.Node)
	}
	return fmt.Errorf("unknown action %q", a.What)
}

// row reads a node's row. there is false for a node that is gone.
func (s *Service) row(ctx context.Context, id millpond.NodeID) (n millpond.Node, there bool, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		n, err = tx.Node(id)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return n, false, nil
	}
	return n, err == nil, err
}

// edit changes a node's row as it is now; a node that is gone is left alone.
func (s *Service) edit(ctx context.Context, id millpond.NodeID, fn func(*sqlite.Tx, *ledger.Book, *millpond.Node) error) error {
	return s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		n, err := tx.Node(id)
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(tx, book, &n); err != nil {
			return err
		}
		return s.putNode(tx, book, n)
	})
}

func stage(m *launch.Status) string {
	if m == nil {
		return ""
	}
	return strings.TrimSpace("machine: " + string(m.Phase) + " " + m.Step)
}

// launched notes that a node's machine runs.
func (s *Service) launched(ctx context.Context, a Action) error {
	err := s.edit(ctx, a.Node, func(tx *sqlite.Tx, _ *ledger.Book, n *millpond.Node) error {
		noteLaunched(n, a.Status, tx.Now)
		return nil
	})
	s.Wakes.Allocator.Wake()
	return err
}

// noteLaunched writes into a row that its machine runs, and what it is made of.
func noteLaunched(n *millpond.Node, m *launch.Status, now time.Time) {
	if n.Generation != m.Generation || !n.Enter(millpond.NodeLaunched, "its machine runs", now) {
		return
	}
	if n.Allocated.IsZero() {
		n.Allocated = now
		setPhase(n, millpond.PhaseLaunch, now)
	}
	n.LaunchTries, n.LaunchFailed = 0, false
	n.MadeFrom, n.Spare, n.BootedBecause, n.BootSteps = m.Clone.Template, m.Clone.Spare, m.Clone.Cold, nil
	for _, step := range m.Steps {
		n.BootSteps = append(n.BootSteps, millpond.BootStep{Name: step.Name, Duration: step.Duration})
	}
	if m.Addr != "" {
		n.Address, n.HostAddress = m.Addr, m.HostAddr
	}
}

// outran says that a node's agent has spoken before its row says that its machine
// runs. One that is still to be reimaged has a machine that ran before.
func outran(n millpond.Node) bool {
	return n.Pending == "" && n.BootID == "" && (n.State == millpond.NodeCreating || n.State == millpond.NodeReimaging || n.State == millpond.NodeUpgradingOS)
}

// retry is for a launch that the host failed after it had taken it.
func (s *Service) retry(ctx context.Context, a Action) error {
	e := failureFault(a.Status.Err, stage(a.Status), s.evidence(ctx, a.Node), s.Clock.Now())
	if a.Status.Err == nil {
		e = fault("AllocationFailed", "The machine ended before its agent spoke.", stage(a.Status), s.evidence(ctx, a.Node), "Run `millpond image check` on the image.", s.Clock.Now())
	}
	return s.launchFailed(ctx, a.Node, a.Status.Generation, e, true)
}

// fail makes a node unusable and puts its tasks back.
func (s *Service) fail(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node, e millpond.NodeError) error {
	booting := n.State == millpond.NodeCreating || n.State == millpond.NodeReimaging || n.State == millpond.NodeUpgradingOS || n.State == millpond.NodeStarting || n.State == millpond.NodeRebooting
	if !n.Enter(millpond.NodeFailed, e.Code, tx.Now) {
		return nil
	}
	if booting {
		s.traceBoot(n, tx.Now, e.Code+": "+e.Message)
	}
	n.Pending, n.PendingOption = "", ""
	n.Errors = []millpond.NodeError{e}
	if n.Allocated.IsZero() {
		// Its machine came, though it is of no use: it counts as allocated.
		n.Allocated = tx.Now
	}
	s.Log.Warn("node unusable", "pool", n.Pool, "node", n.ID, "code", e.Code, "message", e.Message)
	_, err := book.LoseAll(n.ID)
	return err
}

func (s *Service) bootTimeout(ctx context.Context, a Action) error {
	console := s.evidence(ctx, a.Node)
	err := s.edit(ctx, a.Node, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
		if n.State != millpond.NodeStarting && n.State != millpond.NodeRebooting {
			return nil
		}
		return s.fail(tx, book, n, bootFault(s.Config.BootLimit, console, tx.Now))
	})
	s.Wakes.Allocator.Wake()
	return err
}

// provenLife is how long a machine has to have been up for its death to be a new
// story: hosts are switched off from time to time, and a node that has worked for
// months must not be given up for the fourth of these.
const provenLife = 10 * time.Minute

// relaunch gives a node a new machine after its own died, a bounded number of
// times in a row. Its tasks go back to the queue at once: the machine is dead.
func (s *Service) relaunch(ctx context.Context, a Action) error {
	console := s.evidence(ctx, a.Node)
	var failure *launch.Failure
	if a.Status != nil {
		failure = a.Status.Err
	}
	return s.edit(ctx, a.Node, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
		if a.Status != nil && a.Status.Generation != n.Generation {
			return nil
		}
		e := failureFault(failure, stage(a.Status), console, tx.Now)
		if n.BootID != "" && tx.Now.Sub(n.AgentUpdated) >= provenLife {
			n.Relaunches = 0
		}
		if n.Relaunches >= s.Config.Relaunches {
			return s.fail(tx, book, n, e)
		}
		if !n.Enter(millpond.NodeRelaunch, e.Code+": its machine died", tx.Now) {
			return nil
		}
		s.Log.Warn("a node's machine died; it gets a new one", "pool", n.Pool, "node", n.ID, "code", e.Code, "message", e.Message)
		n.Relaunches++
		n.LaunchTries, n.NextLaunch, n.LaunchFailed = 0, tx.Now.Add(backoff(n.Relaunches)-time.Second), false
		n.NextGeneration()
		n.Pending, n.PendingOption, n.Request = "", "", millpond.Request{}
		n.Errors = append(n.Errors, e)
		n.Errors = n.Errors[max(0, len(n.Errors)-3):]
		_, err := book.LoseAll(n.ID)
		return err
	})
}

// restart starts a machine again that was switched off, with its disks.
func (s *Service) restart(ctx context.Context, a Action) error {
	err := s.Launcher.Reset(ctx, a.Node)
	if host := (*launch.HostError)(nil); errors.As(err, &host) && host.Step == launch.StepCapacity {
		// A new machine would have no room either, and would lose the disks.
		return s.edit(ctx, a.Node, func(tx *sqlite.Tx, _ *ledger.Book, n *millpond.Node) error {
			n.NextLaunch = tx.Now.Add(roomWait)
			n.Errors = []millpond.NodeError{fault("AllocationFailed", "The host has no room to start the machine again: "+host.Error(), "start", "", "Remove or deallocate other nodes; the node starts by itself when there is room.", tx.Now)}
			return nil
		})
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return s.relaunch(ctx, a)
	}
	s.noteAsked(a.Node)
	return s.edit(ctx, a.Node, func(tx *sqlite.Tx, _ *ledger.Book, n *millpond.Node) error {
		if n.State == millpond.NodeStarting {
			// How long it may take to boot counts from here, not from a wait for room.
			n.StateTransition, n.NextLaunch = tx.Now, time.Time{}
		}
		n.Note("its machine was switched off and is started again", tx.Now)
		return nil
	})
}

// reboot asks the agent to restart the guest, and has the machine reset if the
// agent cannot be asked.
func (s *Service) reboot(ctx context.Context, id millpond.NodeID) error {
	asked := errors.New("no session")
	if x := s.session(id); x != nil {
		call, cancel := context.WithTimeout(ctx, callLimit)
		_, asked = x.client.Shutdown(call, connect.NewRequest(&nodev1.ShutdownRequest{Reboot: true}))
		cancel()
	}
	if asked != nil {
		if err := s.Launcher.Reset(ctx, id); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.Log.Warn("a machine could not be reset; the node gets a new one", "node", id, "err", err)
			defer s.Wakes.Nodes.Wake()
			return s.relaunch(ctx, Action{What: Relaunch, Node: id})
		}
	}
	s.noteAsked(id)
	return s.edit(ctx, id, func(_ *sqlite.Tx, _ *ledger.Book, n *millpond.Node) error {
		if n.Pending == millpond.NodeReboot {
			n.Pending, n.PendingOption = "", ""
		}
		return nil
	})
}

func (s *Service) noteAsked(id millpond.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[id.Key()] = s.Clock.Now()
}

// reimage begins a new generation; launching it replaces the machine.
func (s *Service) reimage(ctx context.Context, id millpond.NodeID) error {
	n, there, err := s.row(ctx, id)
	if err != nil || !there {
		return err
	}
	s.keepLast(ctx, n)
	return s.edit(ctx, id, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
		if n.Pending != millpond.NodeReimage && n.Pending != millpond.NodeUpgrade {
			return nil
		}
		p, err := tx.Pool(n.Account, n.Pool)
		if err != nil {
			return err
		}
		n.Boot, n.ImageRevision = p.Boot, p.ImageRevision
		n.Boot.Findings = nil // the pool tells them
		if n.Pending == millpond.NodeReimage {
			n.RolledBack = false
		}
		if n.RolledBack && p.Rollout != nil {
			n.Boot = p.Rollout.WasBoot
		}
		n.NextGeneration()
		n.Pending, n.PendingOption = "", ""
		n.LaunchTries, n.NextLaunch, n.LaunchFailed = 0, time.Time{}, false
		return nil
	})
}

// destroy destroys a node's machine once what tasks and its console last wrote is
// kept. there is false, and nothing is done, for a node without a row.
func (s *Service) destroy(ctx context.Context, id millpond.NodeID) (there bool, err error) {
	n, there, err := s.row(ctx, id)
	if err != nil || !there {
		return false, err
	}
	s.keepLast(ctx, n)
	s.keepConsole(ctx, n, n.Generation)
	return true, s.Launcher.Destroy(ctx, id)
}

// remove destroys a machine, then puts its tasks where they belong, then
// removes the row: a task must not run elsewhere while its first run lives.
func (s *Service) remove(ctx context.Context, id millpond.NodeID) error {
	there, err := s.destroy(ctx, id)
	if err != nil || !there {
		return err
	}
	err = s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		if _, err := book.LoseAll(id); err != nil {
			return err
		}
		if err := book.LeaveAll(id); err != nil {
			return err
		}
		if err := book.Close(); err != nil {
			return err
		}
		book.Drop(id)
		return tx.DeleteNode(id)
	})
	if err != nil {
		return err
	}
	s.Log.Info("node removed", "node", id)
	s.forget(id)
	s.Wakes.Allocator.Wake()
	return nil
}
