package azwire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
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

// Whole is Entity without a selection, as text. Lists of thousands are made of it:
// the model's text is not taken apart for what is added to it.
func Whole(model any, extra map[string]any) (json.RawMessage, error) {
	var b []byte
	var err error
	if m, ok := model.(json.Marshaler); ok {
		// The SDKs' models write text that need not be checked and copied again.
		b, err = m.MarshalJSON()
	} else {
		b, err = json.Marshal(model)
	}
	if err != nil {
		return nil, err
	}
	if len(b) < 2 || b[0] != '{' {
		return nil, fmt.Errorf("a wire model is no object but %.20q", b)
	}
	own := b[:len(b)-1] // what is added comes behind it
	for _, k := range slices.Sorted(maps.Keys(extra)) {
		if extra[k] == nil {
			continue
		}
		name, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(own, append(name, ':')) {
			// It may be the model's own, which it replaces.
			m, err := Entity(model, extra, nil)
			if err != nil {
				return nil, err
			}
			return json.Marshal(m)
		}
		v, err := json.Marshal(extra[k])
		if err != nil {
			return nil, err
		}
		if b = b[:len(b)-1]; len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(append(b, name...), ':'), v...), '}')
	}
	return b, nil
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
