package batchcore

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

var ctx = context.Background()

func TestPoolJobTasks(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 2, func(s *millpond.PoolSpec) {
		s.TaskSlotsPerNode = 2
		s.StartTask = &millpond.StartTask{CommandLine: "sleep 20ms", WaitForSuccess: true}
	})
	c.idle("p", 2)
	p := c.steady("p")
	if p.CurrentDedicated != 2 || len(p.ResizeErrors) != 0 {
		t.Fatalf("pool %+v", p)
	}
	if n := c.list("p")[0]; n.StartTaskInfo.Result != "success" || n.Phases[millpond.PhaseIdle] <= 0 {
		t.Fatalf("node %+v", n)
	}
	c.addJob("j", "p", nil)
	var specs []millpond.TaskSpec
	for i := range 100 {
		specs = append(specs, millpond.TaskSpec{ID: millpond.TaskID(fmt.Sprint("t", i)), CommandLine: "sleep 1ms"})
	}
	specs[7].ID = specs[6].ID
	res, err := c.jobs.AddTasks(ctx, acct.Name, "j", specs)
	c.must(err)
	if res[6].Err != nil || res[7].Err == nil || res[7].Err.Code != "TaskExists" {
		t.Fatalf("results %v %v", res[6].Err, res[7].Err)
	}
	filled := time.Now()
	c.wait("all tasks have completed", func() bool {
		n, _, err := c.jobs.TaskCounts(ctx, acct.Name, "j")
		return err == nil && n.Succeeded == 99 && n.Active+n.Running == 0
	})
	t.Logf("99 tasks on 4 slots: %s", time.Since(filled))
	for task, n := range h.runs {
		if n != 1 {
			t.Errorf("%s ran %d times", task, n)
		}
	}
	c.idle("p", 2)
	f, err := c.nodes.Files(ctx, acct.Name, "p", c.list("p")[0].ID)
	c.must(err)
	r, err := f.Read(ctx, "startup/stdout.txt", 0, 0)
	c.must(err)
	if b, err := io.ReadAll(r); err != nil || string(b) != "hello" {
		t.Fatalf("read %q %v", b, err)
	}
	r.Close()
	_, err = f.Read(ctx, "none", 0, 0)
	c.code(err, "FileNotFound")

	// Latency on an idle node.
	began := time.Now()
	c.addTask("j", "quick", "exit 0", nil)
	c.taskIn("j", "quick", millpond.TaskCompleted)
	t.Logf("add to completed: %s", time.Since(began))

	c.must(c.pools.Delete(ctx, acct.Name, "p", millpond.Condition{}))
	c.wait("the pool is gone", func() bool {
		_, err := c.pools.Get(ctx, acct.Name, "p")
		return millpond.KindOf(err) == millpond.NotFound && err != nil
	})
	if len(h.machines) != 0 {
		t.Fatal("machines are left")
	}
}

// A task that its user ends while it runs can be put back at once.
func TestReactivateWhileItEnds(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.addJob("j", "p", nil)
	c.addTask("j", "t", "hang", nil)
	c.taskIn("j", "t", millpond.TaskRunning)
	c.code(c.jobs.ReactivateTask(ctx, acct.Name, "j", "t", millpond.Condition{}), "TaskNotCompleted")
	c.must(c.jobs.TerminateTask(ctx, acct.Name, "j", "t", millpond.Condition{}))
	c.must(c.jobs.ReactivateTask(ctx, acct.Name, "j", "t", millpond.Condition{}))
	c.wait("the task runs again", func() bool {
		v, err := c.jobs.GetTask(ctx, acct.Name, "j", "t")
		return err == nil && v.State == millpond.TaskRunning && v.Attempt == 2
	})
}

func TestRetriesAndFailures(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.addJob("j", "p", func(s *millpond.JobSpec) { s.MaxTaskRetries = 1 })
	c.addTask("j", "recovers", "fail-until 2", nil)
	c.addTask("j", "never", "exit 3", func(s *millpond.TaskSpec) { s.MaxRetries = ptr(2) })
	if v := c.taskIn("j", "recovers", millpond.TaskCompleted); v.Result != "success" || v.RetryCount != 1 || v.Attempt != 2 {
		t.Fatalf("%+v", v)
	}
	v := c.taskIn("j", "never", millpond.TaskCompleted)
	if v.Result != "failure" || v.RetryCount != 2 || *v.ExitCode != 3 || v.Failure.Code != "FailureExitCode" {
		t.Fatalf("%+v", v)
	}
	c.must(c.jobs.ReactivateTask(ctx, acct.Name, "j", "never", millpond.Condition{IfMatch: v.ETag()}))
	c.code(c.jobs.ReactivateTask(ctx, acct.Name, "j", "recovers", millpond.Condition{}), "TaskSucceeded")
	c.taskIn("j", "never", millpond.TaskCompleted)
	c.addTask("j", "hang", "hang", nil)
	c.wait("it runs", h.began("j/hang", 1))
	c.must(c.jobs.TerminateTask(ctx, acct.Name, "j", "hang", millpond.Condition{}))
	if v := c.taskIn("j", "hang", millpond.TaskCompleted); v.Failure.Code != millpond.CodeTaskEnded || *v.ExitCode != 137 {
		t.Fatalf("%+v", v)
	}
	c.addTask("j", "gone", "hang", nil)
	c.wait("it runs", h.began("j/gone", 1))
	c.must(c.jobs.DeleteTask(ctx, acct.Name, "j", "gone", millpond.Condition{}))
	c.idle("p", 1)
}

