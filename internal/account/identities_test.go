package account

import (
	"slices"
	"testing"
)

func TestIdentitiesOfAChange(t *testing.T) {
	had := []string{"/one", "/two"}
	for _, c := range []struct {
		name   string
		change Change
		want   []string
	}{
		{"a patch that says nothing", Change{Patch: true}, had},
		{"a patch without any", Change{Patch: true, NoIdentities: true}, nil},
		{"a patch gives one", Change{Patch: true, Identities: map[string]bool{"/three": true}}, []string{"/one", "/two", "/three"}},
		{"a patch takes one, in other letters", Change{Patch: true, Identities: map[string]bool{"/ONE": false}}, []string{"/two"}},
		{"a patch gives one that is there", Change{Patch: true, Identities: map[string]bool{"/TWO": true}}, had},
		{"a put that says nothing", Change{}, nil},
		{"a put replaces", Change{Identities: map[string]bool{"/two": true, "/none": false}}, []string{"/two"}},
	} {
		if got := c.change.identities(had); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
