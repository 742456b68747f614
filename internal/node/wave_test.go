package node

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

// crowd is a pool with nodes that wait, boot (since when) and have booted.
func crowd(waiting int, booting []time.Duration, booted int) Snapshot {
	s := Snapshot{Now: now, Started: now.Add(-time.Hour), Config: Config{BootLimit: 5 * time.Minute, Silence: time.Minute, BootsPerReplica: 400}}
	live := map[millpond.NodeID]bool{}
	add := func(state millpond.NodeState, since time.Duration, runs bool) {
		id := millpond.NodeID(fmt.Sprintf("n%05d", len(s.Nodes)))
		s.Nodes = append(s.Nodes, sqlite.NodeHead{ID: id, Pool: "p", Generation: 1, State: state, Changed: now.Add(-since), Allocated: now})
		if runs {
			s.Machines = append(s.Machines, launch.Status{Node: id, Generation: 1, Phase: launch.Running})
		}
		live[id] = state == millpond.NodeIdle
	}
	for range waiting {
		add(millpond.NodeCreating, 0, false)
	}
	for _, d := range booting {
		add(millpond.NodeStarting, d, true)
	}
	for range booted {
		add(millpond.NodeIdle, time.Minute, true)
	}
	s.Contact = func(id millpond.NodeID) Contact { return Contact{Live: live[id], Last: now} }
	return s
}

func launches(s Snapshot) int {
	n := 0
	for _, a := range Make(s).Actions {
		if a.What == Launch {
			n++
		}
	}
	return n
}

func TestWaves(t *testing.T) {
	for _, c := range []struct {
		name     string
		snap     Snapshot
		replicas int
		want     int
	}{
		{"a quarter at the beginning", crowd(1000, nil, 0), 1, 100},
		{"each replica has its own", crowd(1000, nil, 0), 5, 500},
		{"those that boot count", crowd(1000, make([]time.Duration, 60), 0), 1, 40},
		{"full", crowd(1000, make([]time.Duration, 100), 0), 1, 0},
		{"more than wait", crowd(7, nil, 0), 1, 7},
		{"one is late", crowd(1000, []time.Duration{4 * time.Minute}, 5000), 1, 0},
		{"what is read from this host has no limit", crowd(1000, nil, 0), 0, 1000},
	} {
		c.snap.Source = func(sqlite.NodeHead) Source { return Source{Image: "v", Replicas: c.replicas} }
		if got := launches(c.snap); got != c.want {
			t.Errorf("%s: %d launches, want %d", c.name, got, c.want)
		}
	}
}

// TestWindow: quick boots make a window wider, slow ones as narrow as they say, and
// those between leave it.
func TestWindow(t *testing.T) {
	c := Config{BootLimit: 5 * time.Minute, BootsPerReplica: 400}
	for _, x := range []struct {
		size     float64
		with     int
		took     time.Duration
		replicas int
		want     float64
	}{
		{100, 100, 30 * time.Second, 1, 101},
		{100, 500, 30 * time.Second, 5, 100.2},
		{400, 400, 30 * time.Second, 1, 400},
		{100, 100, 2 * time.Minute, 1, 100},
		{100, 100, 225 * time.Second, 1, 100.0 / 3},
		{400, 100, 225 * time.Second, 1, 100.0 / 3},
		{30, 400, 225 * time.Second, 1, 30},
		{100, 10, 5 * time.Minute, 1, 25},
	} {
		w := Window{Size: x.size}.landed(c, Flight{With: x.with}, x.took, x.replicas)
		if diff := w.Size - x.want; diff > 1e-9 || diff < -1e-9 {
			t.Errorf("%+v: %v", x, w.Size)
		}
	}
}

// TestWindowIsKept: a boot is noted in one plan, and what it took in a later one.
func TestWindowIsKept(t *testing.T) {
	s := crowd(1000, make([]time.Duration, 50), 0)
	s.Source = func(sqlite.NodeHead) Source { return Source{Image: "v", Replicas: 1} }
	p := Make(s)
	if w := p.Windows["v"]; len(w.Flights) != 50 || w.Size != 100 {
		t.Fatalf("%+v", w)
	}
	s.Windows, s.Now = p.Windows, now.Add(30*time.Second)
	s.Contact = func(millpond.NodeID) Contact { return Contact{Live: true, Last: now} }
	p = Make(s)
	if w := p.Windows["v"]; len(w.Flights) != 0 || w.Size != 150 {
		t.Fatalf("%+v", w)
	}
}

// TestLastBootIsNoted: the boots after which none is left are looked at once more;
// the time until the next pool grows is not theirs.
func TestLastBootIsNoted(t *testing.T) {
	s := crowd(0, make([]time.Duration, 1), 1)
	s.Source = func(sqlite.NodeHead) Source { return Source{Image: "v", Replicas: 1} }
	plan := func() {
		if !underWay(s.Nodes, s.Windows) {
			return
		}
		s.Windows = Make(s).Windows
	}
	plan()
	for i := range s.Nodes {
		s.Nodes[i].State = millpond.NodeIdle
	}
	s.Now = now.Add(30 * time.Second)
	plan()
	s.Now = now.Add(time.Hour)
	plan()
	if w := s.Windows["v"]; len(w.Flights) != 0 || w.Size != 101 {
		t.Fatalf("%+v", w)
	}
	if underWay(s.Nodes, s.Windows) {
		t.Fatal("nothing boots, and boots are under way")
	}
}

// TestWavesEnd: however boots go, a pool that has nodes left to launch and none
// that boots launches some: nobody waits for ever.
func TestWavesEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := crowd(rapid.IntRange(1, 50).Draw(t, "waiting"), nil, rapid.IntRange(0, 50).Draw(t, "booted"))
		s.Config.BootsPerReplica = rapid.IntRange(4, 1000).Draw(t, "most")
		replicas := rapid.IntRange(0, 20).Draw(t, "replicas")
		s.Source = func(sqlite.NodeHead) Source { return Source{Image: "v", Replicas: replicas} }
		if launches(s) == 0 {
			t.Fatal("nothing boots, and nothing is launched")
		}
	})
}
