package resource

import (
	"sort"
	"strings"

	millpond "millpond.dev/millpond"
)

// DeletionOrder sorts resources so that each comes before what it hangs on:
// deeper ids first, then by the rank of their type.
func DeletionOrder(rs []millpond.Resource) []millpond.Resource {
	rank := map[string]int{
		// A machine holds disks and network interfaces.
		strings.ToLower(millpond.TypeVM):      0,
		strings.ToLower(millpond.TypeAccount): 0, strings.ToLower(millpond.TypeGallery): 1,
		strings.ToLower(millpond.TypeImage): 2, strings.ToLower(millpond.TypeSnapshot): 3, strings.ToLower(millpond.TypeDisk): 4,
		// A network interface holds addresses, subnets and security groups; a
		// subnet holds a security group.
		strings.ToLower(millpond.TypeInterface): 5, strings.ToLower(millpond.TypePublicAddress): 6, strings.ToLower(millpond.TypeVirtualNetwork): 7, strings.ToLower(millpond.TypeSecurityGroup): 8,
	}
	out := append([]millpond.Resource(nil), rs...)
	sort.SliceStable(out, func(i, j int) bool {
		if a, b := len(out[i].ID.Types), len(out[j].ID.Types); a != b {
			return a > b
		}
		return rank[strings.ToLower(out[i].ID.Type())] < rank[strings.ToLower(out[j].ID.Type())]
	})
	return out
}

// CheckTags applies Azure's rules for tags: at most 50, names up to 512
// characters without < > % & \ ? /, values up to 256.
func CheckTags(tags map[string]string) error {
	if len(tags) > 50 {
		return millpond.Errorf(millpond.Invalid, "TooManyTags", "There are %d tags; at most 50 are allowed.", len(tags))
	}
	seen := map[string]bool{}
	for k, v := range tags {
		low := strings.ToLower(k)
		switch {
		case k == "" || len(k) > 512 || strings.ContainsAny(k, `<>%&\?/`):
			return millpond.Errorf(millpond.Invalid, "InvalidTagNameCharacters", "The tag name %q is not valid: 1 to 512 characters, none of < > %% & \\ ? /.", k)
		case len(v) > 256:
			return millpond.Errorf(millpond.Invalid, "InvalidTagValueLength", "The value of tag %q is longer than 256 characters.", k)
		case seen[low]:
			return millpond.Errorf(millpond.Invalid, "DuplicateTag", "The tag %q is given twice; names differ by more than case.", k)
		}
		seen[low] = true
	}
	return nil
}
