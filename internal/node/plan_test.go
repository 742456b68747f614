package node

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestMake(t *testing.T) {
	cfg := Config{BootLimit: 5 * time.Minute, Silence: time.Minute, StopGrace: 15 * time.Second}
	old := now.Add(-time.Hour)
	head := func(s millpond.NodeState, mod func(*sqlite.NodeHead)) sqlite.NodeHead {
		h := sqlite.NodeHead{ID: "n", Generation: 2, State: s, Changed: old, Allocated: old}
		if mod != nil {
			mod(&h)
		}
		return h
	}
	vm := func(p launch.Phase, host bool) *launch.Status {
		s := &launch.Status{Node: "n", Generation: 2, Phase: p}
		if p == launch.Failed {
			s.Err = &launch.Failure{Host: host}
		}
		return s
	}
	pending := func(ev millpond.NodeEvent, o millpond.DeallocationOption, tasks int) func(*sqlite.NodeHead) {
		return func(h *sqlite.NodeHead) { h.Pending, h.Option, h.RunningTasks = ev, o, tasks }
	}
	live, silent := Contact{Live: true, Last: now}, Contact{Last: old}
	for _, c := range []struct {
		name    string
		head    sqlite.NodeHead
		vm      *launch.Status
		contact Contact
		want    What
	}{
		{"new", head(millpond.NodeCreating, nil), nil, silent, Launch},
		{"new, to wait", head(millpond.NodeCreating, func(h *sqlite.NodeHead) { h.NextLaunch = now.Add(time.Second) }), nil, silent, ""},
		{"given up", head(millpond.NodeCreating, func(h *sqlite.NodeHead) { h.LaunchFailed = true }), nil, silent, ""},
		{"preparing", head(millpond.NodeCreating, nil), vm(launch.Preparing, false), silent, ""},
		{"machine of before", head(millpond.NodeReimaging, nil), &launch.Status{Node: "n", Generation: 1, Phase: launch.Running}, silent, Launch},
		{"came", head(millpond.NodeCreating, nil), vm(launch.Running, false), silent, Launched},
		{"host failed", head(millpond.NodeCreating, nil), vm(launch.Failed, true), silent, Retry},
		{"guest failed", head(millpond.NodeCreating, nil), vm(launch.Failed, false), silent, Fail},
		{"never spoke", head(millpond.NodeStarting, nil), vm(launch.Running, false), silent, BootTimeout},
		{"still boots", head(millpond.NodeStarting, func(h *sqlite.NodeHead) { h.Changed = now.Add(-time.Minute) }), vm(launch.Running, false), silent, ""},
		{"died booting", head(millpond.NodeStarting, nil), vm(launch.Failed, false), silent, Fail},
		{"killed booting", head(millpond.NodeStarting, nil), vm(launch.Failed, true), silent, Relaunch},
		{"healthy", head(millpond.NodeIdle, nil), vm(launch.Running, false), live, ""},
		{"silent", head(millpond.NodeRunning, nil), vm(launch.Running, false), silent, Lose},
		{"unknown stays", head(millpond.NodeUnknown, nil), vm(launch.Running, false), silent, ""},
		{"killed", head(millpond.NodeRunning, nil), vm(launch.Failed, true), live, Relaunch},
		{"vanished", head(millpond.NodeIdle, nil), nil, silent, Relaunch},
		{"switched off", head(millpond.NodeIdle, nil), vm(launch.Stopped, false), silent, Restart},
		{"unusable is left alone", head(millpond.NodeUnusable, nil), vm(launch.Failed, false), silent, ""},
		{"leaves at once", head(millpond.NodeLeavingPool, pending(millpond.NodeLeave, millpond.DeallocateRequeue, 3)), vm(launch.Running, false), live, Remove},
		{"leaves when empty", head(millpond.NodeLeavingPool, pending(millpond.NodeLeave, millpond.DeallocateTaskCompletion, 3)), vm(launch.Running, false), live, ""},
		{"does not wait for tasks of a dead machine", head(millpond.NodeRebooting, pending(millpond.NodeReboot, millpond.DeallocateTaskCompletion, 1)), vm(launch.Failed, true), silent, Reboot},
		{"nor of one that is gone", head(millpond.NodeLeavingPool, pending(millpond.NodeLeave, millpond.DeallocateRetainedData, 1)), nil, silent, Remove},
		{"nor of one that is silent for long", head(millpond.NodeLeavingPool, pending(millpond.NodeLeave, millpond.DeallocateTaskCompletion, 1)), vm(launch.Running, false), silent, Remove},
		{"reboots when stopped", head(millpond.NodeRebooting, pending(millpond.NodeReboot, millpond.DeallocateTerminate, 0)), vm(launch.Running, false), live, Reboot},
		{"reboots after grace", head(millpond.NodeRebooting, pending(millpond.NodeReboot, millpond.DeallocateTerminate, 1)), vm(launch.Running, false), live, Reboot},
		{"waits for its tasks", head(millpond.NodeRebooting, func(h *sqlite.NodeHead) {
			pending(millpond.NodeReboot, millpond.DeallocateTerminate, 1)(h)
			h.Changed = now
		}), vm(launch.Running, false), live, ""},
		{"does not reboot", head(millpond.NodeRebooting, nil), vm(launch.Running, false), Contact{Live: true, Last: now, Asked: now.Add(-time.Minute)}, Restart},
		{"stops", head(millpond.NodeDeallocating, pending(millpond.NodeDeallocate, millpond.DeallocateRequeue, 0)), vm(launch.Running, false), live, Deallocate},
		{"stops when empty", head(millpond.NodeDeallocating, pending(millpond.NodeDeallocate, millpond.DeallocateTaskCompletion, 1)), vm(launch.Running, false), live, ""},
		{"stopped", head(millpond.NodeDeallocated, nil), vm(launch.Stopped, false), silent, ""},
		{"stopped and gone", head(millpond.NodeDeallocated, nil), nil, silent, ""},
		{"stopped and switched on", head(millpond.NodeDeallocated, nil), vm(launch.Running, false), live, Deallocate},
		{"started again", head(millpond.NodeStarting, nil), vm(launch.Stopped, false), silent, Restart},
		{"started again, to wait for room", head(millpond.NodeStarting, func(h *sqlite.NodeHead) { h.NextLaunch = now.Add(time.Second) }), vm(launch.Stopped, false), silent, ""},
		{"started again without its machine", head(millpond.NodeStarting, nil), nil, silent, Relaunch},
		{"upgrades", head(millpond.NodeUpgradingOS, pending(millpond.NodeUpgrade, millpond.DeallocateTaskCompletion, 0)), vm(launch.Running, false), live, Reimage},
		{"upgraded", head(millpond.NodeUpgradingOS, nil), &launch.Status{Node: "n", Generation: 1, Phase: launch.Running}, live, Launch},
		{"has notice", head(millpond.NodeRunning, func(h *sqlite.NodeHead) {
			pending(millpond.NodePreempt, millpond.DeallocateRequeue, 1)(h)
			h.Due = now.Add(time.Second)
		}), vm(launch.Running, false), live, ""},
		{"needs no notice", head(millpond.NodeIdle, func(h *sqlite.NodeHead) {
			pending(millpond.NodePreempt, millpond.DeallocateRequeue, 0)(h)
			h.Due = now.Add(time.Second)
		}), vm(launch.Running, false), live, Preempt},
		{"is taken", head(millpond.NodeRunning, pending(millpond.NodePreempt, millpond.DeallocateRequeue, 1)), vm(launch.Running, false), live, Preempt},
		{"preempted", head(millpond.NodePreempted, nil), nil, silent, ""},
		{"reimages", head(millpond.NodeReimaging, pending(millpond.NodeReimage, millpond.DeallocateRequeue, 0)), vm(launch.Running, false), live, Reimage},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Snapshot{Nodes: []sqlite.NodeHead{c.head}, Contact: func(millpond.NodeID) Contact { return c.contact },
				Retained: func(millpond.NodeID) bool { return false }, Started: old, Now: now, Config: cfg}
			if c.vm != nil {
				s.Machines = []launch.Status{*c.vm}
			}
			actions := Make(s).Actions
			var got What
			if len(actions) > 0 {
				got = actions[0].What
			}
			if got != c.want || len(actions) > 1 {
				t.Errorf("got %v, want %q", actions, c.want)
			}
			// A server that has just started gives silence and boots their time anew.
			s.Started = now
			if p := Make(s); (c.want == Lose || c.want == BootTimeout) && (len(p.Actions) != 0 || !p.Next.After(now)) {
				t.Errorf("right after a start: %v, next %s", p.Actions, p.Next)
			}
		})
	}
}

