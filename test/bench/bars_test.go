//go:build bench

package bench

import (
	"testing"
	"time"
)

// atMost and atLeast print a bar of a document beside what was seen. A bar that is
// not met fails nothing: it is there to be read.
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
