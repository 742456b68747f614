package sqlite

import (
	"database/sql"
	"encoding/json"
	"time"

	millpond "millpond.dev/millpond"
)

// Sample is what was measured of a pool at one time, by variable.
type Sample struct {
	Time   time.Time
	Values map[string]float64
}

// AddSample keeps a sample of a pool and forgets those before a time.
func (t *Tx) AddSample(account millpond.AccountName, pool millpond.PoolID, s Sample, before time.Time) error {
	text, err := json.Marshal(s.Values)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO autoscale_sample (account, pool_key, at, vals) VALUES (?, ?, ?, ?) ON CONFLICT (account, pool_key, at) DO NOTHING`,
		account.Key(), pool.Key(), micros(s.Time), string(text))
	if err != nil {
		return err
	}
	_, err = t.exec(`DELETE FROM autoscale_sample WHERE account = ? AND pool_key = ? AND at < ?`, account.Key(), pool.Key(), micros(before))
	return err
}

// Samples are a pool's samples, oldest first.
func (t *Tx) Samples(account millpond.AccountName, pool millpond.PoolID) ([]Sample, error) {
	return collect(t, func(r *sql.Rows) (s Sample, err error) {
		var at int64
		var text string
		if err := r.Scan(&at, &text); err != nil {
			return s, err
		}
		s.Time = fromMicros(at)
		return s, json.Unmarshal([]byte(text), &s.Values)
	}, `SELECT at, vals FROM autoscale_sample WHERE account = ? AND pool_key = ? ORDER BY at`, account.Key(), pool.Key())
}

// ScaledPools lists the active pools of all accounts that size themselves.
func (t *Tx) ScaledPools() ([]millpond.Pool, error) {
	return collect(t, func(r *sql.Rows) (millpond.Pool, error) { return scanPool(r) },
		`SELECT document FROM pool WHERE state = 'active' AND json_extract(document, '$.AutoScale') IS NOT NULL ORDER BY account, key`)
}

// PoolTaskCounts counts the tasks of all jobs of a pool; waiting tasks count only
// where their job lets them run.
func (t *Tx) PoolTaskCounts(account millpond.AccountName, pool millpond.PoolID) (c millpond.TaskCounts, err error) {
	err = t.row(`SELECT coalesce(sum(CASE WHEN c.state = 'active' AND job.state = 'active' THEN n ELSE 0 END), 0),
			coalesce(sum(CASE WHEN c.state IN ('running', 'preparing') THEN n ELSE 0 END), 0),
			coalesce(sum(CASE WHEN c.result = 'success' AND c.state = 'completed' THEN n ELSE 0 END), 0),
			coalesce(sum(CASE WHEN c.result = 'failure' AND c.state = 'completed' THEN n ELSE 0 END), 0)
		FROM job JOIN job_count c ON c.account = job.account AND c.job_key = job.key WHERE job.account = ? AND job.pool_key = ?`, account.Key(), pool.Key()).
		Scan(&c.Active, &c.Running, &c.Succeeded, &c.Failed)
	c.Completed = c.Succeeded + c.Failed
	return c, err
}
