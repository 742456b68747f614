package batchcore

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
	"millpond.dev/millpond/test/seeds"
)

// TestWhateverHappens lets tasks run, alone, after their job's preparation and as
// instances on several nodes, while machines die, reboot, are reimaged, deallocated
// and started, sessions are lost, the server restarts, pools are resized in every
// way and the resizes stopped, nodes disabled, jobs disabled and enabled, tasks
// ended and run again, urgent jobs take slots, and agents repeat what they
// reported, in random orders. Throughout no node has more than its slots, none that is
// deallocated has a task, and each instance of a task has a node of its own. Afterwards no task is lost, none has run twice at once (setup checks
// that), what completed stays completed, and every resize and deallocation has ended. The seed decides what is asked, not how it falls together;
// TestStepByStep is the same without anything that runs by itself.
func TestWhateverHappens(t *testing.T) {
	n := 4
	if testing.Short() {
		n = 1
	}
	seeds.Each(t, n, func(t *testing.T, seed uint64) {
		c, h, restart := setup(t, node.Config{StopGrace: 200 * time.Millisecond})
		h.mu.Lock()
		h.stutter = true
		h.mu.Unlock()
		(&chaos{t: t, c: c, h: h, restart: restart, rng: rand.New(rand.NewPCG(seed, 7)), done: map[string]millpond.Task{}, again: map[string]bool{}}).run()
	})
}

var chaosPools = []millpond.PoolID{"p", "together"}

var chaosJobs = []millpond.JobID{"chain", "gang", "loose", "prepared", "urgent"}

type chaos struct {
	t       *testing.T
	c       *core
	h       *hall
	restart func() *core
	rng     *rand.Rand
	added   int
	// done are tasks as they were when they were first seen completed; again are
	// those that were asked to run once more.
	done  map[string]millpond.Task
	again map[string]bool
}

func (x *chaos) run() {
	x.c.addPool("p", 3, func(s *millpond.PoolSpec) { s.TaskSlotsPerNode = 2 })
	x.c.addPool("together", 3, together)
	x.c.idle("p", 3)
	x.c.idle("together", 3)
	x.c.addJob("chain", "p", depends)
	x.c.addJob("prepared", "p", func(s *millpond.JobSpec) {
		s.Preparation = &millpond.JobTask{TaskSpec: millpond.TaskSpec{CommandLine: "mostly", MaxRetries: ptr(1)}, WaitForSuccess: true, RerunOnReboot: true}
		s.Release = &millpond.JobTask{TaskSpec: millpond.TaskSpec{CommandLine: "sleep 5ms"}}
	})
	x.c.addJob("gang", "together", func(s *millpond.JobSpec) {
		s.Preparation = &millpond.JobTask{TaskSpec: millpond.TaskSpec{CommandLine: "sleep 3ms"}, WaitForSuccess: true}
	})
	x.c.addJob("loose", "p", func(s *millpond.JobSpec) { s.MaxTaskRetries, s.AllowPreemption = 1, true })
	x.c.addJob("urgent", "p", func(s *millpond.JobSpec) { s.Priority, s.MaxParallelTasks = 100, 2 })
	steps := []func(){x.add, x.add, x.add, x.crash, x.reboot, x.reimage, x.deallocate, x.deallocate, x.start, x.drop, x.restarted, x.resize, x.stopResize, x.toggle, x.end, x.runAgain, x.pause, x.proceed}
	for range 50 {
		steps[x.rng.IntN(len(steps))]()
		x.look()
		x.places()
		time.Sleep(time.Duration(x.rng.IntN(30)) * time.Millisecond)
	}
	x.heal()
}

func (x *chaos) add() {
	for range 3 {
		id := fmt.Sprint(x.added)
		x.c.addTask("loose", id, fmt.Sprintf("sleep %dms", x.rng.IntN(40)), nil)
		x.c.addTask("prepared", id, fmt.Sprintf("sleep %dms", x.rng.IntN(20)), nil)
		before := x.added - 1 - x.rng.IntN(3)
		x.c.addTask("chain", id, fmt.Sprintf("sleep %dms", x.rng.IntN(20)), func(s *millpond.TaskSpec) {
			if before >= 0 {
				s.DependsOn = &millpond.Dependencies{Tasks: []millpond.TaskID{millpond.TaskID(fmt.Sprint(before))}}
			}
		})
		x.c.addTask("gang", id, fmt.Sprintf("sleep %dms", x.rng.IntN(20)), instances(1+x.rng.IntN(2), fmt.Sprintf("sleep %dms", x.rng.IntN(20))))
		x.c.addTask("urgent", id, fmt.Sprintf("sleep %dms", x.rng.IntN(10)), func(s *millpond.TaskSpec) { s.RequiredSlots = 1 + x.rng.IntN(2) })
		x.added++
	}
}

