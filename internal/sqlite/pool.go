package sqlite

import (
	"database/sql"
	"encoding/json"
	"strings"

	millpond "millpond.dev/millpond"
)

// InsertPool adds a pool; account and id are unique together (IsUnique).
func (t *Tx) InsertPool(p millpond.Pool) error {
	doc, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO pool (account, key, state, allocation, rolling, document) VALUES (?, ?, ?, ?, ?, ?)`,
		p.Account.Key(), p.Spec.ID.Key(), string(p.State), string(p.Allocation), rolling(p), string(doc))
	t.changes.Pools = append(t.changes.Pools, PoolChange{Pool: p, Added: true})
	return err
}

// PutPool writes a pool that is there.
func (t *Tx) PutPool(p millpond.Pool) error {
	doc, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE pool SET state = ?, allocation = ?, rolling = ?, document = ? WHERE account = ? AND key = ?`,
		string(p.State), string(p.Allocation), rolling(p), string(doc), p.Account.Key(), p.Spec.ID.Key())
	t.changes.Pools = append(t.changes.Pools, PoolChange{Pool: p})
	return err
}

// DeletePool removes the row of a pool without nodes.
func (t *Tx) DeletePool(account millpond.AccountName, id millpond.PoolID) error {
	t.changes.Pools = append(t.changes.Pools, PoolChange{Pool: millpond.Pool{Account: account, Spec: millpond.PoolSpec{ID: id}}, Gone: true})
	if _, err := t.exec(`DELETE FROM autoscale_sample WHERE account = ? AND pool_key = ?`, account.Key(), id.Key()); err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM autoscale_run WHERE account = ? AND pool_key = ?`, account.Key(), id.Key()); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM pool WHERE account = ? AND key = ?`, account.Key(), id.Key())
	return err
}

func scanPool(s scanner) (millpond.Pool, error) {
	var p millpond.Pool
	var doc string
	if err := s.Scan(&doc); err != nil {
		return p, err
	}
	return p, json.Unmarshal([]byte(doc), &p)
}

// Pool reads a pool without its current sizes; ErrNoRow without it. Each node's
// start reads its pool several times: to count all nodes each time would make a
// pool's start cost the square of its size.
func (t *Tx) Pool(account millpond.AccountName, id millpond.PoolID) (millpond.Pool, error) {
	p, err := scanPool(t.row(`SELECT document FROM pool WHERE account = ? AND key = ?`, account.Key(), id.Key()))
	p.CurrentDedicated, p.CurrentLowPriority = 0, 0
	return p, err
}

// SizedPool reads a pool with its current sizes, which are counted from the nodes
// whose machine has run; ErrNoRow without it.
func (t *Tx) SizedPool(account millpond.AccountName, id millpond.PoolID) (millpond.Pool, error) {
	p, err := t.Pool(account, id)
	if err != nil {
		return p, err
	}
	return p, t.countCurrent(&p)
}

const currentSizes = `SELECT coalesce(sum(dedicated), 0), coalesce(sum(1 - dedicated), 0) FROM node WHERE account = ? AND pool_key = ? AND allocated > 0`

func (t *Tx) countCurrent(p *millpond.Pool) error {
	return t.row(currentSizes, p.Account.Key(), p.Spec.ID.Key()).Scan(&p.CurrentDedicated, &p.CurrentLowPriority)
}

// Pools lists pools of an account after a key, in any of states if there are any.
func (t *Tx) Pools(account millpond.AccountName, after string, limit int, states []string) ([]millpond.Pool, error) {
	in, args := inStates(states)
	args = append(append([]any{account.Key(), after}, args...), limit)
	pools, err := collect(t, func(r *sql.Rows) (millpond.Pool, error) { return scanPool(r) },
		`SELECT document FROM pool WHERE account = ? AND key > ?`+in+` ORDER BY key LIMIT ?`, args...)
	if err != nil {
		return nil, err
	}
	for i := range pools {
		if err := t.countCurrent(&pools[i]); err != nil {
			return nil, err
		}
	}
	return pools, nil
}

// UnsettledPools lists the pools of all accounts that are being resized or deleted.
func (t *Tx) UnsettledPools() ([]millpond.Pool, error) {
	return collect(t, func(r *sql.Rows) (millpond.Pool, error) { return scanPool(r) },
		`SELECT document FROM pool WHERE allocation <> 'steady' OR state = 'deleting' ORDER BY account, key`)
}

// AllPools lists the pools of all accounts, without their current sizes.
func (t *Tx) AllPools() ([]millpond.Pool, error) {
	return collect(t, func(r *sql.Rows) (millpond.Pool, error) { return scanPool(r) }, `SELECT document FROM pool`)
}

// RollingPools lists the pools of all accounts whose rollout is under way or that
// look for newer images by themselves.
func (t *Tx) RollingPools() ([]millpond.Pool, error) {
	return collect(t, func(r *sql.Rows) (millpond.Pool, error) { return scanPool(r) },
		`SELECT document FROM pool WHERE rolling = 1 AND state <> 'deleting' ORDER BY account, key`)
}

func rolling(p millpond.Pool) bool {
	return p.Rollout != nil && p.Rollout.State == millpond.RolloutRunning || p.Spec.Upgrade.Rolls() && p.Spec.Upgrade.AutomaticOS
}

// CountPools counts the pools of an account.
func (t *Tx) CountPools(account millpond.AccountName) (n int, err error) {
	return n, t.row(`SELECT count(*) FROM pool WHERE account = ?`, account.Key()).Scan(&n)
}

const nodeStates = `SELECT dedicated, state, count(*) FROM node WHERE account = ? AND pool_key = ? GROUP BY dedicated, state`

// NodeCounts counts the nodes of pools after a key by state.
func (t *Tx) NodeCounts(account millpond.AccountName, after string, limit int) ([]millpond.PoolNodeCounts, error) {
	pools, err := t.Pools(account, after, limit, nil)
	if err != nil {
		return nil, err
	}
	out := make([]millpond.PoolNodeCounts, 0, len(pools))
	for _, p := range pools {
		c := millpond.PoolNodeCounts{Pool: p.Spec.ID, Dedicated: millpond.NodeCounts{}, LowPriority: millpond.NodeCounts{}}
		type row struct {
			dedicated bool
			state     string
			n         int
		}
		rows, err := collect(t, func(r *sql.Rows) (v row, err error) { return v, r.Scan(&v.dedicated, &v.state, &v.n) },
			nodeStates, account.Key(), p.Spec.ID.Key())
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if r.dedicated {
				c.Dedicated[millpond.NodeState(r.state)] += r.n
			} else {
				c.LowPriority[millpond.NodeState(r.state)] += r.n
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// inStates is the condition that narrows a list to states.
func inStates(states []string) (string, []any) {
	if len(states) == 0 {
		return "", nil
	}
	args := make([]any, len(states))
	for i, s := range states {
		args[i] = s
	}
	return ` AND state IN (?` + strings.Repeat(`, ?`, len(states)-1) + `)`, args
}
