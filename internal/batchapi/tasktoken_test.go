package batchapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

// TestTaskTokensOpenTheirJobOnly tries every operation with the token of a task
// that runs, of one that has ended, of an earlier attempt, and of another account.
func TestTaskTokensOpenTheirJobOnly(t *testing.T) {
	e, s := newEdge(t)
	task := millpond.Task{Account: "acct", Job: "j", Spec: millpond.TaskSpec{ID: "manager"}, State: millpond.TaskRunning, Attempt: 2}
	set := func(state millpond.TaskState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		task.State = state
		s.tasks["j"] = map[string]millpond.Task{"manager": task}
	}
	s.jobs["j"] = millpond.Job{Account: "acct", Spec: millpond.JobSpec{ID: "j"}, State: millpond.JobActive}
	set(millpond.TaskRunning)
	refused := func(token, method, path string) bool {
		r := httptest.NewRequest(method, "https://acct.westus2.batch.azure.com"+path+"?api-version=2024-07-01.20.0", strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		return w.Code == http.StatusForbidden
	}
	replace := func(job string) func(string) string {
		return strings.NewReplacer("{jobId}", job, "{taskId}", "other", "{filePath...}", "x", "{poolId}", "p", "{nodeId}", "n", "{jobScheduleId}", "s", "{applicationId}", "a",
			"{extensionName}", "x", "{userName}", "u", "({key})", "(thumbprintAlgorithm=sha1,thumbprint=00)", "{name}", "x").Replace
	}
	opened := 0
	for _, r := range e.Routes() {
		own := strings.HasPrefix(r.Path, "/jobs/{jobId}")
		if got := refused("task", r.Method, replace("J")(r.Path)); got == own {
			t.Errorf("%s with the token of its own job: refused %v", r.Name, got)
		}
		if own {
			opened++
		}
		for _, c := range [][2]string{{"task", "k"}, {"elsewhere", "j"}, {"earlier", "j"}} {
			if !refused(c[0], r.Method, replace(c[1])(r.Path)) {
				t.Errorf("%s is open to the token %q in job %s", r.Name, c[0], c[1])
			}
		}
		// What the calls above may have deleted is there again.
		set(millpond.TaskRunning)
		s.jobs["j"] = millpond.Job{Account: "acct", Spec: millpond.JobSpec{ID: "j"}, State: millpond.JobActive}
	}
	if opened < 15 {
		t.Errorf("only %d operations are of jobs", opened)
	}
	set(millpond.TaskCompleted)
	if !refused("task", "GET", "/jobs/j") {
		t.Error("the token outlives its task")
	}
}
