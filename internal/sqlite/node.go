package sqlite

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
)

// NodeHead is the part of a node that changes often and that loops plan with.
type NodeHead struct {
	ID         millpond.NodeID
	Account    millpond.AccountName
	Pool       string // the pool's key
	Generation int
	Dedicated  bool
	Allocated  time.Time
	State      millpond.NodeState
	Changed    time.Time
	Scheduling millpond.SchedulingState
	Pending    millpond.NodeEvent
	Option     millpond.DeallocationOption
	VMSize     string
	Sequence   uint64
	NextLaunch time.Time
	// Due is when what is pending is carried out at the latest; zero without a limit.
	Due            time.Time
	LaunchFailed   bool
	TasksRun       int
	TasksSucceeded int
	Recent         []millpond.RecentTask
	// RunningTasks and RunningSlots are counted when read, never written.
	RunningTasks, RunningSlots int
}

// Change is the head as followers see it.
func (h NodeHead) Change() NodeChange {
	return NodeChange{ID: h.ID, Account: h.Account, Pool: h.Pool, Dedicated: h.Dedicated, State: h.State, Scheduling: h.Scheduling, Pending: h.Pending, Changed: h.Changed}
}

const headColumns = `node.id, node.account, node.pool_key, node.generation, node.dedicated, node.allocated, node.state, node.changed, node.scheduling,
	node.pending, node.pending_option, node.vm_size, node.sequence, node.next_launch, node.due, node.launch_failed, node.tasks_run, node.tasks_succeeded, node.recent,
	(SELECT count(*) FROM task WHERE task.node_key = node.key AND task.placed = 1) + (SELECT count(*) FROM task_node WHERE task_node.node_key = node.key),
	(SELECT coalesce(sum(task.slots), 0) FROM task WHERE task.node_key = node.key AND task.placed = 1) + (SELECT count(*) FROM task_node WHERE task_node.node_key = node.key)`

func scanHead(s scanner, more ...any) (NodeHead, error) {
	var h NodeHead
	var allocated, changed, next, due int64
	var recent string
	dst := append([]any{&h.ID, &h.Account, &h.Pool, &h.Generation, &h.Dedicated, &allocated, &h.State, &changed, &h.Scheduling,
		&h.Pending, &h.Option, &h.VMSize, &h.Sequence, &next, &due, &h.LaunchFailed, &h.TasksRun, &h.TasksSucceeded, &recent, &h.RunningTasks, &h.RunningSlots}, more...)
	if err := s.Scan(dst...); err != nil {
		return h, err
	}
	h.Allocated, h.Changed, h.NextLaunch, h.Due = fromMicros(allocated), fromMicros(changed), fromMicros(next), fromMicros(due)
	if recent == "" {
		return h, nil
	}
	return h, json.Unmarshal([]byte(recent), &h.Recent)
}

func scanNode(s scanner) (millpond.Node, error) {
	var doc string
	h, err := scanHead(s, &doc)
	if err != nil {
		return millpond.Node{}, err
	}
	return decodeNode(h, doc)
}

func decodeNode(h NodeHead, doc string) (n millpond.Node, err error) {
	if err := json.Unmarshal([]byte(doc), &n); err != nil {
		return n, err
	}
	n.Generation, n.Allocated, n.State, n.StateTransition, n.Scheduling = h.Generation, h.Allocated, h.State, h.Changed, h.Scheduling
	n.Pending, n.PendingOption, n.LastSequence, n.NextLaunch, n.PendingDue, n.LaunchFailed = h.Pending, h.Option, h.Sequence, h.NextLaunch, h.Due, h.LaunchFailed
	n.TasksRun, n.TasksSucceeded, n.RecentTasks, n.RunningTasks, n.RunningSlots = h.TasksRun, h.TasksSucceeded, h.Recent, h.RunningTasks, h.RunningSlots
	return n, nil
}

func encodeNode(n millpond.Node) (doc, recent string, err error) {
	r := ""
	if len(n.RecentTasks) > 0 {
		b, err := json.Marshal(n.RecentTasks)
		if err != nil {
			return "", "", err
		}
		r = string(b)
	}
	n.RecentTasks = nil
	b, err := json.Marshal(n)
	return string(b), r, err
}

