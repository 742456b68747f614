//go:build bench

// Package bench measures what the documents promise, on this machine, beside
// bars or alternatives. Nothing here passes or fails by time; run it with
// make bench and read the figures.
package bench

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// BenchmarkServeReady: from the start of `serve` on an existing data folder to
// its line. Bar: 1 s.
func BenchmarkServeReady(b *testing.B) {
	s := lab.Start(b, "--launcher", "fake")
	var all []time.Duration
	for b.Loop() {
		b.StopTimer()
		s.Stop()
		b.StartTimer()
		began := time.Now()
		s.Serve()
		all = append(all, time.Since(began))
	}
	report(b, all, "ready")
	atMost(b, "start on an existing data folder", middle(all).Seconds(), 1, "s")
}

// BenchmarkRead: one pool, one node, by a client that keeps its connection, with
// a bearer token. Bar: p50 3 ms.
func BenchmarkRead(b *testing.B) {
	s := lab.Start(b, "--launcher", "fake")
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	l.AddPool(l.PoolBody("p", 2), time.Minute)
	node := l.Nodes("p")[0].ID
	client, token := s.HTTPClient(), s.Token(s.Admin(), lab.Batch)
	for name, path := range map[string]string{"pool": "/pools/p", "node": "/pools/p/nodes/" + node} {
		b.Run(name, func(b *testing.B) {
			var all []time.Duration
			for b.Loop() {
				req, err := http.NewRequest(http.MethodGet, l.BatchURL()+path+"?api-version=2022-10-01.16.0", nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+token)
				began := time.Now()
				resp, err := client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				var buf [4096]byte
				for err == nil {
					_, err = resp.Body.Read(buf[:])
				}
				resp.Body.Close()
				if resp.StatusCode != 200 {
					b.Fatal(resp.Status)
				}
				all = append(all, time.Since(began))
			}
			report(b, all, "read")
			atMost(b, "reading one "+name, 1000*middle(all).Seconds(), 3, "ms")
		})
	}
}

// noClones is the metadata of a pool whose nodes boot.
var noClones = []any{map[string]any{"name": "millpond:clones", "value": "off"}}

// BenchmarkPoolOfTwo: two tiny VMs that boot, from the request to add the pool until both
// are idle. Bar: 8 s under emulation.
func BenchmarkPoolOfTwo(b *testing.B) {
	s := lab.Start(b)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	var all []time.Duration
	i := 0
	for b.Loop() {
		i++
		pool := fmt.Sprintf("p%d", i)
		began := time.Now()
		body := l.PoolBody(pool, 2)
		body["metadata"] = noClones
		l.AddPool(body, 5*time.Minute)
		all = append(all, time.Since(began))
		b.StopTimer()
		for _, n := range l.Nodes(pool) {
			b.Logf("%s: %v ms", n.ID, n.Phases)
		}
		if i == 1 {
			b.ReportMetric(pss(b, s.Pid()), "MiB-server-PSS")
			for _, pid := range s.Descendants("vm-run") {
				b.ReportMetric(pss(b, pid), "MiB-supervisor-PSS")
			}
		}
		if a := l.Batch(http.MethodDelete, "/pools/"+pool, nil); a.Status != 202 {
			b.Fatalf("delete: %d %s", a.Status, a.Body)
		}
		lab.Wait(b, time.Minute, "pool gone", func() (bool, string) {
			a := l.Batch(http.MethodGet, "/pools/"+pool, nil)
			return a.Status == 404, string(a.Body)
		})
		b.StartTimer()
	}
	report(b, all, "idle")
	atMost(b, "two tiny machines from the request to idle", middle(all).Seconds(), 8, "s")
}

// BenchmarkIdleMemory: the server with nothing to do. Bar: 80 MiB.
func BenchmarkIdleMemory(b *testing.B) {
	s := lab.Start(b, "--launcher", "fake")
	var all []float64
	for b.Loop() {
		all = append(all, pss(b, s.Pid()))
	}
	b.ReportMetric(median(all), "MiB-server-PSS")
	atMost(b, "memory of the idle server", median(all), 80, "MiB")
}

// report adds median and 99th percentile in milliseconds.
func report(b *testing.B, all []time.Duration, what string) {
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), "ms-p50-"+what)
	if len(all) >= 100 {
		b.ReportMetric(at(0.99), "ms-p99-"+what)
	}
}

// pss is a process's proportional set size in MiB.
func pss(b testing.TB, pid int) float64 {
	text := read(b, fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / 1024
		}
	}
	b.Fatal("no Pss in smaps_rollup")
	return 0
}

func read(b testing.TB, path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return text
}
