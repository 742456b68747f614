package batchcore

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/batchapi"
	"millpond.dev/millpond/internal/node"
)

// sdk is the Go SDK's client of a core, over HTTP.
func (c *core) sdk() *azbatch.Client {
	c.t.Helper()
	server := httptest.NewServer(batchapi.New(batchapi.Options{Accounts: accounts{}, Authz: everybody{}, Pools: c.pools, Nodes: c.nodes, Jobs: c.jobs, Schedules: c.jobs, Stats: c.stats, Certificates: c.certs, Clock: c.clock,
		Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Verify: func(context.Context, string) (millpond.Caller, error) {
			return millpond.Caller{Method: millpond.AuthToken, Object: "o"}, nil
		}}))
	c.t.Cleanup(server.Close)
	c.address = server.URL
	client, err := azbatch.NewClient(server.URL+"/batch/acct.westus2", everybody{}, &azbatch.ClientOptions{ClientOptions: policy.ClientOptions{InsecureAllowCredentialWithHTTP: true}})
	c.must(err)
	return client
}

// realSetup is setup with real agents.
func realSetup(t *testing.T) (*core, *hall) {
	dir := t.TempDir()
	c, h, _ := setup(t, node.Config{})
	h.mu.Lock()
	h.real = dir
	h.mu.Unlock()
	return c, h
}

func body(c *core, b io.ReadCloser) string {
	c.t.Helper()
	defer b.Close()
	data, err := io.ReadAll(b)
	c.must(err)
	return string(data)
}

// TestJobTasksThroughSDK: the Go SDK adds a job whose preparation makes what its
// tasks read, reads both own tasks' status and files, and ends the job.
func TestJobTasksThroughSDK(t *testing.T) {
	c, h := realSetup(t)
	client := c.sdk()
	c.addPool("p", 2, nil)
	c.idle("p", 2)
	outside := filepath.Join(h.real, "released")
	sh := func(script string) *string { return ptr("/bin/sh -c '" + script + "'") }
	job := azbatch.CreateJobContent{ID: ptr("j"), PoolInfo: &azbatch.PoolInfo{PoolID: ptr("p")},
		CommonEnvironmentSettings: []azbatch.EnvironmentSetting{{Name: ptr("COMMON"), Value: ptr("common")}},
		JobPreparationTask: &azbatch.JobPreparationTask{CommandLine: sh("echo data of $COMMON $MINE > input; echo prepared"), EnvironmentSettings: []azbatch.EnvironmentSetting{{Name: ptr("MINE"), Value: ptr("mine")}},
			Constraints: &azbatch.TaskConstraints{MaxTaskRetryCount: ptr(int32(2))}},
		JobReleaseTask: &azbatch.JobReleaseTask{CommandLine: sh("cat $AZ_BATCH_JOB_PREP_WORKING_DIR/input >> " + outside + "; echo $AZ_BATCH_TASK_ID"), MaxWallClockTime: ptr("PT5M")}}
	alone := job
	alone.JobPreparationTask = nil
	if _, err := client.CreateJob(ctx, alone, nil); !refusedWith(err, "MissingRequiredProperty") {
		t.Errorf("a release without a preparation: %v", err)
	}
	long := job
	long.JobReleaseTask = &azbatch.JobReleaseTask{CommandLine: ptr("true"), MaxWallClockTime: ptr("PT16M")}
	if _, err := client.CreateJob(ctx, long, nil); !refusedWith(err, "InvalidPropertyValue") {
		t.Errorf("a release of 16 minutes: %v", err)
	}
	_, err := client.CreateJob(ctx, job, nil)
	c.must(err)
	got, err := client.GetJob(ctx, "j", nil)
	c.must(err)
	if p, r := got.JobPreparationTask, got.JobReleaseTask; *p.ID != "jobpreparation" || !*p.WaitForSuccess || !*p.RerunOnNodeRebootAfterSuccess || *p.Constraints.MaxTaskRetryCount != 2 || *r.ID != "jobrelease" || *r.MaxWallClockTime != "PT5M" {
		t.Errorf("%+v %+v", p, r)
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		_, err := client.CreateTask(ctx, "j", azbatch.CreateTaskContent{ID: ptr(id), CommandLine: sh("cat $AZ_BATCH_JOB_PREP_DIR/wd/input; sleep 0.2")}, nil)
		c.must(err)
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		c.taskIn("j", id, millpond.TaskCompleted)
		out, err := client.GetTaskFile(ctx, "j", id, "stdout.txt", nil)
		c.must(err)
		if text := body(c, out.Body); text != "data of common mine\n" {
			t.Errorf("task %s saw %q", id, text)
		}
	}
	status := func(filter string) (rows []azbatch.JobPreparationAndReleaseTaskStatus) {
		for pager := client.NewListJobPreparationAndReleaseTaskStatusPager("j", &azbatch.ListJobPreparationAndReleaseTaskStatusOptions{Filter: &filter, MaxResults: ptr(int32(1))}); pager.More(); {
			page, err := pager.NextPage(ctx)
			c.must(err)
			rows = append(rows, page.Value...)
		}
		return rows
	}
	rows := status("poolId eq 'p' and jobPreparationTaskExecutionInfo/exitCode eq 0 and jobPreparationTaskExecutionInfo/result eq 'success'")
	if len(rows) != 2 || rows[0].JobReleaseTaskExecutionInfo != nil || len(status("nodeId eq '"+*rows[0].NodeID+"'")) != 1 || len(status("jobPreparationTaskExecutionInfo/exitCode gt 0")) != 0 {
		t.Errorf("the status is %+v", rows)
	}
	out, err := client.GetNodeFile(ctx, "p", *rows[0].NodeID, *rows[0].JobPreparationTaskExecutionInfo.TaskRootDirectory+"/stdout.txt", nil)
	c.must(err)
	if text := body(c, out.Body); text != "prepared\n" {
		t.Errorf("the preparation said %q", text)
	}
	_, err = client.TerminateJob(ctx, "j", nil)
	c.must(err)
	c.jobIn("j", millpond.JobCompleted)
	if rows = status("jobReleaseTaskExecutionInfo/result eq 'success'"); len(rows) != 2 {
		t.Errorf("%d nodes are released", len(rows))
	}
	data, err := os.ReadFile(outside)
	c.must(err)
	if strings.Count(string(data), "data of common mine\n") != 2 {
		t.Errorf("the releases saw %q", data)
	}
	_, err = client.DeleteJob(ctx, "j", nil)
	c.must(err)
	c.wait("nothing of the job is left on the nodes", func() bool {
		left, _ := filepath.Glob(filepath.Join(h.real, "*", "workitems", "*"))
		return len(left) == 0
	})
}
