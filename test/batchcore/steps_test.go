package batchcore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/sched"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
	"millpond.dev/millpond/test/seeds"
)

// TestStepByStep drives the scheduler, the ledger and the jobs' loop one step
// at a time over a real database, in an order that the seed alone decides:
// placing, ends that are reported late, twice, in another order or after
// another attempt began, nodes lost and found, users' requests, transactions
// that are undone, and the whole service closed and opened again between any
// two steps. TestWhateverHappens does the same with everything running at once.
//
// After each step: no task is gone, none runs twice at once, what completed
// stays as it completed, no node is given more than its slots and no job or task
// more than its limit, nothing starts before what it depends on, counts are those of
// the rows, the writer recalls what the rows say, and the scheduler's free slots
// are theirs. At the end all complete.
func TestStepByStep(t *testing.T) {
	n := 40
	if testing.Short() {
		n = 5
	}
	seeds.Each(t, n, func(t *testing.T, seed uint64) {
		t.Parallel()
		w := newSteps(t, seed)
		defer func() { w.db.Close() }()
		for range 150 {
			w.step()
		}
		w.drain()
	})
}

// TestStepsAreOfTheirSeed: a seed that failed can be run again.
func TestStepsAreOfTheirSeed(t *testing.T) {
	t.Parallel()
	var seen []string
	for range 2 {
		w := newSteps(t, 11)
		var trace strings.Builder
		for range 60 {
			w.step()
			fmt.Fprintln(&trace, w.last)
		}
		for _, k := range slices.Sorted(maps.Keys(w.rows)) {
			v := w.rows[k]
			fmt.Fprintln(&trace, k, v.State, v.Result, v.Attempt, v.Node, v.StateTransition, v.RetryCount, v.RequeueCount)
		}
		w.ok(w.db.Close())
		seen = append(seen, trace.String())
	}
	if seen[0] != seen[1] {
		t.Fatalf("one seed, two orders:\n%s\nand\n%s", seen[0], seen[1])
	}
}

// steps is the service without anything that runs by itself, and what a user
// and the machines know.
type steps struct {
	t     *testing.T
	rng   *rand.Rand
	path  string
	clock *clock.Manual
	db    *sqlite.DB
	jobs  *job.Service
	sched *sched.Scheduler

	// wrong is what the scheduler logs as an error: when it finds that its queue is
	// not what the rows say it reads them again, and nothing else would tell.
	wrong strings.Builder

	last  string
	added int
	// nodes by key: what their agents run; nil for one that is lost.
	nodes map[millpond.NodeID]map[try]bool
	boots map[millpond.NodeID]int
	// reports are on their way.
	reports []ended
	rows    map[string]millpond.Task // by job/task, as last seen
	gone    map[string]bool          // that a user deleted
	again   map[string]bool          // that a user reactivated since last seen
}

type try struct {
	job, task string
	attempt   int
}

type ended struct {
	node   millpond.NodeID
	run    try
	report ledger.Report
}

const (
	stepSlots = 3
	stepNodes = 3
)

var stepJobs = []millpond.JobSpec{
	{ID: "low", Pool: "p", Priority: -10, AllowPreemption: true, MaxTaskRetries: 1, MaxParallelTasks: -1},
	{ID: "even", Pool: "p", MaxParallelTasks: -1},
	{ID: "odd", Pool: "p", MaxTaskRetries: 2, MaxParallelTasks: 2},
	{ID: "chain", Pool: "p", Priority: 5, UsesTaskDependencies: true, MaxParallelTasks: -1},
	{ID: "acts", Pool: "p", Priority: 5, OnTaskFailure: millpond.OnTaskFailurePerform, UsesTaskDependencies: true, MaxParallelTasks: -1},
	{ID: "ends", Pool: "p", OnAllTasksComplete: "terminatejob", MaxParallelTasks: -1},
}

