package extension

import (
	"errors"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

func TestOrder(t *testing.T) {
	one := func(name, publisher, kind string, after ...string) millpond.PoolExtension {
		return millpond.PoolExtension{Name: name, Publisher: publisher, Type: kind, Version: "2.1", Settings: []byte(`{"commandToExecute":"true"}`), After: after}
	}
	const old, oldKind = "Microsoft.OSTCExtensions", "CustomScriptForLinux"
	names := func(list []millpond.PoolExtension) string {
		var out []string
		for _, e := range list {
			out = append(out, e.Name)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct {
		list           []millpond.PoolExtension
		want, property string
	}{
		{nil, "", ""},
		{[]millpond.PoolExtension{one("a", publisher, kind), one("b", old, oldKind)}, "a b", ""},
		{[]millpond.PoolExtension{one("a", publisher, kind, "B"), one("b", old, oldKind)}, "b a", ""},
		{[]millpond.PoolExtension{one("a", publisher, kind, "b"), one("b", old, oldKind, "a")}, "", "[0].provisionAfterExtensions"},
		{[]millpond.PoolExtension{one("a", publisher, kind, "a")}, "", "[0].provisionAfterExtensions"},
		{[]millpond.PoolExtension{one("a", publisher, kind), one("b", old, oldKind, "c")}, "", "[1].provisionAfterExtensions"},
		{[]millpond.PoolExtension{one("a", publisher, kind), one("b", publisher, kind)}, "", "[1].type"},
		{[]millpond.PoolExtension{one("a", publisher, kind), one("A", old, oldKind)}, "", "[1].name"},
		{[]millpond.PoolExtension{one("a", "Contoso", "Antivirus", "b"), one("b", publisher, kind)}, "b a", ""},
		{[]millpond.PoolExtension{{Name: "a", Publisher: "Contoso", Type: "Antivirus", Version: "latest"}}, "", "[0].typeHandlerVersion"},
	} {
		got, err := Order(c.list)
		var p *Problem
		if c.property != "" {
			if !errors.As(err, &p) || p.Property != c.property {
				t.Errorf("%s: %v, want %s", names(c.list), err, c.property)
			}
			continue
		}
		if err != nil || names(got) != c.want {
			t.Errorf("%s: %s %v", names(c.list), names(got), err)
		}
	}
}
