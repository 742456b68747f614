package sqlite

import "database/sql"

// StateCount is how many rows of a noun are in a state.
type StateCount struct {
	Noun, State string
	N           int
}

// StateCounts counts pools, nodes, jobs and tasks by state, over all accounts.
func (t *Tx) StateCounts() ([]StateCount, error) {
	return collect(t, func(r *sql.Rows) (StateCount, error) {
		var c StateCount
		return c, r.Scan(&c.Noun, &c.State, &c.N)
	}, `SELECT 'pool', state, count(*) FROM pool GROUP BY state
		UNION ALL SELECT 'node', state, count(*) FROM node GROUP BY state
		UNION ALL SELECT 'job', state, count(*) FROM job GROUP BY state
		UNION ALL SELECT 'task', state, count(*) FROM task GROUP BY state`)
}