func newSteps(t *testing.T, seed uint64) *steps {
	w := &steps{t: t, rng: rand.New(rand.NewPCG(seed, 41)), path: filepath.Join(t.TempDir(), "state.db"), clock: clock.NewManual(time.Unix(1_700_000_000, 0)),
		nodes: map[millpond.NodeID]map[try]bool{}, boots: map[millpond.NodeID]int{}, rows: map[string]millpond.Task{}, gone: map[string]bool{}, again: map[string]bool{}}
	w.open()
	w.ok(w.db.Update(ctx, func(tx *sqlite.Tx) error {
		p := millpond.Pool{Account: acct.Name, State: millpond.PoolActive, Allocation: millpond.AllocationSteady, Created: tx.Now,
			Spec: millpond.PoolSpec{ID: "p", VMSize: "standard_d2s_v3", TaskSlotsPerNode: stepSlots, FillType: millpond.FillSpread}}
		if err := tx.InsertPool(p); err != nil {
			return err
		}
		for i := range stepNodes {
			id := millpond.NodeID(fmt.Sprint("tvm_", i))
			w.nodes[id] = map[try]bool{}
			n := millpond.Node{ID: id, Account: acct.Name, Pool: "p", State: millpond.NodeIdle, Scheduling: millpond.SchedulingEnabled, Dedicated: true, Generation: 1, Created: tx.Now, Allocated: tx.Now}
			if err := tx.InsertNode(n); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, s := range stepJobs {
		_, err := w.jobs.AddJob(ctx, acct.Name, s)
		w.ok(err)
	}
	return w
}

// Live and Wake make the model the scheduler's sessions: it finds by itself
// what its nodes are to do.
func (w *steps) Live(id millpond.NodeID) bool { return w.nodes[id] != nil }
func (w *steps) Wake(millpond.NodeID)         {}

func (w *steps) open() {
	db, err := sqlite.Open(ctx, w.path, w.clock)
	w.ok(err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	w.db = db
	w.jobs = job.New(job.Deps{DB: db, Clock: w.clock, Log: log, WakeSession: w.Wake, Wakes: job.Wakes{Jobs: wake.New(), Scheduler: wake.New(), Nodes: wake.New()}})
	w.sched = sched.New(db, slog.New(slog.NewTextHandler(&w.wrong, &slog.HandlerOptions{Level: slog.LevelError})), w, wake.New())
}

func (w *steps) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("after %s: %v", w.last, err)
	}
}

// may is for what can be refused for what went on before.
func (w *steps) may(err error) {
	w.t.Helper()
	if err != nil && millpond.KindOf(err) != millpond.Conflict && millpond.KindOf(err) != millpond.NotFound {
		w.t.Fatalf("after %s: %v", w.last, err)
	}
}

func (w *steps) book(fn func(tx *sqlite.Tx, b *ledger.Book) error) error {
	return w.db.Update(ctx, func(tx *sqlite.Tx) error {
		b := ledger.Open(tx)
		if err := fn(tx, b); err != nil {
			return err
		}
		return b.Close()
	})
}

var errUndo = errors.New("undone")

func (w *steps) step() {
	w.clock.Advance(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
	choices := []struct {
		weight int
		name   string
		do     func()
	}{
		{6, "adding", w.add}, {8, "placing", w.place}, {8, "an end", w.end}, {8, "a report", w.deliver}, {4, "the jobs' loop", w.settle},
		{2, "a node lost", w.lose}, {3, "a node found", w.find}, {2, "a restart", w.restart}, {2, "a transaction undone", w.undo},
		{2, "a task ended by its user", w.terminate}, {1, "a task deleted", w.remove}, {1, "a task reactivated", w.reactivate},
		{1, "a job disabled", w.disable}, {2, "a job enabled", w.enable}, {1, "a node's scheduling changed", w.toggle}, {3, "agents told", w.tell},
	}
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	at := w.rng.IntN(total)
	for _, c := range choices {
		if at -= c.weight; at < 0 {
			w.last = c.name
			c.do()
			break
		}
	}
	w.look()
}

func (w *steps) add() {
	spec := stepJobs[w.rng.IntN(len(stepJobs))]
	for range 1 + w.rng.IntN(3) {
		s := millpond.TaskSpec{ID: millpond.TaskID(fmt.Sprint(w.added)), CommandLine: "x", RequiredSlots: 1 + w.rng.IntN(stepSlots)}
		if spec.UsesTaskDependencies && w.added > 0 && w.rng.IntN(2) == 0 {
			// Some wait for ids that are in other jobs, thus for nothing that comes.
			if before := w.some(spec.ID, func(millpond.Task) bool { return true }); before != "" {
				s.DependsOn = &millpond.Dependencies{Tasks: []millpond.TaskID{millpond.TaskID(strings.Split(before, "/")[1])}}
			}
		}
		if spec.OnTaskFailure != "" {
			s.Exit = &millpond.ExitConditions{Default: &millpond.ExitOptions{Job: []millpond.JobAction{millpond.JobActionNone, millpond.JobActionDisable}[w.rng.IntN(2)],
				Dependency: []millpond.DependencyAction{millpond.DependencySatisfy, millpond.DependencyBlock}[w.rng.IntN(2)]}}
		}
		w.added++
		_, err := w.jobs.AddTask(ctx, acct.Name, spec.ID, s)
		w.may(err)
	}
}

func (w *steps) place() {
	_, _, err := w.sched.Loop().Run(ctx)
	w.ok(err)
}

func (w *steps) settle() {
	_, _, err := w.jobs.Loop().Run(ctx)
	w.ok(err)
}

// tell lets agents do what the rows want of them, as sessions would.
func (w *steps) tell() {
	for _, key := range slices.Sorted(maps.Keys(w.rows)) {
		v := w.rows[key]
		agent := w.nodes[v.Node]
		if !v.OnNode() || agent == nil {
			continue
		}
		r := try{v.Job.Key(), v.Spec.ID.Key(), v.Attempt}
		if agent[r] || w.reported(v.Node, r) {
			if v.Stopping != "" && agent[r] {
				delete(agent, r)
				w.report(v.Node, r, ledger.Report{Failure: &millpond.TaskFailure{Category: "usererror", Code: v.Stopping}})
			}
			continue
		}
		if v.Stopping != "" {
			// It was never started and never will be.
			w.ok(w.book(func(tx *sqlite.Tx, b *ledger.Book) error {
				now, err := tx.Task(v.Account, v.Job, v.Spec.ID)
				if err != nil || now.Attempt != v.Attempt || !now.OnNode() {
					return err
				}
				return b.Lost(now)
			}))
			continue
		}
		for id, other := range w.nodes {
			for o := range other {
				if o.job == r.job && o.task == r.task && !w.gone[key] {
					w.t.Fatalf("after %s: %s is to run on %s as attempt %d while %s runs attempt %d", w.last, key, v.Node, r.attempt, id, o.attempt)
				}
			}
		}
		agent[r] = true
	}
	for id, agent := range w.nodes {
		for r := range agent {
			if v, have := w.rows[r.job+"/"+r.task]; !have || !v.OnNode() || v.Attempt != r.attempt || v.Node != id {
				delete(agent, r) // nobody wants it any more: it is killed
			}
		}
	}
}

func (w *steps) reported(node millpond.NodeID, r try) bool {
	return slices.ContainsFunc(w.reports, func(e ended) bool { return e.node == node && e.run == r })
}

// report sends a report, now and then twice.
func (w *steps) report(node millpond.NodeID, r try, what ledger.Report) {
	for range 1 + w.rng.IntN(2) {
		w.reports = append(w.reports, ended{node, r, what})
	}
}

func (w *steps) end() {
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		var all []try
		for r := range w.nodes[id] {
			all = append(all, r)
		}
		if len(all) == 0 || w.rng.IntN(2) == 0 {
			continue
		}
		slices.SortFunc(all, func(a, b try) int {
			return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
		})
		r := all[w.rng.IntN(len(all))]
		delete(w.nodes[id], r)
		code := []int{0, 0, 1}[w.rng.IntN(3)]
		w.report(id, r, ledger.Report{Start: w.clock.Now(), End: w.clock.Now(), ExitCode: &code})
	}
}

// deliver applies any of the reports on their way, by the rule of a session.
func (w *steps) deliver() {
	if len(w.reports) == 0 {
		return
	}
	at := w.rng.IntN(len(w.reports))
	e := w.reports[at]
	w.reports = slices.Delete(w.reports, at, at+1)
	w.ok(w.book(func(tx *sqlite.Tx, b *ledger.Book) error { return w.apply(tx, b, e) }))
}

func (w *steps) apply(tx *sqlite.Tx, b *ledger.Book, e ended) error {
	v, err := tx.Task(acct.Name, millpond.JobID(e.run.job), millpond.TaskID(e.run.task))
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil
	}
	if err != nil || !v.OnNode() || v.Attempt != e.run.attempt || v.Node != e.node {
		return err
	}
	j, err := tx.Job(v.Account, v.Job)
	if err != nil {
		return err
	}
	return b.Ended(v, j.Spec.MaxTaskRetries, e.report)
}

// undo does what other steps do and undoes it, as a crash before a commit does.
func (w *steps) undo() {
	err := w.book(func(tx *sqlite.Tx, b *ledger.Book) error {
		for _, e := range w.reports {
			if err := w.apply(tx, b, e); err != nil {
				return err
			}
		}
		for id := range w.nodes {
			if _, err := b.LoseAll(id); err != nil {
				return err
			}
		}
		return errors.Join(b.Close(), errUndo)
	})
	if !errors.Is(err, errUndo) {
		w.ok(err)
		w.t.Fatal("a transaction was not undone")
	}
}

func (w *steps) restart() {
	w.ok(w.db.Close())
	w.open()
}

// set writes a node's state as the nodes' own service does.
func (w *steps) set(id millpond.NodeID, fn func(b *ledger.Book, n *millpond.Node) error) {
	w.ok(w.book(func(tx *sqlite.Tx, b *ledger.Book) error {
		n, err := tx.Node(id)
		if err != nil {
			return err
		}
		if err := fn(b, &n); err != nil {
			return err
		}
		if err := tx.PutNode(n); err != nil {
			return err
		}
		return b.Refresh(id)
	}))
}

func (w *steps) someNode() millpond.NodeID {
	return slices.Sorted(maps.Keys(w.nodes))[w.rng.IntN(len(w.nodes))]
}

// lose ends a machine. Its reports that were on their way may still come.
func (w *steps) lose() {
	id := w.someNode()
	w.nodes[id] = nil
	w.set(id, func(b *ledger.Book, n *millpond.Node) error {
		n.State = millpond.NodeUnusable
		_, err := b.LoseAll(id)
		return err
	})
}

func (w *steps) find() {
	id := w.someNode()
	if w.nodes[id] != nil {
		return
	}
	w.nodes[id] = map[try]bool{}
	w.set(id, func(_ *ledger.Book, n *millpond.Node) error {
		n.State, n.Generation = millpond.NodeIdle, n.Generation+1
		return nil
	})
}

func (w *steps) toggle() {
	w.set(w.someNode(), func(_ *ledger.Book, n *millpond.Node) error {
		if n.Scheduling == millpond.SchedulingEnabled {
			n.Scheduling = millpond.SchedulingDisabled
			return nil
		}
		if n.Scheduling = millpond.SchedulingEnabled; n.State == millpond.NodeOffline {
			n.State = millpond.NodeIdle
		}
		return nil
	})
}

// some is the key of a task of a job, or of any, that fits.
func (w *steps) some(of millpond.JobID, fits func(millpond.Task) bool) string {
	var keys []string
	for k, v := range w.rows {
		if (of == "" || v.Job == of) && fits(v) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return ""
	}
	slices.Sort(keys)
	return keys[w.rng.IntN(len(keys))]
}

func (w *steps) ask(what func(job millpond.JobID, task millpond.TaskID) error, fits func(millpond.Task) bool) string {
	k := w.some("", fits)
	if k == "" {
		return ""
	}
	if err := what(w.rows[k].Job, w.rows[k].Spec.ID); err != nil {
		w.may(err)
		return ""
	}
	return k
}

func (w *steps) terminate() {
	w.ask(func(j millpond.JobID, id millpond.TaskID) error {
		return w.jobs.TerminateTask(ctx, acct.Name, j, id, millpond.Condition{})
	}, func(v millpond.Task) bool { return v.State != millpond.TaskCompleted })
}

func (w *steps) remove() {
	if k := w.ask(func(j millpond.JobID, id millpond.TaskID) error {
		return w.jobs.DeleteTask(ctx, acct.Name, j, id, millpond.Condition{})
	}, func(millpond.Task) bool { return true }); k != "" {
		w.gone[k] = true
	}
}

func (w *steps) reactivate() {
	if k := w.ask(func(j millpond.JobID, id millpond.TaskID) error {
		return w.jobs.ReactivateTask(ctx, acct.Name, j, id, millpond.Condition{})
	}, func(v millpond.Task) bool {
		return v.State == millpond.TaskCompleted || v.Stopping == millpond.CodeTaskEnded
	}); k != "" {
		w.again[k] = true
	}
}

func (w *steps) disable() {
	how := []millpond.DisableTasks{millpond.DisableRequeue, millpond.DisableTerminate, millpond.DisableWait}
	w.may(w.jobs.DisableJob(ctx, acct.Name, stepJobs[w.rng.IntN(len(stepJobs))].ID, millpond.Condition{}, how[w.rng.IntN(3)]))
}

func (w *steps) enable() {
	for _, j := range stepJobs {
		w.may(w.jobs.EnableJob(ctx, acct.Name, j.ID, millpond.Condition{}))
	}
}

// look reads all rows and holds them against what was seen before.
func (w *steps) look() {
	w.t.Helper()
	var heads, recalled []sqlite.NodeHead
	now := map[string]millpond.Task{}
	for _, j := range stepJobs {
		all, _, err := w.jobs.ListTasks(ctx, acct.Name, j.ID, millpond.ListQuery[millpond.Task]{})
		w.ok(err)
		var want millpond.TaskCounts
		placed := 0
		for _, v := range all {
			now[v.Job.Key()+"/"+v.Spec.ID.Key()] = v
			switch {
			case v.OnNode():
				want.Running++
				placed++
			case v.State == millpond.TaskActive:
				want.Active++
			case v.Result == "success":
				want.Completed, want.Succeeded = want.Completed+1, want.Succeeded+1
			default:
				want.Completed, want.Failed = want.Completed+1, want.Failed+1
			}
		}
		got, _, err := w.jobs.TaskCounts(ctx, acct.Name, j.ID)
		w.ok(err)
		if got != want {
			w.t.Fatalf("after %s: the counts of %s are %+v, the rows %+v", w.last, j.ID, got, want)
		}
		if j.MaxParallelTasks > 0 && placed > j.MaxParallelTasks {
			w.t.Fatalf("after %s: %d tasks of %s run, %d may", w.last, placed, j.ID, j.MaxParallelTasks)
		}
	}
	w.ok(w.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		heads, err = tx.NodeHeads()
		return err
	}))
	w.ok(w.db.Update(ctx, func(tx *sqlite.Tx) error {
		for _, h := range heads {
			r, err := tx.NodeHead(h.ID)
			if err != nil {
				return err
			}
			recalled = append(recalled, r)
		}
		return nil
	}))
	if w.wrong.Len() > 0 {
		w.t.Fatalf("after %s: the scheduler says %s", w.last, w.wrong.String())
	}
	free, err := w.sched.Free(ctx)
	w.ok(err)
	used := map[millpond.NodeID]sqlite.NodeHead{}
	for key, v := range now {
		if v.OnNode() {
			h := used[v.Node]
			h.RunningTasks, h.RunningSlots = h.RunningTasks+1, h.RunningSlots+v.Spec.RequiredSlots
			used[v.Node] = h
		}
		w.change(key, w.rows[key], v, now)
	}
	for key := range w.rows {
		if _, have := now[key]; !have && !w.gone[key] {
			w.t.Fatalf("after %s: %s is lost", w.last, key)
		}
	}
	for i, h := range heads {
		r, u := recalled[i], used[h.ID]
		if h.RunningTasks != u.RunningTasks || h.RunningSlots != u.RunningSlots || r.RunningTasks != u.RunningTasks || r.RunningSlots != u.RunningSlots || r.State != h.State || r.TasksRun != h.TasksRun {
			w.t.Fatalf("after %s: node %s is %+v by its row, %+v as recalled, %+v by its tasks", w.last, h.ID, h, r, u)
		}
		if h.State == millpond.NodeIdle && u.RunningTasks > 0 || h.State == millpond.NodeRunning && u.RunningTasks == 0 {
			w.t.Fatalf("after %s: node %s is %s with %d tasks", w.last, h.ID, h.State, u.RunningTasks)
		}
		if u.RunningSlots > stepSlots {
			w.t.Fatalf("after %s: node %s runs tasks of %d slots", w.last, h.ID, u.RunningSlots)
		}
		open := 0
		if (h.State == millpond.NodeIdle || h.State == millpond.NodeRunning) && h.Scheduling == millpond.SchedulingEnabled {
			open = stepSlots - u.RunningSlots
		}
		if got, have := free[h.ID.Key()]; !have || got != open {
			w.t.Fatalf("after %s: the scheduler sees %d free slots on node %s, by the rows there are %d", w.last, got, h.ID, open)
		}
	}
	w.rows = now
	clear(w.again)
}

