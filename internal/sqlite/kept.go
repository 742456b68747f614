package sqlite

import (
	"database/sql"
	"time"

	millpond "millpond.dev/millpond"
)

// UnkeptDirectories lists directories of a node that stay after now and of which
// the server has not kept what was written.
func (t *Tx) UnkeptDirectories(node millpond.NodeID, now time.Time, limit int) ([]TaskDirectory, error) {
	return collect(t, func(r *sql.Rows) (d TaskDirectory, err error) {
		var due int64
		err = r.Scan(&d.Node, &d.Directory, &d.Account, &d.Job, &d.Task, &d.Attempt, &due)
		d.Due = fromMicros(due)
		return d, err
	}, `SELECT node_key, directory, account, job, task, attempt, due FROM task_directory WHERE node_key = ? AND kept = 0 AND due > ? LIMIT ?`, node.Key(), micros(now), limit)
}

// MarkKept notes that what an attempt wrote into a directory is kept.
func (t *Tx) MarkKept(d TaskDirectory) error {
	_, err := t.exec(`UPDATE task_directory SET kept = 1 WHERE node_key = ? AND directory = ? AND attempt = ?`, d.Node.Key(), d.Directory, d.Attempt)
	return err
}
