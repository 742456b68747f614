//go:build e2e

package vm

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestWhatAMachineTells follows the output of a task on a real machine, asks what
// the machine uses, and reads output and console after the machine is gone. The
// machine is of a size without a temporary disk.
func TestWhatAMachineTells(t *testing.T) {
	file := filepath.Join(t.TempDir(), "millpond.yaml")
	if err := os.WriteFile(file, []byte("vmSizes: [{name: Standard_Bare, vcpus: 1, memoryMiB: 512, maxDataDisks: 4}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := lab.Start(t, "--config", file)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	body := l.PoolBody("p", 1)
	body["vmSize"] = "Standard_Bare"
	l.AddPool(body, 5*time.Minute)
	node := l.Nodes("p")[0].ID
	if a := l.Batch(http.MethodPost, "/jobs", map[string]any{"id": "j", "poolInfo": map[string]any{"poolId": "p"}}); a.Status != 201 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := l.Batch(http.MethodPost, "/jobs/j/tasks", shell("t", "for i in 1 2 3; do echo $i; sleep 1; done; dd if=/dev/zero of=big bs=1M count=8; echo end")); a.Status != 201 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	cmd := exec.Command(s.Bin, "--data", s.Data, "logs", "--follow", l.Account+"/j", "t")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	var first, last time.Time
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if lines = append(lines, scan.Text()); first.IsZero() {
			first = time.Now()
		}
		last = time.Now()
	}
	if err := cmd.Wait(); err != nil || strings.Join(lines, " ") != "1 2 3 end" {
		t.Errorf("followed %v: %v", lines, err)
	}
	// The lines came as they were written, not all at the end.
	if d := last.Sub(first); d < 1500*time.Millisecond {
		t.Errorf("the lines of 3 seconds came within %s", d)
	}
	lab.Wait(t, time.Minute, "the machine tells what it uses", func() (bool, string) {
		r := s.RunBin("pool", "usage", l.Account+"/p")
		return r.Code == 0 && strings.Contains(r.Stdout, node) && strings.Contains(r.Stdout, "memory "), r.Stdout + r.Stderr
	})
	l.AddJob("where", "p", shell("t", "echo $AZ_BATCH_NODE_ROOT_DIR; ls -d $AZ_BATCH_TASK_WORKING_DIR"))
	l.WaitTasks("where", time.Minute)
	if out := l.Stdout("where", "t"); !strings.HasPrefix(out, "/opt/batch/data\n/opt/batch/data/workitems/where/job-1/t/wd") {
		t.Errorf("the root directory without a temporary disk: %s", out)
	}
	t.Logf("usage: %s", s.RunBin("pool", "usage", l.Account+"/p").Stdout)
	l.Resize("p", 0)
	lab.Wait(t, time.Minute, "the node is gone", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/p/nodes/"+node, nil)
		return a.Status == 404, string(a.Body)
	})
	if r := s.RunBin("logs", l.Account+"/j", "t"); r.Stdout != "1\n2\n3\nend\n" {
		t.Errorf("after the machine is gone: %+v", r)
	}
	if r := s.RunBin("node", "logs", l.Account+"/p", node, "console-1.log"); r.Code != 0 || len(r.Stdout) < 100 {
		t.Errorf("console: %+v", r)
	}
	if r := s.RunBin("events", "--kind", "node"); !strings.Contains(r.Stdout, node+"  deleted") {
		t.Errorf("events: %s", r.Stdout)
	}
}
