package launchtest

import (
	"fmt"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
)

// Spares is the part of the suite that tests a launch.Parker. An implementation whose
// healthy machines of Run cannot be spares calls it with others.
func Spares(t *testing.T, make func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"spares are taken first", sparesAreTaken},
		{"spares follow what is wanted", sparesFollow},
		{"restart keeps no spare too many", restartWithSpares},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, make(t)) })
	}
}

// parker is the launcher's ability to keep spares, if it is to be tested.
func parker(t *testing.T, s Subject) launch.Parker {
	t.Helper()
	p := launch.ParkerOf(s.Launcher)
	if p == nil || s.Ready == nil {
		t.Skip("the launcher keeps no spares")
	}
	s.Ready(t)
	return p
}

// want asks for spares of the subject's healthy machine.
func want(t *testing.T, s Subject, p launch.Parker, counts ...int) {
	t.Helper()
	var list []launch.Spares
	for i, n := range counts {
		list = append(list, launch.Spares{Owner: fmt.Sprint(i), Spec: s.Healthy("", 0), Count: n})
	}
	if err := p.Park(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

// untilParked waits until so many spares are ready for each owner, and no node is
// to be seen of them.
func untilParked(t *testing.T, p launch.Parker, counts ...int) {
	t.Helper()
	deadline := time.Now().Add(Bound)
	for {
		list, err := p.Parked(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ok := len(list) == len(counts)
		for i := range list {
			ok = ok && list[i].Ready == counts[i] && list[i].Owner == fmt.Sprint(i)
		}
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("want %v ready, have %+v", counts, list)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func sparesAreTaken(t *testing.T, s Subject) {
	p := parker(t, s)
	before, err := s.Launcher.Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Launcher.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, p, 2)
	untilParked(t, p, 2)
	if after, err := s.Launcher.Capacity(t.Context()); err != nil || after != before {
		t.Errorf("capacity %+v, with spares %+v, %v", before, after, err)
	}
	if list, err := s.Launcher.List(t.Context()); err != nil || len(list) != len(all) {
		t.Errorf("spares are listed: %+v, %v", list, err)
	}
	for range 2 {
		// A reimage takes one too.
		for generation := 1; generation <= 2; generation++ {
			spec := s.Healthy("Spared", generation)
			// What the server says to its agent is each node's.
			spec.Greeting = &launch.Greeting{Listener: fmt.Sprintf("127.0.0.1:%d", generation)}
			st := up(t, s.Launcher, spec)
			if !st.Clone.Spare || st.Node != spec.Node || st.Generation != generation {
				t.Errorf("generation %d: %+v", generation, st)
			}
			untilParked(t, p, 2)
		}
		if c, err := s.Launcher.Capacity(t.Context()); err != nil || c.UsedVMs != before.UsedVMs+1 {
			t.Errorf("capacity %+v, %v", c, err)
		}
		if err := s.Launcher.Reset(t.Context(), "spared"); err != nil {
			t.Fatal(err)
		}
		until(t, s.Launcher, "spared", "running after a reset", phase(launch.Running))
		if err := s.Launcher.Destroy(t.Context(), "spared"); err != nil {
			t.Fatal(err)
		}
	}
	other := s.Healthy("another-kind", 1)
	other.OSDisk.SizeBytes += 1 << 20
	if st := up(t, s.Launcher, other); st.Clone.Spare {
		t.Errorf("a spare of another kind was taken: %+v", st)
	}
	cold := s.Healthy("cold", 1)
	cold.Cold = true
	if st := up(t, s.Launcher, cold); st.Clone.Spare {
		t.Errorf("a node that is to boot got a spare: %+v", st)
	}
}

func sparesFollow(t *testing.T, s Subject) {
	p := parker(t, s)
	want(t, s, p, 1, 2)
	untilParked(t, p, 1, 2)
	want(t, s, p, 1)
	untilParked(t, p, 1)
	want(t, s, p)
	untilParked(t, p)
}

func restartWithSpares(t *testing.T, s Subject) {
	if s.Reopen == nil {
		t.Skip("the launcher has no state of its own")
	}
	p := parker(t, s)
	want(t, s, p, 2)
	untilParked(t, p, 2)
	if st := up(t, s.Launcher, s.Healthy("node-x", 1)); !st.Clone.Spare {
		t.Fatalf("no spare was taken: %+v", st)
	}
	s.Launcher = s.Reopen(t)
	if st := until(t, s.Launcher, "node-x", "running", phase(launch.Running)); st.Node != millpond.NodeID("node-x") || !st.Clone.Spare {
		t.Errorf("after the restart: %+v", st)
	}
	p = launch.ParkerOf(s.Launcher)
	want(t, s, p, 1)
	untilParked(t, p, 1)
	if st := up(t, s.Launcher, s.Healthy("node-y", 1)); !st.Clone.Spare {
		t.Errorf("no spare was taken after the restart: %+v", st)
	}
	want(t, s, p)
	untilParked(t, p)
	for _, n := range []millpond.NodeID{"node-x", "node-y"} {
		if err := s.Launcher.Destroy(t.Context(), n); err != nil {
			t.Error(err)
		}
	}
}
