package azwire

import (
	"encoding/json"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
)

// Selection is the set of top-level members that a client asked for with
// $select; nil means all.
type Selection map[string]bool

// ParseSelection reads $select against the members that the entity can have.
// Names are case-sensitive; an unknown one is 400.
func ParseSelection(text string, members []string) (Selection, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	s := Selection{}
	for _, name := range strings.Split(text, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(members, name) {
			return nil, millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue",
				"The query parameter $select names %q, which is not a property here. The properties are %s.", Clip(name), strings.Join(members, ", ")).
				With("QueryParameterName", "$select").With("QueryParameterValue", Clip(text)).With("Reason", "Unknown property.")
		}
		s[name] = true
	}
	return s, nil
}

// Entity turns a wire model into a JSON object with extra members, cut down to
// the selection. A nil extra value is left out.
func Entity(model any, extra map[string]any, s Selection) (map[string]json.RawMessage, error) {
	b, err := json.Marshal(model)
	if err != nil {
		return nil, err
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	for k, v := range extra {
		if v == nil {
			continue
		}
		if m[k], err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	if s != nil {
		for k := range m {
			if !s[k] {
				delete(m, k)
			}
		}
	}
	return m, nil
}
