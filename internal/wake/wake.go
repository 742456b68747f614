// Package wake holds signals without payload. A reconciler that is woken reads
// everything again, so a wake can be merged with others and never goes stale.
package wake

// Signal is a wake-up that remembers at most one call. The zero value is not
// usable; make one with New. It is safe for concurrent use.
type Signal struct{ c chan struct{} }

func New() *Signal { return &Signal{make(chan struct{}, 1)} }

// Wake asks for one more activation; it never blocks.
func (s *Signal) Wake() {
	if s == nil {
		return
	}
	select {
	case s.c <- struct{}{}:
	default:
	}
}

// C is received from by the one loop that owns the signal.
func (s *Signal) C() <-chan struct{} { return s.c }
