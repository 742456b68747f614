package sqlite

import (
	"database/sql"
	"errors"
)

// Setting reads a named value that the service keeps for itself; "" if unset.
func (t *Tx) Setting(name string) (string, error) {
	var v string
	err := t.row(`SELECT value FROM setting WHERE name = ?`, name).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, err
}

// PutSetting writes a named value.
func (t *Tx) PutSetting(name, value string) error {
	_, err := t.exec(`INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}