// InsertNode adds a node.
func (t *Tx) InsertNode(n millpond.Node) error {
	doc, recent, err := encodeNode(n)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO node (key, id, account, pool_key, generation, dedicated, allocated, state, changed, scheduling, pending, pending_option, vm_size,
		sequence, next_launch, due, launch_failed, tasks_run, tasks_succeeded, recent, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		n.ID.Key(), string(n.ID), n.Account.Key(), n.Pool.Key(), n.Generation, n.Dedicated, micros(n.Allocated), string(n.State), micros(n.StateTransition),
		string(n.Scheduling), string(n.Pending), string(n.PendingOption), n.VMSize, int64(n.LastSequence), micros(n.NextLaunch), micros(n.PendingDue), n.LaunchFailed,
		n.TasksRun, n.TasksSucceeded, recent, doc)
	t.nodeChanged(n)
	if err != nil {
		return err
	}
	if err := t.joins(n.ID); err != nil {
		return err
	}
	return t.live(n)
}

// PutNode writes all of a node that is there.
func (t *Tx) PutNode(n millpond.Node) error {
	doc, recent, err := encodeNode(n)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE node SET generation = ?, allocated = ?, state = ?, changed = ?, scheduling = ?, pending = ?, pending_option = ?,
		sequence = ?, next_launch = ?, due = ?, launch_failed = ?, tasks_run = ?, tasks_succeeded = ?, recent = ?, document = ? WHERE key = ?`,
		n.Generation, micros(n.Allocated), string(n.State), micros(n.StateTransition), string(n.Scheduling), string(n.Pending), string(n.PendingOption),
		int64(n.LastSequence), micros(n.NextLaunch), micros(n.PendingDue), n.LaunchFailed, n.TasksRun, n.TasksSucceeded, recent, doc, n.ID.Key())
	t.nodeChanged(n)
	if err != nil {
		return err
	}
	return t.live(n)
}

func (t *Tx) nodeChanged(n millpond.Node) {
	t.writesHead(n.ID, headOf(n))
	t.staleHead(n.ID)
	t.changes.Nodes = append(t.changes.Nodes, NodeChange{ID: n.ID, Account: n.Account, Pool: n.Pool.Key(), Dedicated: n.Dedicated, State: n.State, Scheduling: n.Scheduling, Pending: n.Pending, Changed: n.StateTransition})
}

// PutNodeHead writes what tasks change of a node: state, sequence and counters.
func (t *Tx) PutNodeHead(h NodeHead) error {
	recent := ""
	if len(h.Recent) > 0 {
		b, err := json.Marshal(h.Recent)
		if err != nil {
			return err
		}
		recent = string(b)
	}
	_, err := t.exec(`UPDATE node SET state = ?, changed = ?, sequence = ?, tasks_run = ?, tasks_succeeded = ?, recent = ? WHERE key = ?`,
		string(h.State), micros(h.Changed), int64(h.Sequence), h.TasksRun, h.TasksSucceeded, recent, h.ID.Key())
	t.changes.Nodes = append(t.changes.Nodes, h.Change())
	t.wroteHead(h)
	t.writesHead(h.ID, &h)
	return err
}

// DeleteNode removes a node, its address and what is noted to be removed from it.
func (t *Tx) DeleteNode(id millpond.NodeID) error {
	if _, err := t.exec(`DELETE FROM subnet_address WHERE node_key = ?`, id.Key()); err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM task_directory WHERE node_key = ?`, id.Key()); err != nil {
		return err
	}
	gone := NodeChange{ID: id, Gone: true}
	if err := t.row(`SELECT account, pool_key FROM node WHERE key = ?`, id.Key()).Scan(&gone.Account, &gone.Pool); err != nil && !errors.Is(err, ErrNoRow) {
		return err
	}
	t.changes.Nodes = append(t.changes.Nodes, gone)
	t.staleHead(id)
	t.writesHead(id, nil)
	if err := t.ended(id); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM node WHERE key = ?`, id.Key())
	return err
}

// Node reads a node; ErrNoRow without it.
func (t *Tx) Node(id millpond.NodeID) (millpond.Node, error) {
	return scanNode(t.row(`SELECT `+headColumns+`, node.document FROM node WHERE node.key = ?`, id.Key()))
}

// Nodes lists nodes of a pool after a key, in any of states if there are any.
func (t *Tx) Nodes(account millpond.AccountName, pool millpond.PoolID, after string, limit int, states []string) ([]millpond.Node, error) {
	in, args := inStates(states)
	args = append(append([]any{account.Key(), pool.Key(), after}, args...), limit)
	rows, err := t.rows(`SELECT `+headColumns+`, node.document FROM node WHERE account = ? AND pool_key = ? AND key > ?`+in+` ORDER BY key LIMIT ?`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	type row struct {
		head NodeHead
		doc  string
	}
	// Decoding is most of it: other processors do it while the rows are read.
	const part = 100
	var g errgroup.Group
	var parts [][]millpond.Node
	decode := func(rows []row) {
		out := make([]millpond.Node, len(rows))
		parts = append(parts, out)
		g.Go(func() (err error) {
			for i, r := range rows {
				if out[i], err = decodeNode(r.head, r.doc); err != nil {
					return err
				}
			}
			return nil
		})
	}
	read := make([]row, 0, part)
	for rows.Next() {
		var v row
		if v.head, err = scanHead(rows, &v.doc); err != nil {
			break
		}
		if read = append(read, v); len(read) == part {
			decode(read)
			read = make([]row, 0, part)
		}
	}
	decode(read)
	if err = cmp.Or(err, rows.Err(), g.Wait()); err != nil {
		return nil, err
	}
	return slices.Concat(parts...), nil
}

// AllNodes lists all nodes of a pool.
func (t *Tx) AllNodes(account millpond.AccountName, pool millpond.PoolID) ([]millpond.Node, error) {
	return collect(t, func(r *sql.Rows) (millpond.Node, error) { return scanNode(r) },
		`SELECT `+headColumns+`, node.document FROM node WHERE account = ? AND pool_key = ? ORDER BY key`, account.Key(), pool.Key())
}

const lastNumber = `SELECT coalesce(max(number), 0) FROM node WHERE account = ? AND pool_key = ?`

// NumberNode gives a node a number that no other of its pool has: the next, or
// beyond most the first that is free.
func (t *Tx) NumberNode(n *millpond.Node, most int) error {
	if n.Number > 0 {
		return nil
	}
	var last int
	err := t.row(lastNumber, n.Account.Key(), n.Pool.Key()).Scan(&last)
	if err != nil {
		return err
	}
	if n.Number = last + 1; n.Number > most {
		// It costs as much as there are numbers below the one that is free.
		err = t.row(`SELECT coalesce(min(a.number), 0) + 1 FROM (SELECT 0 AS number UNION SELECT number FROM node WHERE account = ? AND pool_key = ?) AS a
			WHERE NOT EXISTS (SELECT 1 FROM node AS b WHERE b.account = ? AND b.pool_key = ? AND b.number = a.number + 1)`,
			n.Account.Key(), n.Pool.Key(), n.Account.Key(), n.Pool.Key()).Scan(&n.Number)
		if err != nil {
			return err
		}
	}
	_, err = t.exec(`UPDATE node SET number = ? WHERE key = ?`, n.Number, n.ID.Key())
	return err
}

// PoolHeads lists the heads of a pool's nodes.
func (t *Tx) PoolHeads(account millpond.AccountName, poolKey string) ([]NodeHead, error) {
	return collect(t, func(r *sql.Rows) (NodeHead, error) { return scanHead(r) },
		`SELECT `+headColumns+` FROM node WHERE account = ? AND pool_key = ? ORDER BY key`, account.Key(), poolKey)
}

// NodeHeads lists the heads of all nodes.
func (t *Tx) NodeHeads() ([]NodeHead, error) {
	return collect(t, func(r *sql.Rows) (NodeHead, error) { return scanHead(r) }, `SELECT `+headColumns+` FROM node ORDER BY key`)
}

// NodeUse is how many nodes of one size an account has.
type NodeUse struct {
	VMSize    string
	Dedicated bool
	// Waiting is how many of N have no machine yet.
	N, Waiting int
}

// NodeUses counts nodes by size; of all accounts if account is empty.
func (t *Tx) NodeUses(account millpond.AccountName) ([]NodeUse, error) {
	return collect(t, func(r *sql.Rows) (u NodeUse, err error) { return u, r.Scan(&u.VMSize, &u.Dedicated, &u.N, &u.Waiting) },
		`SELECT vm_size, dedicated, count(*), sum(CASE WHEN allocated = 0 THEN 1 ELSE 0 END) FROM node WHERE ? = '' OR account = ? GROUP BY vm_size, dedicated`,
		account.Key(), account.Key())
}