func TestRestartInTheMiddle(t *testing.T) {
	c, h, restart := setup(t, node.Config{})
	c.addPool("p", 3, func(s *millpond.PoolSpec) { s.TaskSlotsPerNode = 4 })
	c.addJob("j", "p", nil)
	for batch := range 3 {
		var specs []millpond.TaskSpec
		for i := range 50 {
			specs = append(specs, millpond.TaskSpec{ID: millpond.TaskID(fmt.Sprintf("t%d-%d", batch, i)), CommandLine: fmt.Sprintf("sleep %dms", 5+i)})
		}
		_, err := c.jobs.AddTasks(ctx, acct.Name, "j", specs)
		c.must(err)
	}
	for range 4 {
		time.Sleep(120 * time.Millisecond) // let it get into the middle of things
		c = restart()
	}
	c.wait("all tasks have completed", func() bool {
		n, _, err := c.jobs.TaskCounts(ctx, acct.Name, "j")
		return err == nil && n.Succeeded == 150
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	for task, n := range h.runs {
		if n != 1 {
			t.Errorf("%s ran %d times over the restarts", task, n)
		}
	}
	if len(h.machines) != 3 || h.resets != 0 {
		t.Errorf("%d machines, %d resets: the restarts disturbed them", len(h.machines), h.resets)
	}
}

func TestKilledMachine(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	c.addJob("j", "p", nil)
	c.addTask("j", "t", "hang-once", nil)
	c.wait("it runs", h.began("j/t", 1))
	v := c.task("j", "t")
	h.crash(v.Node)
	v = c.taskIn("j", "t", millpond.TaskCompleted)
	if v.Result != "success" || v.RetryCount != 0 || v.RequeueCount != 0 || v.Attempt != 2 {
		t.Fatalf("%+v", v)
	}
	c.idle("p", 1)
	if n := c.list("p")[0]; n.Generation != 2 || n.Relaunches != 1 {
		t.Fatalf("%+v", n)
	}
}

// TestMachinesThatDie: a node is given up when machine after machine dies young, and
// not for deaths with long lives between them.
func TestMachinesThatDie(t *testing.T) {
	for name, live := range map[string]time.Duration{"young": 0, "old": 11 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			c, h, _ := setup(t, node.Config{Relaunches: 2})
			c.addPool("p", 1, nil)
			for death := 1; death <= 5; death++ {
				c.idle("p", 1)
				c.clock.manual.Advance(live)
				h.crash(c.list("p")[0].ID)
				c.wait("the death is noted", func() bool {
					n := c.list("p")[0]
					return n.Generation == death+1 || n.State == millpond.NodeUnusable
				})
				if n := c.list("p")[0]; n.State == millpond.NodeUnusable {
					if live > 0 || death != 3 {
						t.Errorf("given up after death %d: %+v", death, n.Errors)
					}
					return
				}
			}
			if live == 0 {
				t.Error("it is never given up")
			}
		})
	}
}

