package sched

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
)

func TestPlan(t *testing.T) {
	two := []Node{{ID: "a", Free: 2}, {ID: "b", Free: 2}}
	for _, c := range []struct {
		name string
		snap Snapshot
		want []Assignment
	}{
		{"spread takes turns", Snapshot{Nodes: two, Room: []int{-1}, Tasks: []Task{{Slots: 1}, {Slots: 1}, {Slots: 1}}}, []Assignment{{0, 0}, {1, 1}, {2, 0}}},
		{"pack fills one first", Snapshot{Fill: millpond.FillPack, Nodes: two, Room: []int{-1}, Tasks: []Task{{Slots: 1}, {Slots: 1}, {Slots: 1}}}, []Assignment{{0, 0}, {1, 0}, {2, 1}}},
		{"affinity wins", Snapshot{Nodes: two, Room: []int{-1}, Tasks: []Task{{Slots: 1, Affinity: "TVM:b"}, {Slots: 1, Affinity: "B"}}}, []Assignment{{0, 1}, {1, 1}}},
		{"affinity is soft", Snapshot{Nodes: two, Room: []int{-1}, Tasks: []Task{{Slots: 2, Affinity: "a"}, {Slots: 1, Affinity: "a"}, {Slots: 1, Affinity: "gone"}}}, []Assignment{{0, 0}, {1, 1}, {2, 1}}},
		{"a large task does not hold up others", Snapshot{Nodes: two, Room: []int{-1}, Tasks: []Task{{Slots: 3}, {Slots: 1}}}, []Assignment{{1, 0}}},
		{"maxParallelTasks", Snapshot{Nodes: two, Room: []int{1, -1}, Tasks: []Task{{Job: 0, Slots: 1}, {Job: 0, Slots: 1}, {Job: 1, Slots: 1}}}, []Assignment{{0, 0}, {2, 1}}},
		{"busy nodes come last", Snapshot{Nodes: []Node{{ID: "a", Free: 3, Running: 1}, {ID: "b", Free: 1}}, Room: []int{-1}, Tasks: []Task{{Slots: 1}}}, []Assignment{{0, 1}}},
		{"no nodes", Snapshot{Room: []int{-1}, Tasks: []Task{{Slots: 1}}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Plan(c.snap); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestPlanProperties: no node and no job is given more than it has room for, no
// task is placed twice, and no task is left that would still fit.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Snapshot{Fill: rapid.SampledFrom([]millpond.FillType{millpond.FillSpread, millpond.FillPack}).Draw(t, "fill")}
		for i := range rapid.IntRange(0, 8).Draw(t, "nodes") {
			s.Nodes = append(s.Nodes, Node{ID: millpond.NodeID(fmt.Sprint("n", i)), Free: rapid.IntRange(0, 6).Draw(t, "free"), Running: rapid.IntRange(0, 3).Draw(t, "running")})
		}
		for range rapid.IntRange(1, 4).Draw(t, "jobs") {
			s.Room = append(s.Room, rapid.IntRange(-1, 5).Draw(t, "room"))
		}
		for range rapid.IntRange(0, 30).Draw(t, "tasks") {
			s.Tasks = append(s.Tasks, Task{Job: rapid.IntRange(0, len(s.Room)-1).Draw(t, "job"), Slots: rapid.IntRange(1, 7).Draw(t, "slots"),
				Affinity: rapid.SampledFrom([]string{"", "n0", "TVM:n1", "x"}).Draw(t, "affinity")})
		}
		plan := Plan(s)
		free, room, placed := map[int]int{}, append([]int(nil), s.Room...), map[int]bool{}
		for i, n := range s.Nodes {
			free[i] = n.Free
		}
		last := -1
		for _, a := range plan {
			if placed[a.Task] || a.Task <= last {
				t.Fatalf("task %d is placed twice or out of order", a.Task)
			}
			placed[a.Task], last = true, a.Task
			if free[a.Node] -= s.Tasks[a.Task].Slots; free[a.Node] < 0 {
				t.Fatalf("node %d is oversubscribed", a.Node)
			}
			if j := s.Tasks[a.Task].Job; room[j] >= 0 {
				if room[j]--; room[j] < 0 {
					t.Fatalf("job %d runs too many", j)
				}
			}
		}
		for i, task := range s.Tasks {
			if placed[i] || room[task.Job] == 0 {
				continue
			}
			for n := range s.Nodes {
				if free[n] >= task.Slots {
					t.Fatalf("task %d of %d slots waits although node %d has %d free", i, task.Slots, n, free[n])
				}
			}
		}
	})
}
