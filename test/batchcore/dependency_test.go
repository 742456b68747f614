package batchcore

import (
	"context"
	"fmt"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/node"
)

func depends(s *millpond.JobSpec) { s.UsesTaskDependencies = true }

func after(ids ...millpond.TaskID) func(*millpond.TaskSpec) {
	return func(s *millpond.TaskSpec) { s.DependsOn = &millpond.Dependencies{Tasks: ids} }
}

// TestDependencies: a chain runs in its order, also over a restart of the
// server; a failure blocks what depends on it until it is run again and
// succeeds, and what may follow a failure does.
func TestDependencies(t *testing.T) {
	c, _, restart := setup(t, node.Config{})
	ctx := context.Background()
	c.addPool("p", 2, func(s *millpond.PoolSpec) { s.TaskSlotsPerNode = 4 })
	c.idle("p", 2)
	c.addJob("plain", "p", nil)
	_, err := c.jobs.AddTask(ctx, acct.Name, "plain", millpond.TaskSpec{ID: "x", CommandLine: "exit 0", DependsOn: &millpond.Dependencies{Tasks: []millpond.TaskID{"y"}}})
	c.code(err, "TaskDependenciesNotSpecifiedOnJob")

	c.addJob("j", "p", depends)
	// The last one first: what a task depends on need not exist yet.
	for i := 5; i > 0; i-- {
		c.addTask("j", fmt.Sprint(i), "sleep 20ms", after(millpond.TaskID(fmt.Sprint(i-1))))
	}
	c.addTask("j", "all", "exit 0", func(s *millpond.TaskSpec) {
		s.DependsOn = &millpond.Dependencies{Ranges: []millpond.IDRange{{Start: 0, End: 5}}}
	})
	time.Sleep(50 * time.Millisecond)
	if got := c.task("j", "1").State; got != millpond.TaskActive {
		t.Fatalf("a task whose dependency does not exist is %s", got)
	}
	c = restart()
	c.idle("p", 2)
	c.addTask("j", "0", "exit 0", nil)
	last := c.taskIn("j", "all", millpond.TaskCompleted)
	for i := 5; i > 0; i-- {
		v, before := c.task("j", fmt.Sprint(i)), c.task("j", fmt.Sprint(i-1))
		if v.Started.Before(before.Ended.Add(-time.Millisecond)) || last.Started.Before(v.Ended.Add(-time.Millisecond)) {
			t.Errorf("task %d began at %s, before task %d ended at %s", i, v.Started, i-1, before.Ended)
		}
	}

	c.addTask("j", "bad", "fail-until 2", nil)
	c.addTask("j", "blocked", "exit 0", after("bad"))
	c.addTask("j", "may", "exit 7", func(s *millpond.TaskSpec) {
		s.Exit = &millpond.ExitConditions{Codes: []millpond.ExitRange{{Start: 7, End: 7, Options: millpond.ExitOptions{Dependency: millpond.DependencySatisfy}}}}
	})
	c.addTask("j", "follows", "exit 0", after("may"))
	c.taskIn("j", "follows", millpond.TaskCompleted)
	c.taskIn("j", "bad", millpond.TaskCompleted)
	if got := c.task("j", "blocked").State; got != millpond.TaskActive {
		t.Fatalf("what depends on a failure is %s", got)
	}
	c = restart()
	c.idle("p", 2)
	if got := c.task("j", "blocked").State; got != millpond.TaskActive {
		t.Fatalf("after a restart what depends on a failure is %s", got)
	}
	c.must(c.jobs.ReactivateTask(ctx, acct.Name, "j", "bad", millpond.Condition{}))
	c.taskIn("j", "blocked", millpond.TaskCompleted)
}

