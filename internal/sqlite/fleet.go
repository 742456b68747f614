package sqlite

import (
	"context"
	"slices"
	"sync"

	millpond "millpond.dev/millpond"
)

// fleet has the heads of all nodes as of the last commit, so that loops that look
// at every node after each change of one read no rows. It holds nothing that the
// rows do not; what a head's slice leads to is shared and must not be changed.
type fleet struct {
	mu    sync.Mutex
	heads map[string]*NodeHead // by key, with their counts; nil until the first look
	keys  []string             // in order; nil when nodes came or went
}

// Heads lists the heads of all nodes by key, as of the last commit. It must not be
// called within a transaction.
func (db *DB) Heads(ctx context.Context) ([]NodeHead, error) {
	db.fleet.mu.Lock()
	if db.fleet.heads == nil {
		db.fleet.mu.Unlock()
		if err := db.muster(ctx); err != nil {
			return nil, err
		}
		db.fleet.mu.Lock()
	}
	defer db.fleet.mu.Unlock()
	f := &db.fleet
	if f.keys == nil {
		f.keys = make([]string, 0, len(f.heads))
		for key := range f.heads {
			f.keys = append(f.keys, key)
		}
		slices.Sort(f.keys)
	}
	out := make([]NodeHead, len(f.keys))
	for i, key := range f.keys {
		out[i] = *f.heads[key]
	}
	return out, nil
}

// muster reads all heads while nothing is written.
func (db *DB) muster(ctx context.Context) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	var all []NodeHead
	err := run(ctx, db.write, &db.writes, db.clock, func(tx *Tx) (err error) {
		all, err = tx.NodeHeads()
		return err
	}, nil)
	if err != nil {
		return err
	}
	heads := make(map[string]*NodeHead, len(all))
	for i := range all {
		heads[all[i].ID.Key()] = &all[i]
	}
	db.fleet.mu.Lock()
	defer db.fleet.mu.Unlock()
	db.fleet.heads, db.fleet.keys = heads, nil
	return nil
}

// commit takes over what a transaction wrote of nodes; DB.mu is held.
func (f *fleet) commit(t *Tx) {
	if len(t.fleet)+len(t.loads) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heads == nil {
		return
	}
	for key, h := range t.fleet {
		was := f.heads[key]
		switch {
		case h == nil:
			delete(f.heads, key)
			f.keys = nil
		case was == nil:
			f.heads[key], f.keys = h, nil // its counts are from before the loads
		default:
			h.RunningTasks, h.RunningSlots = was.RunningTasks, was.RunningSlots
			*was = *h
		}
	}
	for key, by := range t.loads {
		if h := f.heads[key]; h != nil {
			h.RunningTasks += by.tasks
			h.RunningSlots += by.slots
		}
	}
}

// headOf is the head of a node that is written as a whole.
func headOf(n millpond.Node) *NodeHead {
	return &NodeHead{ID: n.ID, Account: millpond.AccountName(n.Account.Key()), Pool: n.Pool.Key(), Generation: n.Generation, Dedicated: n.Dedicated, Allocated: fromMicros(micros(n.Allocated)),
		State: n.State, Changed: fromMicros(micros(n.StateTransition)), Scheduling: n.Scheduling, Pending: n.Pending, Option: n.PendingOption, VMSize: n.VMSize,
		Sequence: n.LastSequence, NextLaunch: fromMicros(micros(n.NextLaunch)), Due: fromMicros(micros(n.PendingDue)), LaunchFailed: n.LaunchFailed,
		TasksRun: n.TasksRun, TasksSucceeded: n.TasksSucceeded, Recent: n.RecentTasks}
}

// writesHead notes the head that a transaction leaves of a node; nil when it is
// gone.
func (t *Tx) writesHead(id millpond.NodeID, h *NodeHead) {
	if t.fleet == nil {
		return
	}
	key := id.Key()
	if was := t.fleet[key]; h != nil && was != nil {
		h.RunningTasks, h.RunningSlots = was.RunningTasks, was.RunningSlots
	}
	t.fleet[key] = h
}

// joins notes a node that was inserted, with the tasks that are on it already, less
// what this transaction has put there.
func (t *Tx) joins(id millpond.NodeID) error {
	if t.fleet == nil {
		return nil
	}
	h, err := t.NodeHead(id)
	if err != nil {
		return err
	}
	before := t.heads[id.Key()].load
	h.RunningTasks, h.RunningSlots = before.tasks, before.slots
	t.fleet[id.Key()] = &h
	return nil
}
