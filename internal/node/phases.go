package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
)

// newPhases is how long nodes took to become idle, by phase of their boot.
func newPhases() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "millpond_node_boot_seconds", Help: "How long the phases of a node's first boot took; idle is their sum.",
		Buckets: []float64{.1, .5, 1, 2, 5, 10, 20, 40, 60, 120, 300}}, []string{"phase"})
}

// newParts is where the time of boots went, by what the machine was made from.
func newParts() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "millpond_node_boot_part_seconds",
		Help:    "How long the parts of a node's boots took, reimages and reboots too, by what its machine was made from (cold, warm, spare).",
		Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120}}, []string{"kind", "part"})
}

// parts are those that boots are counted by; steps of launchers and stages of agents,
// which images bring, are called what they like.
var parts = map[string]string{
	"wait": "wait", "os-disk": "disk", "data-disks": "disk", "temp-disk": "disk", "seed": "disk", "start-qemu": "machine", "qmp": "machine", "restore": "restore", "personalise": "personalise",
	"connect": "connect", "kernel": "kernel", "agent": "agent",
}

// observeParts counts a boot that has ended well.
func (s *Service) observeParts(n millpond.Node, now time.Time) {
	root, ok := bootSpans(n, now)
	if !ok {
		return
	}
	sums := map[string]time.Duration{}
	for _, phase := range root.parts {
		took := phase.end.Sub(phase.start)
		if len(phase.parts) == 0 {
			sums[phase.name] += took
		}
		for _, p := range phase.parts {
			name := parts[p.name]
			switch {
			case p.name == "firmware" && phase.name == millpond.PhaseBoot:
				name = "firmware"
			case p.name == "firmware":
				name = "disk" // its variables
			case name == "":
				name = "other"
			}
			sums[name] += p.end.Sub(p.start)
		}
	}
	for name, d := range sums {
		s.parts.WithLabelValues(bootKind(n, root), name).Observe(d.Seconds())
	}
}

// metrics are what nodes tell.
type metrics struct{ all []prometheus.Collector }

func (m metrics) Describe(c chan<- *prometheus.Desc) {
	for _, x := range m.all {
		x.Describe(c)
	}
}

func (m metrics) Collect(c chan<- prometheus.Metric) {
	for _, x := range m.all {
		x.Collect(c)
	}
}

// Metrics has how long the phases and parts of boots took, and how many spares are
// ready.
func (s *Service) Metrics() prometheus.Collector {
	return metrics{[]prometheus.Collector{s.phases, s.parts, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "millpond_spares_ready", Help: "Machines that wait for a node."}, func() float64 {
		parker := launch.ParkerOf(s.Launcher)
		if parker == nil {
			return 0
		}
		all, err := parker.Parked(context.Background())
		n := 0
		for _, x := range all {
			n += x.Ready
		}
		if err != nil {
			return 0
		}
		return float64(n)
	})}}
}

func (s *Service) observeBoot(phases map[string]time.Duration) {
	for _, name := range [...]string{millpond.PhaseLaunch, millpond.PhaseBoot, millpond.PhaseStartTask, millpond.PhaseIdle} {
		if d, ok := phases[name]; ok {
			s.phases.WithLabelValues(name).Observe(d.Seconds())
		}
	}
}
