package sched

import (
	"sort"
	"strings"

	millpond "millpond.dev/millpond"
)

// Node is a node that takes tasks: live, idle or running, scheduling enabled.
type Node struct {
	ID      millpond.NodeID
	Free    int // slots
	Running int // tasks
}

// Task is a waiting task. Job indexes Snapshot.Room.
type Task struct {
	Job      int
	Slots    int
	Affinity string
}

// Snapshot is everything that one plan for one pool depends on.
type Snapshot struct {
	Fill  millpond.FillType
	Nodes []Node
	// Tasks are in the order in which they deserve a place.
	Tasks []Task
	// Room is how many more tasks of each job may run; -1 for no limit.
	Room []int
}

// Assignment places Tasks[Task] on Nodes[Node].
type Assignment struct{ Task, Node int }

// Plan places tasks on nodes in the order of the tasks. A task that fits
// nowhere does not hold up the ones behind it. Spread takes the node with the
// fewest tasks, pack the one with the fewest free slots that still fits; an
// affinity wins over both when there is room. Nothing in the snapshot changes.
func Plan(s Snapshot) []Assignment {
	nodes := append([]Node(nil), s.Nodes...)
	room := append([]int(nil), s.Room...)
	byID := make(map[string]int, len(nodes))
	most := 0
	for i, n := range nodes {
		byID[n.ID.Key()] = i
		most = max(most, n.Free)
	}
	var out []Assignment
	order := make([]int, len(nodes))
	for i := range order {
		order[i] = i
	}
	// better says whether node a is to be filled before node b.
	better := func(a, b int) bool {
		x, y := nodes[a], nodes[b]
		if s.Fill == millpond.FillPack {
			if x.Free != y.Free {
				return x.Free < y.Free
			}
		} else {
			if x.Running != y.Running {
				return x.Running < y.Running
			}
			if x.Free != y.Free {
				return x.Free > y.Free
			}
		}
		return x.ID < y.ID
	}
	sort.Slice(order, func(i, j int) bool { return better(order[i], order[j]) })
	for t, task := range s.Tasks {
		if most <= 0 {
			break
		}
		if task.Slots < 1 || task.Slots > most || room[task.Job] == 0 {
			continue
		}
		place := -1
		if i, ok := byID[nodeOf(task.Affinity)]; ok && nodes[i].Free >= task.Slots {
			for at, n := range order {
				if n == i {
					place = at
				}
			}
		} else {
			for at, n := range order {
				if nodes[n].Free >= task.Slots {
					place = at
					break
				}
			}
		}
		if place < 0 {
			most = 0
			for _, n := range nodes {
				most = max(most, n.Free)
			}
			continue
		}
		i := order[place]
		nodes[i].Free -= task.Slots
		nodes[i].Running++
		if room[task.Job] > 0 {
			room[task.Job]--
		}
		out = append(out, Assignment{Task: t, Node: i})
		// One node changed: move it to its new place.
		for p := place; p+1 < len(order) && better(order[p+1], order[p]); p++ {
			order[p], order[p+1] = order[p+1], order[p]
		}
		for p := place; p > 0 && better(order[p], order[p-1]); p-- {
			order[p], order[p-1] = order[p-1], order[p]
		}
	}
	return out
}

// nodeOf is the key of the node that an affinity id means. Affinity ids are
// TVM:{node id}; a bare node id does as well.
func nodeOf(affinity string) string {
	a := strings.ToLower(affinity)
	return strings.TrimPrefix(a, "tvm:")
}
