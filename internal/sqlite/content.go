package sqlite

import (
	"database/sql"
	"strings"
)

// ContentUse is a content in a store.
type ContentUse struct{ Store, Content string }

// UseContent records that a resource needs a content in a store.
func (t *Tx) UseContent(owner, store, content string) error {
	_, err := t.exec(`INSERT INTO content_use (owner, store, content) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, strings.ToLower(owner), store, content)
	return err
}

// DropContent takes one use back.
func (t *Tx) DropContent(owner, store, content string) error {
	_, err := t.exec(`DELETE FROM content_use WHERE owner = ? AND store = ? AND content = ?`, strings.ToLower(owner), store, content)
	return err
}

// ContentsOf lists what a resource uses.
func (t *Tx) ContentsOf(owner string) ([]ContentUse, error) {
	return collect(t, func(r *sql.Rows) (ContentUse, error) {
		var u ContentUse
		return u, r.Scan(&u.Store, &u.Content)
	}, `SELECT store, content FROM content_use WHERE owner = ? ORDER BY store, content`, strings.ToLower(owner))
}

// ContentUsed says whether any resource needs a content in a store.
func (t *Tx) ContentUsed(store, content string) (bool, error) {
	var n int
	err := t.row(`SELECT count(*) FROM content_use WHERE store = ? AND content = ?`, store, content).Scan(&n)
	return n > 0, err
}
