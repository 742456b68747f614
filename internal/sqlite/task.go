package sqlite

import (
	"database/sql"
	"encoding/json"
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
	args := []any{string(v.State), v.Result, spec.RequiredSlots, v.Order, v.Node.Key(), v.OnNode(), string(run)}
	if withSpec {
		b, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		args = append(args, string(b))
	}
	return append(args, v.Account.Key(), v.Job.Key(), spec.ID.Key()), nil
}

// InsertTask adds a task; account, job and id are unique together (IsUnique).
func (t *Tx) InsertTask(v millpond.Task) error {
	args, err := taskColumns(v, true)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO task (state, result, slots, ord, node_key, placed, run, spec, account, job_key, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, args...)
	return err
}

// PutTask writes how far a task is, not its spec.
func (t *Tx) PutTask(v millpond.Task) error {
	args, err := taskColumns(v, false)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE task SET state = ?, result = ?, slots = ?, ord = ?, node_key = ?, placed = ?, run = ? WHERE account = ? AND job_key = ? AND key = ?`, args...)
	return err
}

// PutTaskSpec writes a task with its spec.
func (t *Tx) PutTaskSpec(v millpond.Task) error {
	args, err := taskColumns(v, true)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE task SET state = ?, result = ?, slots = ?, ord = ?, node_key = ?, placed = ?, run = ?, spec = ? WHERE account = ? AND job_key = ? AND key = ?`, args...)
	return err
}

// DeleteTask removes a task's row.
func (t *Tx) DeleteTask(account millpond.AccountName, job millpond.JobID, id millpond.TaskID) error {
	_, err := t.exec(`DELETE FROM task WHERE account = ? AND job_key = ? AND key = ?`, account.Key(), job.Key(), id.Key())
	return err
}

func scanTask(s scanner) (millpond.Task, error) {
	var v millpond.Task
	var spec, run string
	if err := s.Scan(&spec, &run); err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(run), &v); err != nil {
		return v, err
	}
	v.Spec = millpond.TaskSpec{}
	return v, json.Unmarshal([]byte(spec), &v.Spec)
}

func (t *Tx) tasks(query string, args ...any) ([]millpond.Task, error) {
	return collect(t, func(r *sql.Rows) (millpond.Task, error) { return scanTask(r) }, query, args...)
}

// Task reads a task; ErrNoRow without it.
func (t *Tx) Task(account millpond.AccountName, job millpond.JobID, id millpond.TaskID) (millpond.Task, error) {
	return scanTask(t.row(`SELECT spec, run FROM task WHERE account = ? AND job_key = ? AND key = ?`, account.Key(), job.Key(), id.Key()))
}

// Tasks lists tasks of a job after a key, in any of states if there are any.
func (t *Tx) Tasks(account millpond.AccountName, job millpond.JobID, after string, limit int, states []string) ([]millpond.Task, error) {
	in, args := inStates(states)
	args = append(append([]any{account.Key(), job.Key(), after}, args...), limit)
	return t.tasks(`SELECT spec, run FROM task WHERE account = ? AND job_key = ? AND key > ?`+in+` ORDER BY key LIMIT ?`, args...)
}

// PlacedTasks lists the tasks that occupy a node.
func (t *Tx) PlacedTasks(node millpond.NodeID) ([]millpond.Task, error) {
	return t.tasks(`SELECT spec, run FROM task WHERE node_key = ? AND placed = 1 ORDER BY account, job_key, key`, node.Key())
}

// CountPlaced counts the tasks of a job that occupy nodes.
func (t *Tx) CountPlaced(account millpond.AccountName, job millpond.JobID) (n int, err error) {
	return n, t.row(`SELECT count(*) FROM task WHERE account = ? AND job_key = ? AND state IN ('running', 'preparing')`, account.Key(), job.Key()).Scan(&n)
}

// JobPlaced lists the tasks of a job that occupy nodes.
func (t *Tx) JobPlaced(account millpond.AccountName, job millpond.JobID) ([]millpond.Task, error) {
	return t.tasks(`SELECT spec, run FROM task WHERE account = ? AND job_key = ? AND state IN ('running', 'preparing')`, account.Key(), job.Key())
}

// CountOpenTasks counts the tasks of a job that have not completed.
func (t *Tx) CountOpenTasks(account millpond.AccountName, job millpond.JobID) (n int, err error) {
	return n, t.row(`SELECT count(*) FROM task WHERE account = ? AND job_key = ? AND state IN ('active', 'running', 'preparing')`, account.Key(), job.Key()).Scan(&n)
}

// QueuedTasks lists the first waiting tasks of a job that need at most slots.
func (t *Tx) QueuedTasks(account millpond.AccountName, job millpond.JobID, slots, limit int) ([]millpond.Task, error) {
	return t.tasks(`SELECT spec, run FROM task WHERE account = ? AND job_key = ? AND state = 'active' AND slots <= ? ORDER BY ord LIMIT ?`,
		account.Key(), job.Key(), slots, limit)
}

// TaskCounts counts a job's tasks and their slots by state.
func (t *Tx) TaskCounts(account millpond.AccountName, job millpond.JobID) (tasks, slots millpond.TaskCounts, err error) {
	type row struct {
		state, result string
		n, slots      int
	}
	rows, err := collect(t, func(r *sql.Rows) (v row, err error) { return v, r.Scan(&v.state, &v.result, &v.n, &v.slots) },
		`SELECT state, result, count(*), coalesce(sum(slots), 0) FROM task WHERE account = ? AND job_key = ? GROUP BY state, result`, account.Key(), job.Key())
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
		ON CONFLICT (node_key, directory) DO UPDATE SET attempt = excluded.attempt, due = excluded.due`,
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
