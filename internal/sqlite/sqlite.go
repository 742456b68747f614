// Package sqlite keeps every row of the service, in one file with a write-ahead
// log. It holds constraints and queries, one file per noun; rules and rights
// are the verbs' business. Times are kept as microseconds since the epoch, ids
// by their lower-case key beside the spelling of their first use.
//
// Methods of Tx compose: a verb opens one Update, calls several, and all or
// nothing lands. The SQL is kept portable to PostgreSQL.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// DB is an open database: one writer, many readers.
type DB struct {
	write *sql.DB
	read  *sql.DB
	clock clock.Clock
	// mu queues writers in the process, which is fairer and cheaper than
	// SQLite's busy handler.
	mu sync.Mutex
	// Statements are compiled once per connection: parsing costs more than most
	// of the queries here.
	writes, reads statements
	// followers are told every commit, under mu.
	followers []func(Changes)
	// recent belongs to the holder of mu.
	recent recent
	fleet  fleet
	// journal writes changes down within their transaction, under mu.
	journal func(*Tx, Changes) error
}

// statements are a pool's compiled queries. A query is compiled after the first
// transaction that used it: during one, the only connection may be in use.
type statements struct {
	mu    sync.RWMutex
	ready map[string]*sql.Stmt
}

// keep bounds the compiled queries, so that one built of parts cannot fill
// memory; the rest is compiled each time.
const keep = 512

func (s *statements) get(query string) *sql.Stmt {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ready[query]
}

func (s *statements) add(ctx context.Context, pool *sql.DB, queries []string) {
	for _, q := range queries {
		s.mu.RLock()
		have, full := s.ready[q] != nil, len(s.ready) >= keep
		s.mu.RUnlock()
		if have || full {
			continue
		}
		st, err := pool.PrepareContext(ctx, q)
		if err != nil {
			return // the next use compiles it, and tells what is wrong
		}
		s.mu.Lock()
		if s.ready == nil {
			s.ready = map[string]*sql.Stmt{}
		}
		if s.ready[q] != nil {
			st.Close()
		} else {
			s.ready[q] = st
		}
		s.mu.Unlock()
	}
}

// Open opens or creates the database file and brings its schema up to date.
func Open(ctx context.Context, path string, c clock.Clock) (*DB, error) {
	pragmas := "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=foreign_keys(1)&_pragma=temp_store(MEMORY)&_txlock=immediate"
	// Rows hold account keys; the log beside the file gets the file's mode.
	f, err := os.OpenFile(path, os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	f.Close()
	// The writer touches the same pages again and again: it keeps more of them, and
	// copies them from the log into the file less often, than SQLite does by itself.
	w, err := sql.Open("sqlite", "file:"+path+pragmas+"&_pragma=cache_size(-16000)&_pragma=wal_autocheckpoint(4000)")
	if err != nil {
		return nil, err
	}
	w.SetMaxOpenConns(1)
	r, err := sql.Open("sqlite", "file:"+path+strings.Replace(pragmas, "immediate", "deferred", 1)+"&_pragma=query_only(1)")
	if err != nil {
		w.Close()
		return nil, err
	}
	r.SetMaxOpenConns(8)
	r.SetMaxIdleConns(8)
	db := &DB{write: w, read: r, clock: c}
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, w, sub, goose.WithAllowOutofOrder(true))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if _, err := p.Up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("bring %s up to date: %w", path, full(err)), db.Close())
	}
	return db, nil
}

// Close checkpoints and closes.
func (db *DB) Close() error { return errors.Join(db.read.Close(), db.write.Close()) }

