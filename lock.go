package millpond

import (
	"strings"
	"time"
)

// LockLevel is what a lock forbids.
type LockLevel string

const (
	// LockDelete forbids deletion.
	LockDelete LockLevel = "CanNotDelete"
	// LockWrite forbids deletion and every change.
	LockWrite LockLevel = "ReadOnly"
)

// Lock is a management lock on a subscription, a group or a resource. It holds
// for everything below its scope.
type Lock struct {
	Scope   string
	Name    string
	Level   LockLevel
	Notes   string
	Created time.Time
}

// Below says whether a scope is another one or lies below it.
func Below(scope, above string) bool {
	s, a := strings.ToLower(strings.Trim(scope, "/")), strings.ToLower(strings.Trim(above, "/"))
	return s == a || strings.HasPrefix(s, a+"/") || a == ""
}

// Forbids says whether the lock stands against a change of what lies at a scope,
// or against its deletion. What has something locked below it cannot be deleted.
func (l Lock) Forbids(scope string, deletion bool) bool {
	if Below(scope, l.Scope) {
		return deletion || l.Level == LockWrite
	}
	return deletion && Below(l.Scope, scope)
}
