package batchcore

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

// TestOutputsOutliveTheirNode: what tasks wrote is read as before when the node is
// gone, its two ends where it is large, and the node's logs too.
func TestOutputsOutliveTheirNode(t *testing.T) {
	dir := t.TempDir()
	c, h, restart := setup(t, node.Config{KeepPart: 1000})
	h.mu.Lock()
	h.real = dir
	h.mu.Unlock()
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.StartTask = &millpond.StartTask{CommandLine: "/bin/sh -c 'echo prepared'", WaitForSuccess: true}
		s.TaskSlotsPerNode = 4
	})
	c.idle("p", 1)
	id := c.list("p")[0].ID
	c.addJob("j", "p", nil)
	const tasks = 300
	for i := range tasks {
		c.addTask("j", fmt.Sprint("t", i), fmt.Sprintf("/bin/sh -c 'echo out %d; echo err >&2; echo x > other.txt'", i), nil)
	}
	c.addTask("j", "large", "/bin/sh -c 'echo begin; head -c 100000 /dev/zero | tr \\\\0 x; echo; echo end'", nil)
	c.addTask("j", "again", "/bin/sh -c 'echo first; exit 1'", func(s *millpond.TaskSpec) { s.MaxRetries = ptr(1) })
	for _, id := range []string{"large", "again", fmt.Sprint("t", tasks-1)} {
		c.taskIn("j", id, millpond.TaskCompleted)
	}
	c.wait("all have completed", func() bool {
		n, _, err := c.jobs.TaskCounts(ctx, acct.Name, "j")
		return err == nil && n.Completed == tasks+2
	})
	zero := 0
	c.steady("p")
	c.must(c.pools.Resize(ctx, acct.Name, "p", millpond.Condition{}, pool.Targets{Dedicated: &zero}, ""))
	c.wait("the node is gone", func() bool { return len(c.list("p")) == 0 })
	c = restart()
	base, end := c.serve(everybody{})
	defer end()
	read := func(path string, headers ...string) (string, int, string) {
		t.Helper()
		resp := c.get(base+path+version, headers...)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		c.must(err)
		return string(b), resp.StatusCode, resp.Header.Get("millpond-kept")
	}
	for i := range tasks {
		if text, code, kept := read(fmt.Sprintf("/jobs/j/tasks/t%d/files/stdout.txt?", i)); code != 200 || text != fmt.Sprintf("out %d\n", i) || !strings.Contains(kept, string(id)) {
			t.Fatalf("task %d: %d %q %q", i, code, text, kept)
		}
	}
	if text, _, _ := read("/jobs/j/tasks/t7/files/stderr.txt?", "ocp-range", "bytes=1-2"); text != "rr" {
		t.Errorf("a range: %q", text)
	}
	if text, code, _ := read("/jobs/j/tasks/t7/files/stdout.txt?follow=true&"); code != 200 || text != "out 7\n" {
		t.Errorf("followed: %d %q", code, text)
	}
	text, _, _ := read("/jobs/j/tasks/large/files/stdout.txt?")
	if !strings.HasPrefix(text, "begin\nxxx") || !strings.HasSuffix(text, "xxx\nend\n") || !strings.Contains(text, "\n[millpond: 98011 bytes are not kept]\n") || len(text) > 2100 {
		t.Errorf("a large output has %d bytes: %.40s…", len(text), text)
	}
	if text, _, _ = read("/jobs/j/tasks/again/files/stdout.txt?"); text != "first\n" {
		t.Errorf("after a retry: %q", text)
	}
	var files struct {
		Value []struct {
			Name       string
			Properties struct{ ContentLength string }
		}
	}
	text, _, _ = read("/jobs/j/tasks/t7/files?recursive=true&")
	c.must(json.Unmarshal([]byte(text), &files))
	if len(files.Value) != 2 || files.Value[0].Name != "stderr.txt" || files.Value[1].Properties.ContentLength != "6" {
		t.Errorf("listed %s", text)
	}
	if _, code, _ := read("/jobs/j/tasks/t7/files/wd/other.txt?"); code != 404 {
		t.Errorf("what is not kept: %d", code)
	}
	if text, code, _ := read("/pools/p/nodes/" + string(id) + "/millpond/logs?"); code != 200 || !strings.Contains(text, `"console-1.log"`) || !strings.Contains(text, `"startup-stdout.txt"`) {
		t.Errorf("logs: %d %s", code, text)
	}
	if text, _, _ := read("/pools/p/nodes/" + string(id) + "/millpond/logs/console-1.log?"); text != "scripted console\n" {
		t.Errorf("console: %q", text)
	}
	if text, _, _ := read("/pools/p/nodes/" + string(id) + "/millpond/logs/startup-stdout.txt?"); text != "prepared\n" {
		t.Errorf("start task: %q", text)
	}
	for _, path := range []string{"/pools/other/nodes/" + string(id) + "/millpond/logs?", "/pools/p/nodes/none/millpond/logs?", "/pools/p/nodes/" + string(id) + "/millpond/logs/none?"} {
		if text, code, _ := read(path); code != 404 {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// TestConsoleOfADeadMachine: a node whose machine died has that machine's console
// among its logs, though it has another one now.
func TestConsoleOfADeadMachine(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	id := c.list("p")[0].ID
	h.crash(id)
	c.wait("the node has another machine", func() bool {
		n, err := c.nodes.Get(ctx, acct.Name, "p", id)
		return err == nil && n.Generation == 2 && n.State == millpond.NodeIdle
	})
	b, err := c.nodes.ReadLog(ctx, acct.Name, "p", id, "console-1.log")
	if err != nil || string(b) != "scripted console\n" {
		t.Errorf("got %q, %v", b, err)
	}
}
