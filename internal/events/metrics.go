package events

import (
	"github.com/prometheus/client_golang/prometheus"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// metrics count what commits changed, for whoever scrapes the server. They count
// from the server's start and have no names of users' things.
type metrics struct {
	events *prometheus.CounterVec
	tasks  *prometheus.CounterVec
	wait   prometheus.Histogram
	run    prometheus.Histogram
}

func newMetrics() metrics {
	return metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millpond_state_changes_total", Help: "Changes of state by kind and new state."}, []string{"kind", "state"}),
		tasks:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millpond_tasks_completed_total", Help: "Tasks that completed, by result."}, []string{"result"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millpond_task_wait_seconds", Help: "From waiting in the queue to a place on a node.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 30, 60, 300, 1800, 7200}}),
		run: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millpond_task_run_seconds", Help: "From a task's start on its node to its end.",
			Buckets: []float64{.01, .1, 1, 10, 60, 300, 1800, 7200, 43200}}),
	}
}

// count takes what a commit changed; list are its events.
func (m metrics) count(list []Event, c sqlite.Changes) {
	for _, e := range list {
		m.events.WithLabelValues(string(e.Kind), e.State).Inc()
	}
	if len(list) == 0 {
		return
	}
	at := list[0].Time.UnixMicro()
	for i := range c.Tasks {
		t := &c.Tasks[i].Task
		if c.Tasks[i].Gone || t.StateTransition.UnixMicro() != at {
			continue
		}
		switch {
		case t.State == millpond.TaskRunning && !t.PreviousTransition.IsZero():
			m.wait.Observe(t.StateTransition.Sub(t.PreviousTransition).Seconds())
		case t.State == millpond.TaskCompleted:
			m.tasks.WithLabelValues(t.Result).Inc()
			if !t.Started.IsZero() && t.Ended.After(t.Started) {
				m.run.Observe(t.Ended.Sub(t.Started).Seconds())
			}
		}
	}
}

// Describe and Collect make the Log a prometheus.Collector.
func (l *Log) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{l.metrics.events, l.metrics.tasks, l.metrics.wait, l.metrics.run} {
		c.Describe(ch)
	}
}

func (l *Log) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{l.metrics.events, l.metrics.tasks, l.metrics.wait, l.metrics.run} {
		c.Collect(ch)
	}
}
