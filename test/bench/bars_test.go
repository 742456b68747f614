//go:build bench

package bench

import (
	"slices"
	"testing"
	"time"
)

// atMost and atLeast print a bar of a document beside what was seen. A bar that is
// not met fails nothing: it is there to be read, and test/report keeps the line.
func atMost(b *testing.B, what string, seen, bar float64, unit string) {
	b.Helper()
	say(b, what, seen, "at most", bar, unit, seen <= bar)
}

func atLeast(b *testing.B, what string, seen, bar float64, unit string) {
	b.Helper()
	say(b, what, seen, "at least", bar, unit, seen >= bar)
}

func say(b *testing.B, what string, seen float64, how string, bar float64, unit string, met bool) {
	b.Helper()
	word := "met"
	if !met {
		word = "NOT MET"
	}
	b.Logf("BAR %s: %.4g %s, %s %.4g: %s", what, seen, unit, how, bar, word)
}

func seconds(all []time.Duration) []float64 {
	out := make([]float64, len(all))
	for i, d := range all {
		out[i] = d.Seconds()
	}
	return out
}

// high is the 99th percentile in ms, as report has it; the last of few.
func high(all []time.Duration) float64 {
	all = slices.Sorted(slices.Values(all))
	return 1000 * all[int(0.99*float64(len(all)-1)+0.5)].Seconds()
}
