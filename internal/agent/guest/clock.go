package guest

import (
	"time"

	"golang.org/x/sys/unix"
)

// How far a clock may be off. Whoever measures with the wall clock feels a step, and
// each service with a timer by it wakes, so there is none for less than firstTolerance
// before anything of the user's runs, and none for less than lateTolerance afterwards. A
// Hello is under way for a while, at most aheadTolerance, in which the time in it grows
// old: a clock that seems to be ahead by less may be right.
const (
	firstTolerance = 50 * time.Millisecond
	lateTolerance  = time.Second
	aheadTolerance = 30 * time.Second
)

// correction is what to do with a clock: step to the server's time, or add slew little
// by little.
func correction(off time.Duration, first bool) (step bool, slew time.Duration) {
	switch {
	case first:
		return off > firstTolerance || off < -firstTolerance, 0
	case off > lateTolerance || off < -aheadTolerance:
		return true, 0
	case off > firstTolerance:
		return false, off
	}
	return false, 0
}

// correctClock brings the machine's clock to the server's, as it was when the server
// said Hello. first says that nothing of the user's runs yet.
func (m *Machine) correctClock(now time.Time, first bool) {
	off := time.Until(now)
	step, slew := correction(off, first)
	switch {
	case step:
		tv := unix.NsecToTimeval(now.UnixNano())
		m.attempt("clock", unix.Settimeofday(&tv))
		m.cfg.Log.Info("clock set", "by", off)
	case slew != 0:
		// The kernel takes 2,000 s for a second, and wakes nobody.
		_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: slew.Microseconds()})
		m.attempt("clock", err)
	}
}
