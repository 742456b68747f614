package node

import (
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// TestAgree: whatever the two sides know, the session waits for no event that the
// agent does not have.
func TestAgree(t *testing.T) {
	old := func(uint64) *uint64 { return nil }
	now := func(n uint64) *uint64 { return &n }
	for _, test := range []struct {
		name              string
		row, last, forgot uint64
		says              func(uint64) *uint64
		booted            bool
		want              uint64
	}{
		{"both the same", 5, 5, 5, now, false, 5},
		{"reports that came out of contact", 5, 8, 5, now, false, 5},
		{"a new disk", 0, 0, 0, now, true, 0},
		{"an old server, all forgotten", 0, 14, 14, now, true, 14},
		{"an old server, some kept", 0, 14, 9, now, false, 9},
		{"an old agent, the same", 5, 8, 0, old, false, 5},
		{"an old agent, a torn journal", 9, 5, 0, old, true, 5},
		{"an old agent, a lost journal", 9, 2, 0, old, false, 0},
	} {
		n := millpond.Node{LastSequence: test.row}
		agree(&n, &nodev1.HelloResponse{LastSequence: test.last, Forgotten: test.says(test.forgot)}, test.booted)
		if n.LastSequence != test.want {
			t.Errorf("%s: %d, want %d", test.name, n.LastSequence, test.want)
		}
	}
}
