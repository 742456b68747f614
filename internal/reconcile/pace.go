package reconcile

import "time"

// Pace keeps a loop that looks at all of many things from running once for each
// change of one of them, which would cost the square of their number: it rests
// after a run, and the changes of that time share the next. With few things it
// does nothing. The zero value is ready; one loop owns it.
type Pace struct{ until time.Time }

// perThing is some times what a look at one thing costs.
const perThing = 50 * time.Microsecond

// Rest notes that a run looked at n things. It never makes a rest shorter that an
// earlier and longer look of the same run wants.
func (p *Pace) Rest(now time.Time, n int) {
	if until := now.Add(time.Duration(n) * perThing); n >= 100 && until.After(p.until) {
		p.until = until
	}
}

// Early says whether a loop still rests, and until when.
func (p *Pace) Early(now time.Time) (time.Time, bool) { return p.until, now.Before(p.until) }
