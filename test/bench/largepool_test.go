//go:build bench

package bench

import (
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch/fake"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/test/fleet"
)

// BenchmarkLargePool: a pool on the fake launcher whose machines boot at once, from
// the request until all nodes are idle. What is measured is processor time, the
// nodes' own included, and memory. Bars: 3,000 nodes in 10 s and 500 MiB; a page
// of 1,000 nodes in 50 ms; at 10,000 nodes a node costs at most 1.3 times what it
// does at 1,000 (test/report compares the two). Each size wants a process of its own, whose memory it is, as
// scripts/bench gives it. With MILLPOND_DIAL each node speaks HTTP/2.
func BenchmarkLargePool(b *testing.B) {
	debug.SetGCPercent(200) // as the server does
	for _, n := range []int{1000, 3000, 10000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				largePool(b, n)
			}
		})
	}
}

func largePool(b *testing.B, n int) {
	f := fleet.Start(b, fleet.Options{Dir: b.TempDir(), Replicas: 1, Fake: fake.Config{VMs: 2 * n}, Node: node.Config{BootsPerReplica: 100 * n}, Dial: os.Getenv("MILLPOND_DIAL") != ""})
	before, began := fleet.Used(), time.Now()
	f.Add(n, time.Hour)
	var steady, idle time.Duration
	for steady == 0 || idle == 0 {
		counts, p := f.Counts()
		if steady == 0 && p.Allocation == "steady" {
			steady = fleet.Used() - before
		}
		if idle == 0 && counts["idle"] == n {
			idle = fleet.Used() - before
		}
		if time.Since(began) > 9*time.Minute {
			b.Fatalf("%v, %d nodes", counts, p.CurrentDedicated)
		}
		time.Sleep(250 * time.Millisecond)
	}
	took := time.Since(began)
	_, most := fleet.Resident(b)
	b.ReportMetric(steady.Seconds(), "cpu-s-allocated")
	b.ReportMetric(idle.Seconds(), "cpu-s-idle")
	b.ReportMetric(float64(idle.Microseconds())/float64(n), "cpu-µs/node")
	b.ReportMetric(took.Seconds(), "s-idle")
	b.ReportMetric(most, "MiB-most")
	if path := os.Getenv("MILLPOND_HEAP"); path != "" {
		w, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		_ = pprof.Lookup("heap").WriteTo(w, 0)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.Logf("heap in use %d MiB, idle %d, released %d, stacks %d, sys %d; %d goroutines", m.HeapInuse>>20, m.HeapIdle>>20, m.HeapReleased>>20, m.StackInuse>>20, m.Sys>>20, runtime.NumGoroutine())
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.Logf("after a collection: heap %d MiB, stacks %d", m.HeapAlloc>>20, m.StackInuse>>20)
		g, _ := os.Create(path + ".goroutines")
		_ = pprof.Lookup("goroutine").WriteTo(g, 1)
		g.Close()
		w.Close()
	}
	if n == 3000 {
		atMost(b, "3,000 nodes allocated, processor time", steady.Seconds(), 10, "s")
		atMost(b, "3,000 nodes, most memory", most, 500, "MiB")
	}
	// At rest: heartbeats and whatever loops do.
	before = fleet.Used()
	time.Sleep(5 * time.Second)
	b.ReportMetric(float64((fleet.Used()-before).Milliseconds())/5/10, "%-of-a-core-at-rest")
	for name, path := range map[string]string{"page": "/pools/p/nodes?api-version=2024-07-01.20.0", "counts": "/nodecounts?api-version=2024-07-01.20.0", "pool": "/pools/p?api-version=2024-07-01.20.0",
		"page-select": "/pools/p/nodes?api-version=2024-07-01.20.0&$select=id,state", "page-filter": "/pools/p/nodes?api-version=2024-07-01.20.0&$filter=state+eq+'idle'"} {
		var all []time.Duration
		before := fleet.Used()
		for range 9 {
			q := httptest.NewRequest(http.MethodGet, "https://x/batch/bench.westus2"+path, nil)
			q.Header.Set("Authorization", "Bearer x")
			w := httptest.NewRecorder()
			began := time.Now()
			f.Edge.ServeHTTP(w, q)
			all = append(all, time.Since(began))
			if w.Code != 200 {
				b.Fatal(w.Code, w.Body)
			}
		}
		report(b, all, name)
		if n == 3000 && name == "page" {
			atMost(b, "3,000 nodes, a page of 1,000", 1000*middle(all).Seconds(), 50, "ms")
		}
		b.ReportMetric(float64((fleet.Used()-before).Microseconds())/9000, "cpu-ms-"+name)
	}
	f.End()
}
