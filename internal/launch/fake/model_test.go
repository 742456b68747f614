package fake

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millpond.dev/millpond/internal/launch"
)

func from(store string) launch.Spec {
	return launch.Spec{OSDisk: launch.Disk{Content: "c", Stores: []launch.Store{{Name: store}}}}
}

// TestReplicaIsShared: readers of one replica have equal parts of what it serves
// and no more than one machine takes; those of another do not disturb them.
func TestReplicaIsShared(t *testing.T) {
	for _, c := range []struct {
		readers, replicas int
		want              time.Duration
	}{
		{1, 1, 4 * time.Second},   // the machine's own limit: 400 MiB at 100
		{2, 1, 4 * time.Second},   // 200 MiB/s together, as much as it serves
		{10, 1, 20 * time.Second}, // 4,000 MiB at 200
		{10, 5, 4 * time.Second},
	} {
		t.Run(fmt.Sprint(c.readers, "of", c.replicas), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(Model{ImageMiB: 400, ReplicaMiBps: 200, NodeMiBps: 100}, 1)
				began := time.Now()
				var wg sync.WaitGroup
				for i := range c.readers {
					wg.Go(func() {
						if !w.read(context.Background(), from(fmt.Sprint(i%c.replicas))) {
							t.Error("not read")
						}
						if took := time.Since(began).Round(time.Millisecond); took != c.want {
							t.Errorf("read after %s, want %s", took, c.want)
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

// TestReaderThatComesLater: who comes while another reads has a half, and the
// whole when that has ended; one that gives up frees its part.
func TestReaderThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(Model{ImageMiB: 400, ReplicaMiBps: 100}, 1)
		began := time.Now()
		took := make([]time.Duration, 2)
		var wg sync.WaitGroup
		wg.Go(func() {
			w.read(context.Background(), from("a"))
			took[0] = time.Since(began)
		})
		time.Sleep(2 * time.Second)
		wg.Go(func() {
			w.read(context.Background(), from("a"))
			took[1] = time.Since(began)
		})
		gone, cancel := context.WithCancel(context.Background())
		wg.Go(func() {
			if w.read(gone, from("a")) {
				t.Error("who gave up has read")
			}
		})
		time.Sleep(3 * time.Second)
		cancel()
		wg.Wait()
		// After 5 s the first has had 300 MiB and the second 100; then each half.
		if a, b := took[0].Round(time.Millisecond), took[1].Round(time.Millisecond); a != 7*time.Second || b != 9*time.Second {
			t.Errorf("read after %s and %s", a, b)
		}
	})
}

// TestHostsBootSomeAtOnce: no more machines boot at a time than the hosts can, and
// time that a factor makes shorter is shorter.
func TestHostsBootSomeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(Model{Boot: 10 * time.Second, AtOnce: 2}, 10)
		began := time.Now()
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if w.enter(context.Background()) {
					defer w.leave()
					w.boot(context.Background(), from("a"), 0, false)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("three rounds took %s", took)
		}
	})
}
