package sqlite

import (
	"database/sql"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

func scanAccess(s scanner) (millpond.DiskAccess, error) {
	var a millpond.DiskAccess
	var expires int64
	err := s.Scan(&a.ID, &a.Disk, &a.Write, &expires)
	a.Expires = fromMicros(expires)
	return a, err
}

// PutAccess records a grant of access to a disk.
func (t *Tx) PutAccess(a millpond.DiskAccess) error {
	_, err := t.exec(`INSERT INTO disk_access (id, disk, writes, expires) VALUES (?, ?, ?, ?)`, a.ID, strings.ToLower(a.Disk), a.Write, micros(a.Expires))
	return err
}

// Access reads a grant; ErrNoRow without it.
func (t *Tx) Access(id string) (millpond.DiskAccess, error) {
	return scanAccess(t.row(`SELECT id, disk, writes, expires FROM disk_access WHERE id = ?`, id))
}

// Revoke removes all grants of a disk.
func (t *Tx) Revoke(disk string) error {
	_, err := t.exec(`DELETE FROM disk_access WHERE disk = ?`, strings.ToLower(disk))
	return err
}

// Accesses lists all grants, the first to expire first.
func (t *Tx) Accesses() ([]millpond.DiskAccess, error) {
	return collect(t, func(r *sql.Rows) (millpond.DiskAccess, error) { return scanAccess(r) },
		`SELECT id, disk, writes, expires FROM disk_access ORDER BY expires`)
}

// LiveAccesses counts a disk's grants that expire after a time.
func (t *Tx) LiveAccesses(disk string, now time.Time) (int, error) {
	var n int
	err := t.row(`SELECT count(*) FROM disk_access WHERE disk = ? AND expires > ?`, strings.ToLower(disk), micros(now)).Scan(&n)
	return n, err
}
