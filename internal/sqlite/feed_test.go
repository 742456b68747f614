package sqlite

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
)

func open(t testing.TB) *DB {
	db, err := Open(context.Background(), filepath.Join(t.TempDir(), "state.db"), clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestCountsAreTheRows: whatever a transaction writes, several times over or
// undone, the kept counts are those of the rows, a follower sees every task as
// its row is, and a page of states is that of the rows.
//
// Each try migrates a database of its own, so there are few of them;
// MILLPOND_TEST_SEEDS asks for more.
func TestCountsAreTheRows(t *testing.T) {
	checks := flag.Lookup("rapid.checks").Value
	was := checks.String()
	n := cmp.Or(os.Getenv("MILLPOND_TEST_SEEDS"), "25")
	if err := checks.Set(n); err != nil {
		t.Fatal(err)
	}
	defer checks.Set(was)
	rapid.Check(t, func(rt *rapid.T) {
		db := open(t)
		ctx := context.Background()
		seen := map[millpond.TaskID]millpond.TaskState{}
		err := db.Follow(ctx, nil, func(c Changes) {
			for _, x := range c.Tasks {
				if delete(seen, x.Task.Spec.ID); !x.Gone {
					seen[x.Task.Spec.ID] = x.Task.State
				}
			}
		})
		if err != nil {
			rt.Fatal(err)
		}
		rows := map[millpond.TaskID]millpond.Task{}
		for range rapid.IntRange(1, 6).Draw(rt, "transactions") {
			next := map[millpond.TaskID]millpond.Task{}
			for k, v := range rows {
				next[k] = v
			}
			undo := rapid.IntRange(0, 4).Draw(rt, "undo") == 0
			err := db.Update(ctx, func(tx *Tx) error {
				for range rapid.IntRange(1, 12).Draw(rt, "writes") {
					if err := write(rt, tx, next); err != nil {
						return err
					}
				}
				if undo {
					return fmt.Errorf("undone")
				}
				return nil
			})
			if (err != nil) != undo {
				rt.Fatal(err)
			}
			if !undo {
				rows = next
			}
			compare(rt, db, rows, seen)
		}
	})
}

// write changes one task in the database and in rows.
func write(t *rapid.T, tx *Tx, rows map[millpond.TaskID]millpond.Task) error {
	id := millpond.TaskID(fmt.Sprint("t", rapid.IntRange(0, 5).Draw(t, "task")))
	v, have := rows[id]
	if have && rapid.Bool().Draw(t, "read") {
		var err error
		if v, err = tx.Task("a", "j", id); err != nil {
			return err
		}
	}
	if have && rapid.IntRange(0, 4).Draw(t, "delete") == 0 {
		delete(rows, id)
		return tx.DeleteTask(v)
	}
	v.Account, v.Job, v.Spec.ID, v.Spec.RequiredSlots = "a", "j", id, rapid.IntRange(1, 3).Draw(t, "slots")
	v.State = rapid.SampledFrom(millpond.TaskStates()).Draw(t, "state")
	v.Result = ""
	if v.State == millpond.TaskCompleted {
		v.Result = rapid.SampledFrom([]string{"success", "failure"}).Draw(t, "result")
	}
	rows[id] = v
	switch {
	case !have:
		return tx.InsertTask(v)
	default:
		return tx.PutTaskSpec(v)
	}
}

func compare(t *rapid.T, db *DB, rows map[millpond.TaskID]millpond.Task, seen map[millpond.TaskID]millpond.TaskState) {
	var want, wantSlots millpond.TaskCounts
	for id, v := range rows {
		if seen[id] != v.State {
			t.Fatalf("a follower has %s as %q, the row is %q", id, seen[id], v.State)
		}
		add := func(n, slots *int) { *n, *slots = *n+1, *slots+v.Spec.RequiredSlots }
		switch v.State {
		case millpond.TaskActive:
			add(&want.Active, &wantSlots.Active)
		case millpond.TaskCompleted:
			add(&want.Completed, &wantSlots.Completed)
			if v.Result == "success" {
				add(&want.Succeeded, &wantSlots.Succeeded)
			} else {
				add(&want.Failed, &wantSlots.Failed)
			}
		default:
			add(&want.Running, &wantSlots.Running)
		}
	}
	if len(seen) != len(rows) {
		t.Fatalf("a follower has %d tasks, there are %d", len(seen), len(rows))
	}
	err := db.View(context.Background(), func(tx *Tx) error {
		got, slots, err := tx.TaskCounts("a", "j")
		if err == nil && (got != want || slots != wantSlots) {
			t.Fatalf("counts are %+v %+v, the rows have %+v %+v", got, slots, want, wantSlots)
		}
		open, err := tx.CountOpenTasks("a", "j")
		if err == nil && open != want.Active+want.Running {
			t.Fatalf("%d open tasks, want %d", open, want.Active+want.Running)
		}
		page, err := tx.Tasks("a", "j", "", 100, []string{"active", "completed"})
		if err == nil && len(page) != want.Active+want.Completed {
			t.Fatalf("a page of %d, want %d", len(page), want.Active+want.Completed)
		}
		for i := 1; i < len(page); i++ {
			if page[i-1].Spec.ID.Key() >= page[i].Spec.ID.Key() {
				t.Fatalf("the page is not in order: %s before %s", page[i-1].Spec.ID, page[i].Spec.ID)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