func TestJobStates(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	c.addJob("j", "p", nil)
	c.addTask("j", "t", "hang", nil)
	c.taskIn("j", "t", millpond.TaskRunning)
	c.must(c.jobs.DisableJob(ctx, acct.Name, "j", millpond.Condition{}, millpond.DisableRequeue))
	c.jobIn("j", millpond.JobDisabled)
	if v := c.task("j", "t"); v.State != millpond.TaskActive || v.RequeueCount != 1 {
		t.Fatalf("%+v", v)
	}
	c.must(c.jobs.EnableJob(ctx, acct.Name, "j", millpond.Condition{}))
	c.jobIn("j", millpond.JobActive)
	c.taskIn("j", "t", millpond.TaskRunning)
	c.must(c.jobs.TerminateJob(ctx, acct.Name, "j", millpond.Condition{}, "", false))
	if j := c.jobIn("j", millpond.JobCompleted); j.TerminateReason != "UserTerminate" || j.Ended.IsZero() {
		t.Fatalf("%+v", j)
	}
	if v := c.task("j", "t"); v.State != millpond.TaskCompleted || v.Failure.Code != millpond.CodeTaskEnded {
		t.Fatalf("%+v", v)
	}
	_, err := c.jobs.AddTask(ctx, acct.Name, "j", millpond.TaskSpec{ID: "x", CommandLine: "exit 0"})
	c.code(err, "JobCompleted")
	c.must(c.jobs.DeleteJob(ctx, acct.Name, "j", millpond.Condition{}, false))
	c.wait("the job is gone", func() bool {
		_, err := c.jobs.GetJob(ctx, acct.Name, "j")
		return err != nil && millpond.KindOf(err) == millpond.NotFound
	})
	c.addJob("auto", "p", func(s *millpond.JobSpec) { s.MaxWallClock = time.Hour })
	c.addTask("auto", "t", "sleep 5ms", nil)
	c.must(c.jobs.PatchJob(ctx, acct.Name, "auto", millpond.Condition{}, jobPatch("terminatejob")))
	if j := c.jobIn("auto", millpond.JobCompleted); j.TerminateReason != "AllTasksComplete" {
		t.Fatalf("%+v", j)
	}
	c.addJob("limited", "p", func(s *millpond.JobSpec) { s.MaxWallClock = 100 * time.Millisecond })
	c.addTask("limited", "t", "hang", nil)
	if j := c.jobIn("limited", millpond.JobCompleted); j.TerminateReason != "MaxWallClockTimeExpiry" {
		t.Fatalf("%+v", j)
	}
}

func TestResizes(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	c.steady("p")
	none := millpond.Condition{}
	c.must(c.pools.Resize(ctx, acct.Name, "p", none, pool.Targets{Dedicated: ptr(3), LowPriority: ptr(1)}, ""))
	c.idle("p", 4)
	if p := c.steady("p"); p.CurrentDedicated != 3 || p.CurrentLowPriority != 1 {
		t.Fatalf("%+v", p)
	}
	c.must(c.pools.Resize(ctx, acct.Name, "p", none, pool.Targets{Dedicated: ptr(1), LowPriority: ptr(0)}, ""))
	c.code(c.pools.Resize(ctx, acct.Name, "p", none, pool.Targets{Dedicated: ptr(2)}, ""), "PoolBeingResized")
	c.idle("p", 1)
	c.steady("p")
	c.must(c.pools.RemoveNodes(ctx, acct.Name, "p", none, []millpond.NodeID{c.list("p")[0].ID}, nil, ""))
	if p := c.steady("p"); p.TargetDedicated != 0 || p.CurrentDedicated != 0 {
		t.Fatalf("%+v", p)
	}
	// Machines that never come: the timeout ends it, and nothing is left over.
	h.mu.Lock()
	h.holds = true
	h.mu.Unlock()
	c.must(c.pools.Resize(ctx, acct.Name, "p", none, pool.Targets{Dedicated: ptr(2), ResizeTimeout: ptr(5 * time.Minute)}, ""))
	c.wait("the nodes are being created", func() bool { return c.inState("p", millpond.NodeCreating) == 2 })
	c.clock.manual.Advance(6 * time.Minute)
	if p := c.steady("p"); len(p.ResizeErrors) != 1 || p.ResizeErrors[0].Code != "AllocationTimedout" || p.ResizeErrors[0].Time.IsZero() || p.TargetDedicated != 2 {
		t.Fatalf("%+v", p.ResizeErrors)
	}
	c.wait("the nodes are withdrawn", func() bool { return len(c.list("p")) == 0 })
	c.must(c.pools.Resize(ctx, acct.Name, "p", none, pool.Targets{Dedicated: ptr(1)}, ""))
	c.must(c.pools.StopResize(ctx, acct.Name, "p", none))
	if p := c.steady("p"); len(p.ResizeErrors) != 1 || p.ResizeErrors[0].Code != "ResizeStopped" {
		t.Fatalf("%+v", p.ResizeErrors)
	}
	// A host that fails: a bounded number of tries, then the reason.
	h.mu.Lock()
	h.holds, h.fails = false, true
	h.mu.Unlock()
	c.must(c.pools.Resize(ctx, acct.Name, "p", none, pool.Targets{Dedicated: ptr(1)}, ""))
	if p := c.steady("p"); len(p.ResizeErrors) != 1 || p.ResizeErrors[0].Code != "AllocationFailed" || len(p.ResizeErrors[0].Values) == 0 {
		t.Fatalf("%+v", p.ResizeErrors)
	}
	// A host that is full: what fits comes.
	h.mu.Lock()
	h.fails, h.limit = false, 2
	h.mu.Unlock()
	c.must(c.pools.Resize(ctx, acct.Name, "p", none, pool.Targets{Dedicated: ptr(5)}, ""))
	if p := c.steady("p"); p.CurrentDedicated != 2 || len(p.ResizeErrors) != 1 || p.ResizeErrors[0].Code != "AllocationFailed" {
		t.Fatalf("%d %+v", p.CurrentDedicated, p.ResizeErrors)
	}
}

