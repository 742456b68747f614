//go:build e2e

package vm

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestJobOfItsOwn: az adds a job that has a pool of its own, prepares the node
// for it and releases it; the node reboots between two tasks. What the tasks used
// is in the statistics, and the pool goes with the job.
func TestJobOfItsOwn(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	spec := l.PoolBody("", 1)
	delete(spec, "id")
	job := map[string]any{"id": "own", "poolInfo": map[string]any{"autoPoolSpecification": map[string]any{"poolLifetimeOption": "job", "autoPoolIdPrefix": "own", "pool": spec}},
		"jobPreparationTask": map[string]any{"commandLine": "/bin/sh -c 'id -un > who; echo prepared >> $AZ_BATCH_NODE_SHARED_DIR/prepared'"},
		"jobReleaseTask":     map[string]any{"commandLine": "/bin/sh -c 'cat $AZ_BATCH_NODE_SHARED_DIR/prepared $AZ_BATCH_JOB_PREP_WORKING_DIR/who'"}}
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "job.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	az := func(args ...string) string { t.Helper(); return strings.TrimSpace(s.Az(args...)) }
	az("batch", "account", "login", "--name", l.Account, "--resource-group", "lab")
	az("batch", "job", "create", "--json-file", file)
	pool := az("batch", "job", "show", "--job-id", "own", "--query", "executionInfo.poolId", "--output", "tsv")
	if !strings.HasPrefix(pool, "own") {
		t.Fatalf("the job's pool is %q", pool)
	}
	add := func(id, script string) {
		t.Helper()
		if a := l.Batch(http.MethodPost, "/jobs/own/tasks", shell(id, script)); a.Status != http.StatusCreated {
			t.Fatalf("add task %s: %d %s", id, a.Status, a.Body)
		}
		if v := l.WaitTasks("own", 3*time.Minute)[id]; v.Info.Result != "success" {
			t.Fatalf("task %s: %+v", id, v.Info)
		}
	}
	add("before", "cat $AZ_BATCH_JOB_PREP_DIR/wd/who; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
	if out := l.Stdout("own", "before"); out == "" {
		t.Error("the task could not read what its job's preparation made")
	}
	node := l.WaitIdle(pool, 1, time.Minute)[0]
	if a := l.Batch(http.MethodPost, "/pools/"+pool+"/nodes/"+node.ID+"/reboot", map[string]any{}); a.Status != http.StatusAccepted {
		t.Fatalf("reboot: %d %s", a.Status, a.Body)
	}
	add("after", "wc -l < $AZ_BATCH_NODE_SHARED_DIR/prepared")
	if out := strings.TrimSpace(l.Stdout("own", "after")); out != "2" {
		t.Errorf("after a reboot the node was prepared %s times", out)
	}
	var got struct {
		Stats struct {
			UserCPUTime       string
			NumSucceededTasks string
		}
	}
	a := l.Batch(http.MethodGet, "/jobs/own?$expand=stats", nil)
	if err := a.JSON(&got); err != nil || got.Stats.NumSucceededTasks != "2" || got.Stats.UserCPUTime == "PT0S" {
		t.Errorf("the job used %+v %v %s", got, err, a.Body)
	}
	az("batch", "job", "stop", "--job-id", "own")
	lab.Wait(t, time.Minute, "the job completed", func() (bool, string) {
		state := az("batch", "job", "show", "--job-id", "own", "--query", "state", "--output", "tsv")
		return state == "completed", state
	})
	status := az("batch", "job", "prep-release-status", "list", "--job-id", "own", "--query", "[0].[nodeId, jobPreparationTaskExecutionInfo.result, jobReleaseTaskExecutionInfo.result]", "--output", "tsv")
	if strings.Join(strings.Fields(status), " ") != node.ID+" success success" {
		t.Errorf("the status is %q", status)
	}
	lab.Wait(t, time.Minute, "the pool is gone", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/"+pool, nil)
		return a.Status == http.StatusNotFound, string(a.Body)
	})
}
