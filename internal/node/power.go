package node

import (
	"context"
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
		n.Enter(millpond.NodeStopped, "its machine has stopped", tx.Now)
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
		outcome, reason := n.Preempt(tx.Now.Add(notice))
		if outcome != millpond.Accepted {
			if reason == "" {
				reason = "the node was preempted"
			}
			return millpond.NodeRefusal(n.State, reason)
		}
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
	if there, err := s.destroy(ctx, id); err != nil || !there {
		return err
	}
	defer s.Wakes.Allocator.Wake()
	return s.edit(ctx, id, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
		if n.Pending != millpond.NodePreempt || !n.Enter(millpond.NodePreempt, "its machine was taken for others", tx.Now) {
			return nil
		}
		n.Pending, n.PendingOption, n.PendingDue = "", "", time.Time{}
		n.NextGeneration()
		n.LaunchTries, n.NextLaunch, n.LaunchFailed = 0, time.Time{}, false
		s.Log.Info("node preempted", "pool", n.Pool, "node", n.ID)
		_, err := book.LoseAll(n.ID)
		return err
	})
}
