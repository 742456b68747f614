package sqlite

import (
	"database/sql"
	"encoding/json"

	millpond "millpond.dev/millpond"
)

// PutOwnedPool writes a pool that the service owns.
func (t *Tx) PutOwnedPool(v millpond.OwnedPool) error {
	doc, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO owned_pool (account, key, schedule, stage, document) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (account, key) DO UPDATE SET schedule = excluded.schedule, stage = excluded.stage, document = excluded.document`,
		v.Account.Key(), v.ID.Key(), v.Schedule.Key(), v.Stage, string(doc))
	return err
}

func scanOwnedPool(s scanner) (v millpond.OwnedPool, err error) {
	var doc string
	if err := s.Scan(&doc); err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(doc), &v)
}

// OwnedPool reads a pool that the service owns; ErrNoRow without it.
func (t *Tx) OwnedPool(account millpond.AccountName, id millpond.PoolID) (millpond.OwnedPool, error) {
	return scanOwnedPool(t.row(`SELECT document FROM owned_pool WHERE account = ? AND key = ?`, account.Key(), id.Key()))
}

// ScheduleOwnedPools lists the pools of a schedule that are not to be deleted.
func (t *Tx) ScheduleOwnedPools(account millpond.AccountName, id millpond.JobScheduleID) ([]millpond.OwnedPool, error) {
	return collect(t, func(r *sql.Rows) (millpond.OwnedPool, error) { return scanOwnedPool(r) },
		`SELECT document FROM owned_pool WHERE account = ? AND schedule = ? AND stage <> 'doomed' ORDER BY key`, account.Key(), id.Key())
}

// UnsettledOwnedPools lists those of all accounts that are to be made or deleted.
func (t *Tx) UnsettledOwnedPools() ([]millpond.OwnedPool, error) {
	return collect(t, func(r *sql.Rows) (millpond.OwnedPool, error) { return scanOwnedPool(r) },
		`SELECT document FROM owned_pool WHERE stage <> 'made' ORDER BY account, key`)
}

// DeleteOwnedPool forgets that the service owns a pool.
func (t *Tx) DeleteOwnedPool(account millpond.AccountName, id millpond.PoolID) error {
	_, err := t.exec(`DELETE FROM owned_pool WHERE account = ? AND key = ?`, account.Key(), id.Key())
	return err
}

// OpenJobsOfPool lists the jobs for a pool that have not completed.
func (t *Tx) OpenJobsOfPool(account millpond.AccountName, id millpond.PoolID) ([]millpond.Job, error) {
	return t.jobs(`SELECT document FROM job WHERE account = ? AND pool_key = ? AND state <> 'completed' ORDER BY key`, account.Key(), id.Key())
}
