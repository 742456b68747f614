package launch

import (
	"log/slog"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
)

// Hold is why and since when a machine that runs stands still.
type Hold struct {
	Failure
	Since time.Time
}

// Holds remembers the machines that stand still (Status.Held), so that whoever
// reads of one is told why even while nothing can be written to the host's disk. The
// zero value has none; it is safe for concurrent use.
type Holds struct {
	mu sync.Mutex
	by map[string]Hold
}

// See takes in what a launcher lists, and logs each machine that begins to stand
// still or goes on.
func (h *Holds) See(list []Status, log *slog.Logger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := map[string]Hold{}
	for _, st := range list {
		if st.Held == nil {
			continue
		}
		key := st.Node.Key()
		hold, known := h.by[key]
		if !known {
			hold = Hold{*st.Held, st.Changed}
			log.Error("a machine stands still", "machine", st.Node, "code", hold.Code, "message", hold.Message, "suggestion", hold.Suggestion)
		}
		now[key] = hold
	}
	for key := range h.by {
		if _, still := now[key]; !still {
			log.Info("a machine stands still no longer", "machine", key)
		}
	}
	h.by = now
}

// Of is the hold of a machine; false if it has none.
func (h *Holds) Of(node millpond.NodeID) (Hold, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hold, ok := h.by[node.Key()]
	return hold, ok
}
