package millpond_test

import (
	"testing"

	millpond "millpond.dev/millpond"
)

// checkTable asks for every cell of the full product: each answers, accepted
// ones name a known state, refused ones say why.
func checkTable[S, E ~string](t *testing.T, states []S, events []E, answer func(S, E) (S, millpond.Outcome, string)) {
	t.Helper()
	known := map[S]bool{}
	for _, s := range states {
		known[s] = true
	}
	entered := map[S]bool{states[0]: true}
	for _, s := range states {
		for _, e := range events {
			next, outcome, reason := answer(s, e)
			switch outcome {
			case millpond.Accepted:
				entered[next] = true
				if !known[next] {
					t.Errorf("%s on %s: unknown state %q", s, e, next)
				}
			case millpond.Duplicate:
				if next != s {
					t.Errorf("%s on %s: a duplicate changes the state to %s", s, e, next)
				}
			case millpond.Refused:
				if next != s || reason == "" || reason == "no such state or event: "+string(s)+", "+string(e) {
					t.Errorf("%s on %s: no cell, or no reason: %q", s, e, reason)
				}
			}
		}
	}
	for _, s := range states {
		if !entered[s] {
			t.Errorf("nothing leads to %s", s)
		}
	}
	if _, outcome, _ := answer("no such state", events[0]); outcome != millpond.Refused {
		t.Error("an unknown state is not refused")
	}
}

func TestStateTablesAreComplete(t *testing.T) {
	t.Run("node", func(t *testing.T) {
		checkTable(t, millpond.NodeStates(), millpond.NodeEvents(), millpond.NodeTransition)
	})
	t.Run("job", func(t *testing.T) {
		checkTable(t, millpond.JobStates(), millpond.JobEvents(), millpond.JobTransition)
	})
	t.Run("vm", func(t *testing.T) {
		checkTable(t, millpond.VMStates(), millpond.VMEvents(), millpond.VMTransition)
	})
	t.Run("certificate", func(t *testing.T) {
		checkTable(t, millpond.CertificateStates(), millpond.CertificateEvents(), func(s millpond.CertificateState, e millpond.CertificateEvent) (millpond.CertificateState, millpond.Outcome, string) {
			next, outcome, refusal := millpond.CertificateTransition(s, e)
			if refusal != nil {
				return next, outcome, refusal.Message
			}
			return next, outcome, ""
		})
	})
	t.Run("deployment", func(t *testing.T) {
		checkTable(t, millpond.DeploymentStates(), millpond.DeploymentEvents(), millpond.DeploymentTransition)
	})
	t.Run("job on a node", func(t *testing.T) {
		checkTable(t, millpond.JobNodePhases(), millpond.JobNodeEvents(), millpond.JobNodeTransition)
	})
	t.Run("task", func(t *testing.T) {
		checkTable(t, millpond.TaskStates(), millpond.TaskEvents(), millpond.TaskTransition)
	})
}

func TestPoolTableIsComplete(t *testing.T) {
	for _, from := range millpond.PoolPhases() {
		for _, e := range millpond.PoolEvents() {
			next, outcome, refusal := millpond.PoolTransition(from, e)
			if outcome == millpond.Refused && (refusal == nil || refusal.Kind != millpond.Conflict || refusal.Code == "") {
				t.Errorf("%v on %s: refused with %v", from, e, refusal)
			}
			if outcome != millpond.Accepted && next != from {
				t.Errorf("%v on %s: changes without being accepted", from, e)
			}
			if from.State == millpond.PoolDeleting && next.State != millpond.PoolDeleting {
				t.Errorf("%v on %s: a deleted pool comes back", from, e)
			}
		}
	}
}

func TestEveryNodeCanLeave(t *testing.T) {
	for _, s := range millpond.NodeStates() {
		if next, outcome, _ := millpond.NodeTransition(s, millpond.NodeLeave); outcome == millpond.Refused || next != millpond.NodeLeavingPool {
			t.Errorf("%s: a user cannot get rid of the node", s)
		}
	}
}

func TestCompletedTaskStays(t *testing.T) {
	for _, e := range millpond.TaskEvents() {
		if next, _, _ := millpond.TaskTransition(millpond.TaskCompleted, e); next != millpond.TaskCompleted && e != millpond.TaskReactivate {
			t.Errorf("%s takes a completed task to %s", e, next)
		}
	}
}

func TestJobsLeaveNodes(t *testing.T) {
	for _, p := range millpond.JobNodePhases() {
		if next, outcome, _ := millpond.JobNodeTransition(p, millpond.JobNodeEnd); next != millpond.JobNodeDone || outcome == millpond.Refused {
			t.Errorf("a job cannot leave a node where it is %s", p)
		}
		if next, outcome, _ := millpond.JobNodeTransition(p, millpond.JobNodeRelease); outcome == millpond.Refused || next != millpond.JobNodeReleasing && next != millpond.JobNodeDone {
			t.Errorf("a job cannot be released where it is %s", p)
		}
	}
	for _, e := range millpond.JobNodeEvents() {
		if next, _, _ := millpond.JobNodeTransition(millpond.JobNodeDone, e); next != millpond.JobNodeDone {
			t.Errorf("%s brings a job back to a node that it left", e)
		}
	}
}

func TestJobsEnd(t *testing.T) {
	for _, s := range millpond.JobStates() {
		next, outcome, _ := millpond.JobTransition(s, millpond.JobDelete)
		if s != millpond.JobDeleting && (outcome != millpond.Accepted || next != millpond.JobDeleting) {
			t.Errorf("%s: cannot be deleted", s)
		}
		if millpond.JobRefusal(s).Kind != millpond.Conflict {
			t.Errorf("%s: refusal is no conflict", s)
		}
	}
}

func TestEveryVMCanBeDeleted(t *testing.T) {
	for _, s := range millpond.VMStates() {
		if next, outcome, _ := millpond.VMTransition(s, millpond.VMDelete); outcome == millpond.Refused || next != millpond.VMDeleting {
			t.Errorf("%s: a user cannot get rid of the machine", s)
		}
	}
	for _, e := range millpond.VMEvents() {
		if next, _, _ := millpond.VMTransition(millpond.VMDeleting, e); next != millpond.VMDeleting {
			t.Errorf("%s brings a deleted machine back", e)
		}
	}
}
