package sqlite

import (
	"database/sql"
	"encoding/json"

	millpond "millpond.dev/millpond"
)

// AddScaleRecord keeps an evaluation of a pool's formula and forgets all but the
// last keep.
func (t *Tx) AddScaleRecord(account millpond.AccountName, pool millpond.PoolID, r millpond.ScaleRecord, keep int) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO autoscale_run (account, pool_key, at, document) VALUES (?, ?, ?, ?) ON CONFLICT (account, pool_key, at) DO UPDATE SET document = excluded.document`,
		account.Key(), pool.Key(), micros(r.Run.Time), string(doc)); err != nil {
		return err
	}
	_, err = t.exec(`DELETE FROM autoscale_run WHERE account = ? AND pool_key = ? AND at <
		(SELECT min(at) FROM (SELECT at FROM autoscale_run WHERE account = ? AND pool_key = ? ORDER BY at DESC LIMIT ?) AS last)`,
		account.Key(), pool.Key(), account.Key(), pool.Key(), keep)
	return err
}

// ScaleRecords are the last evaluations of a pool's formula, newest first.
func (t *Tx) ScaleRecords(account millpond.AccountName, pool millpond.PoolID, limit int) ([]millpond.ScaleRecord, error) {
	return collect(t, func(r *sql.Rows) (v millpond.ScaleRecord, err error) {
		var doc string
		if err := r.Scan(&doc); err != nil {
			return v, err
		}
		return v, json.Unmarshal([]byte(doc), &v)
	}, `SELECT document FROM autoscale_run WHERE account = ? AND pool_key = ? ORDER BY at DESC LIMIT ?`, account.Key(), pool.Key(), limit)
}
