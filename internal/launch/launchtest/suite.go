// Package launchtest is the one conformance suite that every launch.Launcher
// passes, the fake included. It boots nothing itself: a Subject says how guests
// of the implementation are made to run and to fail.
package launchtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
)

// Subject is one implementation, fresh and empty.
type Subject struct {
	Launcher launch.Launcher
	// Healthy makes a spec whose VM comes up, stays up, and obeys its power button.
	Healthy func(node millpond.NodeID, generation int) launch.Spec
	// Deaf is as Healthy, but the guest ignores its power button. Nil to skip.
	Deaf func(node millpond.NodeID, generation int) launch.Spec
	// HostFault makes a spec whose launch the host fails.
	HostFault func(node millpond.NodeID, generation int) launch.Spec
	// GuestFault makes a spec whose guest does not boot.
	GuestFault func(node millpond.NodeID, generation int) launch.Spec
	// Crash ends a running VM behind the launcher's back. Nil to skip.
	Crash func(t *testing.T, node millpond.NodeID)
	// Ready makes machines of Healthy be kept ready as spares, whatever that needs
	// of the implementation. Nil to skip what is said of launch.Parker.
	Ready func(t *testing.T)
	// Reopen is a restart of the server: it closes the launcher and opens
	// another one on the same state. Nil to skip.
	Reopen func(t *testing.T) launch.Launcher
}

// Bound is how long the suite waits for any condition.
const Bound = 60 * time.Second

// Run runs the suite; each test gets a Subject of its own from make, which
// registers its clean-up with t.
func Run(t *testing.T, make func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"launch runs and is idempotent", launchIsIdempotent},
		{"concurrent launches are one", concurrentLaunches},
		{"higher generation replaces", higherGeneration},
		{"reset keeps the VM", resetKeeps},
		{"stop with grace, start again by reset", stopAndStartAgain},
		{"stop by force", stopByForce},
		{"destroy is idempotent", destroyIsIdempotent},
		{"destroy while starting", destroyWhileStarting},
		{"host's fault", hostFault},
		{"guest's fault", guestFault},
		{"crash is noticed", crashIsNoticed},
		{"restart finds the VMs", restartFindsVMs},
		{"capacity counts", capacityCounts},
		{"console is readable", consoleIsReadable},
		{"unknown nodes", unknownNodes},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, make(t)) })
	}
	Spares(t, make)
}

func get(t *testing.T, l launch.Launcher, node millpond.NodeID) (launch.Status, bool) {
	t.Helper()
	list, err := l.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []launch.Status
	for _, s := range list {
		if s.Node.Key() == node.Key() {
			found = append(found, s)
		}
	}
	// The look at one agrees with the list, but for what has changed in between.
	if st, ok, err := launch.Tell(t.Context(), l, node); err != nil || ok && len(found) == 1 && (st.Node != found[0].Node || st.Generation < found[0].Generation) {
		t.Fatalf("of one VM: %+v, %v, %v; in the list: %+v", st, ok, err, found)
	}
	if len(found) > 1 {
		t.Fatalf("%s is listed %d times", node, len(found))
	}
	if len(found) == 0 {
		return launch.Status{}, false
	}
	return found[0], true
}

// until waits for a condition on the node's status. It looks when the launcher
// says that something changed, and only then if it can say so; the launcher
// gets one look in advance for what has happened already.
func until(t *testing.T, l launch.Launcher, node millpond.NodeID, what string, ok func(s launch.Status, listed bool) bool) launch.Status {
	t.Helper()
	limit := time.NewTimer(Bound)
	defer limit.Stop()
	var changed <-chan struct{}
	var poll <-chan time.Time
	if n, is := l.(launch.Notifier); is {
		changed = n.Changed()
	} else {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		poll = tick.C
	}
	for {
		s, listed := get(t, l, node)
		if ok(s, listed) {
			return s
		}
		select {
		case <-changed:
		case <-poll:
		case <-limit.C:
			t.Fatalf("%s: not %s within %s; last status %+v, failure %+v", node, what, Bound, s, s.Err)
		}
	}
}

func phase(p launch.Phase) func(launch.Status, bool) bool {
	return func(s launch.Status, listed bool) bool { return listed && s.Phase == p }
}

func mustLaunch(t *testing.T, l launch.Launcher, spec launch.Spec) {
	t.Helper()
	if err := l.Launch(t.Context(), spec); err != nil {
		t.Fatalf("launch %s: %v", spec.Node, err)
	}
}

func up(t *testing.T, l launch.Launcher, spec launch.Spec) launch.Status {
	t.Helper()
	mustLaunch(t, l, spec)
	if _, listed := get(t, l, spec.Node); !listed {
		t.Fatalf("%s is not listed right after its launch", spec.Node)
	}
	return until(t, l, spec.Node, "running", phase(launch.Running))
}

