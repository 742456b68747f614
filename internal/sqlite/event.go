package sqlite

import (
	"database/sql"
	"time"

	millpond "millpond.dev/millpond"
)

// ScheduleChange is a job schedule as it is now; when Gone, only its account and
// id.
type ScheduleChange struct {
	Schedule millpond.JobSchedule
	Gone     bool
}

// EventBatch is the events of one transaction, in the words of package events.
type EventBatch struct {
	First, Last uint64
	Time        time.Time
	Body        string
}

// Journal has record write down the changes of every transaction as its last
// step, within it and before the next one may begin. An error undoes the
// transaction. There is one journal; it is set before the first Update that it
// shall see.
func (db *DB) Journal(record func(*Tx, Changes) error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.journal = record
}

// recorded is fn with the journal behind it; mu is held.
func (db *DB) recorded(fn func(*Tx) error) func(*Tx) error {
	if db.journal == nil {
		return fn
	}
	return func(t *Tx) error {
		if err := fn(t); err != nil || t.changes.empty() {
			return err
		}
		return db.journal(t, t.changes)
	}
}

// AddEvents keeps a batch of events.
func (t *Tx) AddEvents(b EventBatch) error {
	_, err := t.exec(`INSERT INTO event_batch (first, last, at, size, body) VALUES (?, ?, ?, ?, ?)`, int64(b.First), int64(b.Last), micros(b.Time), len(b.Body), b.Body)
	return err
}

// EventsAfter lists batches with events after a sequence, oldest first.
func (t *Tx) EventsAfter(after uint64, limit int) ([]EventBatch, error) {
	return collect(t, func(r *sql.Rows) (b EventBatch, err error) {
		var at int64
		err = r.Scan(&b.First, &b.Last, &at, &b.Body)
		b.Time = fromMicros(at)
		return b, err
	}, `SELECT first, last, at, body FROM event_batch WHERE first >= coalesce((SELECT max(first) FROM event_batch WHERE first <= ?), 0) AND last > ? ORDER BY first LIMIT ?`,
		int64(after+1), int64(after), limit)
}

// EventWindow is which events are kept; zeros without any. oldest is when the
// first of them happened.
func (t *Tx) EventWindow() (first, last uint64, oldest time.Time, err error) {
	var at int64
	err = t.row(`SELECT coalesce(min(first), 0), coalesce(max(last), 0), coalesce((SELECT at FROM event_batch ORDER BY first LIMIT 1), 0) FROM event_batch`).Scan(&first, &last, &at)
	return first, last, fromMicros(at), err
}

// EventBytes is how large the kept events are; it reads all of them.
func (t *Tx) EventBytes() (n int64, err error) {
	return n, t.row(`SELECT coalesce(sum(size), 0) FROM event_batch`).Scan(&n)
}

// ForgetEvents removes the oldest batches, limit of them at most: those that are
// older than before, and others until excess bytes are freed. The newest stays,
// for its sequence. It tells how many went and how many bytes they had.
func (t *Tx) ForgetEvents(before time.Time, excess int64, limit int) (n int, freed int64, err error) {
	_, last, _, err := t.EventWindow()
	if err != nil {
		return 0, 0, err
	}
	type row struct{ first, last, at, size int64 }
	oldest, err := collect(t, func(r *sql.Rows) (v row, err error) { return v, r.Scan(&v.first, &v.last, &v.at, &v.size) },
		`SELECT first, last, at, size FROM event_batch ORDER BY first LIMIT ?`, limit)
	if err != nil {
		return 0, 0, err
	}
	through := int64(0)
	for _, v := range oldest {
		if uint64(v.last) == last || v.at >= micros(before) && freed >= excess {
			break
		}
		through, freed = v.first, freed+v.size
		n++
	}
	if n == 0 {
		return 0, 0, nil
	}
	_, err = t.exec(`DELETE FROM event_batch WHERE first <= ?`, through)
	return n, freed, err
}