func TestRebootReimageDisable(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.StartTask = &millpond.StartTask{CommandLine: "sleep 1ms", WaitForSuccess: true}
	})
	c.idle("p", 1)
	c.addJob("j", "p", nil)
	c.addTask("j", "t", "hang-once", nil)
	c.wait("it runs", h.began("j/t", 1))
	before := c.list("p")[0]
	c.must(c.nodes.Reboot(ctx, acct.Name, "p", before.ID, ""))
	if s := c.list("p")[0].State; s != millpond.NodeRebooting {
		t.Fatal(s)
	}
	c.code(c.nodes.Reboot(ctx, acct.Name, "p", before.ID, ""), "NodeBeingRebooted")
	if v := c.taskIn("j", "t", millpond.TaskCompleted); v.RequeueCount != 1 || v.Result != "success" {
		t.Fatalf("%+v", v)
	}
	c.idle("p", 1)
	after := c.list("p")[0]
	if after.BootID == before.BootID || after.StartTaskInfo.Attempt != 2 || after.Generation != 1 {
		t.Fatalf("%+v", after)
	}
	c.must(c.nodes.Reimage(ctx, acct.Name, "p", after.ID, millpond.DeallocateTaskCompletion))
	c.wait("the node is reimaged", func() bool { n := c.list("p")[0]; return n.Generation == 2 && n.State == millpond.NodeIdle })
	c.addTask("j", "u", "hang-once", nil)
	c.wait("it runs", h.began("j/u", 1))
	c.must(c.nodes.DisableScheduling(ctx, acct.Name, "p", after.ID, millpond.DeallocateTaskCompletion))
	if s := c.list("p")[0].State; s != millpond.NodeRunning {
		t.Fatal(s)
	}
	c.code(c.nodes.DisableScheduling(ctx, acct.Name, "p", after.ID, ""), "NodeAlreadyInTargetSchedulingState")
	c.must(c.jobs.TerminateTask(ctx, acct.Name, "j", "u", millpond.Condition{}))
	c.wait("the node is offline", func() bool { return c.inState("p", millpond.NodeOffline) == 1 })
	c.addTask("j", "w", "exit 0", nil)
	c.must(c.nodes.EnableScheduling(ctx, acct.Name, "p", after.ID))
	c.taskIn("j", "w", millpond.TaskCompleted)
}

func TestUnhealthyNodes(t *testing.T) {
	c, h, _ := setup(t, node.Config{Silence: 400 * time.Millisecond})
	h.mu.Lock()
	h.mute = true
	h.mu.Unlock()
	c.addPool("p", 1, nil)
	c.wait("the node starts", func() bool { return c.inState("p", millpond.NodeStarting) == 1 })
	c.clock.manual.Advance(6 * time.Minute)
	c.wait("the node is unusable", func() bool { return c.inState("p", millpond.NodeUnusable) == 1 })
	if e := c.list("p")[0].Errors; len(e) != 1 || e[0].Code != "BatchAgentInstallationFailure" || len(e[0].Details) != 3 {
		t.Fatalf("%+v", e)
	}
	h.mu.Lock()
	h.mute = false
	h.mu.Unlock()
	c.addPool("q", 1, func(s *millpond.PoolSpec) {
		s.StartTask = &millpond.StartTask{CommandLine: "exit 4", WaitForSuccess: true, MaxRetries: 1}
	})
	c.wait("the start task gives up", func() bool { return c.inState("q", millpond.NodeStartTaskFailed) == 1 })
	if n := c.list("q")[0]; n.StartTaskInfo.RetryCount != 1 || *n.StartTaskInfo.ExitCode != 4 || len(n.Errors) != 1 {
		t.Fatalf("%+v", n)
	}
	c.addPool("r", 1, nil)
	c.idle("r", 1)
	// Contact lost and found, the machine running on.
	h.mu.Lock()
	attach := h.attach
	h.attach = nil
	h.mu.Unlock()
	c.nodes.Drop(c.list("r")[0].ID)
	c.wait("the node is unknown", func() bool { return c.inState("r", millpond.NodeUnknown) == 1 })
	h.mu.Lock()
	h.attach = attach
	h.mu.Unlock()
	c.idle("r", 1)
}
