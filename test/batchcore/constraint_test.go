package batchcore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
)

// TestConstraints: limits of jobs and tasks as the Go SDK sets them, on real
// agents.
func TestConstraints(t *testing.T) {
	c, h := realSetup(t)
	client := c.sdk()
	c.addPool("p", 1, func(s *millpond.PoolSpec) { s.TaskSlotsPerNode = 4 })
	c.idle("p", 1)
	add := func(id string, mod func(*azbatch.CreateJobContent)) {
		t.Helper()
		b := azbatch.CreateJobContent{ID: &id, PoolInfo: &azbatch.PoolInfo{PoolID: ptr("p")}}
		if mod != nil {
			mod(&b)
		}
		_, err := client.CreateJob(ctx, b, nil)
		c.must(err)
	}
	task := func(job, id, command string, k *azbatch.TaskConstraints) {
		t.Helper()
		_, err := client.CreateTask(ctx, job, azbatch.CreateTaskContent{ID: &id, CommandLine: &command, Constraints: k}, nil)
		c.must(err)
	}
	runs := filepath.Join(h.real, "runs")
	fails := func(until int) string {
		return fmt.Sprintf("/bin/sh -c 'echo >> %s; test $(wc -l < %s) -ge %d'", runs, runs, until)
	}
	ran := func() int {
		b, _ := os.ReadFile(runs)
		_ = os.Remove(runs)
		return len(b)
	}

	// The job's count of retries holds where the task has none, also one that is
	// changed later; -1 is without end.
	add("retries", func(b *azbatch.CreateJobContent) {
		b.Constraints = &azbatch.JobConstraints{MaxTaskRetryCount: ptr(int32(-1))}
	})
	task("retries", "forever", fails(6), nil)
	if v := c.taskIn("retries", "forever", millpond.TaskCompleted); v.Result != "success" || v.RetryCount != 5 || ran() != 6 {
		t.Errorf("%+v", v)
	}
	_, err := client.UpdateJob(ctx, "retries", azbatch.UpdateJobContent{Constraints: &azbatch.JobConstraints{MaxTaskRetryCount: ptr(int32(1))}}, nil)
	c.must(err)
	task("retries", "twice", fails(99), nil)
	if v := c.taskIn("retries", "twice", millpond.TaskCompleted); v.Result != "failure" || v.RetryCount != 1 || v.Failure.Code != "FailureExitCode" || ran() != 2 {
		t.Errorf("%+v", v)
	}
	task("retries", "own", fails(99), &azbatch.TaskConstraints{MaxTaskRetryCount: ptr(int32(0))})
	if v := c.taskIn("retries", "own", millpond.TaskCompleted); v.RetryCount != 0 || ran() != 1 {
		t.Errorf("%+v", v)
	}

	// A task that runs too long is ended and not tried again.
	task("retries", "long", "sleep 60", &azbatch.TaskConstraints{MaxWallClockTime: ptr("PT0.2S"), MaxTaskRetryCount: ptr(int32(3))})
	if v := c.taskIn("retries", "long", millpond.TaskCompleted); v.Failure == nil || v.Failure.Code != millpond.CodeTaskEnded || v.RetryCount != 0 {
		t.Errorf("%+v", v)
	}

	// Directories go when the retention after the task's end is over, and no sooner.
	task("retries", "kept", "true", &azbatch.TaskConstraints{RetentionTime: ptr("PT1H")})
	task("retries", "brief", "true", &azbatch.TaskConstraints{RetentionTime: ptr("PT0S")})
	c.taskIn("retries", "kept", millpond.TaskCompleted)
	c.taskIn("retries", "brief", millpond.TaskCompleted) // its directory is not there before it begins, either
	there := func(task string) bool {
		found, _ := filepath.Glob(filepath.Join(h.real, "*", "workitems", "retries", "job-1", task))
		return len(found) > 0
	}
	c.wait("the directory without retention is gone", func() bool { return !there("brief") })
	if !there("kept") {
		t.Error("a directory is gone before its time")
	}
	if _, err = client.GetTaskFile(ctx, "retries", "brief", "stdout.txt", nil); err == nil {
		t.Error("the files of a task whose directory is gone are there")
	}
	c.clock.manual.Advance(time.Hour)
	task("retries", "waker", "true", &azbatch.TaskConstraints{RetentionTime: ptr("PT0S")})
	c.wait("the directory is gone after its time", func() bool { return !there("kept") })

	// A task of an id that was there before runs, on the node that knew the other.
	for i := range 3 {
		task("retries", "again", fails(i+1), nil)
		if v := c.taskIn("retries", "again", millpond.TaskCompleted); v.Result != "success" {
			t.Errorf("%+v", v)
		}
		_, err = client.DeleteTask(ctx, "retries", "again", nil)
		c.must(err)
	}
	if n := ran(); n != 3 {
		t.Errorf("a task that was added three times ran %d times", n)
	}

	// maxParallelTasks holds, and counts from a patch on.
	add("narrow", func(b *azbatch.CreateJobContent) { b.MaxParallelTasks = ptr(int32(1)) })
	for i := range 4 {
		task("narrow", fmt.Sprint(i), "sleep 60", nil)
	}
	running := func() int {
		k, err := client.GetJobTaskCounts(ctx, "narrow", nil)
		c.must(err)
		return int(*k.TaskCounts.Running)
	}
	c.wait("one task runs", func() bool { return running() == 1 })
	_, err = client.UpdateJob(ctx, "narrow", azbatch.UpdateJobContent{MaxParallelTasks: ptr(int32(3))}, nil)
	c.must(err)
	c.wait("three tasks run", func() bool { return running() == 3 })
	time.Sleep(50 * time.Millisecond)
	if n := running(); n != 3 {
		t.Errorf("%d tasks run", n)
	}
	// A task that needs more slots than are free waits, one that needs more than
	// there are waits for ever.
	add("wide", nil)
	for id, slots := range map[string]int32{"two": 2, "five": 5} {
		_, err = client.CreateTask(ctx, "wide", azbatch.CreateTaskContent{ID: ptr(id), CommandLine: ptr("true"), RequiredSlots: ptr(slots)}, nil)
		c.must(err)
	}
	time.Sleep(50 * time.Millisecond)
	if v := c.task("wide", "two"); v.State != millpond.TaskActive {
		t.Errorf("a task of two slots is %s where one is free", v.State)
	}
	_, err = client.TerminateJob(ctx, "narrow", nil)
	c.must(err)
	if j := c.jobIn("narrow", millpond.JobCompleted); j.TerminateReason != "UserTerminate" {
		t.Errorf("the reason is %q", j.TerminateReason)
	}
	c.taskIn("wide", "two", millpond.TaskCompleted)
	if v := c.task("wide", "five"); v.State != millpond.TaskActive {
		t.Errorf("a task of five slots is %s", v.State)
	}

	// An empty job ends when it is told to end with its tasks, and cannot be told otherwise.
	add("empty", nil)
	_, err = client.UpdateJob(ctx, "empty", azbatch.UpdateJobContent{OnAllTasksComplete: ptr(azbatch.OnAllTasksCompleteTerminateJob)}, nil)
	c.must(err)
	if j := c.jobIn("empty", millpond.JobCompleted); j.TerminateReason != "AllTasksComplete" {
		t.Errorf("the reason is %q", j.TerminateReason)
	}

	// A job's time counts from its creation and ends what runs. It gets its limit when
	// the task runs: adding one takes longer than that on a busy machine.
	add("timed", func(b *azbatch.CreateJobContent) {
		b.Constraints = &azbatch.JobConstraints{MaxWallClockTime: ptr("PT1H")}
	})
	task("timed", "t", "sleep 60", nil)
	c.taskIn("timed", "t", millpond.TaskRunning)
	_, err = client.UpdateJob(ctx, "timed", azbatch.UpdateJobContent{Constraints: &azbatch.JobConstraints{MaxWallClockTime: ptr("PT0.3S")}}, nil)
	c.must(err)
	if j := c.jobIn("timed", millpond.JobCompleted); j.TerminateReason != "MaxWallClockTimeExpiry" {
		t.Errorf("the reason is %q", j.TerminateReason)
	}
	if v := c.task("timed", "t"); v.Failure == nil || v.Failure.Code != millpond.CodeTaskEnded {
		t.Errorf("%+v", v)
	}
	// Disabling in its three ways.
	add("off", nil)
	let := filepath.Join(h.real, "let")
	task("off", "t", "/bin/sh -c 'until [ -e "+let+" ]; do sleep 0.02; done'", nil)
	c.taskIn("off", "t", millpond.TaskRunning)
	_, err = client.DisableJob(ctx, "off", azbatch.DisableJobContent{DisableTasks: ptr(azbatch.DisableJobOptionRequeue)}, nil)
	c.must(err)
	c.jobIn("off", millpond.JobDisabled)
	if v := c.task("off", "t"); v.State != millpond.TaskActive || v.RequeueCount != 1 {
		t.Errorf("%+v", v)
	}
	_, err = client.EnableJob(ctx, "off", nil)
	c.must(err)
	c.taskIn("off", "t", millpond.TaskRunning)
	_, err = client.DisableJob(ctx, "off", azbatch.DisableJobContent{DisableTasks: ptr(azbatch.DisableJobOptionWait)}, nil)
	c.must(err)
	c.jobIn("off", millpond.JobDisabling)
	c.must(os.WriteFile(let, nil, 0o600))
	c.jobIn("off", millpond.JobDisabled)
	if v := c.task("off", "t"); v.State != millpond.TaskCompleted || v.Result != "success" {
		t.Errorf("%+v", v)
	}
	task("off", "u", "sleep 60", nil)
	_, err = client.EnableJob(ctx, "off", nil)
	c.must(err)
	c.taskIn("off", "u", millpond.TaskRunning)
	_, err = client.DisableJob(ctx, "off", azbatch.DisableJobContent{DisableTasks: ptr(azbatch.DisableJobOptionTerminate)}, nil)
	c.must(err)
	c.jobIn("off", millpond.JobDisabled)
	if v := c.task("off", "u"); v.State != millpond.TaskCompleted || v.Failure.Code != millpond.CodeTaskEnded {
		t.Errorf("%+v", v)
	}
}

// TestForce: a job whose node says nothing any more ends at once with force.
func TestForce(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	client := c.sdk()
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	for _, id := range []string{"ended", "deleted"} {
		c.addJob(id, "p", nil)
		c.addTask(id, "t", "deaf", nil)
		c.taskIn(id, "t", millpond.TaskRunning)
		c.wait("the task runs", h.began(id+"/t", 1))
		var err error
		if id == "ended" {
			_, err = client.TerminateJob(ctx, id, nil)
			c.must(err)
			time.Sleep(50 * time.Millisecond)
			c.jobIn(id, millpond.JobTerminating)
			_, err = client.DeleteJob(ctx, id, &azbatch.DeleteJobOptions{Force: ptr(true)})
		} else {
			_, err = client.TerminateJob(ctx, id, &azbatch.TerminateJobOptions{Force: ptr(true)})
			c.must(err)
			c.jobIn(id, millpond.JobCompleted)
			_, err = client.DeleteJob(ctx, id, nil)
		}
		c.must(err)
		c.wait("the job is gone", func() bool {
			_, err := c.jobs.GetJob(ctx, acct.Name, millpond.JobID(id))
			return millpond.AsError(err).Code == "JobNotFound"
		})
	}
}
