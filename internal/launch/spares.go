package launch

import "context"

// Parker is an optional ability: the launcher keeps machines ready that are nobody's
// yet. Launch gives one of them to a node whose machine is of their kind, so that it
// is there at once, and another one is made behind all other work. Spares are in no
// List. They give way to nodes: Capacity does not count them as used.
type Parker interface {
	// Park replaces what is wanted, of all owners. It returns at once; what is not
	// wanted any more is ended, and what is missing made when nothing else starts.
	Park(ctx context.Context, wanted []Spares) error
	// Parked tells what has become of each of them.
	Parked(ctx context.Context) ([]Parked, error)
}

// Spares are machines that somebody wants to be kept ready. Two owners whose specs
// are of one kind share theirs: there are as many as both want.
type Spares struct {
	// Owner is what Parked calls them; one entry each.
	Owner string
	// Spec is that of a node without its name and its credential.
	Spec  Spec
	Count int
}

// Parked is how many of the spares of an owner are there.
type Parked struct {
	Owner string
	// Wanted is Spares.Count; Ready of them wait for a node.
	Wanted, Ready int
	// MemoryMiB is what those take of the host, which is far less than a node may.
	MemoryMiB int64
	// Why says what keeps the rest from being there; empty while they are made.
	Why string
}

// ParkerOf is that ability of a launcher or of the one that it is a part of; nil
// without it.
func ParkerOf(l Launcher) Parker {
	if p, ok := l.(*Part); ok {
		l = p.Launcher
	}
	k, _ := l.(Parker)
	return k
}

// Share divides the ready spares of one kind among those who want them, in their
// order.
func Share(wanted []Parked, ready int, memoryMiB int64) {
	for i := range wanted {
		n := min(wanted[i].Wanted, ready)
		wanted[i].Ready = n
		if ready > 0 {
			wanted[i].MemoryMiB = memoryMiB * int64(n) / int64(ready)
			memoryMiB -= wanted[i].MemoryMiB
		}
		ready -= n
	}
}
