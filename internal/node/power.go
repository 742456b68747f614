package node

import (
	"context"
	"errors"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/sqlite"
)

// roomWait is how long a deallocated node that found no room waits before it is
// tried again.
const roomWait = 5 * time.Second

// deallocate stops a node's machine, then notes it and puts back what tasks the
// row still has there. Cut short in between it is done again: to stop a machine
// that has stopped does nothing.
func (s *Service) deallocate(ctx context.Context, id millpond.NodeID) error {
	err := s.Launcher.Stop(ctx, id, s.Config.StopGrace)
	// A machine that the launcher has lost is as good as stopped; the start finds
	// out and makes a new one.
	if err != nil && millpond.KindOf(err) != millpond.NotFound {
		return err
	}
	return s.edit(ctx, id, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
		if n.State != millpond.NodeDeallocating || n.Pending != millpond.NodeDeallocate {
			return nil
		}
		move(n, millpond.NodeStopped, "its machine has stopped", tx.Now)
		n.Pending, n.PendingOption, n.Errors = "", "", nil
		s.Log.Info("node deallocated", "pool", n.Pool, "node", n.ID)
		// What it held is free for others.
		s.Wakes.Allocator.Wake()
		_, err := book.LoseAll(n.ID)
		return err
	})
}

// Preempt begins to take the machine of a low-priority node away: its tasks are
// told, and have the notice to end by themselves.
func (s *Service) Preempt(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, notice time.Duration) error {
	err := s.update(ctx, func(tx *sqlite.Tx, _ *ledger.Book) error {
		n, err := readNode(tx, acct, pool, id)
		if err != nil {
			return err
		}
		if n.Dedicated {
			return millpond.Errorf(millpond.Conflict, "OperationNotValidOnNode", "A dedicated node is never preempted; only low-priority nodes are. Use deallocate or removenodes.")
		}
		_, outcome, reason := millpond.NodeTransition(n.State, millpond.NodePreempt)
		if n.Pending != "" {
			outcome, reason = millpond.Refused, "another operation on the node is under way"
		}
		if outcome != millpond.Accepted {
			if reason == "" {
				reason = "the node was preempted"
			}
			return millpond.NodeRefusal(n.State, reason)
		}
		n.Pending, n.PendingOption, n.PendingDue = millpond.NodePreempt, millpond.DeallocateRequeue, tx.Now.Add(notice)
		return tx.PutNode(n)
	})
	if err == nil {
		s.Wake(id)
		s.Wakes.Nodes.Wake()
	}
	return err
}

// preempt takes the machine of a low-priority node away; its id stays, and the
// allocator gives it a new machine when there is room.
func (s *Service) preempt(ctx context.Context, id millpond.NodeID) error {
	var generation int
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		h, err := tx.NodeHead(id)
		generation = h.Generation
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil
	}
	if err != nil {
		return err
	}
	s.keepLast(ctx, id)
	s.keepConsole(ctx, id, generation)
	if err := s.Launcher.Destroy(ctx, id); err != nil {
		return err
	}
	defer s.Wakes.Allocator.Wake()
	return s.edit(ctx, id, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
		if n.Pending != millpond.NodePreempt || !move(n, millpond.NodePreempt, "its machine was taken for others", tx.Now) {
			return nil
		}
		n.Pending, n.PendingOption, n.PendingDue = "", "", time.Time{}
		// The agent of the next machine counts anew.
		n.Generation++
		n.LastSequence, n.BootID, n.LaunchTries, n.NextLaunch, n.LaunchFailed = 0, "", 0, time.Time{}, false
		s.Log.Info("node preempted", "pool", n.Pool, "node", n.ID)
		_, err := book.LoseAll(n.ID)
		return err
	})
}
