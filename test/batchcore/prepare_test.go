package batchcore

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

func preparing(command, release string, mod func(*millpond.JobTask)) func(*millpond.JobSpec) {
	return func(s *millpond.JobSpec) {
		s.Preparation = &millpond.JobTask{TaskSpec: millpond.TaskSpec{CommandLine: command}, WaitForSuccess: true, RerunOnReboot: true}
		if release != "" {
			s.Release = &millpond.JobTask{TaskSpec: millpond.TaskSpec{CommandLine: release}}
		}
		if mod != nil {
			mod(s.Preparation)
		}
	}
}

func (c *core) jobNodes(job string) []millpond.JobNode {
	c.t.Helper()
	rows, _, err := c.jobs.ListJobNodes(ctx, acct.Name, millpond.JobID(job), millpond.ListQuery[millpond.JobNode]{})
	c.must(err)
	return rows
}

func (h *hall) ran(id string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.runs[id]
}

// TestPreparation: once per node before the first task there, again after a
// reboot, release on each node at the end, also over restarts of the server.
func TestPreparation(t *testing.T) {
	c, h, restart := setup(t, node.Config{})
	c.addPool("p", 2, func(s *millpond.PoolSpec) { s.TaskSlotsPerNode = 2 })
	c.idle("p", 2)
	c.addJob("j", "p", preparing("gate", "sleep 200ms", nil))
	_, err := c.jobs.AddTask(ctx, acct.Name, "j", millpond.TaskSpec{ID: "JobPreparation", CommandLine: "x"})
	c.code(err, "TaskIdSameAsJobPreparationTask")
	_, err = c.jobs.AddTask(ctx, acct.Name, "j", millpond.TaskSpec{ID: "jobrelease", CommandLine: "x"})
	c.code(err, "TaskIdSameAsJobReleaseTask")
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		c.addTask("j", id, "sleep 10ms", nil)
	}
	c.taskIn("j", "a", millpond.TaskPreparing)
	// Tasks that wait for the preparation count as running.
	c.wait("four tasks that wait for the preparation", func() bool {
		k, _, err := c.jobs.TaskCounts(ctx, acct.Name, "j")
		c.must(err)
		return k.Running == 4
	})
	c = restart()
	close(h.gate)
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		if v := c.taskIn("j", id, millpond.TaskCompleted); v.Result != "success" {
			t.Errorf("%+v", v)
		}
	}
	rows := c.jobNodes("j")
	if len(rows) != 2 {
		t.Fatalf("%d nodes were prepared", len(rows))
	}
	for _, r := range rows {
		if n := h.ran("j/jobpreparation@" + r.Node.Key()); n != 1 || r.Phase != millpond.JobNodeReady || r.Prepared.Result != "success" || *r.Prepared.ExitCode != 0 || r.Prepared.Directory != "workitems/j/job-1/jobpreparation" {
			t.Errorf("%d runs, %+v %+v", n, r, r.Prepared)
		}
	}
	first := rows[0].Node
	c.reboot("p", first)
	c.addTask("j", "after", "sleep 1ms", func(s *millpond.TaskSpec) { s.Affinity = string(first) })
	c.taskIn("j", "after", millpond.TaskCompleted)
	if n := h.ran("j/jobpreparation@" + first.Key()); n != 2 {
		t.Errorf("after a reboot the preparation ran %d times", n)
	}
	c.addTask("j", "hangs", "hang", nil)
	c.taskIn("j", "hangs", millpond.TaskRunning)
	c.must(c.jobs.TerminateJob(ctx, acct.Name, "j", millpond.Condition{}, "enough", false))
	c.wait("the release runs", func() bool { return h.ran("j/jobrelease@"+first.Key()) == 1 })
	c = restart()
	c.jobIn("j", millpond.JobCompleted)
	for _, r := range c.jobNodes("j") {
		if n := h.ran("j/jobrelease@" + r.Node.Key()); n != 1 || r.Phase != millpond.JobNodeDone || r.Released.Result != "success" {
			t.Errorf("%d releases, %+v %+v", n, r, r.Released)
		}
	}
	c.must(c.jobs.DeleteJob(ctx, acct.Name, "j", millpond.Condition{}, false))
	c.wait("the job is gone", func() bool {
		_, err := c.jobs.GetJob(ctx, acct.Name, "j")
		return millpond.AsError(err).Code == "JobNotFound"
	})
	if n := h.ran("j/jobrelease@" + first.Key()); n != 1 {
		t.Errorf("a job that had ended was released %d times", n)
	}
	removed := func(dir string) bool {
		h.mu.Lock()
		m := h.machines[first.Key()]
		h.mu.Unlock()
		m.agent.mu.Lock()
		defer m.agent.mu.Unlock()
		for _, d := range m.agent.removed {
			if d == dir {
				return true
			}
		}
		return false
	}
	for _, dir := range []string{"workitems/j/job-1/jobpreparation", "workitems/j/job-1/jobrelease"} {
		c.wait(dir+" is removed", func() bool { return removed(dir) })
	}
}

