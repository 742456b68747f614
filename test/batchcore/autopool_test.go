package batchcore

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
)

func autoPool(lifetime azbatch.PoolLifetimeOption, nodes int32) *azbatch.PoolInfo {
	return &azbatch.PoolInfo{AutoPoolSpecification: &azbatch.AutoPoolSpecification{PoolLifetimeOption: &lifetime, AutoPoolIDPrefix: ptr("mine"),
		Pool: &azbatch.PoolSpecification{VMSize: ptr("Standard_D2s_v3"), TargetDedicatedNodes: &nodes, TaskSlotsPerNode: ptr(int32(2)), Metadata: []azbatch.MetadataItem{{Name: ptr("a"), Value: ptr("b")}},
			VirtualMachineConfiguration: &azbatch.VirtualMachineConfiguration{NodeAgentSKUID: ptr("batch.node.debian 12"), ImageReference: &azbatch.ImageReference{VirtualMachineImageID: ptr("/x")}}}}}
}

// gone waits until a pool does not exist any more.
func (c *core) gone(id string) {
	c.t.Helper()
	c.wait("pool "+id+" is gone", func() bool {
		_, err := c.pools.Get(ctx, acct.Name, millpond.PoolID(id))
		return millpond.AsError(err).Code == "PoolNotFound"
	})
}

// TestAutoPool: a job's own pool is made for it, runs its tasks, and goes with
// it, or stays if the job says so by then.
func TestAutoPool(t *testing.T) {
	c, _, restart := setup(t, node.Config{})
	client := c.sdk()
	add := func(id string, info *azbatch.PoolInfo) error {
		_, err := client.CreateJob(ctx, azbatch.CreateJobContent{ID: &id, PoolInfo: info}, nil)
		return err
	}
	for _, bad := range []struct {
		code string
		mod  func(*azbatch.PoolInfo)
	}{
		{"InvalidPropertyValue", func(i *azbatch.PoolInfo) { i.PoolID = ptr("p") }},
		{"MissingRequiredProperty", func(i *azbatch.PoolInfo) { i.AutoPoolSpecification.Pool = nil }},
		{"MissingRequiredProperty", func(i *azbatch.PoolInfo) { i.AutoPoolSpecification.Pool.VMSize = nil }},
		{"InvalidPropertyValue", func(i *azbatch.PoolInfo) { i.AutoPoolSpecification.Pool.VMSize = ptr("Standard_None") }},
		{"InvalidPropertyValue", func(i *azbatch.PoolInfo) { i.AutoPoolSpecification.Pool.TaskSlotsPerNode = ptr(int32(200)) }},
		{"InvalidPropertyValue", func(i *azbatch.PoolInfo) { i.AutoPoolSpecification.AutoPoolIDPrefix = ptr("a b") }},
		{"InvalidPropertyValue", func(i *azbatch.PoolInfo) {
			i.AutoPoolSpecification.PoolLifetimeOption = ptr(azbatch.PoolLifetimeOptionJobSchedule)
		}},
		{"AutoScalingFormulaSyntaxError", func(i *azbatch.PoolInfo) {
			p := i.AutoPoolSpecification.Pool
			p.TargetDedicatedNodes, p.EnableAutoScale, p.AutoScaleFormula = nil, ptr(true), ptr("$TargetDedicatedNodes = (")
		}},
	} {
		info := autoPool(azbatch.PoolLifetimeOptionJob, 1)
		bad.mod(info)
		if err := add("bad", info); !refusedWith(err, bad.code) {
			t.Errorf("got %v, want %s", err, bad.code)
		}
	}
	c.must(add("j", autoPool(azbatch.PoolLifetimeOptionJob, 1)))
	got, err := client.GetJob(ctx, "j", nil)
	c.must(err)
	id := *got.ExecutionInfo.PoolID
	if !regexp.MustCompile(`^mine[0-9A-F-]{36}$`).MatchString(id) || got.PoolInfo.PoolID != nil || *got.PoolInfo.AutoPoolSpecification.Pool.TaskSlotsPerNode != 2 || *got.PoolInfo.AutoPoolSpecification.KeepAlive {
		t.Errorf("pool %q, %+v", id, got.PoolInfo)
	}
	c.addTask("j", "t", "sleep 1ms", nil)
	c.taskIn("j", "t", millpond.TaskCompleted)
	p, err := client.GetPool(ctx, id, nil)
	c.must(err)
	if *p.Metadata[0].Value != "b" || *p.CurrentDedicatedNodes != 1 {
		t.Errorf("the pool is %+v", p)
	}
	// A restart makes nothing twice.
	c = restart()
	client = c.sdk()
	c.idle(id, 1)
	_, err = client.TerminateJob(ctx, "j", nil)
	c.must(err)
	c.jobIn("j", millpond.JobCompleted)
	c.gone(id)

	c.must(add("kept", autoPool(azbatch.PoolLifetimeOptionJob, 0)))
	got, err = client.GetJob(ctx, "kept", nil)
	c.must(err)
	keep := *got.ExecutionInfo.PoolID
	info := got.PoolInfo
	info.AutoPoolSpecification.Pool.TaskSlotsPerNode = ptr(int32(1))
	if _, err = client.UpdateJob(ctx, "kept", azbatch.UpdateJobContent{PoolInfo: info}, nil); !refusedWith(err, "InvalidPropertyValue") {
		t.Errorf("the pool's slots changed: %v", err)
	}
	info.AutoPoolSpecification.Pool.TaskSlotsPerNode = ptr(int32(2))
	info.AutoPoolSpecification.KeepAlive = ptr(true)
	_, err = client.UpdateJob(ctx, "kept", azbatch.UpdateJobContent{PoolInfo: info}, nil)
	c.must(err)
	c.must(add("deleted", autoPool(azbatch.PoolLifetimeOptionJob, 1)))
	got, err = client.GetJob(ctx, "deleted", nil)
	c.must(err)
	for _, id := range []string{"kept", "deleted"} {
		_, err = client.DeleteJob(ctx, id, nil)
		c.must(err)
	}
	c.gone(*got.ExecutionInfo.PoolID)
	// Its job may have gone before it was made; it is made all the same.
	c.wait("the pool that is to be kept is there", func() bool { _, err := client.GetPool(ctx, keep, nil); return err == nil })

	// A pool that cannot be made ends its job, and says why.
	for i := range acct.PoolQuota {
		c.must(add(fmt.Sprint("q", i), autoPool(azbatch.PoolLifetimeOptionJob, 0)))
	}
	c.must(add("last", autoPool(azbatch.PoolLifetimeOptionJob, 0)))
	c.wait("a job without a pool has completed", func() bool {
		pager := client.NewListJobsPager(&azbatch.ListJobsOptions{Filter: ptr("state eq 'completed'")})
		page, err := pager.NextPage(ctx)
		c.must(err)
		for _, j := range page.Value {
			if e := j.ExecutionInfo.SchedulingError; e != nil {
				return *e.Code == "AutoPoolCreationFailedWithQuotaReached" && *e.Category == azbatch.ErrorCategoryUserError
			}
		}
		return false
	})
}

