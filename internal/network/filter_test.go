package network

import (
	"encoding/json"
	"testing"

	millpond "millpond.dev/millpond"
)

func TestFilters(t *testing.T) {
	source := rule(200, "Deny", "*", "*", "*")
	source.SourcePorts, source.Destinations = []string{"1000-2000"}, []string{"10.0.0.4"}
	outbound := rule(100, "Deny", "*", "*", "*")
	outbound.Direction = "Outbound"
	const rest = `,{}]`
	for _, c := range []struct {
		name  string
		rules []millpond.SecurityRule
		want  string
	}{
		{"no rule", nil, "null"},
		{"only what is let in", []millpond.SecurityRule{rule(100, "Allow", "Tcp", "*", "22")}, "null"},
		{"only the outside is kept out", []millpond.SecurityRule{rule(100, "Deny", "Tcp", "Internet", "22")}, "null"},
		{"what goes out", []millpond.SecurityRule{outbound}, "null"},
		{"a port", []millpond.SecurityRule{rule(100, "Deny", "Tcp", "VirtualNetwork", "80,443")}, `[{"deny":true,"protocol":6,"ports":[{"from":80,"to":80},{"from":443,"to":443}]}` + rest},
		{"all but one", []millpond.SecurityRule{rule(300, "Deny", "*", "*", "*"), rule(100, "Allow", "Icmp", "10.0.0.5", "*")},
			`[{"protocol":1,"sources":["10.0.0.5/32"]},{"deny":true}]`},
		{"source ports and a destination", []millpond.SecurityRule{source}, `[{"deny":true,"destinations":["10.0.0.4/32"],"sourcePorts":[{"from":1000,"to":2000}]}` + rest},
		{"everywhere", []millpond.SecurityRule{rule(100, "Deny", "Udp", "0.0.0.0/0", "0-65535")}, `[{"deny":true,"protocol":17}` + rest},
	} {
		got, err := json.Marshal(filter(c.rules))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.name, got, c.want, err)
		}
	}
}
