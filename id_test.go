package millpond

import (
	"strings"
	"testing"
)

// TestDisplayNames: their length is of characters, not of bytes.
func TestDisplayNames(t *testing.T) {
	for name, ok := range map[string]bool{"": true, strings.Repeat("ü", 1024): true, strings.Repeat("ü", 1025): false, strings.Repeat("a", 1024): true, strings.Repeat("a", 1025): false} {
		if err := CheckDisplayName(name); (err == nil) != ok {
			t.Errorf("%d bytes: %v", len(name), err)
		}
	}
}