// Tx is a transaction with one timestamp.
type Tx struct {
	tx  *sql.Tx
	ctx context.Context
	Now time.Time

	compiled *statements
	used     []string // queries that were not compiled
	// bound are the compiled queries as bound to this transaction; binding one
	// each time costs as much as a small query.
	bound map[string]*sql.Stmt

	// What a writing transaction has changed so far; rowsSeen is nil in others.
	changes  Changes
	rowsSeen map[taskID]taskRow
	counts   map[countKey]count
	stats    map[statKey]millpond.JobStatistics
	// recent is the database's; nil in a transaction that only reads. The rest is
	// what this transaction changes of it.
	recent     *recent
	written    map[taskID]*millpond.Task // nil for one that was deleted
	heads      map[string]headEntry
	headsStale map[string]bool
	loads      map[string]load
	// fleet is what this transaction leaves of heads; nil in one that only reads.
	fleet map[string]*NodeHead
}

func (t *Tx) statement(query string) *sql.Stmt {
	if st := t.bound[query]; st != nil {
		return st
	}
	if st := t.compiled.get(query); st != nil {
		st = t.tx.StmtContext(t.ctx, st)
		if t.bound == nil {
			t.bound = map[string]*sql.Stmt{}
		}
		t.bound[query] = st
		return st
	}
	t.used = append(t.used, query)
	return nil
}

// Update runs fn in a write transaction; an error undoes everything.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return full(run(ctx, db.write, &db.writes, db.clock, db.recorded(fn), db))
}

// full says of a disk that is full what is to be done; other errors stay as they are.
func full(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) || e.Code() != sqlite3.SQLITE_FULL {
		return err
	}
	return millpond.Errorf(millpond.Unavailable, "ServerBusy",
		"The disk that the server's data folder lies on is full. Nothing was changed. Give space back there (millpond image gc and millpond image du help), then try again.").Because(err)
}

// View runs fn on a consistent snapshot. fn must not write.
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	return run(ctx, db.read, &db.reads, db.clock, fn, nil)
}

// run runs fn in a transaction; a writer is told its changes after the commit.
func run(ctx context.Context, pool *sql.DB, compiled *statements, c clock.Clock, fn func(*Tx) error, writer *DB) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if writer != nil {
		// Once begun, a write goes on to its end: the driver watches a context that
		// can end with a goroutine for each statement.
		ctx = context.WithoutCancel(ctx)
	}
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	t := &Tx{tx: tx, ctx: ctx, Now: c.Now(), compiled: compiled}
	if writer != nil {
		t.fleet = map[string]*NodeHead{}
		t.rowsSeen, t.counts = map[taskID]taskRow{}, map[countKey]count{}
		t.recent, t.written, t.heads, t.headsStale, t.loads = &writer.recent, map[taskID]*millpond.Task{}, map[string]headEntry{}, map[string]bool{}, map[string]load{}
	}
	if err := fn(t); err != nil {
		return err
	}
	if err := t.flushCounts(); err != nil {
		return err
	}
	if err := t.flushStatistics(); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if writer != nil {
		writer.recent.commit(t)
		writer.fleet.commit(t)
		writer.publish(t.changes)
	}
	compiled.add(ctx, pool, t.used)
	return nil
}

func (t *Tx) exec(query string, args ...any) (int64, error) {
	var res sql.Result
	var err error
	if st := t.statement(query); st != nil {
		res, err = st.ExecContext(t.ctx, args...)
	} else {
		res, err = t.tx.ExecContext(t.ctx, query, args...)
	}
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t *Tx) row(query string, args ...any) *sql.Row {
	if st := t.statement(query); st != nil {
		return st.QueryRowContext(t.ctx, args...)
	}
	return t.tx.QueryRowContext(t.ctx, query, args...)
}

func (t *Tx) rows(query string, args ...any) (*sql.Rows, error) {
	if st := t.statement(query); st != nil {
		return st.QueryContext(t.ctx, args...)
	}
	return t.tx.QueryContext(t.ctx, query, args...)
}

// collect runs a query and scans every row with scan.
func collect[T any](t *Tx, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := t.rows(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// IsUnique says whether err is a violated unique constraint.
func IsUnique(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// ErrNoRow is returned when a row that was asked for by key is not there.
var ErrNoRow = sql.ErrNoRows

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
