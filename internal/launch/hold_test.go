package launch

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestHolds: each hold is logged once when it begins and once when it is over.
func TestHolds(t *testing.T) {
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	at := time.Unix(1e9, 0)
	still := Status{Node: "Node-1", Phase: Running, Changed: at, Held: &Failure{Host: true, Code: "HostDiskFull"}}
	on := Status{Node: "node-2", Phase: Running}
	var h Holds
	h.See([]Status{on}, log)
	for i := range 3 {
		still.Changed = at.Add(time.Duration(i) * time.Second)
		h.See([]Status{still, on}, log)
		if hold, ok := h.Of("node-1"); !ok || hold.Code != "HostDiskFull" || !hold.Since.Equal(at) {
			t.Errorf("%+v, %v", hold, ok)
		}
	}
	if _, ok := h.Of("node-2"); ok {
		t.Error("a machine that goes on is held")
	}
	h.See([]Status{on}, log)
	if _, ok := h.Of("node-1"); ok || strings.Count(text.String(), "\n") != 2 {
		t.Errorf("afterwards held %v; the log:\n%s", ok, text.String())
	}
}
