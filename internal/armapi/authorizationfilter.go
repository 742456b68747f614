package armapi

import (
	"strings"

	millpond "millpond.dev/millpond"
)

// roleFilter is what the $filter of role lists may say, joined by "and":
//
//	atScope()  atScopeAndBelow()  atExactScope()
//	principalId eq '…'  assignedTo('…')
//	roleName eq '…'  type eq 'CustomRole'  roleDefinitionId eq '…'
type roleFilter struct {
	atScope, exactScope bool
	principal, role     string
	roleName, roleType  string
}

// parseRoleFilter reads such a filter, in any casing. What it does not know is
// an error: az takes the answer for filtered, and a role by name is ambiguous
// when the filter was ignored.
func parseRoleFilter(text string) (roleFilter, error) {
	var f roleFilter
	if strings.TrimSpace(text) == "" {
		return f, nil
	}
	for _, clause := range splitAnd(text) {
		if err := f.add(strings.TrimSpace(clause)); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (f *roleFilter) add(clause string) error {
	lower := lowerASCII(clause)
	switch lower {
	case "atscope()":
		f.atScope = true
		return nil
	case "atexactscope()":
		f.atScope, f.exactScope = true, true
		return nil
	case "atscopeandbelow()":
		return nil // everything that touches the scope, which is what no filter gives
	}
	if inner, ok := strings.CutPrefix(lower, "assignedto("); ok && strings.HasSuffix(inner, ")") {
		if v, ok := unquote(clause[len("assignedto(") : len(clause)-1]); ok {
			f.principal = v
			return nil
		}
	}
	if name, _, ok := strings.Cut(lower, " eq "); ok {
		if v, ok := unquote(clause[len(name)+len(" eq "):]); ok {
			switch strings.TrimSpace(name) {
			case "principalid":
				f.principal = v
				return nil
			case "rolename":
				f.roleName = v
				return nil
			case "type":
				f.roleType = v
				return nil
			case "roledefinitionid":
				f.role = v[strings.LastIndexByte(v, '/')+1:]
				return nil
			}
		}
	}
	return millpond.Errorf(millpond.Invalid, "UnsupportedQuery",
		"The filter clause '%s' is not supported. Supported are atScope(), atScopeAndBelow(), atExactScope(), assignedTo('…'), and principalId, roleName, type and roleDefinitionId with eq, joined by and.", clause)
}

// lowerASCII keeps the length, so that an index into the result is one into s;
// strings.ToLower does not.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// splitAnd cuts at " and " outside of quotes.
func splitAnd(s string) []string {
	var out []string
	quoted, start := false, 0
	for i := 0; i < len(s); i++ {
		if s[i] == '\'' {
			quoted = !quoted
		}
		if !quoted && i+5 <= len(s) && strings.EqualFold(s[i:i+5], " and ") {
			out = append(out, s[start:i])
			start = i + 5
			i += 4
		}
	}
	return append(out, s[start:])
}

// unquote reads 'text' in which two quotes stand for one.
func unquote(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if len(s) < 2 || s[0] != '\'' || s[len(s)-1] != '\'' {
		return "", false
	}
	inner := s[1 : len(s)-1]
	if strings.Contains(strings.ReplaceAll(inner, "''", ""), "'") {
		return "", false
	}
	return strings.ReplaceAll(inner, "''", "'"), true
}
