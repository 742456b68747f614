package batchcore

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// spent is a duration as the statistics write it.
func (c *core) spent(s *string) time.Duration {
	c.t.Helper()
	d, _, err := azwire.ParseDuration(*s)
	c.must(err)
	return d
}

// TestStatistics: what commands of real agents used is summed up by task, job,
// schedule and account, deleted jobs included; pools by the time of their nodes.
func TestStatistics(t *testing.T) {
	c, _ := realSetup(t)
	client := c.sdk()
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	burn := "/bin/sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=x bs=4096 count=1000 conv=fsync 2>/dev/null'"
	spec := azbatch.JobSpecification{PoolInfo: &azbatch.PoolInfo{PoolID: ptr("p")}, OnAllTasksComplete: ptr(azbatch.OnAllTasksCompleteTerminateJob),
		JobManagerTask: &azbatch.JobManagerTask{ID: ptr("m"), CommandLine: &burn}}
	_, err := client.CreateJobSchedule(ctx, azbatch.CreateJobScheduleContent{ID: ptr("s"), Schedule: &azbatch.JobScheduleConfiguration{RecurrenceInterval: ptr("PT1H")}, JobSpecification: &spec}, nil)
	c.must(err)
	c.scheduledJob("s:job-1")
	_, err = client.CreateJob(ctx, azbatch.CreateJobContent{ID: ptr("j"), PoolInfo: &azbatch.PoolInfo{PoolID: ptr("p")}, Constraints: &azbatch.JobConstraints{MaxTaskRetryCount: ptr(int32(1))}}, nil)
	c.must(err)
	for id, command := range map[string]string{"burns": burn, "fails": "false", "works": "true"} {
		_, err := client.CreateTask(ctx, "j", azbatch.CreateTaskContent{ID: &id, CommandLine: &command}, nil)
		c.must(err)
	}
	for _, id := range []string{"burns", "fails", "works"} {
		c.taskIn("j", id, millpond.TaskCompleted)
	}
	expand := []string{"stats"}
	task, err := client.GetTask(ctx, "j", "burns", &azbatch.GetTaskOptions{Expand: expand})
	c.must(err)
	s := task.Stats
	if cpu := c.spent(s.UserCPUTime); cpu < 10*time.Millisecond || cpu > time.Minute || c.spent(s.WallClockTime) < cpu/2 || *s.WriteIOPS < 1000 || s.WaitTime == nil {
		t.Errorf("the task used %s", asJSON(s))
	}
	if task, err = client.GetTask(ctx, "j", "burns", nil); err != nil || task.Stats != nil {
		t.Errorf("statistics that nobody asked for: %v %+v", err, task.Stats)
	}
	job, err := client.GetJob(ctx, "j", &azbatch.GetJobOptions{Expand: expand})
	c.must(err)
	if j := job.Stats; *j.NumSucceededTasks != 2 || *j.NumFailedTasks != 1 || *j.NumTaskRetries != 1 || *j.WriteIOps < 1000 || c.spent(j.UserCPUTime) < c.spent(s.UserCPUTime) || j.StartTime == nil {
		t.Errorf("the job used %s", asJSON(j))
	}
	jobs, err := client.NewListJobsPager(&azbatch.ListJobsOptions{Expand: expand}).NextPage(ctx)
	c.must(err)
	for _, j := range jobs.Value {
		if j.Stats == nil || *j.Stats.NumSucceededTasks == 0 {
			t.Errorf("job %s in the list used %s", *j.ID, asJSON(j.Stats))
		}
	}
	c.clock.manual.Advance(time.Hour + time.Minute)
	c.scheduledJob("s:job-2")
	_, err = client.DeleteJob(ctx, "s:job-1", nil)
	c.must(err)
	c.wait("the first job is gone", func() bool {
		_, err := c.jobs.GetJob(ctx, acct.Name, "s:job-1")
		return millpond.AsError(err).Code == "JobNotFound"
	})
	schedule, err := client.GetJobSchedule(ctx, "s", &azbatch.GetJobScheduleOptions{Expand: expand})
	c.must(err)
	if x := schedule.Stats; *x.NumSucceededTasks != 2 || *x.WriteIOPS < 2000 || *x.URL == "" {
		t.Errorf("the schedule used %s", asJSON(x))
	}
	pool, err := client.GetPool(ctx, "p", &azbatch.GetPoolOptions{Expand: expand})
	c.must(err)
	// Standard_D2s_v3 has two cores, and the clock was moved on by an hour.
	if x := c.spent(pool.Stats.UsageStats.DedicatedCoreTime); x < 2*time.Hour || x > 3*time.Hour {
		t.Errorf("the pool used %s", x)
	}
	for _, id := range []string{"j", "s:job-2"} {
		_, err = client.DeleteJob(ctx, id, nil)
		c.must(err)
	}
	_, err = client.DeletePool(ctx, "p", nil)
	c.must(err)
	c.gone("p")
	var all azbatch.JobStatistics
	c.read("/lifetimejobstats?api-version=2019-08-01.10.0", &all)
	if *all.NumSucceededTasks != 4 || *all.NumFailedTasks != 1 || *all.WriteIOps < 3000 {
		t.Errorf("the account used %s", asJSON(all))
	}
	var pools azbatch.PoolStatistics
	c.read("/lifetimepoolstats?api-version=2019-08-01.10.0", &pools)
	if x := c.spent(pools.UsageStats.DedicatedCoreTime); x < 2*time.Hour || x > 3*time.Hour {
		t.Errorf("all pools used %s", x)
	}
	now := c.clock.Now().UTC()
	var usage struct {
		Value []struct {
			PoolID, VMSize     string
			StartTime, EndTime time.Time
			TotalCoreHours     float64
		}
	}
	c.read("/poolusagemetrics?api-version=2023-11-01.18.0&startTime="+now.Add(-2*time.Hour).Format(time.RFC3339)+"&endTime="+now.Add(time.Minute).Format(time.RFC3339)+"&$filter=poolId+eq+'p'", &usage)
	hours := 0.0
	for _, u := range usage.Value {
		hours += u.TotalCoreHours
		if u.PoolID != "p" || u.VMSize != "standard_d2s_v3" || u.EndTime.Sub(u.StartTime) > 30*time.Minute {
			t.Errorf("%+v", u)
		}
	}
	if len(usage.Value) < 3 || hours < 2 || hours > 3 {
		t.Errorf("%d intervals with %f core hours", len(usage.Value), hours)
	}
	if code := c.read("/poolusagemetrics?api-version=2023-11-01.18.0&startTime=yesterday", nil); code != http.StatusBadRequest {
		t.Errorf("a bad time gives %d", code)
	}
}

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// read reads an address that the SDK does not know any more.
func (c *core) read(path string, out any) int {
	c.t.Helper()
	pl := runtime.NewPipeline("test", "1", runtime.PipelineOptions{}, &policy.ClientOptions{})
	q, err := runtime.NewRequest(ctx, http.MethodGet, c.address+"/batch/acct.westus2"+strings.ReplaceAll(path, " ", "%20"))
	c.must(err)
	q.Raw().Header.Set("Authorization", "Bearer x")
	a, err := pl.Do(q)
	c.must(err)
	defer a.Body.Close()
	if out != nil {
		if a.StatusCode != http.StatusOK {
			c.t.Fatalf("%s: %s", path, a.Status)
		}
		c.must(json.NewDecoder(a.Body).Decode(out))
	}
	return a.StatusCode
}
