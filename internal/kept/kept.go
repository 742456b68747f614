// Package kept is the store of what nodes wrote and the server keeps after they are
// gone: the ends of tasks' outputs and logs of nodes, in one SQLite file of its own,
// so that writing them never holds up the rows of the service. It is bounded by
// bytes and each file has a time at which it goes.
//
// It knows no noun and asks no node; package node puts in and reads, cmd/millpond
// opens it. A file in it is small and never changes, it is only replaced.
package kept

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// Place is a directory on a node; both are keys.
type Place struct{ Node, Directory string }

// File is what is kept of one file.
type File struct {
	Place
	Name string
	// Account and Pool say whose node it was.
	Account, Pool string
	// Size is the whole file's; Content may be less, with a line between its two
	// parts that says how much is left out.
	Size     int64
	Modified time.Time
	Mode     uint32
	// Due is when it goes.
	Due time.Time
	// Stored is how long Content is; a list has no more than that.
	Stored  int64
	Content []byte
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	db    *sql.DB
	limit int64

	mu    sync.Mutex // writers, in order
	bytes int64
}

// overhead is what a row costs beside its content.
const overhead = 200

const schema = `
CREATE TABLE IF NOT EXISTS file (
	id        INTEGER PRIMARY KEY,
	node      TEXT NOT NULL,
	directory TEXT NOT NULL,
	name      TEXT NOT NULL,
	account   TEXT NOT NULL,
	pool      TEXT NOT NULL,
	size      BIGINT NOT NULL,
	modified  BIGINT NOT NULL,
	mode      INTEGER NOT NULL,
	due       BIGINT NOT NULL,
	bytes     BIGINT NOT NULL,
	content   BLOB NOT NULL,
	UNIQUE (node, directory, name)
);
CREATE INDEX IF NOT EXISTS file_due ON file (due, bytes);
CREATE INDEX IF NOT EXISTS file_age ON file (id, bytes);
`

// Open opens or makes the store at path; limit bounds its bytes.
func Open(ctx context.Context, path string, limit int64) (*Store, error) {
	f, err := os.OpenFile(path, os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	f.Close()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=auto_vacuum(2)&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(2)
	s := &Store{db: db, limit: limit}
	if _, err = db.ExecContext(ctx, schema); err == nil {
		err = db.QueryRowContext(ctx, `SELECT coalesce(sum(bytes), 0) FROM file`).Scan(&s.bytes)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open what is kept of nodes, %s: %w", path, err), db.Close())
	}
	return s, nil
}

// Close closes the store.
func (s *Store) Close() error { return s.db.Close() }

// Bytes is how much the store holds.
func (s *Store) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// change runs fn in a transaction that changes the number of bytes by what fn
// says.
func (s *Store) change(ctx context.Context, fn func(*sql.Tx) (int64, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	by, err := fn(tx)
	if err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	s.bytes += by
	return nil
}

func drop(ctx context.Context, tx *sql.Tx, where string, args ...any) (freed int64, err error) {
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(bytes), 0) FROM file WHERE `+where, args...).Scan(&freed); err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM file WHERE `+where, args...)
	return freed, err
}

