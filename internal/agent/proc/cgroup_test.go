package proc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// groupOf is the group that the last task has said to be in.
func groupOf(t *testing.T, root string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "workitems/j/job-1/t/stdout.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestGroupsAreUsedAgain(t *testing.T) {
	r, root := newRunner(t)
	if r.groups == nil {
		t.Skip("no cgroup for us here")
	}
	const say = "grep ^0: /proc/self/cgroup"
	do := func(command string) (string, *nodev1.TaskCompleted) {
		t.Helper()
		report, _ := run(t, r, request(`/bin/sh -c '`+command+`'`))
		if report.GetExitCode() != 0 || report.GetFailure() != nil {
			t.Fatalf("%s: %v", command, report)
		}
		return groupOf(t, root), report
	}
	busy, first := do(say + "; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
	used := first.GetUsage().GetUserCpu().AsDuration()
	again, second := do(say)
	if again != busy {
		t.Errorf("the second task is in %q, the first was in %q", again, busy)
	}
	if u := second.GetUsage().GetUserCpu().AsDuration(); used < 50*time.Millisecond || u > used/2 {
		t.Errorf("the first used %s, the second %s: what others used is not its own", used, u)
	}
	// One that leaves a process is not given to others.
	if left, _ := do(say + "; setsid sleep 1000 >/dev/null 2>&1 &"); left != busy {
		t.Errorf("the third task is in %q", left)
	}
	fresh, _ := do(say)
	if fresh == busy {
		t.Errorf("a group that had to be killed is used again")
	}
	pattern := filepath.Join(r.groups.dir, "millpond-"+r.prefix+"*")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("groups that nobody uses are kept: %v", left)
		}
	}
}

func TestClosingGivesGroupsBack(t *testing.T) {
	r, _ := newRunner(t)
	if r.groups == nil {
		t.Skip("no cgroup for us here")
	}
	run(t, r, request("true"))
	if left, _ := filepath.Glob(filepath.Join(r.groups.dir, "millpond-"+r.prefix+"*")); len(left) != 1 {
		t.Fatalf("after a task: %v", left)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.groups.dir, "millpond-"+r.prefix+"*")); len(left) != 0 {
		t.Fatalf("after Close: %v", left)
	}
}
