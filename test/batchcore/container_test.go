package batchcore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
)

// engineScript is a docker that knows one image and runs commands as processes.
const engineScript = `#!/bin/sh
PATH=/usr/bin:/bin
state=$HOME/state; mkdir -p $state
verb=$1; shift
case $verb in
image) [ "$4" = busybox:1 ] ;;
pull) echo "manifest for $1 not found" >&2; exit 1 ;;
create)
  while [ $# -gt 0 ]; do case $1 in
    --name) name=$2; shift 2;;
    --workdir) dir=$2; shift 2;;
    --volume|--user|--env) shift 2;;
    *) break;;
  esac; done
  shift
  { echo '#!/bin/sh'; echo "cd ${dir:-/}"; printf exec; for w in "$@"; do printf " '%s'" "$w"; done; echo; } > $state/$name
  chmod +x $state/$name; echo $name ;;
start) exec $state/$2 ;;
inspect) echo 'exited|' ;;
rm) rm -f $state/$3 ;;
esac
`

// TestContainers: a node of a container pool needs an engine and the images,
// and then runs tasks in containers beside ordinary ones.
func TestContainers(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	dir := t.TempDir()
	h.mu.Lock()
	h.real, h.engine = filepath.Join(dir, "nodes"), filepath.Join(dir, "engine")
	h.mu.Unlock()
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.Containers = &millpond.ContainerPool{Type: "dockerCompatible", Images: []string{"busybox:1"}}
		s.StartTask = &millpond.StartTask{CommandLine: "/bin/sh -c 'echo started'", WaitForSuccess: true, Container: &millpond.ContainerSettings{Image: "busybox:1"}}
	})
	c.wait("the node has no engine", func() bool { return c.inState("p", millpond.NodeUnusable) == 1 })
	n := c.list("p")[0]
	if e := n.Errors[0]; e.Code != "ContainerPoolNotSupported" || !strings.Contains(e.Message, "docker") || n.StartTaskInfo.State != "running" {
		t.Fatalf("%+v %+v", n.Errors, n.StartTaskInfo)
	}
	if err := os.MkdirAll(h.engine, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.engine, "docker"), []byte(engineScript), 0o755); err != nil {
		t.Fatal(err)
	}
	c.must(c.nodes.Reimage(ctx, acct.Name, "p", n.ID, ""))
	c.idle("p", 1)
	if n = c.list("p")[0]; n.StartTaskInfo.Container == nil || n.StartTaskInfo.Result != "success" {
		t.Fatalf("%+v", n.StartTaskInfo)
	}
	c.addJob("j", "p", nil)
	c.addTask("j", "inside", "/bin/sh -c 'pwd; exit 4'", func(s *millpond.TaskSpec) { s.Container = &millpond.ContainerSettings{Image: "busybox:1"} })
	c.addTask("j", "missing", "true", func(s *millpond.TaskSpec) { s.Container = &millpond.ContainerSettings{Image: "none:2"} })
	c.addTask("j", "plain", "/bin/true", nil)
	if v := c.taskIn("j", "inside", millpond.TaskCompleted); v.ExitCode == nil || *v.ExitCode != 4 || v.Container == nil || v.Container.State != "exited" || v.Container.ID == "" {
		t.Fatalf("%+v %+v", v, v.Container)
	}
	if v := c.taskIn("j", "missing", millpond.TaskCompleted); v.Failure == nil || v.Failure.Code != "ContainerInvalidImage" || v.Failure.Category != "usererror" || v.ExitCode != nil {
		t.Fatalf("%+v %+v", v, v.Failure)
	}
	if v := c.taskIn("j", "plain", millpond.TaskCompleted); v.Result != "success" || v.Container != nil {
		t.Fatalf("%+v", v)
	}

	// A pool without a containerConfiguration runs none.
	c.addPool("q", 1, nil)
	c.addJob("k", "q", nil)
	c.addTask("k", "t", "/bin/true", func(s *millpond.TaskSpec) { s.Container = &millpond.ContainerSettings{Image: "busybox:1"} })
	if v := c.taskIn("k", "t", millpond.TaskCompleted); v.Failure == nil || v.Failure.Code != "ContainerInvalidSettings" {
		t.Fatalf("%+v", v.Failure)
	}
}

// TestMountFails: a node whose file systems cannot be mounted says so, and does
// not run its start task.
func TestMountFails(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	h.mu.Lock()
	h.real = t.TempDir()
	h.mu.Unlock()
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.Mounts = []millpond.Mount{{Type: millpond.MountNFS, Source: "host:/data", Path: "data"}}
		s.StartTask = &millpond.StartTask{CommandLine: "/bin/true", WaitForSuccess: true}
	})
	c.wait("the node is unusable", func() bool { return c.inState("p", millpond.NodeUnusable) == 1 })
	e := c.list("p")[0].Errors[0]
	if e.Code != "MountConfigurationError" || e.Message != "An error was encountered while configuring specified mount(s)" {
		t.Fatalf("%+v", e)
	}
	details := map[string]string{}
	for _, d := range e.Details {
		details[d.Name] = d.Value
	}
	if details["MountConfigurationPath"] != "data" || details["Message"] == "" || details["Suggestion"] == "" {
		t.Fatalf("%v", details)
	}
}
