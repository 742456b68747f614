package sqlite

import (
	"database/sql"
	"encoding/json"
	"slices"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

func taskColumns(v millpond.Task, withSpec bool) ([]any, error) {
	spec := v.Spec
	v.Spec = millpond.TaskSpec{ID: spec.ID}
	run, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	args := []any{string(v.State), v.Result, spec.RequiredSlots, v.Order, v.Node.Key(), v.OnNode(), v.Satisfies, string(run)}
	if withSpec {
		b, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		args = append(args, spec.DependsOn != nil, string(b))
	}
	return append(args, v.Account.Key(), v.Job.Key(), spec.ID.Key()), nil
}

const insertTask = `INSERT INTO task (state, result, slots, ord, node_key, placed, satisfies, run, waits, spec, account, job_key, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// InsertTask adds a task; account, job and id are unique together (IsUnique).
func (t *Tx) InsertTask(v millpond.Task) error {
	args, err := taskColumns(v, true)
	if err != nil {
		return err
	}
	if _, err = t.exec(insertTask, args...); err != nil {
		return err
	}
	return t.changed(v, false)
}

// AddTask adds a task unless there is one of its account, job and id. It says
// whether it did, and costs no look beforehand.
func (t *Tx) AddTask(v millpond.Task) (bool, error) {
	args, err := taskColumns(v, true)
	if err != nil {
		return false, err
	}
	n, err := t.exec(insertTask+` ON CONFLICT DO NOTHING`, args...)
	if err != nil || n == 0 {
		return false, err
	}
	return true, t.changed(v, false)
}

// changed counts a task that was written and tells the followers.
func (t *Tx) changed(v millpond.Task, known bool) error {
	t.changes.Tasks = append(t.changes.Tasks, TaskChange{Task: v})
	id, row := taskID{v.Account.Key(), v.Job.Key(), v.Spec.ID.Key()}, taskRowOf(v)
	t.writes(id, &v)
	return t.counted(id, &row, known)
}

// PutTask writes how far a task is, not its spec.
func (t *Tx) PutTask(v millpond.Task) error {
	args, err := taskColumns(v, false)
	if err != nil {
		return err
	}
	// The counts first: they may have to read what the row holds now.
	if err := t.changed(v, true); err != nil {
		return err
	}
	_, err = t.exec(`UPDATE task SET state = ?, result = ?, slots = ?, ord = ?, node_key = ?, placed = ?, satisfies = ?, run = ? WHERE account = ? AND job_key = ? AND key = ?`, args...)
	return err
}

// PutTaskSpec writes a task with its spec.
func (t *Tx) PutTaskSpec(v millpond.Task) error {
	args, err := taskColumns(v, true)
	if err != nil {
		return err
	}
	// The counts first: they may have to read what the row holds now.
	if err := t.changed(v, true); err != nil {
		return err
	}
	_, err = t.exec(`UPDATE task SET state = ?, result = ?, slots = ?, ord = ?, node_key = ?, placed = ?, satisfies = ?, run = ?, waits = ?, spec = ? WHERE account = ? AND job_key = ? AND key = ?`, args...)
	return err
}

// DeleteTask removes a task's row.
func (t *Tx) DeleteTask(v millpond.Task) error {
	id := taskID{v.Account.Key(), v.Job.Key(), v.Spec.ID.Key()}
	if err := t.counted(id, nil, true); err != nil {
		return err
	}
	t.changes.Tasks = append(t.changes.Tasks, TaskChange{Task: v, Gone: true})
	t.writes(id, nil)
	_, err := t.exec(`DELETE FROM task WHERE account = ? AND job_key = ? AND key = ?`, id.account, id.job, id.task)
	return err
}

func (t *Tx) scanTask(s scanner) (millpond.Task, error) {
	var v millpond.Task
	var spec, run string
	if err := s.Scan(&spec, &run); err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(run), &v); err != nil {
		return v, err
	}
	v.Spec = millpond.TaskSpec{}
	if err := json.Unmarshal([]byte(spec), &v.Spec); err != nil {
		return v, err
	}
	t.seen(v)
	return v, nil
}

func (t *Tx) tasks(query string, args ...any) ([]millpond.Task, error) {
	return collect(t, func(r *sql.Rows) (millpond.Task, error) { return t.scanTask(r) }, query, args...)
}

// Task reads a task; ErrNoRow without it.
func (t *Tx) Task(account millpond.AccountName, job millpond.JobID, id millpond.TaskID) (millpond.Task, error) {
	k := taskID{account.Key(), job.Key(), id.Key()}
	if v, found, known := t.recall(k); known {
		if !found {
			return v, ErrNoRow
		}
		t.seen(v)
		return v, nil
	}
	return t.scanTask(t.row(`SELECT spec, run FROM task WHERE account = ? AND job_key = ? AND key = ?`, k.account, k.job, k.task))
}

// The pages of a job's tasks: each reads as many rows as it answers, whatever
// the job has.
const (
	taskPage      = `SELECT spec, run FROM task WHERE account = ? AND job_key = ? AND key > ? ORDER BY key LIMIT ?`
	taskStatePage = `SELECT spec, run FROM task WHERE account = ? AND job_key = ? AND state = ? AND key > ? ORDER BY key LIMIT ?`
	placedTasks   = `SELECT spec, run FROM task WHERE node_key = ? AND placed = 1 ORDER BY account, job_key, key`
	countState    = `SELECT coalesce(sum(n), 0) FROM job_count WHERE account = ? AND job_key = ? AND state = ?`
	countStates   = `SELECT state, result, n, slots FROM job_count WHERE account = ? AND job_key = ?`
)

// Tasks lists tasks of a job after a key, in any of states if there are any.
// Each state is a range of an index; their pages are merged.
func (t *Tx) Tasks(account millpond.AccountName, job millpond.JobID, after string, limit int, states []string) ([]millpond.Task, error) {
	if len(states) == 0 {
		return t.tasks(taskPage, account.Key(), job.Key(), after, limit)
	}
	var out []millpond.Task
	for _, s := range states {
		some, err := t.tasks(taskStatePage, account.Key(), job.Key(), s, after, limit)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	if len(states) > 1 {
		slices.SortFunc(out, func(a, b millpond.Task) int { return strings.Compare(a.Spec.ID.Key(), b.Spec.ID.Key()) })
	}
	return out[:min(limit, len(out))], nil
}

// PlacedTasks lists the tasks that occupy a node.
func (t *Tx) PlacedTasks(node millpond.NodeID) ([]millpond.Task, error) {
	return t.tasks(placedTasks, node.Key())
}

// CountPlaced counts the tasks of a job that occupy nodes.
func (t *Tx) CountPlaced(account millpond.AccountName, job millpond.JobID) (int, error) {
	return t.countTasks(account, job, millpond.TaskRunning, millpond.TaskPreparing)
}

// countTasks is how many tasks of a job are in any of states, with what this
// transaction has changed so far.
func (t *Tx) countTasks(account millpond.AccountName, job millpond.JobID, states ...millpond.TaskState) (n int, err error) {
	if err := t.flushCounts(); err != nil {
		return 0, err
	}
	for _, s := range states {
		var some int
		if err := t.row(countState, account.Key(), job.Key(), string(s)).Scan(&some); err != nil {
			return 0, err
		}
		n += some
	}
	return n, nil
}

// JobPlaced lists the tasks of a job that occupy nodes.
func (t *Tx) JobPlaced(account millpond.AccountName, job millpond.JobID) ([]millpond.Task, error) {
	return t.tasks(`SELECT spec, run FROM task WHERE account = ? AND job_key = ? AND state IN ('running', 'preparing')`, account.Key(), job.Key())
}

// CountOpenTasks counts the tasks of a job that have not completed.
func (t *Tx) CountOpenTasks(account millpond.AccountName, job millpond.JobID) (int, error) {
	return t.countTasks(account, job, millpond.TaskActive, millpond.TaskRunning, millpond.TaskPreparing)
}

// CountTasks counts all tasks of a job.
func (t *Tx) CountTasks(account millpond.AccountName, job millpond.JobID) (int, error) {
	return t.countTasks(account, job, millpond.TaskActive, millpond.TaskRunning, millpond.TaskPreparing, millpond.TaskCompleted)
}

// QueueRow is what placing tasks needs of a task's row.
type QueueRow struct {
	Account, Job, Task string // keys
	State              millpond.TaskState
	Order              int64
	Slots              int
	Node               string // key; empty when it is on none
	Affinity           string
	Satisfies          bool
	// Stopping says that its agent has been told to stop it.
	Stopping bool
	// DependsOn and Manager are the spec's.
	DependsOn *millpond.Dependencies
	Manager   *millpond.ManagerSpec
	// Instances is how many nodes a multi-instance task takes; 0 for others.
	// Others are the keys of the nodes beside Node that it occupies.
	Instances int
	Others    []string
}

// QueueRowOf is a task as placing sees it.
func QueueRowOf(v millpond.Task) QueueRow {
	q := QueueRow{Account: v.Account.Key(), Job: v.Job.Key(), Task: v.Spec.ID.Key(), State: v.State, Order: v.Order, Slots: v.Spec.RequiredSlots,
		Affinity: v.Spec.Affinity, Satisfies: v.Satisfies, Stopping: v.Stopping != "", DependsOn: v.Spec.DependsOn, Manager: v.Spec.Manager}
	q.gang(v.Spec)
	if v.OnNode() {
		q.Node = v.Node.Key()
		q.occupies(v.Gang)
	}
	return q
}

func (q *QueueRow) gang(s millpond.TaskSpec) {
	if s.MultiInstance != nil {
		q.Instances = max(1, s.MultiInstance.Instances)
	}
}

func (q *QueueRow) occupies(g *millpond.Gang) {
	if g == nil {
		return
	}
	for _, x := range g.Instances[1:] {
		if !x.Over() {
			q.Others = append(q.Others, x.Node.Key())
		}
	}
}

// EachQueueRow calls fn for every task of any account that has not completed,
// and for every completed one that others may depend on, in no order.
func (t *Tx) EachQueueRow(fn func(QueueRow)) error {
	// Most tasks have nothing in their spec that matters here; it is read only
	// where it may, and what was stopped only of those that run.
	rows, err := t.rows(`SELECT account, job_key, key, state, ord, slots, node_key, placed, satisfies,
			CASE WHEN waits = 1 OR instr(spec, '"affinity"') > 0 OR instr(spec, '"manager"') > 0 OR instr(spec, '"multiInstance"') > 0 THEN spec END, CASE WHEN placed = 1 THEN run END
		FROM task WHERE state IN ('active', 'preparing', 'running')
		UNION ALL SELECT task.account, job_key, task.key, task.state, ord, slots, '', 0, satisfies, NULL, NULL
		FROM job JOIN task ON task.account = job.account AND task.job_key = job.key AND task.state = 'completed'
		WHERE job.state <> 'completed' AND json_extract(job.document, '$.Spec.usesTaskDependencies') = 1 AND satisfies = 1`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var q QueueRow
		var placed bool
		var spec, run sql.NullString
		if err := rows.Scan(&q.Account, &q.Job, &q.Task, &q.State, &q.Order, &q.Slots, &q.Node, &placed, &q.Satisfies, &spec, &run); err != nil {
			return err
		}
		if !placed {
			q.Node = ""
		}
		if spec.Valid {
			var s millpond.TaskSpec
			if err := json.Unmarshal([]byte(spec.String), &s); err != nil {
				return err
			}
			q.Affinity, q.DependsOn, q.Manager = s.Affinity, s.DependsOn, s.Manager
			q.gang(s)
		}
		if run.Valid {
			var v millpond.Task
			if err := json.Unmarshal([]byte(run.String), &v); err != nil {
				return err
			}
			q.Stopping = v.Stopping != ""
			q.occupies(v.Gang)
		}
		fn(q)
	}
	return rows.Err()
}

// TaskCounts counts a job's tasks and their slots by state.
func (t *Tx) TaskCounts(account millpond.AccountName, job millpond.JobID) (tasks, slots millpond.TaskCounts, err error) {
	type row struct {
		state, result string
		n, slots      int
	}
	rows, err := collect(t, func(r *sql.Rows) (v row, err error) { return v, r.Scan(&v.state, &v.result, &v.n, &v.slots) },
		countStates, account.Key(), job.Key())
	for _, r := range rows {
		switch millpond.TaskState(r.state) {
		case millpond.TaskActive:
			tasks.Active, slots.Active = tasks.Active+r.n, slots.Active+r.slots
		case millpond.TaskCompleted:
			tasks.Completed, slots.Completed = tasks.Completed+r.n, slots.Completed+r.slots
			if r.result == "success" {
				tasks.Succeeded, slots.Succeeded = tasks.Succeeded+r.n, slots.Succeeded+r.slots
			} else {
				tasks.Failed, slots.Failed = tasks.Failed+r.n, slots.Failed+r.slots
			}
		default:
			tasks.Running, slots.Running = tasks.Running+r.n, slots.Running+r.slots
		}
	}
	return tasks, slots, err
}

// TaskDirectory is a task's directory on a node that is to be removed when due.
type TaskDirectory struct {
	Node      millpond.NodeID
	Directory string
	Account   millpond.AccountName
	Job       millpond.JobID
	Task      millpond.TaskID
	Attempt   int
	Due       time.Time
}

// PutTaskDirectory notes a directory to be removed, once per node and directory.
func (t *Tx) PutTaskDirectory(d TaskDirectory) error {
	_, err := t.exec(`INSERT INTO task_directory (node_key, directory, account, job, task, attempt, due) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (node_key, directory) DO UPDATE SET attempt = excluded.attempt, due = excluded.due, kept = 0`,
		d.Node.Key(), d.Directory, d.Account.Key(), d.Job.Key(), d.Task.Key(), d.Attempt, micros(d.Due))
	return err
}

// DropTaskDirectory forgets a directory, because it is removed or in use again.
func (t *Tx) DropTaskDirectory(node millpond.NodeID, directory string) error {
	_, err := t.exec(`DELETE FROM task_directory WHERE node_key = ? AND directory = ?`, node.Key(), directory)
	return err
}

// ExpireTaskDirectories makes all noted directories of a task due.
func (t *Tx) ExpireTaskDirectories(account millpond.AccountName, job millpond.JobID, id millpond.TaskID) error {
	_, err := t.exec(`UPDATE task_directory SET due = ? WHERE account = ? AND job = ? AND task = ?`, micros(t.Now), account.Key(), job.Key(), id.Key())
	return err
}

// DueTaskDirectories lists a node's directories that are due at now.
func (t *Tx) DueTaskDirectories(node millpond.NodeID, now time.Time) ([]TaskDirectory, error) {
	return collect(t, func(r *sql.Rows) (d TaskDirectory, err error) {
		var due int64
		err = r.Scan(&d.Node, &d.Directory, &d.Account, &d.Job, &d.Task, &d.Attempt, &due)
		d.Due = fromMicros(due)
		return d, err
	}, `SELECT node_key, directory, account, job, task, attempt, due FROM task_directory WHERE node_key = ? AND due <= ? ORDER BY due LIMIT 256`, node.Key(), micros(now))
}

// DueNodes lists the nodes that have directories due at now, and when the next
// of the others is due; zero without one.
func (t *Tx) DueNodes(now time.Time) ([]millpond.NodeID, time.Time, error) {
	nodes, err := collect(t, func(r *sql.Rows) (n millpond.NodeID, err error) { return n, r.Scan(&n) },
		`SELECT DISTINCT node_key FROM task_directory WHERE due <= ?`, micros(now))
	if err != nil {
		return nil, time.Time{}, err
	}
	var next int64
	err = t.row(`SELECT coalesce(min(due), 0) FROM task_directory WHERE due > ?`, micros(now)).Scan(&next)
	return nodes, fromMicros(next), err
}

// HasTaskDirectories says whether a node has noted directories, due or not.
func (t *Tx) HasTaskDirectories(node millpond.NodeID) (bool, error) {
	var n int
	err := t.row(`SELECT count(*) FROM task_directory WHERE node_key = ?`, node.Key()).Scan(&n)
	return n > 0, err
}
