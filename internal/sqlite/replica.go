package sqlite

import (
	"database/sql"
	"strings"

	millpond "millpond.dev/millpond"
)

// PutReplica writes one replica's row, new or not.
func (t *Tx) PutReplica(r millpond.Replica) error {
	_, err := t.exec(`INSERT INTO replica (version, region, ordinal, store, state, done, total, details) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (version, region, ordinal) DO UPDATE SET store = excluded.store, state = excluded.state, done = excluded.done, total = excluded.total, details = excluded.details`,
		strings.ToLower(r.Version), r.Region, r.Ordinal, r.Store, string(r.State), r.Done, r.Total, r.Details)
	return err
}

// Replicas lists the replicas of a version by region and ordinal.
func (t *Tx) Replicas(version string) ([]millpond.Replica, error) {
	return collect(t, func(row *sql.Rows) (millpond.Replica, error) {
		var r millpond.Replica
		var state string
		err := row.Scan(&r.Version, &r.Region, &r.Ordinal, &r.Store, &state, &r.Done, &r.Total, &r.Details)
		r.State = millpond.ReplicaState(state)
		return r, err
	}, `SELECT version, region, ordinal, store, state, done, total, details FROM replica WHERE version = ? ORDER BY region, ordinal`, strings.ToLower(version))
}

// DeleteReplica removes one replica's row.
func (t *Tx) DeleteReplica(r millpond.Replica) error {
	_, err := t.exec(`DELETE FROM replica WHERE version = ? AND region = ? AND ordinal = ?`, strings.ToLower(r.Version), r.Region, r.Ordinal)
	return err
}
