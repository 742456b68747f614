//go:build e2e

package az

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestBatchCommands runs the commands of jobs, tasks, job schedules and
// automatic scaling with both generations of az, on the fake launcher.
func TestBatchCommands(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	body := l.PoolBody("p", 1)
	delete(body, "targetDedicatedNodes")
	body["enableAutoScale"], body["autoScaleFormula"] = true, "$TargetDedicatedNodes = min(2, $PendingTasks.GetSample(1));"
	for _, c := range []struct {
		name string
		az   func(args ...string) string
	}{{"current", s.Az}, {"old", s.OldAz}} {
		// Not in subtests: the lab ends the test that it was started in.
		func() {
			az := func(args ...string) string {
				t.Helper()
				return strings.TrimSpace(c.az(args...))
			}
			file := func(name, text string) string {
				path := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			is := func(got, want string) {
				t.Helper()
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
			az("batch", "account", "login", "--name", l.Account, "--resource-group", "lab")
			pool, job, every := "p"+c.name, "j"+c.name, "s"+c.name
			body["id"] = pool
			if a := l.Batch(http.MethodPost, "/pools", body); a.Status != 201 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			lab.Wait(t, time.Minute, "the formula evaluated", func() (bool, string) {
				text := az("batch", "pool", "show", "--pool-id", pool, "--query", "autoScaleRun.results", "--output", "tsv")
				return strings.Contains(text, "$TargetDedicatedNodes=0"), text
			})
			if run := az("batch", "pool", "autoscale", "evaluate", "--pool-id", pool, "--auto-scale-formula", "$TargetDedicatedNodes=3;x=time().year>2000;"); !strings.Contains(run, "$TargetDedicatedNodes=3;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue;$x=1") {
				t.Errorf("evaluate: %s", run)
			}

			az("batch", "job", "create", "--json-file", file("job.json", `{"id":"`+job+`","poolInfo":{"poolId":"`+pool+`"},"usesTaskDependencies":true,"onTaskFailure":"performexitoptionsjobaction"}`))
			az("batch", "task", "create", "--job-id", job, "--json-file", file("tasks.json", `[
				{"id":"first","commandLine":"/bin/sh -c 'exit 3'","exitConditions":{"exitCodes":[{"code":3,"exitOptions":{"dependencyAction":"satisfy","jobAction":"none"}}]}},
				{"id":"second","commandLine":"/bin/true","dependsOn":{"taskIds":["first"]}}]`))
			lab.Wait(t, time.Minute, "the dependent completed", func() (bool, string) {
				text := az("batch", "task", "show", "--job-id", job, "--task-id", "second", "--query", "[state, executionInfo.result]", "--output", "tsv")
				return strings.Fields(text)[0] == "completed", text
			})
			is(az("batch", "task", "show", "--job-id", job, "--task-id", "first", "--query", "exitConditions.exitCodes[0].exitOptions.dependencyAction", "--output", "tsv"), "satisfy")
			is(az("batch", "job", "show", "--job-id", job, "--query", "state", "--output", "tsv"), "active")
			is(az("batch", "job", "task-counts", "show", "--job-id", job, "--query", "taskCounts.completed || completed", "--output", "tsv"), "2")
			az("batch", "task", "reactivate", "--job-id", job, "--task-id", "first")
			az("batch", "job", "set", "--job-id", job, "--priority", "7")
			if c.name != "old" { // whose choice of values for --disable-tasks is empty
				az("batch", "job", "disable", "--job-id", job, "--disable-tasks", "requeue")
			}
			az("batch", "job", "delete", "--job-id", job, "--yes")

			az("batch", "job-schedule", "create", "--json-file", file("schedule.json", `{"id":"`+every+`","schedule":{"recurrenceInterval":"PT1H"},
				"jobSpecification":{"poolInfo":{"poolId":"`+pool+`"},"jobManagerTask":{"id":"m","commandLine":"/bin/true","runExclusive":false}}}`))
			lab.Wait(t, time.Minute, "the first job completed", func() (bool, string) {
				text := az("batch", "job", "list", "--job-schedule-id", every, "--query", "[].[id, state, executionInfo.terminateReason]", "--output", "tsv")
				return text == every+":job-1\tcompleted\tJMComplete", text
			})
			is(az("batch", "job-schedule", "show", "--job-schedule-id", every, "--query", "executionInfo.recentJob.id", "--output", "tsv"), every+":job-1")
			az("batch", "job-schedule", "disable", "--job-schedule-id", every)
			az("batch", "job-schedule", "enable", "--job-schedule-id", every)
			is(az("batch", "job-schedule", "list", "--query", "length([?id=='"+every+"'])", "--output", "tsv"), "1")
			az("batch", "job-schedule", "stop", "--job-schedule-id", every)
			az("batch", "job-schedule", "delete", "--job-schedule-id", every, "--yes")
			az("batch", "pool", "autoscale", "disable", "--pool-id", pool)
			is(az("batch", "pool", "show", "--pool-id", pool, "--query", "enableAutoScale", "--output", "tsv"), "false")
			az("batch", "pool", "delete", "--pool-id", pool, "--yes")
		}()
	}
}
