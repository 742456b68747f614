package pool

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func resizing(d, l int) millpond.Pool {
	return millpond.Pool{State: millpond.PoolActive, Allocation: millpond.AllocationResizing, TargetDedicated: d, TargetLowPriority: l, ResizeStarted: t0, ResizeTimeout: 15 * time.Minute}
}

func snap(p millpond.Pool, after time.Duration, nodes ...NodeView) Snapshot {
	return Snapshot{Pool: p, Nodes: nodes, Room: -1, Addresses: -1, QuotaDedicated: -1, QuotaLow: -1, Now: t0.Add(after)}
}

func view(id string, s millpond.NodeState, came bool, tasks int) NodeView {
	return NodeView{ID: millpond.NodeID(id), Dedicated: true, State: s, Came: came, Tasks: tasks}
}

func codes(p Plan) (out []string) {
	for _, e := range p.Errors {
		out = append(out, e.Code)
	}
	return out
}

func TestMake(t *testing.T) {
	idle := func(id string) NodeView { return view(id, millpond.NodeIdle, true, 0) }
	creating := func(id string) NodeView { return view(id, millpond.NodeCreating, false, 0) }
	failed := creating("f")
	failed.Failure = "no memory"
	full := snap(resizing(3, 0), 0, idle("a"))
	full.Room = 0
	quota := snap(resizing(3, 0), 0, idle("a"))
	quota.QuotaDedicated = 1
	quotaUsed := quota
	quotaUsed.QuotaDedicated = 0
	subnet := snap(resizing(2, 2), 0, idle("a"))
	subnet.Addresses = 2
	subnetFull := snap(resizing(2, 0), 0, idle("a"))
	subnetFull.Addresses = 0
	image := snap(resizing(1, 0), 0)
	image.Hindrance = "gone"
	stopping := resizing(3, 0)
	stopping.Allocation = millpond.AllocationStopping
	deleting := resizing(0, 0)
	deleting.State = millpond.PoolDeleting
	steady := resizing(3, 0)
	steady.Allocation = millpond.AllocationSteady
	for _, c := range []struct {
		name              string
		snap              Snapshot
		create, low, gone int
		settle, remove    bool
		errors            []string
	}{
		{"grow", snap(resizing(2, 1), 0), 2, 1, 0, false, false, nil},
		{"reached", snap(resizing(1, 0), 0, idle("a")), 0, 0, 0, true, false, nil},
		{"an unusable node counts", snap(resizing(1, 0), 0, view("a", millpond.NodeUnusable, true, 0)), 0, 0, 0, true, false, nil},
		{"coming", snap(resizing(1, 0), 0, creating("a")), 0, 0, 0, false, false, nil},
		{"timed out", snap(resizing(2, 0), 15*time.Minute, idle("a"), creating("b")), 0, 0, 1, true, false, []string{"AllocationTimedout"}},
		{"host failed", snap(resizing(2, 0), 0, idle("a"), failed), 0, 0, 1, true, false, []string{"AllocationFailed"}},
		{"host failed, another still comes", snap(resizing(2, 0), 0, creating("a"), failed), 0, 0, 0, false, false, nil},
		{"host full", full, 0, 0, 0, true, false, []string{"AllocationFailed"}},
		{"a subnet with two addresses", subnet, 1, 1, 0, false, false, nil},
		{"a full subnet", subnetFull, 0, 0, 0, true, false, []string{"AllocationFailed"}},
		{"quota allows one", quota, 1, 0, 0, false, false, nil},
		{"quota used up", quotaUsed, 0, 0, 0, true, false, []string{"AccountCoreQuotaReached"}},
		{"image gone", image, 0, 0, 0, true, false, []string{"AllocationFailed"}},
		{"shrink", snap(resizing(1, 0), 0, idle("a"), idle("b")), 0, 0, 1, false, false, nil},
		{"shrinking", snap(resizing(1, 0), 0, idle("a"), view("b", millpond.NodeLeavingPool, true, 0)), 0, 0, 0, false, false, nil},
		{"shrink timed out", snap(resizing(1, 0), time.Hour, idle("a"), view("b", millpond.NodeLeavingPool, true, 1)), 0, 0, 0, true, false, []string{"RemoveNodesFailed"}},
		{"stopped", snap(stopping, 0, idle("a"), creating("b")), 0, 0, 1, true, false, []string{"ResizeStopped"}},
		{"deleting", snap(deleting, 0, idle("a"), view("b", millpond.NodeLeavingPool, true, 0)), 0, 0, 1, false, false, nil},
		{"deleted", snap(deleting, 0), 0, 0, 0, false, true, nil},
		{"steady pools are left alone", snap(steady, time.Hour, idle("a")), 0, 0, 0, false, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Make(c.snap)
			if p.CreateDedicated != c.create || p.CreateLow != c.low || len(p.Retire)+len(p.Withdraw) != c.gone || p.Settle != c.settle || p.Remove != c.remove || fmt.Sprint(codes(p)) != fmt.Sprint(c.errors) {
				t.Errorf("got %+v", p)
			}
			for _, e := range p.Errors {
				if !e.Time.Equal(c.snap.Now) || e.Message == "" {
					t.Errorf("error %+v", e)
				}
			}
		})
	}
}

