package resource

import (
	"strings"
	"testing"
)

func TestGroupNames(t *testing.T) {
	for name, want := range map[string]bool{
		"rg": true, "Gruppe-ä_(1).x": true, strings.Repeat("ü", groupNameLimit): true,
		"": false, strings.Repeat("a", groupNameLimit+1): false, "a b": false, "a/b": false, "rg.": false, "a\n": false,
	} {
		if got := validGroupName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
