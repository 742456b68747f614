package millpond

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// Each kind of id has a type of its own, so that one cannot be passed as
// another. Ids keep the case in which they were first written and compare
// without regard to it: maps and rows are keyed by Key().
type (
	// AccountName is a Batch account's name, unique within a server.
	AccountName string
	PoolID      string
	// NodeID is unique within a server, not only within its pool.
	NodeID string
	JobID  string
	TaskID string
)

// The key of an id is what it is found by, without regard to case.

func (a AccountName) Key() string { return strings.ToLower(string(a)) }
func (p PoolID) Key() string      { return strings.ToLower(string(p)) }
func (n NodeID) Key() string      { return strings.ToLower(string(n)) }
func (j JobID) Key() string       { return strings.ToLower(string(j)) }
func (t TaskID) Key() string      { return strings.ToLower(string(t)) }

var batchID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ValidBatchID says whether s may name a pool, job, job schedule or task that a
// caller adds: 1–64 of letters, digits, hyphen and underscore.
func ValidBatchID(s string) bool { return batchID.MatchString(s) }

// mostDisplayName is the length of a display name, in characters.
const mostDisplayName = 1024

// CheckDisplayName refuses what a pool, job, job schedule or task cannot be called for
// people.
func CheckDisplayName(s string) *Error {
	if utf8.RuneCountInString(s) > mostDisplayName {
		return InvalidProperty("displayName", "", "A display name has at most 1024 characters.")
	}
	return nil
}

// ResourceID is a parsed Resource Manager id:
// /subscriptions/{s}/resourceGroups/{g}/providers/{ns}/{type}/{name}[/{type}/{name}…].
// The zero value is invalid.
type ResourceID struct {
	Subscription string
	Group        string
	Namespace    string
	// Types and Names run in parallel, outermost first.
	Types []string
	Names []string
}

// ParseResourceID reads an id in any casing. It returns false for text that is
// not an id of a resource inside a group.
func ParseResourceID(s string) (ResourceID, bool) {
	parts := strings.Split(strings.Trim(s, "/"), "/")
	if len(parts) < 8 || len(parts)%2 != 0 ||
		!strings.EqualFold(parts[0], "subscriptions") ||
		!strings.EqualFold(parts[2], "resourceGroups") ||
		!strings.EqualFold(parts[4], "providers") {
		return ResourceID{}, false
	}
	id := ResourceID{Subscription: parts[1], Group: parts[3], Namespace: parts[5]}
	for i := 6; i < len(parts); i += 2 {
		if parts[i] == "" || parts[i+1] == "" {
			return ResourceID{}, false
		}
		id.Types = append(id.Types, parts[i])
		id.Names = append(id.Names, parts[i+1])
	}
	if id.Subscription == "" || id.Group == "" || id.Namespace == "" {
		return ResourceID{}, false
	}
	return id, true
}

// String is the id in the casing of its parts.
func (r ResourceID) String() string {
	var b strings.Builder
	b.WriteString("/subscriptions/" + r.Subscription + "/resourceGroups/" + r.Group + "/providers/" + r.Namespace)
	for i := range r.Types {
		b.WriteString("/" + r.Types[i] + "/" + r.Names[i])
	}
	return b.String()
}

// Key is the form under which ids compare equal.
func (r ResourceID) Key() string { return strings.ToLower(r.String()) }

// Type is the full type, such as Microsoft.Compute/galleries/images/versions.
func (r ResourceID) Type() string { return r.Namespace + "/" + strings.Join(r.Types, "/") }

// Is says whether the id is of the given full type, in any casing.
func (r ResourceID) Is(fullType string) bool { return strings.EqualFold(r.Type(), fullType) }

// Name is the last segment.
func (r ResourceID) Name() string {
	if len(r.Names) == 0 {
		return ""
	}
	return r.Names[len(r.Names)-1]
}

// Parent is the id one level up; false for a top-level resource.
func (r ResourceID) Parent() (ResourceID, bool) {
	n := len(r.Types)
	if n < 2 {
		return ResourceID{}, false
	}
	p := r
	p.Types, p.Names = r.Types[:n-1:n-1], r.Names[:n-1:n-1]
	return p, true
}

// Child is the id of a resource below this one.
func (r ResourceID) Child(typ, name string) ResourceID {
	c := r
	c.Types = append(append([]string(nil), r.Types...), typ)
	c.Names = append(append([]string(nil), r.Names...), name)
	return c
}

// GroupScope is the id of the resource's group.
func (r ResourceID) GroupScope() string {
	return "/subscriptions/" + r.Subscription + "/resourceGroups/" + r.Group
}

// NormalizeRegion turns "West US 2" into "westus2".
func NormalizeRegion(s string) string {
	return strings.ToLower(strings.ReplaceAll(s, " ", ""))
}
