//go:build e2e

package az

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestJobWithItsOwnPool: az adds a job with a pool of its own, a preparation and a
// release task, and reads how they went and what was used, on the fake launcher.
func TestJobWithItsOwnPool(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	spec := l.PoolBody("", 1)
	delete(spec, "id")
	job, err := json.Marshal(map[string]any{"id": "own", "poolInfo": map[string]any{"autoPoolSpecification": map[string]any{"poolLifetimeOption": "job", "autoPoolIdPrefix": "own", "pool": spec}},
		"jobPreparationTask": map[string]any{"commandLine": "/bin/true"}, "jobReleaseTask": map[string]any{"commandLine": "/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "job.json")
	if err := os.WriteFile(file, job, 0o600); err != nil {
		t.Fatal(err)
	}
	az := func(args ...string) string { t.Helper(); return strings.TrimSpace(s.Az(args...)) }
	az("batch", "account", "login", "--name", l.Account, "--resource-group", "lab")
	az("batch", "job", "create", "--json-file", file)
	pool := az("batch", "job", "show", "--job-id", "own", "--query", "executionInfo.poolId", "--output", "tsv")
	if !strings.HasPrefix(pool, "own") {
		t.Fatalf("the job's pool is %q", pool)
	}
	az("batch", "task", "create", "--job-id", "own", "--task-id", "t", "--command-line", "/bin/true")
	l.WaitTasks("own", time.Minute)
	if n := az("batch", "job", "show", "--job-id", "own", "--expand", "stats", "--query", "stats.numSucceededTasks", "--output", "tsv"); n != "1" {
		t.Errorf("%q tasks succeeded", n)
	}
	az("batch", "job", "stop", "--job-id", "own")
	lab.Wait(t, time.Minute, "the job completed", func() (bool, string) {
		state := az("batch", "job", "show", "--job-id", "own", "--query", "state", "--output", "tsv")
		return state == "completed", state
	})
	status := az("batch", "job", "prep-release-status", "list", "--job-id", "own", "--query", "[0].[poolId, jobPreparationTaskExecutionInfo.result, jobReleaseTaskExecutionInfo.result]", "--output", "tsv")
	if strings.Join(strings.Fields(status), " ") != pool+" success success" {
		t.Errorf("the status is %q", status)
	}
	now := time.Now().UTC()
	used := az("batch", "pool", "usage-metrics", "list", "--start-time", now.Add(-time.Hour).Format(time.RFC3339), "--end-time", now.Format(time.RFC3339), "--query", "[0].[poolId, vmSize]", "--output", "tsv")
	if strings.Join(strings.Fields(used), " ") != pool+" standard_a1_v2" {
		t.Errorf("the usage is %q", used)
	}
	lab.Wait(t, time.Minute, "the pool is gone", func() (bool, string) {
		text := az("batch", "pool", "list", "--query", "[].id", "--output", "tsv")
		return text == "", text
	})
}
