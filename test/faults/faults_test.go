//go:build e2e

// Package faults breaks things under running tasks on real machines: the
// server killed, a QEMU killed, a supervisor killed.
package faults

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

func task(id, command string) map[string]any {
	return map[string]any{"id": id, "commandLine": command}
}

// nodes is what the command line of a node's QEMU has and that of a machine which
// nodes are copied from has not.
const nodes = "guest=tvm"

// TestServerKilledWhileTasksRun kills the server in the middle: machines and
// running tasks go on, what ended meanwhile is reported, nothing runs twice.
func TestServerKilledWhileTasksRun(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	l.AddPool(l.PoolBody("p", 2), 5*time.Minute)
	before := l.Nodes("p")

	var tasks []map[string]any
	for i := range 6 {
		// Each run adds a line to a file that outlives the task's directory.
		tasks = append(tasks, task(fmt.Sprintf("t%d", i),
			fmt.Sprintf(`/bin/sh -c 'echo run >> $AZ_BATCH_NODE_SHARED_DIR/t%d; sleep 3; wc -l < $AZ_BATCH_NODE_SHARED_DIR/t%d'`, i, i)))
	}
	l.AddJob("j", "p", tasks...)
	lab.Wait(t, time.Minute, "a running task", func() (bool, string) {
		for _, x := range l.Tasks("j") {
			if x.State == "running" {
				return true, ""
			}
		}
		return false, fmt.Sprint(l.Tasks("j"))
	})
	qemus := s.Descendants(nodes)
	if len(qemus) != 2 {
		t.Fatalf("%d QEMUs run, want 2", len(qemus))
	}
	s.Kill()
	if still := s.Descendants(nodes); fmt.Sprint(still) != fmt.Sprint(qemus) {
		t.Fatalf("after the server's death the QEMUs are %v, were %v", still, qemus)
	}
	// Long enough for the running tasks to end while nobody listens.
	time.Sleep(4 * time.Second)
	s.Serve()

	done := l.WaitTasks("j", 2*time.Minute)
	for i := range 6 {
		id := fmt.Sprintf("t%d", i)
		if x := done[id]; x.Info.Result != "success" || x.Info.RetryCount != 0 || x.Info.RequeueCount != 0 {
			t.Errorf("task %s: %+v", id, x)
		}
		if out := l.Stdout("j", id); out != "1\n" {
			t.Errorf("task %s ran %q times", id, out)
		}
	}
	after := l.WaitIdle("p", 2, time.Minute)
	for i := range after {
		if after[i].ID != before[i].ID {
			t.Errorf("the nodes changed: %v, were %v", after, before)
		}
	}
	if now := s.Descendants(nodes); fmt.Sprint(now) != fmt.Sprint(qemus) {
		t.Errorf("the QEMUs changed: %v, were %v", now, qemus)
	}
}

// TestQEMUKilled kills the machine under a running task: the task runs again,
// and the node comes back or is replaced.
func TestQEMUKilled(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	l.AddPool(l.PoolBody("p", 1), 5*time.Minute)
	l.AddJob("j", "p", task("t", `/bin/sh -c 'sleep 4; echo done'`))
	lab.Wait(t, time.Minute, "the task running", func() (bool, string) {
		x := l.Tasks("j")
		return len(x) == 1 && x[0].State == "running", fmt.Sprint(x)
	})
	for _, pid := range s.Descendants(nodes) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	lab.Wait(t, 30*time.Second, "the task active again", func() (bool, string) {
		x := l.Tasks("j")
		return len(x) == 1 && x[0].State == "active", fmt.Sprint(x)
	})
	done := l.WaitTasks("j", 5*time.Minute)
	x := done["t"]
	if x.Info.Result != "success" || x.Info.RetryCount != 0 || x.Info.RequeueCount != 0 {
		t.Errorf("the task: %+v", x)
	}
	if out := l.Stdout("j", "t"); out != "done\n" {
		t.Errorf("the task printed %q", out)
	}
}

// TestSupervisorKilled kills the process that owns a machine: no machine is
// left without an owner, and the node works again.
func TestSupervisorKilled(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	l.AddPool(l.PoolBody("p", 1), 5*time.Minute)
	supervisors := s.Descendants("vms/tvm")
	if len(supervisors) != 1 {
		t.Fatalf("%d supervisors, want 1", len(supervisors))
	}
	if err := syscall.Kill(supervisors[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.AddJob("j", "p", task("t", "printenv AZ_BATCH_NODE_ID"))
	l.WaitTasks("j", 5*time.Minute)
	if n := len(s.Descendants(nodes)); n != 1 {
		t.Errorf("%d QEMUs run, want 1", n)
	}
}

// TestRebootAndReimage: files survive a reboot and not a reimage; the node comes
// back under its id.
func TestRebootAndReimage(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	l.AddPool(l.PoolBody("p", 1), 5*time.Minute)
	node := l.Nodes("p")[0].ID
	l.AddJob("mark", "p", task("t", `/bin/sh -c 'echo here > $AZ_BATCH_NODE_SHARED_DIR/mark; cat /proc/sys/kernel/random/boot_id'`))
	l.WaitTasks("mark", time.Minute)
	boot := l.Stdout("mark", "t")

	look := func(job string) string {
		l.AddJob(job, "p", task("t", `/bin/sh -c 'cat /proc/sys/kernel/random/boot_id; cat $AZ_BATCH_NODE_SHARED_DIR/mark 2>/dev/null || echo gone'`))
		l.WaitTasks(job, time.Minute)
		return l.Stdout(job, "t")
	}
	for _, c := range []struct{ verb, state, want string }{{"reboot", "rebooting", "here"}, {"reimage", "reimaging", "gone"}} {
		if a := l.Batch(http.MethodPost, "/pools/p/nodes/"+node+"/"+c.verb, map[string]any{}); a.Status != 202 {
			t.Fatalf("%s: %d %s", c.verb, a.Status, a.Body)
		}
		if n := l.Nodes("p"); n[0].State != c.state && n[0].State != "starting" && n[0].State != "creating" {
			t.Errorf("right after %s the node is %s", c.verb, n[0].State)
		}
		if n := l.WaitIdle("p", 1, 5*time.Minute); n[0].ID != node {
			t.Errorf("after %s the node is %s, was %s", c.verb, n[0].ID, node)
		}
		out := look("after-" + c.verb)
		var id, mark string
		if _, err := fmt.Sscan(out, &id, &mark); err != nil || mark != c.want || id+"\n" == boot {
			t.Errorf("after %s: %q, want a new boot and %q", c.verb, out, c.want)
		}
	}
}
