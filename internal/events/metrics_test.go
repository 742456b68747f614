package events

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

func TestMetricsCountCommits(t *testing.T) {
	m := newMetrics()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	task := millpond.Task{State: millpond.TaskRunning, StateTransition: now, PreviousTransition: now.Add(-2 * time.Second)}
	m.count([]Event{{Kind: Task, State: "running", Time: now}}, sqlite.Changes{Tasks: []sqlite.TaskChange{{Task: task}}})
	task.State, task.Result, task.Started, task.Ended = millpond.TaskCompleted, "success", now.Add(-time.Minute), now
	m.count([]Event{{Kind: Task, State: "completed", Time: now}, {Kind: Node, State: "idle", Time: now}}, sqlite.Changes{Tasks: []sqlite.TaskChange{{Task: task}}})
	// Written again without a change of state.
	m.count(nil, sqlite.Changes{Tasks: []sqlite.TaskChange{{Task: task}}})
	reg := prometheus.NewRegistry()
	reg.MustRegister(&Log{metrics: m})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, x := range f.GetMetric() {
			got[f.GetName()] += x.GetCounter().GetValue() + x.GetHistogram().GetSampleSum()
		}
	}
	for name, want := range map[string]float64{"millpond_state_changes_total": 3, "millpond_tasks_completed_total": 1, "millpond_task_wait_seconds": 2, "millpond_task_run_seconds": 60} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
