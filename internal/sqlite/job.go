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
	t.changes.Jobs = append(t.changes.Jobs, JobChange{Job: j, Added: true})
	return err
}

// PutJob writes a job that is there.
func (t *Tx) PutJob(j millpond.Job) error {
	args, err := jobColumns(j)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE job SET pool_key = ?, state = ?, priority = ?, created = ?, deadline = ?, auto = ?, document = ? WHERE account = ? AND key = ?`, args...)
	t.changes.Jobs = append(t.changes.Jobs, JobChange{Job: j})
	return err
}

// DeleteJob removes the row of a job without tasks.
func (t *Tx) DeleteJob(account millpond.AccountName, id millpond.JobID) error {
	if err := t.flushCounts(); err != nil {
		return err
	}
	if err := t.foldJob(account, id); err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM job_count WHERE account = ? AND job_key = ?`, account.Key(), id.Key()); err != nil {
		return err
	}
	t.changes.Jobs = append(t.changes.Jobs, JobChange{Job: millpond.Job{Account: account, Spec: millpond.JobSpec{ID: id}}, Gone: true})
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

// AskJob notes what the end of a task asks of its job; to terminate wins over
// to disable, and the first to ask over later ones.
func (t *Tx) AskJob(account millpond.AccountName, id millpond.JobID, what millpond.JobAction, why string) error {
	_, err := t.exec(`UPDATE job SET asked = ?, asked_why = ? WHERE account = ? AND key = ? AND (asked = '' OR asked = 'disable' AND ? = 'terminate')`,
		string(what), why, account.Key(), id.Key(), string(what))
	return err
}

// JobAsked is what AskJob noted, empty without; AnswerJob forgets it.
func (t *Tx) JobAsked(account millpond.AccountName, id millpond.JobID) (what millpond.JobAction, why string, err error) {
	return what, why, t.row(`SELECT asked, asked_why FROM job WHERE account = ? AND key = ?`, account.Key(), id.Key()).Scan(&what, &why)
}

func (t *Tx) AnswerJob(account millpond.AccountName, id millpond.JobID) error {
	_, err := t.exec(`UPDATE job SET asked = '', asked_why = '' WHERE account = ? AND key = ?`, account.Key(), id.Key())
	return err
}

// UnsettledJobs lists the jobs of all accounts that are on their way to another
// state, of which something is asked, or whose time limit has passed at now.
func (t *Tx) UnsettledJobs(now time.Time) ([]millpond.Job, error) {
	return t.jobs(`SELECT document FROM job WHERE state IN ('disabling', 'enabling', 'terminating', 'deleting')
		OR asked <> '' OR (state IN ('active', 'disabled') AND deadline > 0 AND deadline <= ?) ORDER BY account, key`, micros(now))
}

// FinishedJobs lists the active jobs that are to end with their tasks and whose
// tasks have all completed.
func (t *Tx) FinishedJobs() ([]millpond.Job, error) {
	return t.jobs(`SELECT document FROM job WHERE state = 'active' AND auto = 1 AND NOT EXISTS
		(SELECT 1 FROM job_count c WHERE c.account = job.account AND c.job_key = job.key AND c.state IN ('active', 'preparing', 'running') AND c.n > 0) ORDER BY account, key`)
}

// NextDeadline is when the first time limit of a job ends; zero without one.
func (t *Tx) NextDeadline() (time.Time, error) {
	var us int64
	err := t.row(`SELECT coalesce(min(deadline), 0) FROM job WHERE state IN ('active', 'disabled') AND deadline > 0`).Scan(&us)
	return fromMicros(us), err
}

// OpenJobs lists the jobs of all accounts that have not completed.
func (t *Tx) OpenJobs() ([]millpond.Job, error) {
	return t.jobs(`SELECT document FROM job WHERE state <> 'completed'`)
}