// change holds one row against what it was.
func (w *steps) change(key string, was, v millpond.Task, all map[string]millpond.Task) {
	w.t.Helper()
	if was.State == "" {
		return
	}
	if v.Attempt < was.Attempt {
		w.t.Fatalf("after %s: %s goes from attempt %d to %d", w.last, key, was.Attempt, v.Attempt)
	}
	for _, j := range stepJobs {
		if j.ID == v.Job && v.RetryCount > j.MaxTaskRetries {
			w.t.Fatalf("after %s: %s has been tried again %d times", w.last, key, v.RetryCount)
		}
	}
	if was.State == millpond.TaskCompleted && !w.again[key] && (v.State != was.State || v.Result != was.Result || v.Attempt != was.Attempt || !v.Ended.Equal(was.Ended)) {
		w.t.Fatalf("after %s: %s had completed as %+v and is now %+v", w.last, key, was, v)
	}
	if v.OnNode() && v.Attempt > was.Attempt && v.Spec.DependsOn != nil {
		for _, id := range v.Spec.DependsOn.Tasks {
			if p, have := all[v.Job.Key()+"/"+id.Key()]; have && !p.Satisfies {
				w.t.Fatalf("after %s: %s runs before %s is satisfied", w.last, key, id)
			}
		}
	}
}

