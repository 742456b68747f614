package batchcore

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/batchapi"
	"millpond.dev/millpond/internal/node"
)

// blinkered may read pools alone.
type blinkered struct{}

func (blinkered) Authorize(_ context.Context, _ millpond.Caller, action, _ string) error {
	if strings.Contains(action, "/pools/read") {
		return nil
	}
	return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "No right '%s'.", action)
}

// serve is the edge over the core, for plain HTTP.
func (c *core) serve(rights batchapi.Authorizer) (base string, end func()) {
	server := httptest.NewServer(batchapi.New(batchapi.Options{Accounts: accounts{}, Authz: rights, Pools: c.pools, Nodes: c.nodes, Jobs: c.jobs, Schedules: c.jobs, Stats: c.stats, Events: c.log, Clock: c.clock,
		Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Verify: func(context.Context, string) (millpond.Caller, error) {
			return millpond.Caller{Method: millpond.AuthToken, Object: "o"}, nil
		}}))
	return server.URL + "/batch/acct.westus2", func() {
		// Streams that the test has not ended would be waited for.
		server.CloseClientConnections()
		server.Close()
	}
}

const version = "api-version=2024-07-01.20.0"

func (c *core) get(url string, headers ...string) *http.Response {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), "GET", url, nil)
	c.must(err)
	r.Header.Set("Authorization", "Bearer x")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	c.must(err)
	return resp
}

// sse is one event of a stream.
type sse struct {
	name, id string
	data     map[string]any
}

// stream reads events of an answer into a channel, which is closed at its end;
// comments are counted by name "".
func stream(resp *http.Response) <-chan sse {
	out := make(chan sse, 4096)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		var e sse
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			line := lines.Text()
			switch {
			case line == "":
				out <- e
				e = sse{}
			case strings.HasPrefix(line, "event: "):
				e.name = line[7:]
			case strings.HasPrefix(line, "id: "):
				e.id = line[4:]
			case strings.HasPrefix(line, "data: "):
				_ = json.Unmarshal([]byte(line[6:]), &e.data)
			}
		}
	}()
	return out
}

func (c *core) next(ch <-chan sse) sse {
	c.t.Helper()
	select {
	case e, ok := <-ch:
		if !ok {
			c.t.Fatal("the stream ended")
		}
		return e
	case <-time.After(60 * time.Second):
		c.t.Fatal("no event in a minute")
	}
	return sse{}
}