// TestExitActions: a failure ends or disables a job that says so, and no other.
func TestExitActions(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	ctx := context.Background()
	c.addPool("p", 1, func(s *millpond.PoolSpec) { s.TaskSlotsPerNode = 4 })
	c.idle("p", 1)
	perform := func(s *millpond.JobSpec) { s.OnTaskFailure = millpond.OnTaskFailurePerform }
	on := func(o millpond.ExitOptions) func(*millpond.TaskSpec) {
		return func(s *millpond.TaskSpec) {
			s.Exit = &millpond.ExitConditions{Ranges: []millpond.ExitRange{{Start: 1, End: 9, Options: o}}}
		}
	}
	c.addJob("quiet", "p", nil)
	_, err := c.jobs.AddTask(ctx, acct.Name, "quiet", millpond.TaskSpec{ID: "x", CommandLine: "exit 1",
		Exit: &millpond.ExitConditions{Default: &millpond.ExitOptions{Job: millpond.JobActionTerminate}}})
	c.code(err, "InvalidPropertyValue")
	c.addTask("quiet", "t", "exit 1", nil)
	c.taskIn("quiet", "t", millpond.TaskCompleted)

	c.addJob("ends", "p", perform)
	c.addTask("ends", "long", "hang", nil)
	c.taskIn("ends", "long", millpond.TaskRunning)
	c.addTask("ends", "t", "exit 1", nil)
	if j := c.jobIn("ends", millpond.JobCompleted); j.TerminateReason != "TaskFailed" {
		t.Errorf("the reason is %q", j.TerminateReason)
	}

	// One that its user ends before it starts has not failed at anything.
	c.addPool("none", 0, nil)
	c.addJob("goeson", "none", perform)
	c.addTask("goeson", "t", "true", nil)
	c.must(c.jobs.TerminateTask(ctx, acct.Name, "goeson", "t", millpond.Condition{}))
	c.must(c.jobs.ReactivateTask(ctx, acct.Name, "goeson", "t", millpond.Condition{}))
	c.jobIn("goeson", millpond.JobActive)

	c.addJob("stops", "p", perform)
	c.addTask("stops", "ok", "exit 3", on(millpond.ExitOptions{Job: millpond.JobActionNone}))
	c.taskIn("stops", "ok", millpond.TaskCompleted)
	c.addTask("stops", "t", "exit 3", on(millpond.ExitOptions{Job: millpond.JobActionDisable}))
	c.jobIn("stops", millpond.JobDisabled)
	c.must(c.jobs.EnableJob(ctx, acct.Name, "stops", millpond.Condition{}))
	c.jobIn("stops", millpond.JobActive)
	if j := c.jobIn("quiet", millpond.JobActive); j.TerminateReason != "" {
		t.Errorf("%+v", j)
	}
}

// TestJobManager: it runs before all other tasks of its job, alone on a node if
// it says so, and its end is the job's.
func TestJobManager(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	c.addPool("p", 1, func(s *millpond.PoolSpec) { s.TaskSlotsPerNode = 4 })
	c.idle("p", 1)
	c.addJob("other", "p", nil)
	c.addTask("other", "o", "sleep 100ms", nil)
	c.taskIn("other", "o", millpond.TaskRunning)
	c.addJob("j", "p", func(s *millpond.JobSpec) {
		s.Manager = &millpond.TaskSpec{ID: "m", CommandLine: "sleep 150ms", Manager: &millpond.ManagerSpec{KillJob: true, Exclusive: true, AnyNode: true}}
	})
	c.addTask("j", "t", "hang", nil)
	c.addTask("other", "late", "exit 0", nil)
	j := c.jobIn("j", millpond.JobCompleted)
	m := c.task("j", "m")
	if o := c.task("other", "o"); o.State != millpond.TaskCompleted || m.Started.Before(o.Ended.Add(-time.Millisecond)) {
		t.Errorf("the manager began at %s, beside a task that ended at %s", m.Started, o.Ended)
	}
	if j.TerminateReason != "JMComplete" {
		t.Errorf("the reason is %q", j.TerminateReason)
	}
	if late := c.taskIn("other", "late", millpond.TaskCompleted); late.Ended.After(m.Started) && late.Started.Before(m.Ended.Add(-time.Millisecond)) {
		t.Errorf("a task ran from %s to %s beside the exclusive manager", late.Started, late.Ended)
	}
}

// TestPreemptedTaskRunsAgain: a job of higher priority takes the slot of one
// that allows it; the task goes back to the queue and runs later.
func TestPreemptedTaskRunsAgain(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	ctx := context.Background()
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	c.addJob("low", "p", func(s *millpond.JobSpec) { s.AllowPreemption = true })
	c.addTask("low", "l", "hang-once", nil)
	c.wait("it runs", h.began("low/l", 1))
	c.addJob("high", "p", nil)
	c.addTask("high", "h", "sleep 10ms", nil)
	time.Sleep(30 * time.Millisecond)
	if s := c.task("low", "l").State; s != millpond.TaskRunning {
		t.Fatalf("a job of the same priority took its slot: it is %s", s)
	}
	ten := 10
	c.must(c.jobs.PatchJob(ctx, acct.Name, "high", millpond.Condition{}, job.Patch{Priority: &ten}))
	c.taskIn("high", "h", millpond.TaskCompleted)
	l := c.taskIn("low", "l", millpond.TaskCompleted)
	if l.RequeueCount != 1 || l.RetryCount != 0 || l.Result != "success" {
		t.Errorf("the evicted task has %d requeues, %d retries, result %s", l.RequeueCount, l.RetryCount, l.Result)
	}
}
