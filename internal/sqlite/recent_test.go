package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
)

// TestRecentIsTheRows: whatever transactions write, several times over or
// undone, the writer sees of tasks and nodes exactly what the rows say, within
// the transaction and after it; and so does who asks for the heads of all nodes.
func TestRecentIsTheRows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		db := open(t)
		from := rapid.IntRange(0, 8).Draw(rt, "mustered before")
		for i := range rapid.IntRange(1, 8).Draw(rt, "transactions") {
			undo := rapid.IntRange(0, 3).Draw(rt, "undo") == 0
			err := db.Update(context.Background(), func(tx *Tx) error {
				for range rapid.IntRange(1, 10).Draw(rt, "steps") {
					if err := step(rt, tx); err != nil {
						return err
					}
					if rapid.Bool().Draw(rt, "look") {
						lookSame(rt, tx)
					}
				}
				if undo {
					return errUndone
				}
				return nil
			})
			if err != nil && (!undo || !errors.Is(err, errUndone)) {
				rt.Fatal(err)
			}
			if err := db.Update(context.Background(), func(tx *Tx) error { lookSame(rt, tx); return nil }); err != nil {
				rt.Fatal(err)
			}
			if i < from {
				continue
			}
			got, err := db.Heads(context.Background())
			if err != nil {
				rt.Fatal(err)
			}
			err = db.View(context.Background(), func(tx *Tx) error {
				want, err := tx.NodeHeads()
				if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
					rt.Fatalf("the fleet is %+v, the rows are %+v", got, want)
				}
				return err
			})
			if err != nil {
				rt.Fatal(err)
			}
		}
	})
}

var errUndone = errors.New("undone")

func nodeID(i int) millpond.NodeID { return millpond.NodeID(fmt.Sprint("Node", i)) }

func step(t *rapid.T, tx *Tx) error {
	task := millpond.TaskID(fmt.Sprint("T", rapid.IntRange(0, 3).Draw(t, "task")))
	node := nodeID(rapid.IntRange(0, 2).Draw(t, "node"))
	v, err := tx.Task("A", "J", task)
	have := err == nil
	if err != nil && !errors.Is(err, ErrNoRow) {
		return err
	}
	h, err := tx.NodeHead(node)
	if err != nil && !errors.Is(err, ErrNoRow) {
		return err
	}
	there := err == nil
	switch rapid.IntRange(0, 5).Draw(t, "what") {
	case 0:
		if there {
			return tx.DeleteNode(node)
		}
		return tx.InsertNode(millpond.Node{ID: node, Account: "A", Pool: "P", State: millpond.NodeIdle, Created: tx.Now})
	case 1:
		if !there {
			return nil
		}
		h.Sequence++
		h.TasksRun++
		h.Changed = time.UnixMicro(tx.Now.UnixMicro()).UTC()
		h.Recent = append([]millpond.RecentTask(nil), millpond.RecentTask{Job: "J", Task: task, State: millpond.TaskActive})
		return tx.PutNodeHead(h)
	case 2:
		if !there {
			return nil
		}
		n, err := tx.Node(node)
		if err != nil {
			return err
		}
		n.State, n.LastSequence = millpond.NodeUnknown, n.LastSequence+10
		return tx.PutNode(n)
	}
	switch {
	case !have:
		v = millpond.Task{Account: "A", Job: "J", Spec: millpond.TaskSpec{ID: task}}
	case rapid.IntRange(0, 4).Draw(t, "delete") == 0:
		return tx.DeleteTask(v)
	}
	v.Spec.RequiredSlots = rapid.IntRange(1, 3).Draw(t, "slots")
	v.State, v.Node, v.Attempt = rapid.SampledFrom(millpond.TaskStates()).Draw(t, "state"), node, v.Attempt+1
	if have && rapid.Bool().Draw(t, "put") {
		return tx.PutTaskSpec(v)
	}
	if added, err := tx.AddTask(v); err != nil || added == have {
		return errors.Join(err, fmt.Errorf("added %t beside one that is there (%t)", added, have))
	}
	return nil
}

// lookSame holds what the writer recalls against the rows.
func lookSame(t *rapid.T, tx *Tx) {
	t.Helper()
	for i := range 4 {
		id := millpond.TaskID(fmt.Sprint("t", i))
		got, err := tx.Task("a", "j", id)
		want, wantErr := tx.scanTask(tx.row(`SELECT spec, run FROM task WHERE account = 'a' AND job_key = 'j' AND key = ?`, id.Key()))
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if !errors.Is(err, wantErr) || string(a) != string(b) {
			t.Fatalf("task %s is recalled as %s (%v), the row is %s (%v)", id, a, err, b, wantErr)
		}
	}
	for i := range 3 {
		got, err := tx.NodeHead(nodeID(i))
		want, wantErr := scanHead(tx.row(`SELECT `+headColumns+` FROM node WHERE key = ?`, nodeID(i).Key()))
		if !errors.Is(err, wantErr) || !reflect.DeepEqual(got, want) {
			t.Fatalf("node %d is recalled as %+v (%v), the row is %+v (%v)", i, got, err, want, wantErr)
		}
	}
}