func TestShrinkOrder(t *testing.T) {
	nodes := []NodeView{view("busy", millpond.NodeRunning, true, 3), view("light", millpond.NodeRunning, true, 1), view("idle", millpond.NodeIdle, true, 0),
		view("coming", millpond.NodeCreating, false, 0), view("off", millpond.NodeDeallocated, true, 0), view("broken", millpond.NodeUnusable, true, 0)}
	for n, want := range []string{"[]", "[broken]", "[broken coming]", "[broken coming off]", "[broken coming off idle]", "[broken coming off idle light]", "[broken coming off idle light busy]"} {
		if got := fmt.Sprint(Make(snap(resizing(6-n, 0), 0, nodes...)).Retire); got != want {
			t.Errorf("shrink by %d: %s, want %s", n, got, want)
		}
	}
}

// TestEveryResizeEnds plays resizes against hosts that fail, fill up, hang and
// lose nodes: each ends by its timeout, and never with more nodes than asked.
func TestEveryResizeEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := snap(resizing(rapid.IntRange(0, 6).Draw(t, "dedicated"), rapid.IntRange(0, 3).Draw(t, "low")), 0)
		s.Room = rapid.IntRange(-1, 8).Draw(t, "room")
		s.QuotaDedicated = rapid.IntRange(-1, 8).Draw(t, "quota")
		s.Addresses = rapid.IntRange(-1, 8).Draw(t, "addresses")
		for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
			s.Nodes = append(s.Nodes, NodeView{ID: millpond.NodeID(fmt.Sprint("old", i)), Dedicated: rapid.Bool().Draw(t, "kind"), State: millpond.NodeIdle, Came: true})
		}
		made := 0
		for step := 0; ; step++ {
			p := Make(s)
			if p.Settle {
				for _, n := range s.Nodes {
					if !n.Came && n.State != millpond.NodeLeavingPool && !has(p.Withdraw, n.ID) && !has(p.Retire, n.ID) {
						t.Fatalf("settled with %s not come and not withdrawn", n.ID)
					}
				}
				count := map[bool]int{}
				for _, n := range s.Nodes {
					if n.Came && n.State != millpond.NodeLeavingPool && !has(p.Retire, n.ID) {
						count[n.Dedicated]++
					}
				}
				if count[true] > s.Pool.TargetDedicated || count[false] > s.Pool.TargetLowPriority {
					t.Fatalf("settled with too many nodes: %v", count)
				}
				if (count[true] < s.Pool.TargetDedicated || count[false] < s.Pool.TargetLowPriority) && len(p.Errors) == 0 {
					t.Fatal("settled short of the target without a word")
				}
				return
			}
			if s.Now.After(t0.Add(s.Pool.ResizeTimeout)) {
				t.Fatal("the timeout has passed and the resize goes on")
			}
			for i := range s.Nodes {
				if has(p.Retire, s.Nodes[i].ID) {
					s.Nodes[i].State = millpond.NodeLeavingPool
				}
			}
			if grown := p.CreateDedicated + p.CreateLow; s.Addresses >= 0 && grown > 0 {
				if s.Addresses -= grown; s.Addresses < 0 {
					t.Fatalf("%d nodes are made and have no address", -s.Addresses)
				}
			}
			for i := range p.CreateDedicated + p.CreateLow {
				made++
				s.Nodes = append(s.Nodes, NodeView{ID: millpond.NodeID(fmt.Sprint("new", made)), Dedicated: i < p.CreateDedicated, State: millpond.NodeCreating})
				if s.Room > 0 {
					s.Room--
				}
			}
			s.QuotaDedicated = max(-1, s.QuotaDedicated-p.CreateDedicated)
			var kept []NodeView
			for _, n := range s.Nodes {
				switch what := rapid.IntRange(0, 5).Draw(t, "what"); {
				case n.State == millpond.NodeLeavingPool && what < 3:
					continue
				case n.State == millpond.NodeCreating && !n.Came && what == 0:
					n.Came, n.State = true, millpond.NodeStarting
				case n.State == millpond.NodeCreating && !n.Came && what == 1:
					n.Failure = "failed"
				}
				kept = append(kept, n)
			}
			s.Nodes = kept
			s.Now = s.Now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds")) * time.Second)
			if step > 200 {
				s.Now = s.Now.Add(time.Minute)
			}
		}
	})
}

func has(list []millpond.NodeID, id millpond.NodeID) bool {
	for _, l := range list {
		if l == id {
			return true
		}
	}
	return false
}