// TestEvents: nobody polls. A reader sees each state of what it follows, in
// order; one that was away while the server was restarted misses nothing; what
// may not be read is not told.
func TestEvents(t *testing.T) {
	c, _, restart := setup(t, node.Config{})
	base, end := c.serve(everybody{})
	c.addPool("P", 1, nil)
	c.idle("P", 1)
	resp := c.get(base+"/millpond/events?job=J,other&heartbeat=1&"+version, "Accept", "text/event-stream")
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	live := stream(resp)
	if e := c.next(live); e.name != "ready" || e.id == "" {
		t.Fatalf("begins with %+v", e)
	}
	c.addJob("j", "P", func(s *millpond.JobSpec) { s.OnAllTasksComplete = "terminatejob" })
	began := time.Now()
	c.addTask("j", "t", "exit 3", nil)
	var told []string
	last := ""
	var done map[string]any
	for len(told) == 0 || !strings.HasPrefix(told[len(told)-1], "job j completed") {
		e := c.next(live)
		if last = e.id; e.data == nil {
			continue // a heartbeat
		}
		d := e.data["data"].(map[string]any)
		told = append(told, fmt.Sprintf("%s %s %s", e.name, d["id"], d["state"]))
		if e.name == "task" && d["state"] == "completed" {
			t.Logf("the end of a task is told %s after it was added", time.Since(began))
			done = e.data
		}
	}
	if want := []string{"job j active", "task t active", "task t running", "task t completed", "job j terminating", "job j completed"}; !reflect.DeepEqual(told, want) {
		t.Fatalf("told %v\nwant %v", told, want)
	}
	d := done["data"].(map[string]any)
	if done["specversion"] != "1.0" || done["type"] != "millpond.batch.task.completed" || done["subject"] != "/jobs/j/tasks/t" || !strings.HasPrefix(done["source"].(string), "https://acct.westus2.") ||
		d["exitCode"] != 3.0 || d["result"] != "failure" || d["failureCode"] != "FailureExitCode" || d["poolId"] != "P" || d["nodeId"] == "" || d["previousState"] != "running" {
		t.Errorf("the end of a task is %v", done)
	}
	for e := c.next(live); e.data != nil; e = c.next(live) { // until a heartbeat
	}

	// The stream ends with the server, and goes on with the next one.
	c = restart()
	ended := false
	for e := range live {
		ended = ended || e.name == "end" && e.data["code"] == "ServerStopping"
	}
	if !ended {
		t.Error("the stream did not say that the server stops")
	}
	end()
	c.addJob("k", "p", nil)
	c.addTask("k", "u", "exit 0", nil)
	c.taskIn("k", "u", millpond.TaskCompleted)
	base, end = c.serve(everybody{})
	defer func() { end() }()
	again := stream(c.get(base+"/millpond/events?kind=job,task&state=completed,active&"+version, "Accept", "text/event-stream", "Last-Event-ID", last))
	told = nil
	for len(told) < 3 {
		if e := c.next(again); e.name == "job" || e.name == "task" {
			told = append(told, e.data["subject"].(string)+" "+e.data["type"].(string))
		} else if e.name == "reset" {
			t.Fatal("events were lost over a restart")
		}
	}
	if want := []string{"/jobs/k millpond.batch.job.active", "/jobs/k/tasks/u millpond.batch.task.active", "/jobs/k/tasks/u millpond.batch.task.completed"}; !reflect.DeepEqual(told, want) {
		t.Errorf("told %v", told)
	}

	// As a list: everything that is kept, in pages, and a wait for what comes.
	type list struct {
		Value []struct{ ID, Subject, Type string }
		Last  string `json:"lastEventId"`
		Reset bool
	}
	fetch := func(query string) (l list) {
		t.Helper()
		resp := c.get(base + "/millpond/events?" + query + "&" + version)
		defer resp.Body.Close()
		c.must(json.NewDecoder(resp.Body).Decode(&l))
		return l
	}
	seen := map[string]bool{}
	after := "0"
	for {
		l := fetch("maxresults=5&after=" + after)
		if len(l.Value) == 0 {
			break
		}
		for _, e := range l.Value {
			seen[e.Subject+" "+e.Type] = true
		}
		after = l.Last
	}
	for _, want := range []string{"/pools/P millpond.batch.pool.active", "/jobs/j/tasks/t millpond.batch.task.completed", "/jobs/k/tasks/u millpond.batch.task.running"} {
		if !seen[want] {
			t.Errorf("%s is not in the list: %v", want, seen)
		}
	}
	waited := make(chan list, 1)
	go func() { waited <- fetch("wait=60&job=later&after=" + after) }()
	c.addJob("later", "p", nil)
	if l := <-waited; len(l.Value) == 0 || l.Value[0].Subject != "/jobs/later" {
		t.Errorf("waited for %+v", l)
	}
	if l := fetch("after=99999999"); !l.Reset || l.Last == "99999999" {
		t.Errorf("an id of another server: %+v", l)
	}
	if e := c.next(stream(c.get(base+"/millpond/events?"+version, "Accept", "text/event-stream", "Last-Event-ID", "99999999"))); e.name != "reset" || e.data["type"] != "millpond.batch.reset" {
		t.Errorf("an id of another server: %+v", e)
	}
	for _, bad := range []string{"after=x", "kind=gallery", "heartbeat=0", "wait=x", "wait=999", "maxresults=0"} {
		resp := c.get(base + "/millpond/events?" + bad + "&" + version)
		if resp.Body.Close(); resp.StatusCode != 400 {
			t.Errorf("%s: %d", bad, resp.StatusCode)
		}
	}

	// Who may read pools alone is told of pools and nodes alone.
	narrow, stop := c.serve(blinkered{})
	defer stop()
	for path, want := range map[string]int{"/millpond/events?": 403, "/millpond/poolevents?": 200, "/millpond/poolevents?kind=node&": 200, "/millpond/poolevents?kind=task&": 400} {
		resp := c.get(narrow + path + version)
		body, _ := io.ReadAll(resp.Body)
		if resp.Body.Close(); resp.StatusCode != want || strings.Contains(string(body), "/jobs/j") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}