// Put keeps files, in place of those that their directories have in the store:
// all of them or none. Places without files are emptied.
func (s *Store) Put(ctx context.Context, places []Place, files []File) error {
	return s.change(ctx, func(tx *sql.Tx) (by int64, err error) {
		for _, p := range places {
			freed, err := drop(ctx, tx, `node = ? AND directory = ?`, p.Node, p.Directory)
			if err != nil {
				return 0, err
			}
			by -= freed
		}
		for _, f := range files {
			n := int64(len(f.Content)) + overhead
			if f.Content == nil {
				f.Content = []byte{} // nil would be NULL
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO file (node, directory, name, account, pool, size, modified, mode, due, bytes, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
				f.Node, f.Directory, f.Name, f.Account, f.Pool, f.Size, f.Modified.UnixMicro(), f.Mode, f.Due.UnixMicro(), n, f.Content)
			if err != nil {
				return 0, err
			}
			by += n
		}
		return by, nil
	})
}

// Drop forgets all of places.
func (s *Store) Drop(ctx context.Context, places ...Place) error { return s.Put(ctx, places, nil) }

// DropFile forgets one file; it is not an error that it is not there.
func (s *Store) DropFile(ctx context.Context, p Place, name string) error {
	return s.change(ctx, func(tx *sql.Tx) (int64, error) {
		freed, err := drop(ctx, tx, `node = ? AND directory = ? AND name = ?`, p.Node, p.Directory, name)
		return -freed, err
	})
}

const columns = `node, directory, name, account, pool, size, modified, mode, due`

func scan(rows interface{ Scan(...any) error }, more ...any) (f File, err error) {
	var modified, due int64
	err = rows.Scan(append([]any{&f.Node, &f.Directory, &f.Name, &f.Account, &f.Pool, &f.Size, &modified, &f.Mode, &due}, more...)...)
	f.Modified, f.Due = time.UnixMicro(modified).UTC(), time.UnixMicro(due).UTC()
	return f, err
}

// List tells what is kept of a directory, by name and without the content. An
// empty directory means all of the node's.
func (s *Store) List(ctx context.Context, p Place) ([]File, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+columns+`, length(content) FROM file WHERE node = ? AND (? = '' OR directory = ?) ORDER BY directory, name`, p.Node, p.Directory, p.Directory)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []File
	for rows.Next() {
		var n int64
		f, err := scan(rows, &n)
		if err != nil {
			return nil, err
		}
		f.Stored = n
		out = append(out, f)
	}
	return out, rows.Err()
}

// Get reads a file; fs.ErrNotExist without it.
func (s *Store) Get(ctx context.Context, p Place, name string) (File, error) {
	var content []byte
	f, err := scan(s.db.QueryRowContext(ctx, `SELECT `+columns+`, content FROM file WHERE node = ? AND directory = ? AND name = ?`, p.Node, p.Directory, name), &content)
	if errors.Is(err, sql.ErrNoRows) {
		return f, fmt.Errorf("%s/%s of %s is not kept: %w", p.Directory, name, p.Node, fs.ErrNotExist)
	}
	f.Content, f.Stored = content, int64(len(content))
	return f, err
}

// pieces is how many rows go in one transaction.
const pieces = 500

// Clean removes what is due and, the oldest first, what is over the limit. It
// tells how many files went.
func (s *Store) Clean(ctx context.Context, now time.Time) (removed int, err error) {
	for {
		n := 0
		err := s.change(ctx, func(tx *sql.Tx) (int64, error) {
			rows, err := tx.QueryContext(ctx, `SELECT id, bytes FROM file WHERE due <= ? ORDER BY due LIMIT ?`, now.UnixMicro(), pieces)
			if err != nil {
				return 0, err
			}
			ids, freed, err := take(rows, nil, 0, -1)
			if excess := s.bytes - freed - s.limit; err == nil && excess > 0 && len(ids) < pieces {
				if rows, err = tx.QueryContext(ctx, `SELECT id, bytes FROM file WHERE due > ? ORDER BY id LIMIT ?`, now.UnixMicro(), pieces); err != nil {
					return 0, err
				}
				ids, freed, err = take(rows, ids, freed, freed+excess)
			}
			if err != nil {
				return 0, err
			}
			for _, id := range ids {
				if _, err := tx.ExecContext(ctx, `DELETE FROM file WHERE id = ?`, id); err != nil {
					return 0, err
				}
			}
			n = len(ids)
			return -freed, nil
		})
		if err != nil {
			return removed, err
		}
		if removed += n; n == 0 {
			break
		}
	}
	if removed > 0 {
		_, err = s.db.ExecContext(ctx, `PRAGMA incremental_vacuum`)
	}
	return removed, err
}

// take collects rows until their bytes reach enough; all with a negative enough.
func take(rows *sql.Rows, ids []int64, freed, enough int64) ([]int64, int64, error) {
	defer rows.Close()
	for rows.Next() {
		if enough >= 0 && freed >= enough {
			break
		}
		var id, n int64
		if err := rows.Scan(&id, &n); err != nil {
			return nil, 0, err
		}
		ids, freed = append(ids, id), freed+n
	}
	return ids, freed, rows.Err()
}

// Join makes the content of a file of size bytes from its two ends, with a line
// between them when something is left out.
func Join(head, tail []byte, size int64) []byte {
	left := size - int64(len(head)) - int64(len(tail))
	if left <= 0 {
		return append(append([]byte(nil), head...), tail...)
	}
	return append(append(append([]byte(nil), head...), fmt.Sprintf("\n[millpond: %d bytes are not kept]\n", left)...), tail...)
}
