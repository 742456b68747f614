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
		UNION ALL SELECT 'task', state, sum(n) FROM job_count GROUP BY state HAVING sum(n) > 0`)
}

// NodeContents are the image contents that existing nodes boot from.
func (t *Tx) NodeContents() (map[string]bool, error) {
	all, err := collect(t, func(r *sql.Rows) (string, error) {
		var content string
		return content, r.Scan(&content)
	}, `SELECT DISTINCT json_extract(document, '$.Boot.OSDisk.content') AS content FROM node WHERE content IS NOT NULL
		UNION SELECT DISTINCT json_extract(d.value, '$.content') FROM node, json_each(node.document, '$.Boot.DataDisks') AS d WHERE json_extract(d.value, '$.content') IS NOT NULL`)
	used := map[string]bool{}
	for _, c := range all {
		used[c] = true
	}
	return used, err
}