// somePool is mostly the one that most jobs are in.
func (x *chaos) somePool() millpond.PoolID { return chaosPools[max(0, x.rng.IntN(3)-1)] }

func (x *chaos) nodes() (out []millpond.Node) {
	for _, p := range chaosPools {
		out = append(out, x.c.list(string(p))...)
	}
	return out
}

func (x *chaos) someNode() (millpond.Node, bool) {
	all := x.c.list(string(x.somePool()))
	if len(all) == 0 {
		return millpond.Node{}, false
	}
	return all[x.rng.IntN(len(all))], true
}

func (x *chaos) crash() {
	if n, ok := x.someNode(); ok {
		x.h.mu.Lock()
		there := x.h.machines[n.ID.Key()] != nil
		x.h.mu.Unlock()
		if there {
			x.h.crash(n.ID)
		}
	}
}

// reboot, resize, toggle and the rest may be refused for what goes on at the
// same time; that is as it should be.
func (x *chaos) reboot() {
	if n, ok := x.someNode(); ok {
		options := []millpond.DeallocationOption{millpond.DeallocateRequeue, millpond.DeallocateTaskCompletion}
		_ = x.c.nodes.Reboot(ctx, acct.Name, n.Pool, n.ID, options[x.rng.IntN(2)])
	}
}

func (x *chaos) reimage() {
	if n, ok := x.someNode(); ok {
		_ = x.c.nodes.Reimage(ctx, acct.Name, n.Pool, n.ID, millpond.DeallocateRequeue)
	}
}

func (x *chaos) deallocate() {
	if n, ok := x.someNode(); ok {
		options := []millpond.DeallocationOption{millpond.DeallocateRequeue, millpond.DeallocateTaskCompletion}
		_ = x.c.nodes.Deallocate(ctx, acct.Name, n.Pool, n.ID, options[x.rng.IntN(2)])
	}
}

// start starts all that are deallocated.
func (x *chaos) start() {
	for _, n := range x.nodes() {
		if n.State == millpond.NodeDeallocated {
			_ = x.c.nodes.Start(ctx, acct.Name, n.Pool, n.ID)
		}
	}
}

// drop loses the session of a node.
func (x *chaos) drop() {
	if n, ok := x.someNode(); ok {
		x.c.nodes.Drop(n.ID)
	}
}

func (x *chaos) restarted() { x.c = x.restart() }

func (x *chaos) resize() {
	n := 1 + x.rng.IntN(4)
	options := []millpond.DeallocationOption{millpond.DeallocateRequeue, millpond.DeallocateTaskCompletion}
	_ = x.c.pools.Resize(ctx, acct.Name, x.somePool(), millpond.Condition{}, pool.Targets{Dedicated: &n}, options[x.rng.IntN(2)])
}

func (x *chaos) stopResize() {
	_ = x.c.pools.StopResize(ctx, acct.Name, x.somePool(), millpond.Condition{})
}

// pause disables a job, proceed enables all.
func (x *chaos) pause() {
	how := []millpond.DisableTasks{millpond.DisableRequeue, millpond.DisableWait}
	_ = x.c.jobs.DisableJob(ctx, acct.Name, chaosJobs[x.rng.IntN(len(chaosJobs))], millpond.Condition{}, how[x.rng.IntN(2)])
}

func (x *chaos) proceed() {
	for _, job := range chaosJobs {
		_ = x.c.jobs.EnableJob(ctx, acct.Name, job, millpond.Condition{})
	}
}

func (x *chaos) toggle() {
	if n, ok := x.someNode(); ok {
		if n.Scheduling == millpond.SchedulingDisabled {
			_ = x.c.nodes.EnableScheduling(ctx, acct.Name, n.Pool, n.ID)
		} else {
			_ = x.c.nodes.DisableScheduling(ctx, acct.Name, n.Pool, n.ID, millpond.DeallocateRequeue)
		}
	}
}

func (x *chaos) end() {
	if x.added > 0 {
		_ = x.c.jobs.TerminateTask(ctx, acct.Name, "loose", millpond.TaskID(fmt.Sprint(x.rng.IntN(x.added))), millpond.Condition{})
	}
}

func (x *chaos) runAgain() {
	if x.added > 0 {
		id := fmt.Sprint(x.rng.IntN(x.added))
		if x.c.jobs.ReactivateTask(ctx, acct.Name, "loose", millpond.TaskID(id), millpond.Condition{}) == nil {
			x.again["loose/"+id] = true
			delete(x.done, "loose/"+id)
		}
	}
}

