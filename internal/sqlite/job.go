package sqlite

import (
	"database/sql"
	"encoding/json"
	"time"

	millpond "millpond.dev/millpond"
)

func jobColumns(j millpond.Job) ([]any, error) {
	doc, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	var deadline int64
	if j.Spec.MaxWallClock > 0 {
		deadline = micros(j.Created.Add(j.Spec.MaxWallClock))
	}
	return []any{j.Spec.Pool.Key(), string(j.State), j.Spec.Priority, micros(j.Created), deadline,
		j.Spec.OnAllTasksComplete == "terminatejob", string(doc), j.Account.Key(), j.Spec.ID.Key()}, nil
}

// InsertJob adds a job; account and id are unique together (IsUnique).
func (t *Tx) InsertJob(j millpond.Job) error {
	args, err := jobColumns(j)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO job (pool_key, state, priority, created, deadline, auto, document, account, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, args...)
	return err
}

// PutJob writes a job that is there.
func (t *Tx) PutJob(j millpond.Job) error {
	args, err := jobColumns(j)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE job SET pool_key = ?, state = ?, priority = ?, created = ?, deadline = ?, auto = ?, document = ? WHERE account = ? AND key = ?`, args...)
	return err
}

// DeleteJob removes the row of a job without tasks.
func (t *Tx) DeleteJob(account millpond.AccountName, id millpond.JobID) error {
	_, err := t.exec(`DELETE FROM job WHERE account = ? AND key = ?`, account.Key(), id.Key())
	return err
}

func scanJob(s scanner) (millpond.Job, error) {
	var j millpond.Job
	var doc string
	if err := s.Scan(&doc); err != nil {
		return j, err
	}
	return j, json.Unmarshal([]byte(doc), &j)
}

func (t *Tx) jobs(query string, args ...any) ([]millpond.Job, error) {
	return collect(t, func(r *sql.Rows) (millpond.Job, error) { return scanJob(r) }, query, args...)
}

// Job reads a job; ErrNoRow without it.
func (t *Tx) Job(account millpond.AccountName, id millpond.JobID) (millpond.Job, error) {
	return scanJob(t.row(`SELECT document FROM job WHERE account = ? AND key = ?`, account.Key(), id.Key()))
}

// Jobs lists jobs of an account after a key, in any of states if there are any.
func (t *Tx) Jobs(account millpond.AccountName, after string, limit int, states []string) ([]millpond.Job, error) {
	in, args := inStates(states)
	args = append(append([]any{account.Key(), after}, args...), limit)
	return t.jobs(`SELECT document FROM job WHERE account = ? AND key > ?`+in+` ORDER BY key LIMIT ?`, args...)
}

// CountOpenJobs counts the jobs of an account that have not completed.
func (t *Tx) CountOpenJobs(account millpond.AccountName) (n int, err error) {
	return n, t.row(`SELECT count(*) FROM job WHERE account = ? AND state <> 'completed'`, account.Key()).Scan(&n)
}

// UnsettledJobs lists the jobs of all accounts that are on their way to another
// state, or whose time limit has passed at now.
func (t *Tx) UnsettledJobs(now time.Time) ([]millpond.Job, error) {
	return t.jobs(`SELECT document FROM job WHERE state IN ('disabling', 'enabling', 'terminating', 'deleting')
		OR (state IN ('active', 'disabled') AND deadline > 0 AND deadline <= ?) ORDER BY account, key`, micros(now))
}

// FinishedJobs lists the active jobs that are to end with their tasks and whose
// tasks have all completed.
func (t *Tx) FinishedJobs() ([]millpond.Job, error) {
	return t.jobs(`SELECT document FROM job WHERE state = 'active' AND auto = 1 AND NOT EXISTS
		(SELECT 1 FROM task WHERE task.account = job.account AND task.job_key = job.key AND task.state IN ('active', 'preparing', 'running')) ORDER BY account, key`)
}

// NextDeadline is when the first time limit of a job ends; zero without one.
func (t *Tx) NextDeadline() (time.Time, error) {
	var us int64
	err := t.row(`SELECT coalesce(min(deadline), 0) FROM job WHERE state IN ('active', 'disabled') AND deadline > 0`).Scan(&us)
	return fromMicros(us), err
}

// QueuedPool is a pool that has active tasks in active jobs.
type QueuedPool struct {
	Account millpond.AccountName
	Pool    string // the pool's key
}

// QueuedPools lists the pools for which tasks wait.
func (t *Tx) QueuedPools() ([]QueuedPool, error) {
	return collect(t, func(r *sql.Rows) (q QueuedPool, err error) { return q, r.Scan(&q.Account, &q.Pool) },
		`SELECT DISTINCT account, pool_key FROM job WHERE state = 'active' AND EXISTS
		(SELECT 1 FROM task WHERE task.account = job.account AND task.job_key = job.key AND task.state = 'active')`)
}

// QueuedJobs lists a pool's active jobs with waiting tasks: highest priority
// first, then oldest first.
func (t *Tx) QueuedJobs(q QueuedPool) ([]millpond.Job, error) {
	return t.jobs(`SELECT document FROM job WHERE account = ? AND pool_key = ? AND state = 'active' AND EXISTS
		(SELECT 1 FROM task WHERE task.account = job.account AND task.job_key = job.key AND task.state = 'active')
		ORDER BY priority DESC, created, key`, q.Account.Key(), q.Pool)
}
