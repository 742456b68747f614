package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	millpond "millpond.dev/millpond"
)

// newPhases is how long nodes took to become idle, by phase of their boot.
func newPhases() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "millpond_node_boot_seconds", Help: "How long the phases of a node's first boot took; idle is their sum.",
		Buckets: []float64{.1, .5, 1, 2, 5, 10, 20, 40, 60, 120, 300}}, []string{"phase"})
}

// Metrics has how long the phases of boots took.
func (s *Service) Metrics() prometheus.Collector { return s.phases }

func (s *Service) observeBoot(phases map[string]time.Duration) {
	for _, name := range [...]string{millpond.PhaseLaunch, millpond.PhaseBoot, millpond.PhaseStartTask, millpond.PhaseIdle} {
		if d, ok := phases[name]; ok {
			s.phases.WithLabelValues(name).Observe(d.Seconds())
		}
	}
}
