package guest

import (
	"testing"
	"time"
)

func TestCorrectionOfTheClock(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		off   time.Duration
		first bool
		step  bool
		slew  time.Duration
	}{
		{0, true, false, 0},
		{40 * ms, true, false, 0},
		{-40 * ms, true, false, 0},
		{60 * ms, true, true, 0},
		{-60 * ms, true, true, 0},
		{time.Hour, true, true, 0},
		{40 * ms, false, false, 0},
		{60 * ms, false, false, 60 * ms},
		{900 * ms, false, false, 900 * ms},
		{2 * time.Second, false, true, 0},
		// The Hello was under way so long.
		{-60 * ms, false, false, 0},
		{-20 * time.Second, false, false, 0},
		{-40 * time.Second, false, true, 0},
	} {
		step, slew := correction(c.off, c.first)
		if step != c.step || slew != c.slew {
			t.Errorf("off by %s, first %v: step %v, slew %s; want %v, %s", c.off, c.first, step, slew, c.step, c.slew)
		}
	}
}
