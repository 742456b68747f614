package sqlite

import (
	"context"
	"time"

	millpond "millpond.dev/millpond"
)

// Changes are what one transaction did, in its order.
type Changes struct {
	Tasks []TaskChange
	Jobs  []JobChange
	Pools []PoolChange
	Nodes []NodeChange
	// JobNodes are jobs with a preparation task on nodes.
	JobNodes []JobNodeChange
	// Schedules are told to the journal and to followers; no plan needs them.
	Schedules []ScheduleChange
}

func (c *Changes) empty() bool {
	return len(c.Tasks)+len(c.Jobs)+len(c.Pools)+len(c.Nodes)+len(c.JobNodes)+len(c.Schedules) == 0
}

// TaskChange is a task as it is now; when Gone, as it was.
type TaskChange struct {
	Task millpond.Task
	Gone bool
}

// JobChange is a job as it is now; when Gone, only its account and id.
type JobChange struct {
	Job         millpond.Job
	Added, Gone bool
}

// PoolChange is a pool as it is now; when Gone, only its account and id.
type PoolChange struct {
	Pool        millpond.Pool
	Added, Gone bool
}

// NodeChange is what placing tasks needs of a node as it is now; when Gone,
// only whose it was and its id.
type NodeChange struct {
	ID         millpond.NodeID
	Account    millpond.AccountName
	Pool       string // the pool's key
	Dedicated  bool
	State      millpond.NodeState
	Scheduling millpond.SchedulingState
	Pending    millpond.NodeEvent
	Changed    time.Time // of State
	Gone       bool
}

// JobNodeChange says, by keys, whether tasks of a job may run on a node.
type JobNodeChange struct {
	Account, Job, Node string
	Barred             bool
}

// Follow hands every committed transaction's changes to each, in the order of
// commits, from the state that begin reads on (nil reads nothing). Both run
// while no other transaction writes, so that inside an Update a follower's
// state is exactly what the rows say. each must be quick and must not use the
// database.
func (db *DB) Follow(ctx context.Context, begin func(*Tx) error, each func(Changes)) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if begin != nil {
		if err := run(ctx, db.write, &db.writes, db.clock, begin, nil); err != nil {
			return err
		}
	}
	db.followers = append(db.followers, each)
	return nil
}

// Still runs fn while no transaction writes.
func (db *DB) Still(fn func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	fn()
}

func (db *DB) publish(c Changes) {
	if c.empty() {
		return
	}
	for _, each := range db.followers {
		each(c)
	}
}

// taskRow is what a task's row holds that the counts are made of.
type taskRow struct {
	state, result string
	slots         int
	node          string // key of the node that it occupies, or empty
}

func taskRowOf(v millpond.Task) taskRow {
	r := taskRow{state: string(v.State), result: v.Result, slots: v.Spec.RequiredSlots}
	if v.OnNode() {
		r.node = v.Node.Key()
	}
	return r
}

type taskID struct{ account, job, task string }

type countKey struct{ account, job, state, result string }

type count struct{ n, slots int }

// seen notes what the row of a task holds, so that a later write of it in this
// transaction changes the counts by the difference.
func (t *Tx) seen(v millpond.Task) {
	if t.rowsSeen != nil {
		t.rowsSeen[taskID{v.Account.Key(), v.Job.Key(), v.Spec.ID.Key()}] = taskRowOf(v)
	}
}

// counted moves a task from what its row held to what it holds now; now is nil
// for a row that is deleted, and known says that there was a row.
func (t *Tx) counted(id taskID, now *taskRow, known bool) error {
	var was taskRow
	if known {
		var ok bool
		if was, ok = t.rowsSeen[id]; !ok {
			err := t.row(`SELECT state, result, slots, CASE WHEN placed = 1 THEN node_key ELSE '' END FROM task WHERE account = ? AND job_key = ? AND key = ?`,
				id.account, id.job, id.task).Scan(&was.state, &was.result, &was.slots, &was.node)
			if err != nil {
				return err
			}
		}
		if now != nil && was == *now {
			return nil
		}
		t.count(id, was, -1)
	}
	if now == nil {
		t.moveLoad(was, taskRow{})
		delete(t.rowsSeen, id)
		return nil
	}
	t.moveLoad(was, *now)
	t.count(id, *now, 1)
	t.rowsSeen[id] = *now
	return nil
}

func (t *Tx) count(id taskID, r taskRow, by int) {
	k := countKey{id.account, id.job, r.state, r.result}
	c := t.counts[k]
	c.n += by
	c.slots += by * r.slots
	t.counts[k] = c
}

// flushCounts writes the differences; it is the last thing of a transaction.
func (t *Tx) flushCounts() error {
	for k, c := range t.counts {
		if c == (count{}) {
			continue
		}
		_, err := t.exec(`INSERT INTO job_count (account, job_key, state, result, n, slots) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (account, job_key, state, result) DO UPDATE SET n = n + excluded.n, slots = slots + excluded.slots`, k.account, k.job, k.state, k.result, c.n, c.slots)
		if err != nil {
			return err
		}
		delete(t.counts, k)
	}
	return nil
}
