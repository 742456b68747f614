package extension

import (
	"fmt"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
)

// Order checks a pool's extensions and lists them in the order in which they are
// run: each after those that it names, else as they were given. Those that are not
// available are among them: a pool may ask for one, and its nodes say that they have
// not got it. The error is a *Problem whose property is below the list.
func Order(list []millpond.PoolExtension) ([]millpond.PoolExtension, error) {
	at := map[string]int{}
	handlers := map[string]string{}
	for i, e := range list {
		if err := check(e); err != nil {
			p := err.(*Problem)
			return nil, &Problem{strings.TrimSuffix(fmt.Sprintf("[%d].%s", i, p.Property), "."), p.Reason}
		}
		if _, twice := at[strings.ToLower(e.Name)]; twice {
			return nil, &Problem{fmt.Sprintf("[%d].name", i), "Each extension has a name of its own."}
		}
		at[strings.ToLower(e.Name)] = i
		handler := strings.ToLower(e.Publisher + "." + e.Type)
		if other, twice := handlers[handler]; twice {
			return nil, &Problem{fmt.Sprintf("[%d].type", i), fmt.Sprintf("Multiple VMExtensions per handler not supported for OS type 'Linux'. The extension '%s' has the handler %s.%s already.", other, e.Publisher, e.Type)}
		}
		handlers[handler] = e.Name
	}
	for i, e := range list {
		for _, name := range e.After {
			if _, known := at[strings.ToLower(name)]; !known {
				return nil, &Problem{fmt.Sprintf("[%d].provisionAfterExtensions", i), fmt.Sprintf("The pool has no extension %q.", name)}
			}
		}
	}
	var out []millpond.PoolExtension
	done := make([]bool, len(list))
	for len(out) < len(list) {
		next := -1
		for i, e := range list {
			if done[i] {
				continue
			}
			if !slices.ContainsFunc(e.After, func(name string) bool { return !done[at[strings.ToLower(name)]] }) {
				next = i
				break
			}
		}
		if next < 0 {
			return nil, &Problem{"[0].provisionAfterExtensions", "The extensions wait for each other in a circle."}
		}
		done[next] = true
		out = append(out, list[next])
	}
	return out, nil
}

// check looks at what can be known of an extension without running it. Of one that
// is not available that is its version only.
func check(e millpond.PoolExtension) error {
	if !Available(e.Publisher, e.Type) {
		return checkVersion(e.Version)
	}
	_, err := Make(Of(e))
	return err
}

// Of is a pool's extension as Make takes it.
func Of(e millpond.PoolExtension) Asked {
	return Asked{Publisher: e.Publisher, Type: e.Type, Version: e.Version, Settings: e.Settings, Protected: e.Protected}
}