// TestSchedulesPool: the jobs of a schedule share a pool, which goes with it.
func TestSchedulesPool(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	client := c.sdk()
	_, err := client.CreateJobSchedule(ctx, azbatch.CreateJobScheduleContent{ID: ptr("s"), Schedule: &azbatch.JobScheduleConfiguration{RecurrenceInterval: ptr("PT1H")},
		JobSpecification: &azbatch.JobSpecification{PoolInfo: autoPool(azbatch.PoolLifetimeOptionJobSchedule, 1), OnAllTasksComplete: ptr(azbatch.OnAllTasksCompleteTerminateJob),
			JobManagerTask: &azbatch.JobManagerTask{ID: ptr("m"), CommandLine: ptr("sleep 1ms")}}}, nil)
	c.must(err)
	first := c.scheduledJob("s:job-1")
	c.clock.manual.Advance(time.Hour + time.Minute)
	second := c.scheduledJob("s:job-2")
	if first.Spec.Pool == "" || first.Spec.Pool != second.Spec.Pool {
		t.Errorf("the jobs' pools are %s and %s", first.Spec.Pool, second.Spec.Pool)
	}
	if _, err := client.GetPool(ctx, string(first.Spec.Pool), nil); err != nil {
		t.Error(err)
	}
	_, err = client.TerminateJobSchedule(ctx, "s", nil)
	c.must(err)
	c.gone(string(first.Spec.Pool))
	_, err = client.DeleteJobSchedule(ctx, "s", nil)
	c.must(err)
}

// scheduledJob waits until a schedule's job is there and has completed.
func (c *core) scheduledJob(id string) (j millpond.Job) {
	c.t.Helper()
	c.wait("job "+id+" has completed", func() bool {
		var err error
		j, err = c.jobs.GetJob(ctx, acct.Name, millpond.JobID(id))
		return err == nil && j.State == millpond.JobCompleted
	})
	return j
}
