package sqlite

import (
	"database/sql"
	"strings"

	millpond "millpond.dev/millpond"
)

func lockKey(scope, name string) string { return strings.ToLower(scope + "\x00" + name) }

// PutLock writes a lock, new or not.
func (t *Tx) PutLock(l millpond.Lock) error {
	_, err := t.exec(`INSERT INTO management_lock (key, scope, name, level, notes, created) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (key) DO UPDATE SET level = excluded.level, notes = excluded.notes`,
		lockKey(l.Scope, l.Name), l.Scope, l.Name, string(l.Level), l.Notes, micros(l.Created))
	return err
}

// Locks lists every lock by scope and name.
func (t *Tx) Locks() ([]millpond.Lock, error) {
	return collect(t, func(r *sql.Rows) (l millpond.Lock, err error) {
		var level string
		var created int64
		err = r.Scan(&l.Scope, &l.Name, &level, &l.Notes, &created)
		l.Level, l.Created = millpond.LockLevel(level), fromMicros(created)
		return l, err
	}, `SELECT scope, name, level, notes, created FROM management_lock ORDER BY key`)
}

// DeleteLock removes a lock and tells whether there was one.
func (t *Tx) DeleteLock(scope, name string) (bool, error) {
	n, err := t.exec(`DELETE FROM management_lock WHERE key = ?`, lockKey(scope, name))
	return n > 0, err
}