func launchIsIdempotent(t *testing.T, s Subject) {
	spec := s.Healthy("Node-A", 1)
	first := up(t, s.Launcher, spec)
	if first.Node != spec.Node || first.Generation != 1 || first.Err != nil || first.Started.IsZero() || first.Changed.IsZero() {
		t.Errorf("status %+v", first)
	}
	mustLaunch(t, s.Launcher, spec)
	spec.Node = "node-a" // ids compare without regard to case
	mustLaunch(t, s.Launcher, spec)
	if again, _ := get(t, s.Launcher, spec.Node); again.Phase != launch.Running || !again.Started.Equal(first.Started) {
		t.Errorf("launching again changed the VM: %+v, then %+v", first, again)
	}
}

func concurrentLaunches(t *testing.T, s Subject) {
	spec := s.Healthy("node-a", 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.Launcher.Launch(t.Context(), spec); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	until(t, s.Launcher, spec.Node, "running", phase(launch.Running))
	if c, err := s.Launcher.Capacity(t.Context()); err != nil || c.UsedVMs != 1 {
		t.Errorf("capacity %+v, %v", c, err)
	}
}

func higherGeneration(t *testing.T, s Subject) {
	up(t, s.Launcher, s.Healthy("node-a", 1))
	mustLaunch(t, s.Launcher, s.Healthy("node-a", 3))
	st := until(t, s.Launcher, "node-a", "running in generation 3", func(st launch.Status, listed bool) bool {
		return listed && st.Generation == 3 && st.Phase == launch.Running
	})
	if st.Err != nil {
		t.Errorf("status %+v", st)
	}
	if err := s.Launcher.Launch(t.Context(), s.Healthy("node-a", 2)); millpond.KindOf(err) != millpond.Conflict {
		t.Errorf("a lower generation: %v", err)
	}
}

func resetKeeps(t *testing.T, s Subject) {
	before := up(t, s.Launcher, s.Healthy("node-a", 1))
	if err := s.Launcher.Reset(t.Context(), "node-a"); err != nil {
		t.Fatal(err)
	}
	after := until(t, s.Launcher, "node-a", "running", phase(launch.Running))
	if after.Generation != before.Generation || after.Addr != before.Addr {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func stopAndStartAgain(t *testing.T, s Subject) {
	up(t, s.Launcher, s.Healthy("node-a", 1))
	for range 2 { // stopping what is stopped is no error
		if err := s.Launcher.Stop(t.Context(), "node-a", 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if st := until(t, s.Launcher, "node-a", "stopped", phase(launch.Stopped)); st.Err != nil {
			t.Errorf("stopped with %+v", st.Err)
		}
	}
	if err := s.Launcher.Reset(t.Context(), "node-a"); err != nil {
		t.Fatal(err)
	}
	until(t, s.Launcher, "node-a", "running again", phase(launch.Running))
}

func stopByForce(t *testing.T, s Subject) {
	if s.Deaf == nil {
		t.Skip("no guest of this kind")
	}
	up(t, s.Launcher, s.Deaf("node-a", 1))
	if err := s.Launcher.Stop(t.Context(), "node-a", 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	until(t, s.Launcher, "node-a", "stopped", phase(launch.Stopped))
}

func gone(_ launch.Status, listed bool) bool { return !listed }

func destroyIsIdempotent(t *testing.T, s Subject) {
	up(t, s.Launcher, s.Healthy("node-a", 1))
	up(t, s.Launcher, s.Healthy("node-b", 1))
	for range 2 {
		if err := s.Launcher.Destroy(t.Context(), "NODE-A"); err != nil {
			t.Fatal(err)
		}
		until(t, s.Launcher, "node-a", "gone", gone)
	}
	if st, listed := get(t, s.Launcher, "node-b"); !listed || st.Phase != launch.Running {
		t.Errorf("the other VM: %+v, listed %v", st, listed)
	}
	// The name is free again, also for an old generation.
	up(t, s.Launcher, s.Healthy("node-a", 1))
}

func destroyWhileStarting(t *testing.T, s Subject) {
	for i := range 5 {
		node := millpond.NodeID(fmt.Sprintf("node-%d", i))
		mustLaunch(t, s.Launcher, s.Healthy(node, 1))
		if err := s.Launcher.Destroy(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		until(t, s.Launcher, node, "gone", gone)
	}
	up(t, s.Launcher, s.Healthy("node-0", 1))
	if c, err := s.Launcher.Capacity(t.Context()); err != nil || c.UsedVMs != 1 {
		t.Errorf("capacity %+v, %v", c, err)
	}
}

func hostFault(t *testing.T, s Subject)  { fault(t, s, s.HostFault, true) }
func guestFault(t *testing.T, s Subject) { fault(t, s, s.GuestFault, false) }

func fault(t *testing.T, s Subject, spec func(millpond.NodeID, int) launch.Spec, host bool) {
	mustLaunch(t, s.Launcher, spec("node-a", 1))
	st := until(t, s.Launcher, "node-a", "failed", phase(launch.Failed))
	if st.Err == nil || st.Err.Host != host || st.Err.Code == "" || st.Err.Message == "" || st.Err.Suggestion == "" {
		t.Fatalf("failure %+v", st.Err)
	}
	// Launching the same again does nothing; a new generation gets a new chance.
	mustLaunch(t, s.Launcher, spec("node-a", 1))
	if again, _ := get(t, s.Launcher, "node-a"); again.Phase != launch.Failed {
		t.Errorf("the same generation came back: %+v", again)
	}
	mustLaunch(t, s.Launcher, s.Healthy("node-a", 2))
	until(t, s.Launcher, "node-a", "running", phase(launch.Running))
}

func crashIsNoticed(t *testing.T, s Subject) {
	if s.Crash == nil {
		t.Skip("VMs of this launcher cannot be crashed")
	}
	up(t, s.Launcher, s.Healthy("node-a", 1))
	s.Crash(t, "node-a")
	st := until(t, s.Launcher, "node-a", "failed", phase(launch.Failed))
	if st.Err == nil || !st.Err.Host {
		t.Errorf("failure %+v", st.Err)
	}
	if err := s.Launcher.Destroy(t.Context(), "node-a"); err != nil {
		t.Error(err)
	}
}

func restartFindsVMs(t *testing.T, s Subject) {
	if s.Reopen == nil {
		t.Skip("the launcher has no state of its own")
	}
	before := map[millpond.NodeID]launch.Status{}
	for _, n := range []millpond.NodeID{"node-a", "node-b", "node-c"} {
		before[n] = up(t, s.Launcher, s.Healthy(n, 2))
	}
	if err := s.Launcher.Stop(t.Context(), "node-b", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	until(t, s.Launcher, "node-b", "stopped", phase(launch.Stopped))
	l := s.Reopen(t)
	list, err := l.List(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatalf("after the restart: %+v, %v", list, err)
	}
	for _, st := range list {
		want := launch.Running
		if st.Node == "node-b" {
			want = launch.Stopped
		}
		if st.Phase != want || st.Generation != 2 || !st.Started.Equal(before[st.Node].Started) && want == launch.Running {
			t.Errorf("before %+v, after %+v", before[st.Node], st)
		}
	}
	mustLaunch(t, l, s.Healthy("node-a", 2)) // known, so nothing
	if s.Crash != nil {
		s.Crash(t, "node-c")
		until(t, l, "node-c", "failed", phase(launch.Failed))
	}
	for _, n := range []millpond.NodeID{"node-a", "node-b", "node-c"} {
		if err := l.Destroy(t.Context(), n); err != nil {
			t.Error(err)
		}
		until(t, l, n, "gone", gone)
	}
}

func capacityCounts(t *testing.T, s Subject) {
	empty, err := s.Launcher.Capacity(t.Context())
	if err != nil || empty.UsedVMs != 0 || empty.VMs <= 0 || empty.MemoryMiB <= 0 {
		t.Fatalf("empty: %+v, %v", empty, err)
	}
	up(t, s.Launcher, s.Healthy("node-a", 1))
	one, err := s.Launcher.Capacity(t.Context())
	if err != nil || one.UsedVMs != 1 || one.UsedMemoryMiB <= 0 || one.VMs != empty.VMs {
		t.Errorf("with one: %+v, %v", one, err)
	}
	if err := s.Launcher.Destroy(t.Context(), "node-a"); err != nil {
		t.Fatal(err)
	}
	if after, err := s.Launcher.Capacity(t.Context()); err != nil || after != empty {
		t.Errorf("after: %+v, %v", after, err)
	}
}

func consoleIsReadable(t *testing.T, s Subject) {
	c, is := s.Launcher.(launch.Consoler)
	if !is {
		t.Skip("the launcher keeps no console")
	}
	mustLaunch(t, s.Launcher, s.GuestFault("node-a", 1))
	until(t, s.Launcher, "node-a", "failed", phase(launch.Failed))
	all, err := c.Console(t.Context(), "node-a", 1<<20)
	if err != nil || len(all) == 0 {
		t.Fatalf("console after the end: %q, %v", all, err)
	}
	if tail, err := c.Console(t.Context(), "node-a", 3); err != nil || string(tail) != string(all[max(len(all)-3, 0):]) {
		t.Errorf("tail %q of %q, %v", tail, all, err)
	}
}

func unknownNodes(t *testing.T, s Subject) {
	if err := s.Launcher.Destroy(t.Context(), "nobody"); err != nil {
		t.Errorf("destroy: %v", err)
	}
	if err := s.Launcher.Reset(t.Context(), "nobody"); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("reset: %v", err)
	}
	if err := s.Launcher.Stop(t.Context(), "nobody", time.Second); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("stop: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Launcher.Launch(ctx, s.Healthy("node-a", 1)); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("launch under an ended context: %v", err)
	}
}
