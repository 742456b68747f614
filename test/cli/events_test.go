//go:build e2e

// Package cli runs the commands of millpond that talk to its own additions to the
// Batch service, against a server with the fake launcher.
package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

func TestEventsLogsWebhooks(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	post := func(path string, body any) {
		t.Helper()
		if a := l.Batch(http.MethodPost, path, body); a.Status >= 300 {
			t.Fatalf("POST %s: %d %s", path, a.Status, a.Body)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		r := s.RunBin(args...)
		if r.Code != 0 {
			t.Fatalf("millpond %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
		}
		return r.Stdout
	}
	has := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%q lacks %q", text, p)
			}
		}
	}
	var mu sync.Mutex
	var posted []string
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var list []struct{ Type, Subject string }
		mu.Lock()
		defer mu.Unlock()
		if json.Unmarshal(body, &list) != nil || r.Header.Get("millpond-signature") == "" {
			t.Errorf("posted %s with %v", body, r.Header)
		}
		for _, e := range list {
			posted = append(posted, e.Subject+" "+e.Type)
		}
	}))
	defer hook.Close()
	has(run("webhook", "add", "tests", hook.URL, "--kind", "task", "--state", "completed"), "webhook tests posts to", "its secret")

	post("/pools", l.PoolBody("p", 1))
	run("status", "--pool", l.Account+"/p", "--wait", "idle")
	post("/jobs", map[string]any{"id": "j", "poolInfo": map[string]any{"poolId": "p"}})
	// It begins before there is a task.
	waited := make(chan lab.Result, 1)
	go func() { waited <- s.RunBin("job", "wait", l.Account+"/j", "--timeout", "1m") }()
	time.Sleep(300 * time.Millisecond) // whichever is first, the outcome is the same
	post("/jobs/j/tasks", map[string]any{"id": "t", "commandLine": "/bin/sh -c 'echo one; sleep 1; echo two'"})
	if text := run("logs", "--follow", l.Account+"/j", "t"); text != "one\ntwo\n" {
		t.Errorf("followed %q", text)
	}
	r := <-waited
	has(r.Stdout+r.Stderr, "jobs/j/tasks/t", "1 task succeeded, 0 failed")
	has(run("events", "--job", "j"), "jobs/j  active", "jobs/j/tasks/t  running", "jobs/j/tasks/t  completed", "success")
	has(run("events", "--kind", "pool", "--json"), `"type":"millpond.batch.pool.active"`)
	post("/jobs/j/tasks", map[string]any{"id": "bad", "commandLine": "/bin/sh -c 'echo why >&2; exit 3'"})
	if r := s.RunBin("job", "wait", "--quiet", l.Account+"/j"); r.Code == 0 || !strings.Contains(r.Stderr, "1 of 2 tasks failed") {
		t.Errorf("a job with a failed task: %d %s%s", r.Code, r.Stdout, r.Stderr)
	}
	lab.Wait(t, 30*time.Second, "both ends are posted", func() (bool, string) {
		mu.Lock()
		defer mu.Unlock()
		text := strings.Join(posted, "; ")
		return text == "/jobs/j/tasks/t millpond.batch.task.completed; /jobs/j/tasks/bad millpond.batch.task.completed", text
	})
	has(run("webhook", "list"), "tests", "enabled", "2 delivered")
	run("webhook", "remove", "tests")

	var nodes struct{ Value []struct{ ID string } }
	if err := l.Batch(http.MethodGet, "/pools/p/nodes", nil).JSON(&nodes); err != nil || len(nodes.Value) != 1 {
		t.Fatal(nodes, err)
	}
	node := nodes.Value[0].ID
	has(run("node", "logs", l.Account+"/p", node), "console.log")
	post("/pools/p/resize", map[string]any{"targetDedicatedNodes": 0})
	lab.Wait(t, time.Minute, "the node is gone", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/p/nodes/"+node, nil)
		return a.Status == 404, string(a.Body)
	})
	if r := s.RunBin("logs", "--stderr", l.Account+"/j", "bad"); r.Stdout != "why\n" || !strings.Contains(r.Stderr, "the server keeps") {
		t.Errorf("after its node is gone: %q %q", r.Stdout, r.Stderr)
	}
	has(run("node", "logs", l.Account+"/p", node), "console-1.log")
	has(run("node", "logs", l.Account+"/p", node, "console-1.log"), "millpond-agent")

	scaled := l.PoolBody("scaled", 1)
	delete(scaled, "targetDedicatedNodes")
	scaled["enableAutoScale"], scaled["autoScaleFormula"] = true, "share = $CPUPercent.GetSamplePercent(TimeInterval_Minute); $TargetDedicatedNodes = 1;"
	post("/pools", scaled)
	lab.Wait(t, time.Minute, "the formula is evaluated", func() (bool, string) {
		text := run("pool", "autoscale-history", l.Account+"/scaled")
		return strings.Contains(text, "dedicated 0 -> 1"), text
	})
	has(run("pool", "autoscale-history", l.Account+"/scaled"), "by interval", "read $CPUPercent: last 0 of 0 samples", "$share=0")
	resp, err := s.HTTPClient().Get("https://" + s.Addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	has(string(text), `millpond_tasks_completed_total{result="failure"} 1`, `millpond_state_changes_total{kind="task",state="running"} 2`, `millpond_node_boot_seconds_count{phase="boot"}`, "millpond_task_wait_seconds_count 2")
}
