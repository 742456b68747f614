package sched

import (
	"slices"

	millpond "millpond.dev/millpond"
)

// graph is who waits for whom within one job, and who is satisfied.
type graph struct {
	done    map[string]struct{} // tasks that are satisfied
	numbers map[int32]int       // how many satisfied tasks have this number as id
	byID    map[string]map[*task]struct{}
	byNum   map[int32]map[*task]int // and how often
	wide    map[*task][]millpond.IDRange
}

// waits is what a task waits for; missing counts what is not satisfied yet.
type waits struct {
	ids     []string
	narrow  []millpond.IDRange
	wide    []millpond.IDRange
	missing int64
}

// open says whether a task must wait still.
func (w *waits) open() bool { return w != nil && w.missing > 0 }

// narrowRange is the largest range whose numbers are looked up one by one.
const narrowRange = 256

func newGraph() *graph {
	return &graph{done: map[string]struct{}{}, numbers: map[int32]int{}, byID: map[string]map[*task]struct{}{}, byNum: map[int32]map[*task]int{}, wide: map[*task][]millpond.IDRange{}}
}

func size(r millpond.IDRange) int64 { return int64(r.End) - int64(r.Start) + 1 }

// wait registers a task with what it depends on.
func (g *graph) wait(t *task, d millpond.Dependencies) {
	w := &waits{}
	for _, id := range d.Tasks {
		if key := id.Key(); !slices.Contains(w.ids, key) {
			w.ids = append(w.ids, key)
		}
	}
	for _, key := range w.ids {
		if g.byID[key] == nil {
			g.byID[key] = map[*task]struct{}{}
		}
		g.byID[key][t] = struct{}{}
		if _, ok := g.done[key]; !ok {
			w.missing++
		}
	}
	for _, r := range d.Ranges {
		if size(r) > narrowRange {
			w.wide = append(w.wide, r)
			w.missing += size(r)
			for n := range g.numbers {
				if n >= r.Start && n <= r.End {
					w.missing--
				}
			}
			continue
		}
		w.narrow = append(w.narrow, r)
		for n := int64(r.Start); n <= int64(r.End); n++ {
			if g.byNum[int32(n)] == nil {
				g.byNum[int32(n)] = map[*task]int{}
			}
			g.byNum[int32(n)][t]++
			if g.numbers[int32(n)] == 0 {
				w.missing++
			}
		}
	}
	if len(w.wide) > 0 {
		g.wide[t] = w.wide
	}
	t.depends = w
}

func (g *graph) unwait(t *task) {
	for _, key := range t.depends.ids {
		if delete(g.byID[key], t); len(g.byID[key]) == 0 {
			delete(g.byID, key)
		}
	}
	for _, r := range t.depends.narrow {
		for n := int64(r.Start); n <= int64(r.End); n++ {
			if delete(g.byNum[int32(n)], t); len(g.byNum[int32(n)]) == 0 {
				delete(g.byNum, int32(n))
			}
		}
	}
	delete(g.wide, t)
	t.depends = nil
}

// set notes whether a task is satisfied and lets those go on that waited for
// it, or holds them back again.
func (g *graph) set(key string, satisfied bool) {
	_, was := g.done[key]
	if was == satisfied {
		return
	}
	by := int64(-1)
	if satisfied {
		g.done[key] = struct{}{}
	} else {
		delete(g.done, key)
		by = 1
	}
	for t := range g.byID[key] {
		t.miss(by)
	}
	n, isNumber := millpond.TaskID(key).Number()
	if !isNumber {
		return
	}
	g.numbers[n] -= int(by)
	// The first of several with one number is enough.
	if count := g.numbers[n]; count == 0 {
		delete(g.numbers, n)
	} else if satisfied && count > 1 || !satisfied {
		return
	}
	for t, times := range g.byNum[n] {
		t.miss(by * int64(times))
	}
	for t, ranges := range g.wide {
		for _, r := range ranges {
			if n >= r.Start && n <= r.End {
				t.miss(by)
			}
		}
	}
}

// miss changes how much a task waits for; one that is on a node stays there.
func (t *task) miss(by int64) {
	was := t.depends.open()
	t.depends.missing += by
	if t.node != nil || was == t.depends.open() {
		return
	}
	if was {
		t.job.enqueue(t)
	} else {
		t.job.dequeue(t)
	}
	t.hold(!was)
	t.job.settle()
}