func TestOrphansAreDestroyed(t *testing.T) {
	actions := Make(Snapshot{Machines: []launch.Status{{Node: "x"}}, Now: now}).Actions
	if len(actions) != 1 || actions[0].What != Orphan {
		t.Fatalf("%v", actions)
	}
}

// TestEveryStateHasAPlan plans each state against each phase of a machine:
// nothing panics, and no node is both unusable and relaunched for ever.
func TestEveryStateHasAPlan(t *testing.T) {
	for _, state := range millpond.NodeStates() {
		for _, phase := range []launch.Phase{"", launch.Preparing, launch.Running, launch.Stopped, launch.Failed} {
			s := Snapshot{Nodes: []sqlite.NodeHead{{ID: "n", Generation: 1, State: state}}, Contact: func(millpond.NodeID) Contact { return Contact{} }, Now: now, Config: Config{BootLimit: time.Minute, Silence: time.Minute}}
			if phase != "" {
				s.Machines = []launch.Status{{Node: "n", Generation: 1, Phase: phase}}
			}
			actions := Make(s).Actions
			if len(actions) > 1 || state == millpond.NodeUnusable && len(actions) > 0 || state == millpond.NodeLeavingPool && len(actions) == 0 {
				t.Errorf("%s with machine %q: %v", state, phase, actions)
			}
		}
	}
}
