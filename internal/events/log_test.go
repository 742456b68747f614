package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/sqlite"
)

func openDB(t testing.TB, path string, c clock.Clock) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(context.Background(), path, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func openLog(t testing.TB, db *sqlite.DB, c clock.Clock, cfg Config) *Log {
	t.Helper()
	l, err := Open(context.Background(), db, c, slog.New(slog.NewTextHandler(io.Discard, nil)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// all reads everything after a sequence.
func all(t testing.TB, l *Log, after uint64) (out []Event) {
	t.Helper()
	for {
		list, _, err := l.Read(context.Background(), after)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return out
		}
		out = append(out, list...)
		after = list[len(list)-1].Sequence
	}
}

func told(list []Event) (out []string) {
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s %s %s", e.Kind, e.ID, e.State))
	}
	return out
}

// A task's way from its job to its end is told once for each state, whatever
// else is written, and again by the log of the next server.
func TestEachStateIsToldOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	db := openDB(t, path, c)
	l := openLog(t, db, c, Config{})
	ctx := context.Background()
	step := func(fn func(*sqlite.Tx, *ledger.Book) error) {
		t.Helper()
		c.Advance(time.Second)
		err := db.Update(ctx, func(tx *sqlite.Tx) error {
			b := ledger.Open(tx)
			if err := fn(tx, b); err != nil {
				return err
			}
			return b.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	task := func(tx *sqlite.Tx) millpond.Task {
		v, err := tx.Task("Acct", "J", "T")
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	now := c.Now()
	step(func(tx *sqlite.Tx, _ *ledger.Book) error {
		return errors.Join(
			tx.InsertPool(millpond.Pool{Account: "Acct", Spec: millpond.PoolSpec{ID: "Pool"}, State: millpond.PoolActive, Allocation: millpond.AllocationSteady, StateTransition: now}),
			tx.InsertNode(millpond.Node{Account: "Acct", Pool: "Pool", ID: "n", State: millpond.NodeIdle, StateTransition: tx.Now, Scheduling: millpond.SchedulingEnabled}),
			tx.InsertJob(millpond.Job{Account: "Acct", Spec: millpond.JobSpec{ID: "J", Pool: "Pool"}, State: millpond.JobActive, StateTransition: now}),
			tx.InsertTask(millpond.Task{Account: "Acct", Job: "J", Spec: millpond.TaskSpec{ID: "T", RequiredSlots: 1}, State: millpond.TaskActive, StateTransition: tx.Now}))
	})
	undone := errors.New("undone")
	if err := db.Update(ctx, func(tx *sqlite.Tx) error {
		v := task(tx)
		v.State, v.StateTransition = millpond.TaskCompleted, tx.Now
		return errors.Join(tx.PutTask(v), undone)
	}); !errors.Is(err, undone) {
		t.Fatal(err)
	}
	step(func(tx *sqlite.Tx, b *ledger.Book) error { _, err := b.Assign(task(tx), "Pool", "n"); return err })
	step(func(tx *sqlite.Tx, b *ledger.Book) error { return b.Stop(task(tx), "x", "y", false) })
	code := 3
	step(func(tx *sqlite.Tx, b *ledger.Book) error {
		return b.Ended(task(tx), 0, ledger.Report{ExitCode: &code, Failure: &millpond.TaskFailure{Code: "Failure\tExit\nCode"}})
	})
	step(func(tx *sqlite.Tx, _ *ledger.Book) error { return tx.PutTask(task(tx)) })
	step(func(tx *sqlite.Tx, b *ledger.Book) error {
		b.Drop("n")
		return errors.Join(b.Remove(task(tx)), tx.DeleteNode("n"), tx.DeleteJob("Acct", "J"), tx.DeletePool("Acct", "pool"))
	})
	want := []string{"pool Pool active", "node n idle", "job J active", "task T active", "node n running", "task T running", "node n idle", "task T completed",
		"pool Pool deleted", "node n deleted", "job J deleted", "task T deleted"}
	got := all(t, l, 0)
	if !reflect.DeepEqual(told(got), want) {
		t.Fatalf("told %v\nwant %v", told(got), want)
	}
	for i, e := range got {
		if e.Sequence != uint64(i+1) || e.Kind != Pool && e.Pool != "Pool" || e.Account != "acct" {
			t.Errorf("event %d is %+v", i+1, e)
		}
	}
	if e := got[7]; e.Exit == nil || *e.Exit != 3 || e.Previous != "running" || e.Node != "n" || e.Result != "failure" {
		t.Errorf("the end is %+v", e)
	}
	// Another server: nothing in memory, the numbers go on.
	again := openLog(t, db, c, Config{})
	kept := all(t, again, 5)
	for i := range kept {
		kept[i].Time, got[i+5].Time = time.Time{}, time.Time{}
		got[i+5].Code = plain(got[i+5].Code)
	}
	if !reflect.DeepEqual(kept, got[5:]) {
		t.Errorf("kept %+v\ntold %+v", kept, got[5:])
	}
	step(func(tx *sqlite.Tx, _ *ledger.Book) error {
		return tx.InsertPool(millpond.Pool{Account: "Acct", Spec: millpond.PoolSpec{ID: "Next"}, State: millpond.PoolActive, StateTransition: now})
	})
	if last := again.Last(); last != 13 {
		t.Errorf("the next event is %d", last)
	}
}

// What is over the bounds goes, oldest first; who asks for it is told.
func TestTheWindowIsBounded(t *testing.T) {
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"), c)
	l := openLog(t, db, c, Config{KeepBytes: 2000, Recent: 4})
	ctx := context.Background()
	for i := range 1000 {
		c.Advance(time.Second)
		if err := db.Update(ctx, func(tx *sqlite.Tx) error {
			return tx.InsertPool(millpond.Pool{Account: "a", Spec: millpond.PoolSpec{ID: millpond.PoolID(fmt.Sprint("p", i))}, State: millpond.PoolActive})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := l.Read(ctx, 0); err != nil {
		t.Fatalf("before it is forgotten: %v", err)
	}
	if _, _, err := l.forget(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Read(ctx, 0); !errors.Is(err, ErrGone) {
		t.Errorf("what is gone: %v", err)
	}
	if _, _, err := l.Read(ctx, 5000); !errors.Is(err, ErrGone) {
		t.Errorf("what never was: %v", err)
	}
	var n int64
	if err := db.View(ctx, func(tx *sqlite.Tx) (err error) { n, err = tx.EventBytes(); return err }); err != nil || n > 2000 || n < 1000 || n != l.bytes {
		t.Errorf("%d bytes are kept, %d are counted, %v", n, l.bytes, err)
	}
	list, more, err := l.Read(ctx, l.first-1)
	if err != nil || list[0].Sequence != l.first {
		t.Errorf("the first that is kept: %v %v", list, err)
	}
	<-more
	c.Advance(8 * 24 * time.Hour)
	if _, _, err := l.forget(ctx); err != nil {
		t.Fatal(err)
	}
	if l.first != l.Last() {
		t.Errorf("after a week events %d to %d are kept", l.first, l.Last())
	}
}

func TestFilter(t *testing.T) {
	e := Event{Kind: Task, Account: "acct", Pool: "P", Job: "J", ID: "T", State: "completed"}
	for _, c := range []struct {
		f    Filter
		want bool
	}{
		{Filter{Account: "Acct"}, true}, {Filter{Account: "other"}, false}, {Filter{}, false},
		{Filter{Account: "acct", Kinds: []Kind{Node, Task}}, true}, {Filter{Account: "acct", Kinds: []Kind{Node}}, false},
		{Filter{Account: "acct", Pools: []string{"x", "p"}}, true}, {Filter{Account: "acct", Jobs: []string{"k"}}, false},
		{Filter{Account: "acct", IDs: []string{"t"}, States: []string{"Completed"}}, true}, {Filter{Account: "acct", States: []string{"active"}}, false},
	} {
		if got := c.f.Match(e); got != c.want {
			t.Errorf("%+v: %v", c.f, got)
		}
	}
}

func FuzzBatch(f *testing.F) {
	exit := -1
	f.Add(string(appendLine(appendLine(nil, Event{Kind: Task, ID: "t", Exit: &exit, Attempt: 2}), Event{Kind: Pool, ID: "p", Code: "a\tb"})))
	f.Add("task\t\n")
	f.Fuzz(func(t *testing.T, body string) {
		list, err := parseBatch(7, time.Unix(1, 0), body)
		if err != nil {
			return
		}
		var b []byte
		for _, e := range list {
			b = appendLine(b, e)
		}
		again, err := parseBatch(7, time.Unix(1, 0), string(b))
		if err != nil || !reflect.DeepEqual(list, again) || strings.Count(string(b), "\n") != len(list) {
			t.Fatalf("%q became %q: %v", body, b, err)
		}
	})
}

// BenchmarkRecord is what a commit of 256 tasks that change state pays.
func BenchmarkRecord(b *testing.B) {
	db := openDB(b, filepath.Join(b.TempDir(), "state.db"), clock.System{})
	l := openLog(b, db, clock.System{}, Config{})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		var c sqlite.Changes
		err := db.Update(ctx, func(tx *sqlite.Tx) error {
			for i := range 256 {
				c.Tasks = append(c.Tasks, sqlite.TaskChange{Task: millpond.Task{Account: "account", Job: "job", Pool: "pool", Node: "tvm-1", Spec: millpond.TaskSpec{ID: millpond.TaskID(fmt.Sprint("task", i))}, State: millpond.TaskRunning, StateTransition: tx.Now}})
			}
			return l.record(tx, c)
		})
		if err != nil {
			b.Fatal(err)
		}
		l.committed(c)
	}
}
