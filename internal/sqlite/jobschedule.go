package sqlite

import (
	"database/sql"
	"encoding/json"

	millpond "millpond.dev/millpond"
)

// PutSchedule adds or writes a job schedule.
func (t *Tx) PutSchedule(s millpond.JobSchedule) error {
	doc, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO job_schedule (account, key, state, document) VALUES (?, ?, ?, ?)
		ON CONFLICT (account, key) DO UPDATE SET state = excluded.state, document = excluded.document`, s.Account.Key(), s.Spec.ID.Key(), string(s.State), string(doc))
	t.changes.Schedules = append(t.changes.Schedules, ScheduleChange{Schedule: s})
	return err
}

// DeleteSchedule removes the row of a schedule without jobs.
func (t *Tx) DeleteSchedule(account millpond.AccountName, id millpond.JobScheduleID) error {
	t.changes.Schedules = append(t.changes.Schedules, ScheduleChange{Schedule: millpond.JobSchedule{Account: account, Spec: millpond.JobScheduleSpec{ID: id}}, Gone: true})
	if err := t.foldStatistics(account, id.Key()+":", ""); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM job_schedule WHERE account = ? AND key = ?`, account.Key(), id.Key())
	return err
}

func scanSchedule(s scanner) (millpond.JobSchedule, error) {
	var v millpond.JobSchedule
	var doc string
	if err := s.Scan(&doc); err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(doc), &v)
}

func (t *Tx) schedules(query string, args ...any) ([]millpond.JobSchedule, error) {
	return collect(t, func(r *sql.Rows) (millpond.JobSchedule, error) { return scanSchedule(r) }, query, args...)
}

// Schedule reads a job schedule; ErrNoRow without it.
func (t *Tx) Schedule(account millpond.AccountName, id millpond.JobScheduleID) (millpond.JobSchedule, error) {
	return scanSchedule(t.row(`SELECT document FROM job_schedule WHERE account = ? AND key = ?`, account.Key(), id.Key()))
}

// Schedules lists schedules of an account after a key, in any of states if there are any.
func (t *Tx) Schedules(account millpond.AccountName, after string, limit int, states []string) ([]millpond.JobSchedule, error) {
	in, args := inStates(states)
	args = append(append([]any{account.Key(), after}, args...), limit)
	return t.schedules(`SELECT document FROM job_schedule WHERE account = ? AND key > ?`+in+` ORDER BY key LIMIT ?`, args...)
}

// OpenSchedules lists the schedules of all accounts that have not completed.
func (t *Tx) OpenSchedules() ([]millpond.JobSchedule, error) {
	return t.schedules(`SELECT document FROM job_schedule WHERE state <> 'completed' ORDER BY account, key`)
}

// CountOpenSchedules counts the schedules of an account that have not completed.
func (t *Tx) CountOpenSchedules(account millpond.AccountName) (n int, err error) {
	return n, t.row(`SELECT count(*) FROM job_schedule WHERE account = ? AND state <> 'completed'`, account.Key()).Scan(&n)
}

// ScheduleJobs lists the jobs that a schedule made, after a key. Only they have
// a colon in their ids.
func (t *Tx) ScheduleJobs(account millpond.AccountName, id millpond.JobScheduleID, after string, limit int) ([]millpond.Job, error) {
	from := id.Key() + ":job-"
	return t.jobs(`SELECT document FROM job WHERE account = ? AND key > ? AND key >= ? AND key < ? ORDER BY key LIMIT ?`, account.Key(), after, from, from+"~", limit)
}
