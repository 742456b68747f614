package sched

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// queue is a state with n waiting tasks of ten jobs for 64 nodes of 4 slots.
func queue(n int) *world {
	w := newWorld()
	w.pool("p", 4, nil)
	for i := range 64 {
		w.node(fmt.Sprintf("tvmps_%04d_d", i), "p", millpond.NodeIdle)
	}
	for j := range 10 {
		w.job(fmt.Sprint("job", j), "p", nil)
	}
	for i := range n {
		q := sqlite.QueueRow{Account: "a", Job: fmt.Sprint("job", i%10), Task: fmt.Sprintf("task-%08d", i), State: millpond.TaskActive, Order: int64(i), Slots: 1}
		w.state.setTask(q)
	}
	return w
}

// BenchmarkQueue is the memory of 100,000 waiting tasks and the time to plan a
// batch for 256 free slots, whatever the length of the queue. Bar: 100 MiB.
func BenchmarkQueue(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			w := queue(n)
			runtime.GC()
			runtime.ReadMemStats(&after)
			for b.Loop() {
				if p := w.state.Plan(time.Time{}, batch, always); len(p.Assign) != 256 {
					b.Fatalf("%d placed", len(p.Assign))
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/placement")
		})
	}
}
