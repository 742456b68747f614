//go:build bench

package bench

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// restartBar is how many seconds a server may take until it has all its nodes again.
const restartBar = 2

// BenchmarkRestart: a server that is killed with a task running on each of 32 nodes,
// from its next start until all machines are its own again and all agents in a
// session with it. Bar: 2 s, and no task disturbed. BenchmarkClones measures the same
// with its largest pool of copies; this one makes no others.
func BenchmarkRestart(b *testing.B) {
	for _, c := range kinds() {
		b.Run(c.name, func(b *testing.B) {
			p := newPools(b, c)
			all := cloned(b)
			n := all[len(all)-1]
			for b.Loop() {
				p.template()
				p.make(n, p.l.Version, "on")
				time.Sleep(settled)
				p.restart(n)
				p.delete()
			}
			p.within(fmt.Sprintf("%s, restart of the server with %d copies", c.name, n), "restart", restartBar)
		})
	}
}

// speaks is what the server logs when a session with an agent has begun.
const speaks = "node speaks"

// restart kills the server and starts it again, with a task on each of n nodes.
func (p *pools) restart(n int) {
	p.jobs++
	p.restarted = n
	job := fmt.Sprintf("restart-%d", p.jobs)
	var tasks []map[string]any
	for i := range n {
		tasks = append(tasks, map[string]any{"id": fmt.Sprintf("t%02d", i), "commandLine": `/bin/sh -c "echo begun; echo $AZ_BATCH_TASK_ID >> $AZ_BATCH_NODE_SHARED_DIR/runs; sleep 100; grep -c $AZ_BATCH_TASK_ID $AZ_BATCH_NODE_SHARED_DIR/runs"`})
	}
	p.l.AddJob(job, "p", tasks...)
	lab.Wait(p.b, 2*time.Minute, "all tasks running", func() (bool, string) {
		begun := 0
		for _, x := range p.l.Tasks(job) {
			if x.State == "running" && string(p.l.Batch(http.MethodGet, "/jobs/"+job+"/tasks/"+x.ID+"/files/stdout.txt", nil).Body) == "begun\n" {
				begun++
			}
		}
		return begun == n, fmt.Sprintf("%d of %d", begun, n)
	})
	p.l.Kill()
	before := len(p.l.Log())
	began := time.Now()
	p.l.Serve()
	ready := time.Since(began)
	deadline := began.Add(2 * time.Minute)
	for seen := 0; seen < n; seen = strings.Count(p.l.Log()[before:], speaks) {
		if time.Now().After(deadline) {
			p.b.Fatalf("%d of %d agents speak", seen, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(began)
	p.took("restart", took)
	p.b.Logf("restart with %d nodes: ready after %s, all agents in a session after %s", n, ready.Round(time.Millisecond), took.Round(time.Millisecond))
	for id, x := range p.l.WaitTasks(job, 5*time.Minute) {
		if x.Info.ExitCode == nil || *x.Info.ExitCode != 0 || x.Info.RequeueCount != 0 || x.Info.RetryCount != 0 {
			p.b.Errorf("the restart disturbed %s: %+v", id, x.Info)
		}
		if out := p.l.Stdout(job, id); out != "begun\n1\n" { // the number of its runs
			p.b.Errorf("%s wrote %q", id, out)
		}
	}
	for _, x := range p.l.Nodes("p") {
		if x.State != "idle" {
			p.b.Errorf("after the restart %s is %s", x.ID, x.State)
		}
	}
}

// kind is an image that pools are made from.
type kind struct {
	name, sku string
	vhd       func(*lab.Server) string
}

func kinds() []kind {
	return []kind{
		{"tiny", "batch.node.ubuntu 16.04", func(s *lab.Server) string { return s.TinyVHD("ubuntu-16.04") }},
		{"debian-12", "batch.node.debian 12", func(s *lab.Server) string { return s.DebianVHD() }},
	}
}

// newPools starts a server and publishes the image.
func newPools(b *testing.B, c kind) *pools {
	s := lab.New(b)
	if err := os.WriteFile(filepath.Join(s.Data, "millpond.yaml"), []byte(settings), 0o600); err != nil {
		b.Fatal(err)
	}
	s.Serve()
	vhd := c.vhd(s)
	return &pools{b: b, l: s.Furnish(vhd, "V1"), image: strings.TrimSuffix(vhd, ".vhd") + ".raw", kind: c.name, sku: c.sku, all: map[string][]time.Duration{}, latency: map[string][]float64{}, mib: map[string][]float64{}, parted: map[string][]float64{}}
}