// TestPreparationFails: the node takes no task of the job, the tasks wait or go
// elsewhere, other jobs run there; a reboot gives it another chance.
func TestPreparationFails(t *testing.T) {
	c, h, restart := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	first := c.list("p")[0].ID
	c.addJob("j", "p", preparing("fail-until 4", "sleep 1ms", func(t *millpond.JobTask) { t.MaxRetries = ptr(1) }))
	c.addTask("j", "t", "sleep 1ms", nil)
	c.wait("the preparation has failed", func() bool {
		rows := c.jobNodes("j")
		return len(rows) == 1 && rows[0].Phase == millpond.JobNodeBarred
	})
	r := c.jobNodes("j")[0]
	if r.Prepared.RetryCount != 1 || r.Prepared.Result != "failure" || *r.Prepared.ExitCode != 1 || r.Prepared.Failure.Code != "FailureExitCode" {
		t.Errorf("%+v", r.Prepared)
	}
	if v := c.task("j", "t"); v.State != millpond.TaskActive || v.RetryCount+v.RequeueCount != 0 {
		t.Errorf("the task is %+v", v)
	}
	c.addJob("other", "p", nil)
	c.addTask("other", "t", "sleep 1ms", nil)
	c.taskIn("other", "t", millpond.TaskCompleted)
	c = restart()
	c.idle("p", 1)
	c.addTask("other", "t2", "sleep 1ms", nil)
	c.taskIn("other", "t2", millpond.TaskCompleted)
	if v := c.task("j", "t"); v.State != millpond.TaskActive || h.ran("j/jobpreparation@"+first.Key()) != 2 {
		t.Errorf("after a restart of the server the task is %s", v.State)
	}
	c.reboot("p", first)
	// The third run fails, the fourth does not.
	if v := c.taskIn("j", "t", millpond.TaskCompleted); v.Result != "success" {
		t.Errorf("%+v", v)
	}

	// Without waitForSuccess nothing waits, and a failure bars nothing.
	c.addJob("eager", "p", preparing("fail-until 99", "", func(t *millpond.JobTask) { t.WaitForSuccess = false }))
	c.addTask("eager", "t", "sleep 1ms", nil)
	c.taskIn("eager", "t", millpond.TaskCompleted)
	c.wait("the preparation has failed", func() bool { return c.jobNodes("eager")[0].Prepared.Result == "failure" })
	c.addTask("eager", "t2", "sleep 1ms", nil)
	c.taskIn("eager", "t2", millpond.TaskCompleted)

	// A job that ends while a node prepares ends that, and is released all the same.
	c.addJob("slow", "p", preparing("hang", "sleep 1ms", nil))
	c.addTask("slow", "t", "sleep 1ms", nil)
	c.taskIn("slow", "t", millpond.TaskPreparing)
	c.wait("the preparation runs", func() bool { return h.ran("slow/jobpreparation@"+first.Key()) == 1 })
	c.must(c.jobs.TerminateJob(ctx, acct.Name, "slow", millpond.Condition{}, "", false))
	c.jobIn("slow", millpond.JobCompleted)
	if r := c.jobNodes("slow")[0]; r.Prepared.Failure.Code != millpond.CodeTaskEnded || r.Released.Result != "success" {
		t.Errorf("%+v %+v", r.Prepared, r.Released)
	}
	if v := c.task("slow", "t"); v.State != millpond.TaskCompleted || v.Failure.Code != millpond.CodeTaskEnded {
		t.Errorf("%+v", v)
	}

	// Force does not wait for the release; a node that is gone is not waited for.
	for _, id := range []string{"forced", "stuck"} {
		c.addJob(id, "p", preparing("sleep 1ms", "hang", nil))
		c.addTask(id, "t", "sleep 1ms", nil)
		c.taskIn(id, "t", millpond.TaskCompleted)
		c.must(c.jobs.TerminateJob(ctx, acct.Name, millpond.JobID(id), millpond.Condition{}, "", id == "forced"))
	}
	c.jobIn("forced", millpond.JobCompleted)
	time.Sleep(50 * time.Millisecond)
	c.jobIn("stuck", millpond.JobTerminating)
	c.must(c.pools.RemoveNodes(ctx, acct.Name, "p", millpond.Condition{}, []millpond.NodeID{first}, nil, millpond.DeallocateRequeue))
	c.jobIn("stuck", millpond.JobCompleted)
	if r := c.jobNodes("stuck")[0]; r.Released.Result != "failure" {
		t.Errorf("%+v", r.Released)
	}
	c.steady("p")
	c.must(c.pools.Resize(ctx, acct.Name, "p", millpond.Condition{}, pool.Targets{Dedicated: ptr(1)}, millpond.DeallocateRequeue))
	c.idle("p", 1)
	c.addJob("late", "p", preparing("sleep 1ms", "hang", nil))
	c.addTask("late", "t", "sleep 1ms", nil)
	c.taskIn("late", "t", millpond.TaskCompleted)
	c.must(c.jobs.DeleteJob(ctx, acct.Name, "late", millpond.Condition{}, false))
	c.wait("the release runs", func() bool { return h.ran("late/jobrelease@"+c.list("p")[0].ID.Key()) == 1 })
	c.clock.manual.Advance(20 * time.Minute)
	// The test's clock wakes nobody; another job does.
	c.addJob("waker", "p", nil)
	c.wait("the job is gone although its release hangs", func() bool {
		_, err := c.jobs.GetJob(ctx, acct.Name, "late")
		return millpond.AsError(err).Code == "JobNotFound"
	})
}