// drain brings everything back and lets all tasks end; what waits for a task
// that blocks it is ended by its user.
func (w *steps) drain() {
	for round := range 40 * (w.added + 5) {
		w.last = fmt.Sprint("round ", round, " of the end")
		w.clock.Advance(time.Second)
		w.find()
		for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
			w.set(id, func(_ *ledger.Book, n *millpond.Node) error {
				if n.Scheduling = millpond.SchedulingEnabled; n.State == millpond.NodeOffline {
					n.State = millpond.NodeIdle
				}
				return nil
			})
		}
		w.enable()
		w.settle()
		w.place()
		w.look()
		w.tell()
		w.end()
		for len(w.reports) > 0 {
			w.deliver()
		}
		w.look()
		open := 0
		for _, key := range slices.Sorted(maps.Keys(w.rows)) {
			v := w.rows[key]
			if v.State == millpond.TaskCompleted {
				continue
			}
			open++
			if d := v.Spec.DependsOn; d != nil && v.State == millpond.TaskActive {
				p, have := w.rows[v.Job.Key()+"/"+d.Tasks[0].Key()]
				if !have || p.State == millpond.TaskCompleted && !p.Satisfies {
					w.may(w.jobs.TerminateTask(ctx, acct.Name, v.Job, v.Spec.ID, millpond.Condition{}))
				}
			}
		}
		if open == 0 {
			return
		}
	}
	for k, v := range w.rows {
		if v.State != millpond.TaskCompleted {
			w.t.Errorf("%s never completed: %+v", k, v)
		}
	}
}
