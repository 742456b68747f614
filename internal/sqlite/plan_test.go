package sqlite

import (
	"context"
	"strings"
	"testing"
)

// TestPagesUseIndexes: a page of tasks is a range of an index in its order, and
// counts are ranges of the kept counts; none reads a job's tasks or sorts them,
// so that they cost the same out of a thousand and out of a million.
func TestPagesUseIndexes(t *testing.T) {
	for query, want := range map[string]string{
		taskPage:      "SEARCH task USING INDEX sqlite_autoindex_task_1 (account=? AND job_key=? AND key>?)",
		taskStatePage: "SEARCH task USING INDEX task_by_state (account=? AND job_key=? AND state=? AND key>?)",
		countState:    "SEARCH job_count USING INDEX sqlite_autoindex_job_count_1 (account=? AND job_key=? AND state=?)",
		countStates:   "SEARCH job_count USING INDEX sqlite_autoindex_job_count_1 (account=? AND job_key=?)",
		// Those of one node are few; they are sorted.
		currentSizes: "SEARCH node USING COVERING INDEX node_by_state (account=? AND pool_key=?)",
		nodeStates:   "SEARCH node USING COVERING INDEX node_by_state (account=? AND pool_key=?)",
		lastNumber:   "SEARCH node USING COVERING INDEX node_number (account=? AND pool_key=?)",
		placedTasks:  "SEARCH task USING INDEX task_by_node (node_key=?)\nUSE TEMP B-TREE FOR ORDER BY",
	} {
		if got := plan(t, query); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", query, got, want)
		}
	}
}

// plan is what SQLite would do for a query, a step a line.
func plan(t *testing.T, query string) string {
	db := open(t)
	args := make([]any, strings.Count(query, "?"))
	for i := range args {
		args[i] = "x"
	}
	var steps []string
	err := db.View(context.Background(), func(tx *Tx) error {
		rows, err := tx.rows("EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				return err
			}
			steps = append(steps, step)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(steps, "\n")
}
