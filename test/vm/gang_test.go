//go:build e2e

package vm

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// The programs of TestInstancesTalkToEachOther. Every instance has a listener,
// which outlives the coordination command; asked for it, a listener greets those
// of all hosts, so that each pair speaks in both directions over its own
// connection.
var greeting = map[string]string{
	"listen.sh": `cd "$AZ_BATCH_TASK_SHARED_DIR"
nc -ll -p 7000 -e /bin/sh "$PWD/answer.sh" 2>listener.txt &
until netstat -ltn | grep -q ":7000 "; do usleep 50000; done
kill -0 $! && echo "$AZ_BATCH_IS_CURRENT_NODE_MASTER"
`,
	"answer.sh": `me=none
for host in $(echo "$AZ_BATCH_HOST_LIST" | tr , " "); do
  if ip -4 addr | grep -q "inet $host/"; then me=$host; fi
done
read -r word who
case $word in
hello) echo "$who is heard by $me" ;;
greet) for host in $(echo "$AZ_BATCH_HOST_LIST" | tr , " "); do echo "hello $me" | nc -w 5 "$host" 7000; done ;;
esac
`,
	"greet.sh": `for host in $(echo "$AZ_BATCH_HOST_LIST" | tr , " "); do echo greet | nc -w 5 "$host" 7000; done
`,
}

// TestInstancesTalkToEachOther runs a multi-instance task on three machines,
// twice: the port is free again when the first has ended.
func TestInstancesTalkToEachOther(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	files := serveFiles(t, greeting)
	pool := l.PoolBody("p", 3)
	pool["enableInterNodeCommunication"] = true
	l.AddPool(pool, 5*time.Minute)
	var hosts []string
	for _, n := range l.Nodes("p") {
		hosts = append(hosts, n.IPAddress)
	}
	var want []string
	for _, a := range hosts {
		for _, b := range hosts {
			want = append(want, a+" is heard by "+b)
		}
	}
	slices.Sort(want)

	file := func(name string) map[string]any {
		return map[string]any{"httpUrl": files + "/" + name, "filePath": name}
	}
	task := func(id string) map[string]any {
		v := with(shell(id, "sh greet.sh"), "constraints", map[string]any{"maxWallClockTime": "PT30S"})
		v["resourceFiles"] = []any{file("greet.sh")}
		v["multiInstanceSettings"] = map[string]any{"numberOfInstances": 3, "coordinationCommandLine": `/bin/sh -c 'sh "$AZ_BATCH_TASK_SHARED_DIR/listen.sh"'`,
			"commonResourceFiles": []any{file("listen.sh"), file("answer.sh")}}
		return v
	}
	l.AddJob("j", "p", task("first"), task("second"))
	begun := time.Now()
	for id, v := range l.WaitTasks("j", 2*time.Minute) {
		if v.Info.Result != "success" {
			t.Fatalf("task %s: %+v", id, v.Info)
		}
		lines := strings.Split(strings.TrimSpace(l.Stdout("j", id)), "\n")
		if lines[0] != "true" {
			t.Errorf("the coordination command of the primary of %s says %q", id, lines[0])
		}
		got := lines[1:]
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("task %s has\n%s\nwant\n%s", id, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		checkSubtasks(t, l, id, v.NodeInfo.NodeID)
	}
	t.Logf("two multi-instance tasks in %s", time.Since(begun))
}

// checkSubtasks looks at the two instances beside the primary of a task that has
// succeeded, and at what their coordination commands wrote.
func checkSubtasks(t *testing.T, l *lab.Lab, task, primary string) {
	t.Helper()
	a := l.Batch(http.MethodGet, "/jobs/j/tasks/"+task+"/subtasksinfo", nil)
	var list struct {
		Value []struct {
			ID       int
			State    string
			Result   string
			ExitCode *int
			NodeInfo struct{ NodeID, TaskRootDirectory string }
		}
	}
	if err := a.JSON(&list); err != nil || len(list.Value) != 2 {
		t.Fatalf("subtasks of %s: %d %s", task, a.Status, a.Body)
	}
	on := map[string]bool{primary: true}
	for i, x := range list.Value {
		on[x.NodeInfo.NodeID] = true
		if x.ID != i+1 || x.State != "completed" || x.Result != "success" || x.ExitCode == nil || *x.ExitCode != 0 {
			t.Errorf("subtask of %s: %+v", task, x)
		}
		path := fmt.Sprintf("/pools/p/nodes/%s/files/%s", x.NodeInfo.NodeID, url.PathEscape(x.NodeInfo.TaskRootDirectory+"/stdout.txt"))
		if out := l.Batch(http.MethodGet, path, nil); string(out.Body) != "false\n" {
			t.Errorf("subtask %d of %s wrote %d %s", x.ID, task, out.Status, out.Body)
		}
	}
	if len(on) != 3 {
		t.Errorf("task %s ran on %v", task, on)
	}
}
