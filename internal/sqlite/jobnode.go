package sqlite

import (
	"database/sql"
	"encoding/json"

	millpond "millpond.dev/millpond"
)

// PutJobNode writes how far a job is on a node, and tells the followers.
func (t *Tx) PutJobNode(v millpond.JobNode) error {
	doc, err := json.Marshal(v)
	if err != nil {
		return err
	}
	t.changes.JobNodes = append(t.changes.JobNodes, JobNodeChange{Account: v.Account.Key(), Job: v.Job.Key(), Node: v.Node.Key(), Barred: v.Phase == millpond.JobNodeBarred})
	_, err = t.exec(`INSERT INTO job_node (account, job_key, node_key, phase, changed, document) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (account, job_key, node_key) DO UPDATE SET phase = excluded.phase, changed = excluded.changed, document = excluded.document`,
		v.Account.Key(), v.Job.Key(), v.Node.Key(), string(v.Phase), micros(v.Changed), string(doc))
	return err
}

func scanJobNode(s scanner) (v millpond.JobNode, err error) {
	var doc string
	if err := s.Scan(&doc); err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(doc), &v)
}

func (t *Tx) jobNodes(query string, args ...any) ([]millpond.JobNode, error) {
	return collect(t, func(r *sql.Rows) (millpond.JobNode, error) { return scanJobNode(r) }, query, args...)
}

// JobNode reads how far a job is on a node; ErrNoRow without it.
func (t *Tx) JobNode(account millpond.AccountName, job millpond.JobID, node millpond.NodeID) (millpond.JobNode, error) {
	return scanJobNode(t.row(`SELECT document FROM job_node WHERE account = ? AND job_key = ? AND node_key = ?`, account.Key(), job.Key(), node.Key()))
}

// JobNodes lists the nodes of a job after a key.
func (t *Tx) JobNodes(account millpond.AccountName, job millpond.JobID, after string, limit int) ([]millpond.JobNode, error) {
	return t.jobNodes(`SELECT document FROM job_node WHERE account = ? AND job_key = ? AND node_key > ? ORDER BY node_key LIMIT ?`, account.Key(), job.Key(), after, limit)
}

// OpenJobNodes lists the nodes that a job has not left.
func (t *Tx) OpenJobNodes(account millpond.AccountName, job millpond.JobID) ([]millpond.JobNode, error) {
	return t.jobNodes(`SELECT document FROM job_node WHERE account = ? AND job_key = ? AND phase <> 'done' ORDER BY node_key`, account.Key(), job.Key())
}

// NodeJobs lists the jobs that have not left a node.
func (t *Tx) NodeJobs(node millpond.NodeID) ([]millpond.JobNode, error) {
	return t.jobNodes(`SELECT document FROM job_node WHERE node_key = ? AND phase <> 'done' ORDER BY account, job_key`, node.Key())
}

// BarredJobNodes lists where tasks of a job may not run, of all accounts.
func (t *Tx) BarredJobNodes() ([]JobNodeChange, error) {
	return collect(t, func(r *sql.Rows) (c JobNodeChange, err error) {
		c.Barred = true
		return c, r.Scan(&c.Account, &c.Job, &c.Node)
	}, `SELECT account, job_key, node_key FROM job_node WHERE phase = 'barred'`)
}

// DeleteJobNodes removes the rows of a job.
func (t *Tx) DeleteJobNodes(account millpond.AccountName, job millpond.JobID) error {
	_, err := t.exec(`DELETE FROM job_node WHERE account = ? AND job_key = ?`, account.Key(), job.Key())
	return err
}
