package millpond

import "testing"

func TestEndpointRules(t *testing.T) {
	some := EndpointRules{Deny: true, Addresses: []string{"203.0.113.7", "10.0.0.0/8", "nonsense"}}
	for _, c := range []struct {
		rules  EndpointRules
		remote string
		admits bool
	}{
		{EndpointRules{}, "nobody knows", true},
		{EndpointRules{Addresses: []string{"10.0.0.1"}}, "192.0.2.1:80", true}, // nothing is closed
		{EndpointRules{Deny: true}, "127.0.0.1:80", false},
		{some, "203.0.113.7:1234", true},
		{some, "203.0.113.7", true},
		{some, "203.0.113.8:1234", false},
		{some, "10.255.255.255:1", true},
		{some, "[::ffff:10.1.1.1]:443", true}, // as a listener of both families tells it
		{some, "[::1]:443", false},
		{some, "", false},
		{some, "@", false}, // a socket without a name
	} {
		if got := c.rules.Admits(c.remote); got != c.admits {
			t.Errorf("%+v admits %q: %v", c.rules, c.remote, got)
		}
	}
}
