package authz

import "strings"

// matches says whether an action matches a pattern, both in lower case. `*`
// stands for any run of characters, also for slashes and for none.
func matches(pattern, action string) bool {
	// The usual two-pointer match: on a mismatch, let the last star eat one more
	// character. It is O(len(pattern)*len(action)) at worst and allocates nothing.
	p, a, star, mark := 0, 0, -1, 0
	for a < len(action) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, a
			p++
		case p < len(pattern) && pattern[p] == action[a]:
			p++
			a++
		case star >= 0:
			mark++
			p, a = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

func anyMatches(patterns []string, action string) bool {
	for _, p := range patterns {
		if matches(p, action) {
			return true
		}
	}
	return false
}

// ScopeKey is the form under which scopes compare: lower case, one leading
// slash, no trailing one. The root is "/".
func ScopeKey(scope string) string {
	return "/" + strings.ToLower(strings.Trim(scope, "/"))
}

// covers says whether a grant at one scope key reaches another: the same, or
// one below it.
func covers(grant, target string) bool {
	return grant == "/" || grant == target ||
		(len(target) > len(grant) && target[len(grant)] == '/' && strings.HasPrefix(target, grant))
}

// subscriptionOf is the subscription id inside a scope key, "" if none.
func subscriptionOf(scopeKey string) string {
	rest, ok := strings.CutPrefix(scopeKey, "/subscriptions/")
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, "/")
	return id
}
