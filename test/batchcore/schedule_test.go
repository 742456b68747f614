package batchcore

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/node"
)

// TestJobSchedule: one job at a time, the next when it is due, over a restart;
// disabled ones make none, a terminated one ends its job, a deleted one takes
// its jobs along.
func TestJobSchedule(t *testing.T) {
	c, _, restart := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	spec := millpond.JobScheduleSpec{ID: "s", Recurrence: millpond.Recurrence{Interval: time.Hour},
		Job: millpond.JobSpec{Pool: "p", OnAllTasksComplete: "terminatejob", Manager: &millpond.TaskSpec{ID: "m", CommandLine: "sleep 20ms", Manager: &millpond.ManagerSpec{AnyNode: true}}}}
	bad := spec
	bad.Recurrence.Interval = time.Second
	_, err := c.jobs.AddSchedule(ctx, acct.Name, bad)
	c.code(err, "InvalidPropertyValue")
	_, err = c.jobs.AddSchedule(ctx, acct.Name, spec)
	c.must(err)
	_, err = c.jobs.AddSchedule(ctx, acct.Name, spec)
	c.code(err, "JobScheduleExists")
	_, err = c.jobs.AddJob(ctx, acct.Name, millpond.JobSpec{ID: "S", Pool: "p"})
	c.code(err, "JobScheduleWithSameIdExists")
	get := func() millpond.JobSchedule {
		v, err := c.jobs.GetSchedule(ctx, acct.Name, "s")
		c.must(err)
		return v
	}
	if j := c.jobIn("s:job-1", millpond.JobCompleted); j.TerminateReason != "AllTasksComplete" {
		t.Errorf("the reason is %q", j.TerminateReason)
	}
	if v := get(); v.Runs != 1 || v.Recent != "s:job-1" || v.NextRun.Sub(v.Created) != time.Hour {
		t.Errorf("%+v", v)
	}
	c = restart()
	c.idle("p", 1)
	c.clock.manual.Advance(3*time.Hour + time.Minute)
	c.jobIn("s:job-2", millpond.JobCompleted)
	if v := get(); v.Runs != 2 || v.NextRun.Sub(v.Created) != 4*time.Hour {
		t.Errorf("missed times are made up for: %+v", v)
	}
	c.must(c.jobs.DisableSchedule(ctx, acct.Name, "s", millpond.Condition{}))
	c.clock.manual.Advance(2 * time.Hour)
	time.Sleep(300 * time.Millisecond)
	if v := get(); v.Runs != 2 || v.State != millpond.ScheduleDisabled {
		t.Errorf("a disabled schedule makes jobs: %+v", v)
	}
	spec.Job.Manager.CommandLine = "hang"
	c.must(c.jobs.EnableSchedule(ctx, acct.Name, "s", millpond.Condition{}))
	c.jobIn("s:job-3", millpond.JobCompleted)
	jobs, _, err := c.jobs.ListScheduleJobs(ctx, acct.Name, "s", millpond.ListQuery[millpond.Job]{})
	c.must(err)
	if len(jobs) != 3 {
		t.Errorf("%d jobs", len(jobs))
	}

	spec.ID = "long"
	_, err = c.jobs.AddSchedule(ctx, acct.Name, spec)
	c.must(err)
	c.taskIn2("long:job-1", "m", millpond.TaskRunning)
	c.must(c.jobs.TerminateSchedule(ctx, acct.Name, "long", millpond.Condition{}, false))
	if j := c.jobIn("long:job-1", millpond.JobCompleted); j.TerminateReason != "TerminateJobSchedule" {
		t.Errorf("the reason is %q", j.TerminateReason)
	}
	c.wait("the schedule has completed", func() bool {
		v, err := c.jobs.GetSchedule(ctx, acct.Name, "long")
		return err == nil && v.State == millpond.ScheduleCompleted
	})
	c.code(c.jobs.EnableSchedule(ctx, acct.Name, "long", millpond.Condition{}), "JobScheduleCompleted")
	c.must(c.jobs.DeleteSchedule(ctx, acct.Name, "s", millpond.Condition{}, false))
	c.wait("the schedule and its jobs are gone", func() bool {
		_, gone := c.jobs.GetSchedule(ctx, acct.Name, "s")
		_, too := c.jobs.GetJob(ctx, acct.Name, "s:job-1")
		return millpond.AsError(gone).Code == "JobScheduleNotFound" && millpond.AsError(too).Code == "JobNotFound"
	})
}

// taskIn2 waits also until the task is there at all.
func (c *core) taskIn2(job, id string, s millpond.TaskState) {
	c.t.Helper()
	c.wait("task "+id+" is "+string(s), func() bool {
		t, err := c.jobs.GetTask(ctx, acct.Name, millpond.JobID(job), millpond.TaskID(id))
		return err == nil && t.State == s
	})
}

// TestScheduleThatIsOver: one whose end has passed while its last job runs can still
// be changed in what is not its times.
func TestScheduleThatIsOver(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	_, err := c.jobs.AddSchedule(ctx, acct.Name, millpond.JobScheduleSpec{ID: "s", Recurrence: millpond.Recurrence{Interval: time.Hour, DoNotRunAfter: c.clock.Now().Add(time.Minute)},
		Job: millpond.JobSpec{Pool: "p", Manager: &millpond.TaskSpec{ID: "m", CommandLine: "hang", Manager: &millpond.ManagerSpec{AnyNode: true}}}})
	c.must(err)
	c.taskIn2("s:job-1", "m", millpond.TaskRunning)
	c.clock.manual.Advance(2 * time.Minute)
	change := func(p job.SchedulePatch) error {
		return c.jobs.ChangeSchedule(ctx, acct.Name, "s", millpond.Condition{}, p)
	}
	c.must(change(job.SchedulePatch{Metadata: &[]millpond.NameValue{{Name: "who", Value: "me"}}}))
	v, err := c.jobs.GetSchedule(ctx, acct.Name, "s")
	c.must(err)
	c.code(change(job.SchedulePatch{Recurrence: &v.Spec.Recurrence}), "InvalidPropertyValue")
	if len(v.Spec.Metadata) != 1 || v.State != millpond.ScheduleActive {
		t.Errorf("%+v", v)
	}
}