// look holds what has completed against what was seen before, and the counts
// against the rows.
func (x *chaos) look() {
	x.t.Helper()
	for _, job := range chaosJobs {
		tasks, _, err := x.c.jobs.ListTasks(ctx, acct.Name, job, millpond.ListQuery[millpond.Task]{})
		x.c.must(err)
		for _, v := range tasks {
			key := string(job) + "/" + string(v.Spec.ID)
			was, seen := x.done[key]
			switch {
			case seen && (v.State != millpond.TaskCompleted || v.Attempt != was.Attempt || v.Result != was.Result || !v.Ended.Equal(was.Ended)):
				x.t.Fatalf("%s had completed as %+v and is now %+v", key, was, v)
			case v.State == millpond.TaskCompleted:
				x.done[key] = v
			}
		}
	}
	for _, n := range x.nodes() {
		if n.RunningSlots > map[millpond.PoolID]int{"p": 2, "together": 1}[n.Pool] {
			x.t.Fatalf("node %s runs tasks of %d slots", n.ID, n.RunningSlots)
		}
		if n.State == millpond.NodeDeallocated && n.RunningTasks > 0 {
			x.t.Fatalf("node %s is deallocated and has %d tasks", n.ID, n.RunningTasks)
		}
	}
}

// places sees that each instance of a task that runs has a node of its own.
func (x *chaos) places() {
	x.t.Helper()
	tasks, _, err := x.c.jobs.ListTasks(ctx, acct.Name, "gang", millpond.ListQuery[millpond.Task]{})
	x.c.must(err)
	for _, v := range tasks {
		if v.Gang == nil || v.State != millpond.TaskRunning {
			continue
		}
		on := map[string]bool{}
		for _, i := range v.Gang.Instances {
			on[i.Node.Key()] = true
		}
		if len(on) != v.Spec.MultiInstance.Instances || len(v.Gang.Instances) != len(on) {
			x.t.Fatalf("%s is on %d nodes: %+v", v.Spec.ID, len(on), v.Gang)
		}
	}
}

func (x *chaos) heal() {
	x.c.wait("the last resizes have ended", func() bool {
		for _, id := range chaosPools {
			if p, err := x.c.pools.Get(ctx, acct.Name, id); err != nil || p.Allocation != millpond.AllocationSteady {
				return false
			}
		}
		return true
	})
	x.c.wait("all tasks have completed", func() bool {
		x.start()
		usable := map[millpond.PoolID]int{}
		for _, n := range x.nodes() {
			if n.Scheduling == millpond.SchedulingDisabled {
				_ = x.c.nodes.EnableScheduling(ctx, acct.Name, n.Pool, n.ID)
			}
			switch n.State {
			case millpond.NodeUnusable, millpond.NodeLeavingPool:
			default:
				usable[n.Pool]++
			}
		}
		for _, id := range chaosPools {
			if usable[id] < 2 {
				// Machines died once too often, and a task wants two: a user would ask for others.
				n := len(x.c.list(string(id))) + 1
				_ = x.c.pools.Resize(ctx, acct.Name, id, millpond.Condition{}, pool.Targets{Dedicated: &n}, millpond.DeallocateRequeue)
			}
		}
		x.proceed()
		for _, job := range chaosJobs {
			k, _, err := x.c.jobs.TaskCounts(ctx, acct.Name, job)
			if err != nil || k.Completed != x.added || k.Active+k.Running != 0 {
				return false
			}
		}
		return true
	})
	x.look()
	if n := len(chaosJobs) * x.added; len(x.done) != n {
		x.t.Errorf("%d of %d tasks are there", len(x.done), n)
	}
	x.released()
	for key, v := range x.done {
		if v.Job != "loose" && v.Result != "success" {
			x.t.Errorf("%s: %+v", key, v)
		}
	}
}

// released ends the job with a preparation task while the server restarts, and
// looks whether every node was released from it that is still there.
func (x *chaos) released() {
	x.c.must(x.c.jobs.TerminateJob(ctx, acct.Name, "prepared", millpond.Condition{}, "", false))
	time.Sleep(time.Duration(x.rng.IntN(10)) * time.Millisecond)
	x.restarted()
	x.c.jobIn("prepared", millpond.JobCompleted)
	rows, _, err := x.c.jobs.ListJobNodes(ctx, acct.Name, "prepared", millpond.ListQuery[millpond.JobNode]{})
	x.c.must(err)
	here := map[string]bool{}
	for _, n := range x.c.list("p") {
		here[n.ID.Key()] = n.State == millpond.NodeIdle || n.State == millpond.NodeRunning || n.State == millpond.NodeOffline
	}
	for _, r := range rows {
		if r.Phase != millpond.JobNodeDone || here[r.Node.Key()] && (r.Released == nil || r.Released.Result != "success") {
			x.t.Errorf("the job has not left a node: %+v %+v", r, r.Released)
		}
	}
	if len(rows) == 0 {
		x.t.Error("no node was prepared")
	}
}
