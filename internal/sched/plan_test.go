package sched

import (
	"fmt"
	"reflect"
	"sort"
	"testing"
	"time"

	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// world is rows as a database would hold them, and a state that follows them.
type world struct {
	state  *State
	pools  map[string]millpond.Pool
	nodes  map[string]sqlite.NodeChange
	jobs   map[string]millpond.Job
	tasks  map[string]millpond.Task // by job/task
	barred map[sqlite.JobNodeChange]bool
	made   int64
}

func newWorld() *world {
	return &world{state: NewState(), pools: map[string]millpond.Pool{}, nodes: map[string]sqlite.NodeChange{}, jobs: map[string]millpond.Job{}, tasks: map[string]millpond.Task{}, barred: map[sqlite.JobNodeChange]bool{}}
}

func (w *world) pool(id string, slots int, mod func(*millpond.PoolSpec)) {
	p := millpond.Pool{Account: "a", Spec: millpond.PoolSpec{ID: millpond.PoolID(id), TaskSlotsPerNode: slots, FillType: millpond.FillSpread}}
	if mod != nil {
		mod(&p.Spec)
	}
	w.pools[id] = p
	w.state.Apply(sqlite.Changes{Pools: []sqlite.PoolChange{{Pool: p}}})
}

func (w *world) node(id, pool string, state millpond.NodeState) {
	n := sqlite.NodeChange{ID: millpond.NodeID(id), Account: "a", Pool: pool, Dedicated: true, State: state, Scheduling: millpond.SchedulingEnabled}
	w.nodes[id] = n
	w.state.Apply(sqlite.Changes{Nodes: []sqlite.NodeChange{n}})
}

func (w *world) job(id, pool string, mod func(*millpond.JobSpec)) {
	w.made++
	j := millpond.Job{Account: "a", State: millpond.JobActive, Created: time.UnixMicro(w.made), Spec: millpond.JobSpec{ID: millpond.JobID(id), Pool: millpond.PoolID(pool), MaxParallelTasks: -1}}
	if mod != nil {
		mod(&j.Spec)
	}
	w.jobs[id] = j
	w.state.Apply(sqlite.Changes{Jobs: []sqlite.JobChange{{Job: j}}})
}

func (w *world) task(job, id string, slots int, mod func(*millpond.TaskSpec)) {
	w.made++
	t := millpond.Task{Account: "a", Job: millpond.JobID(job), State: millpond.TaskActive, Order: w.made << 8, Spec: millpond.TaskSpec{ID: millpond.TaskID(id), RequiredSlots: slots}}
	if mod != nil {
		mod(&t.Spec)
	}
	w.put(t)
}

func (w *world) put(t millpond.Task) {
	w.tasks[string(t.Job)+"/"+string(t.Spec.ID)] = t
	w.state.Apply(sqlite.Changes{Tasks: []sqlite.TaskChange{{Task: t}}})
}

// bar says that a job may not run on a node, or may again.
func (w *world) bar(job, node string, barred bool) {
	c := sqlite.JobNodeChange{Account: "a", Job: job, Node: node, Barred: barred}
	w.state.Apply(sqlite.Changes{JobNodes: []sqlite.JobNodeChange{c}})
	c.Barred = true
	if barred {
		w.barred[c] = true
	} else {
		delete(w.barred, c)
	}
}

func (w *world) end(key string, satisfies bool) {
	t := w.tasks[key]
	t.State, t.Satisfies = millpond.TaskCompleted, satisfies
	w.put(t)
}

func (w *world) drop(key string) {
	t := w.tasks[key]
	delete(w.tasks, key)
	w.state.Apply(sqlite.Changes{Tasks: []sqlite.TaskChange{{Task: t, Gone: true}}})
}

func always(millpond.NodeID) bool { return true }

// plan is the plan as task@node.
func (w *world) plan() (out []string) {
	for _, a := range w.state.Plan(time.UnixMicro(w.made), 1000, always).Assign {
		out = append(out, a.Task+"@"+string(a.Node))
	}
	return out
}

// commit writes a plan and says what it was.
func (w *world) commit() (out []string) {
	for _, a := range w.state.Plan(time.UnixMicro(w.made), 1000, always).Assign {
		out = append(out, a.Task+"@"+string(a.Node))
		t := w.tasks[a.Job+"/"+a.Task]
		t.State, t.Node = millpond.TaskRunning, a.Node
		w.put(t)
	}
	return out
}

// fresh is a state made of the rows alone.
func (w *world) fresh() *State {
	s := NewState()
	for _, p := range w.pools {
		s.setPool(p)
	}
	for _, n := range w.nodes {
		s.setNode(n)
	}
	for _, j := range w.jobs {
		s.setJob(j)
	}
	for b := range w.barred {
		s.setJobNode(b)
	}
	for _, t := range w.tasks {
		s.setTask(sqlite.QueueRowOf(t))
	}
	return s
}

// dump is everything in a state that the rows determine.
func dump(s *State) (out []string) {
	for _, p := range s.pools {
		if p.id == "" && len(p.jobs) == 0 && len(p.nodes) == 0 {
			continue
		}
		out = append(out, fmt.Sprintf("pool %s/%s %q slots %d ready %d preemptible %d", p.key.account, p.key.pool, p.id, p.slots, p.ready.len(), p.preemptible))
	}
	for _, n := range s.nodes {
		out = append(out, fmt.Sprintf("node %s used %d tasks %d offered %v in %d", n.id, n.used, len(n.tasks), n.at >= 0, n.in*btoi(n.at >= 0)))
	}
	for k, j := range s.jobs {
		out = append(out, fmt.Sprintf("job %s active %v waiting %d blocked %d placed %d slots %d ready %v", k.job, j.active, j.waiting, j.blocked, j.placed, j.slots, j.at >= 0))
		for n := range j.barred {
			out = append(out, fmt.Sprintf("job %s barred from %s", k.job, n))
		}
		for _, t := range j.tasks {
			on, missing := "", int64(0)
			if t.node != nil {
				on = string(t.node.id)
			}
			if t.depends != nil {
				missing = t.depends.missing
			}
			out = append(out, fmt.Sprintf("task %s/%s on %q queued %v missing %d need %d flags %d", k.job, t.key, on, t.at >= 0, missing, t.need, t.flags))
		}
	}
	sort.Strings(out)
	return out
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestPlan(t *testing.T) {
	two := func(w *world, slots int, mod func(*millpond.PoolSpec)) {
		w.pool("p", slots, mod)
		w.node("a", "p", millpond.NodeIdle)
		w.node("b", "p", millpond.NodeIdle)
		w.job("j", "p", nil)
	}
	near := func(id string) func(*millpond.TaskSpec) {
		return func(s *millpond.TaskSpec) { s.Affinity = id }
	}
	after := func(ids ...millpond.TaskID) func(*millpond.TaskSpec) {
		return func(s *millpond.TaskSpec) { s.DependsOn = &millpond.Dependencies{Tasks: ids} }
	}
	depends := func(s *millpond.JobSpec) { s.UsesTaskDependencies = true }
	for _, c := range []struct {
		name string
		make func(*world)
		want []string
	}{
		{"spread takes turns", func(w *world) {
			two(w, 2, nil)
			w.task("j", "1", 1, nil)
			w.task("j", "2", 1, nil)
			w.task("j", "3", 1, nil)
		}, []string{"1@a", "2@b", "3@a"}},
		{"pack fills one first", func(w *world) {
			two(w, 2, func(s *millpond.PoolSpec) { s.FillType = millpond.FillPack })
			w.task("j", "1", 1, nil)
			w.task("j", "2", 1, nil)
			w.task("j", "3", 1, nil)
		}, []string{"1@a", "2@a", "3@b"}},
		{"affinity wins", func(w *world) { two(w, 2, nil); w.task("j", "1", 1, near("TVM:b")); w.task("j", "2", 1, near("B")) }, []string{"1@b", "2@b"}},
		{"affinity is soft", func(w *world) {
			two(w, 2, nil)
			w.task("j", "1", 2, near("a"))
			w.task("j", "2", 1, near("a"))
			w.task("j", "3", 1, near("gone"))
		}, []string{"1@a", "2@b", "3@b"}},
		{"a large task does not hold up others", func(w *world) { two(w, 2, nil); w.task("j", "1", 3, nil); w.task("j", "2", 1, nil) }, []string{"2@a"}},
		{"maxParallelTasks", func(w *world) {
			two(w, 2, nil)
			w.job("k", "p", func(s *millpond.JobSpec) { s.MaxParallelTasks = 1 })
			w.task("k", "1", 1, nil)
			w.task("k", "2", 1, nil)
			w.task("j", "3", 1, nil)
		}, []string{"3@a", "1@b"}},
		{"jobs of one priority take turns", func(w *world) {
			two(w, 2, nil)
			w.job("k", "p", nil)
			for i := range 4 {
				w.task("j", fmt.Sprint("j", i), 1, nil)
				w.task("k", fmt.Sprint("k", i), 1, nil)
			}
		}, []string{"j0@a", "k0@b", "j1@a", "k1@b"}},
		{"the oldest job first where the pool says so", func(w *world) {
			two(w, 2, func(s *millpond.PoolSpec) { s.OldestJobFirst = true })
			w.job("k", "p", nil)
			for i := range 3 {
				w.task("k", fmt.Sprint("k", i), 1, nil)
				w.task("j", fmt.Sprint("j", i), 1, nil)
			}
		}, []string{"j0@a", "j1@b", "j2@a", "k0@b"}},
		{"priority goes first", func(w *world) {
			two(w, 1, nil)
			w.job("k", "p", func(s *millpond.JobSpec) { s.Priority = 5 })
			w.task("j", "1", 1, nil)
			w.task("k", "2", 1, nil)
			w.task("k", "3", 1, nil)
		}, []string{"2@a", "3@b"}},
		{"a disabled node gets nothing", func(w *world) {
			two(w, 1, nil)
			w.node("a", "p", millpond.NodeOffline)
			w.task("j", "1", 1, nil)
			w.task("j", "2", 1, nil)
		}, []string{"1@b"}},
		{"dependants wait", func(w *world) {
			two(w, 2, nil)
			w.job("d", "p", depends)
			w.task("d", "2", 1, after("1"))
			w.task("d", "1", 1, nil)
		}, []string{"1@a"}},
		{"a satisfied one lets go", func(w *world) {
			two(w, 2, nil)
			w.job("d", "p", depends)
			w.task("d", "2", 1, after("1"))
			w.task("d", "1", 1, nil)
			w.end("d/1", true)
		}, []string{"2@a"}},
		{"a failed one blocks", func(w *world) {
			two(w, 2, nil)
			w.job("d", "p", depends)
			w.task("d", "2", 1, after("1"))
			w.task("d", "1", 1, nil)
			w.end("d/1", false)
		}, nil},
		{"ranges are of numbers", func(w *world) {
			two(w, 4, nil)
			w.job("d", "p", depends)
			w.task("d", "x", 1, func(s *millpond.TaskSpec) {
				s.DependsOn = &millpond.Dependencies{Ranges: []millpond.IDRange{{Start: 1, End: 3}}}
			})
			for _, id := range []string{"01", "2", "03", "3"} {
				w.task("d", id, 1, nil)
				if id != "3" {
					w.end("d/"+id, true)
				}
			}
		}, []string{"x@a", "3@b"}},
		{"a wide range", func(w *world) {
			two(w, 4, nil)
			w.job("d", "p", depends)
			for i := range 400 {
				w.task("d", fmt.Sprint(i), 1, nil)
				if i != 7 {
					w.end(fmt.Sprint("d/", i), true)
				}
			}
			w.task("d", "x", 1, func(s *millpond.TaskSpec) {
				s.DependsOn = &millpond.Dependencies{Ranges: []millpond.IDRange{{Start: 0, End: 399}}}
			})
			w.end("d/7", true)
		}, []string{"x@a"}},
		{"an exclusive manager takes an empty node", func(w *world) {
			two(w, 2, nil)
			w.task("j", "1", 1, nil)
			w.commit()
			w.task("j", "m", 1, func(s *millpond.TaskSpec) { s.Manager = &millpond.ManagerSpec{Exclusive: true, AnyNode: true} })
			w.task("j", "2", 1, nil)
			w.task("j", "3", 1, nil)
		}, []string{"m@b", "2@a"}},
		{"no pool", func(w *world) { w.job("j", "p", nil); w.task("j", "1", 1, nil); w.node("a", "p", millpond.NodeIdle) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			c.make(w)
			if got := w.plan(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if got := w.commit(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("a second plan is %v, the first was %v", got, c.want)
			}
			if got := w.plan(); len(got) > 0 {
				t.Errorf("after the commit there is still %v", got)
			}
		})
	}
}

// TestSharing: with tasks that end, two jobs get the same number of slots, also
// when one came much later.
func TestSharing(t *testing.T) {
	w := newWorld()
	w.pool("p", 1, nil)
	w.node("a", "p", millpond.NodeIdle)
	for _, j := range []string{"j", "k", "l"} {
		w.job(j, "p", nil)
		for i := range 100 {
			w.task(j, fmt.Sprint(j, i), 1, nil)
		}
	}
	got := map[byte]int{}
	for range 90 {
		p := w.state.Plan(time.UnixMicro(w.made), 10, always)
		if len(p.Assign) != 1 {
			t.Fatalf("%v", p)
		}
		a := p.Assign[0]
		v := w.tasks[a.Job+"/"+a.Task]
		v.State, v.Node = millpond.TaskRunning, a.Node
		w.put(v)
		w.end(a.Job+"/"+a.Task, true)
		got[a.Job[0]]++
	}
	if got['j'] != 30 || got['k'] != 30 || got['l'] != 30 {
		t.Errorf("shares are %v", got)
	}
}

// TestPatience: a task that needs a whole node is not starved by small ones.
func TestPatience(t *testing.T) {
	w := newWorld()
	w.pool("p", 2, nil)
	w.node("a", "p", millpond.NodeIdle)
	w.node("b", "p", millpond.NodeIdle)
	w.job("small", "p", nil)
	w.job("large", "p", nil)
	for i := range 100 {
		w.task("small", fmt.Sprint("s", i), 1, nil)
	}
	w.commit()
	w.task("large", "big", 2, nil)
	now := time.UnixMicro(w.made).Add(2 * patience)
	running := []string{}
	for range 50 {
		running = running[:0]
		for k, v := range w.tasks {
			if v.State == millpond.TaskRunning {
				running = append(running, k)
			}
		}
		// The one that began first; keys grow with their age in numbers.
		sort.Slice(running, func(i, j int) bool { return w.tasks[running[i]].Order < w.tasks[running[j]].Order })
		w.end(running[0], true)
		for _, a := range w.state.Plan(now, 10, always).Assign {
			if a.Task == "big" {
				return
			}
			v := w.tasks[a.Job+"/"+a.Task]
			v.State, v.Node = millpond.TaskRunning, a.Node
			w.put(v)
		}
	}
	t.Error("the large task never got its place")
}

func TestPreemption(t *testing.T) {
	w := newWorld()
	w.pool("p", 2, nil)
	w.node("a", "p", millpond.NodeIdle)
	w.job("low", "p", func(s *millpond.JobSpec) { s.Priority, s.AllowPreemption = -5, true })
	w.job("firm", "p", func(s *millpond.JobSpec) { s.Priority = -9 })
	w.task("low", "1", 1, nil)
	w.task("firm", "2", 1, nil)
	w.commit()
	w.job("same", "p", func(s *millpond.JobSpec) { s.Priority = -5 })
	w.task("same", "x", 1, nil)
	if p := w.state.Plan(time.Time{}, 10, always); len(p.Evict)+len(p.Assign) != 0 {
		t.Errorf("a job of the same priority evicts %v", p)
	}
	w.job("high", "p", func(s *millpond.JobSpec) { s.Priority = 5 })
	w.task("high", "3", 1, nil)
	w.task("high", "4", 1, nil)
	p := w.state.Plan(time.Time{}, 10, always)
	if want := []Ref{{"a", "low", "1"}}; !reflect.DeepEqual(p.Evict, want) || len(p.Assign) != 0 {
		t.Fatalf("got %v, want %v", p, want)
	}
	v := w.tasks["low/1"]
	v.Stopping = millpond.CodeTaskEnded
	w.put(v)
	if p := w.state.Plan(time.Time{}, 10, always); len(p.Evict) != 0 {
		t.Errorf("while the task is being stopped %v more are evicted", p.Evict)
	}
	v.Stopping, v.State, v.Node = "", millpond.TaskActive, ""
	w.put(v)
	if got, want := w.plan(), []string{"3@a"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestStateFollowsRows: whatever happens in whatever order, the state is the one
// that the rows alone give, a plan leaves it as it was, oversubscribes nothing,
// places nothing twice, and leaves nothing that would fit.
func TestStateFollowsRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		name := func(of string, n int) string { return fmt.Sprint(of, rapid.IntRange(0, n-1).Draw(t, of)) }
		existing := func() string {
			var keys []string
			for k := range w.tasks {
				keys = append(keys, k)
			}
			if len(keys) == 0 {
				return ""
			}
			sort.Strings(keys)
			return rapid.SampledFrom(keys).Draw(t, "task")
		}
		steps := map[string]func(){
			"pool": func() {
				w.pool(name("p", 2), rapid.IntRange(1, 4).Draw(t, "slots"), func(s *millpond.PoolSpec) {
					s.FillType = rapid.SampledFrom([]millpond.FillType{millpond.FillSpread, millpond.FillPack}).Draw(t, "fill")
					s.OldestJobFirst = rapid.Bool().Draw(t, "oldest")
				})
			},
			"node": func() {
				id := name("n", 5)
				pool := "p" + fmt.Sprint(int(id[1]-'0')%2)
				w.node(id, pool, rapid.SampledFrom([]millpond.NodeState{millpond.NodeIdle, millpond.NodeRunning, millpond.NodeOffline}).Draw(t, "state"))
			},
			"nodeGone": func() {
				id := name("n", 5)
				n, ok := w.nodes[id]
				if !ok {
					return
				}
				// As the ledger does: its tasks are lost in the same transaction.
				c := sqlite.Changes{Nodes: []sqlite.NodeChange{{ID: n.ID, Gone: true}}}
				for k, v := range w.tasks {
					if v.OnNode() && v.Node == n.ID {
						v.State, v.Node = millpond.TaskActive, ""
						w.tasks[k] = v
						c.Tasks = append(c.Tasks, sqlite.TaskChange{Task: v})
					}
				}
				delete(w.nodes, id)
				for b := range w.barred {
					if b.Node == id {
						delete(w.barred, b)
						c.JobNodes = append(c.JobNodes, sqlite.JobNodeChange{Account: b.Account, Job: b.Job, Node: id})
					}
				}
				w.state.Apply(c)
			},
			"job": func() {
				id := name("j", 4)
				old, have := w.jobs[id]
				w.job(id, name("p", 2), func(s *millpond.JobSpec) {
					s.Priority = rapid.IntRange(-1, 1).Draw(t, "priority")
					s.MaxParallelTasks = rapid.SampledFrom([]int{-1, 1, 2}).Draw(t, "most")
					s.AllowPreemption = rapid.Bool().Draw(t, "preempt")
					s.UsesTaskDependencies = true
					if have && len(w.tasks) > 0 {
						s.Pool = old.Spec.Pool // a job with running tasks keeps its pool
					}
				})
			},
			"jobState": func() {
				id := name("j", 4)
				if j, ok := w.jobs[id]; ok {
					j.State = rapid.SampledFrom([]millpond.JobState{millpond.JobActive, millpond.JobDisabled}).Draw(t, "jobState")
					w.jobs[id] = j
					w.state.Apply(sqlite.Changes{Jobs: []sqlite.JobChange{{Job: j}}})
				}
			},
			"task": func() {
				job, id := name("j", 4), name("", 12)
				if _, ok := w.jobs[job]; !ok {
					return
				}
				if _, have := w.tasks[job+"/"+id]; have {
					return
				}
				w.task(job, id, rapid.IntRange(1, 5).Draw(t, "need"), func(s *millpond.TaskSpec) {
					s.Affinity = rapid.SampledFrom([]string{"", "", "n0", "TVM:n1"}).Draw(t, "affinity")
					switch rapid.IntRange(0, 4).Draw(t, "depends") {
					case 0:
						s.DependsOn = &millpond.Dependencies{Tasks: []millpond.TaskID{millpond.TaskID(name("", 12)), millpond.TaskID(name("", 12))}}
					case 1:
						from := int32(rapid.IntRange(0, 11).Draw(t, "from"))
						s.DependsOn = &millpond.Dependencies{Ranges: []millpond.IDRange{{Start: from, End: from + 1}}}
					case 2:
						s.DependsOn = &millpond.Dependencies{Ranges: []millpond.IDRange{{Start: 5, End: 5 + 300*int32(rapid.IntRange(0, 1).Draw(t, "wide"))}}}
					}
				})
			},
			"ends": func() {
				if k := existing(); k != "" {
					w.end(k, rapid.Bool().Draw(t, "satisfies"))
				}
			},
			"lost": func() {
				if v, ok := w.tasks[existing()]; ok && v.State != millpond.TaskActive {
					v.State, v.Node, v.Satisfies = millpond.TaskActive, "", false
					w.put(v)
				}
			},
			"deleted": func() {
				if k := existing(); k != "" {
					w.drop(k)
				}
			},
			"place": func() { w.commit() },
			"bar": func() {
				job, node := name("j", 4), name("n", 5)
				if _, ok := w.jobs[job]; !ok || w.nodes[node].ID == "" {
					return
				}
				for k, v := range w.tasks {
					if v.OnNode() && v.Node.Key() == node && v.Job.Key() == job {
						v.State, v.Node = millpond.TaskActive, ""
						w.tasks[k] = v
						w.put(v)
					}
				}
				w.bar(job, node, rapid.Bool().Draw(t, "barred"))
			},
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			what := rapid.SampledFrom([]string{"pool", "node", "node", "nodeGone", "job", "jobState", "task", "task", "task", "task", "ends", "ends", "lost", "deleted", "place", "place", "bar"}).Draw(t, "what")
			steps[what]()
			before, rows := dump(w.state), dump(w.fresh())
			if !reflect.DeepEqual(before, rows) {
				t.Fatalf("after %s the state is\n%v\nthe rows say\n%v", what, before, rows)
			}
			now := time.UnixMicro(w.made)
			plan := w.state.Plan(now, 1000, always)
			if after := dump(w.state); !reflect.DeepEqual(before, after) {
				t.Fatalf("a plan changed\n%v\nto\n%v", before, after)
			}
			check(t, w, plan)
		}
	})
}

// check holds a plan against the rows.
func check(t *rapid.T, w *world, plan Plan) {
	used, placed, taken := map[string]int{}, map[string]int{}, map[string]bool{}
	for _, v := range w.tasks {
		if v.OnNode() {
			used[string(v.Node)] += v.Spec.RequiredSlots
			placed[string(v.Job)]++
		}
	}
	for _, a := range plan.Assign {
		v, n := w.tasks[a.Job+"/"+a.Task], w.nodes[string(a.Node)]
		j := w.jobs[a.Job]
		p := w.pools[string(j.Spec.Pool)]
		if taken[a.Job+"/"+a.Task] || v.State != millpond.TaskActive || j.State != millpond.JobActive {
			t.Fatalf("%v is placed although it must not be", a)
		}
		taken[a.Job+"/"+a.Task] = true
		if used[string(a.Node)] += v.Spec.RequiredSlots; used[string(a.Node)] > p.Spec.TaskSlotsPerNode {
			t.Fatalf("%v oversubscribes its node", a)
		}
		if placed[a.Job]++; j.Spec.MaxParallelTasks > 0 && placed[a.Job] > j.Spec.MaxParallelTasks {
			t.Fatalf("%v is more than its job may run", a)
		}
		if w.barred[sqlite.JobNodeChange{Account: "a", Job: a.Job, Node: string(a.Node), Barred: true}] {
			t.Fatalf("%v is on a node from which its job is barred", a)
		}
		if n.Pool != string(j.Spec.Pool) || n.State == millpond.NodeOffline {
			t.Fatalf("%v is on a node of %s that is %s", a, n.Pool, n.State)
		}
	}
	for k, v := range w.tasks {
		j := w.jobs[string(v.Job)]
		if v.State != millpond.TaskActive || taken[k] || j.State != millpond.JobActive || j.Spec.MaxParallelTasks > 0 && placed[string(v.Job)] >= j.Spec.MaxParallelTasks {
			continue
		}
		if d := w.state.jobs[jobKey{"a", string(v.Job)}].tasks[string(v.Spec.ID)]; d.depends.open() {
			continue
		}
		for id, n := range w.nodes {
			if w.barred[sqlite.JobNodeChange{Account: "a", Job: string(v.Job), Node: id, Barred: true}] {
				continue
			}
			if p, ok := w.pools[n.Pool]; ok && n.Pool == string(j.Spec.Pool) && n.State != millpond.NodeOffline && used[id]+v.Spec.RequiredSlots <= p.Spec.TaskSlotsPerNode {
				t.Fatalf("%s waits although node %s has room", k, id)
			}
		}
	}
}
