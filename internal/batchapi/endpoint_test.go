package batchapi

import (
	"net/netip"
	"testing"

	millpond "millpond.dev/millpond"
)

// TestNodeEndpoints: what is open of a node is listed, SSH once.
func TestNodeEndpoints(t *testing.T) {
	web := millpond.Endpoint{Name: "web.2", Frontend: netip.MustParseAddrPort("127.16.0.1:15002"), Backend: 80}
	ssh := netip.MustParseAddrPort("127.16.0.1:50003")
	for _, c := range []struct {
		node millpond.Node
		want []string
	}{
		{millpond.Node{}, nil}, // no machine was launched yet
		{millpond.Node{Number: 3, Login: ssh}, []string{"SSHRule.2"}},
		{millpond.Node{Number: 3, Login: ssh, Endpoints: []millpond.Endpoint{web}}, []string{"web.2", "SSHRule.2"}},
		{millpond.Node{Number: 3, Login: web.Frontend, Endpoints: []millpond.Endpoint{web}}, []string{"web.2"}},
	} {
		got := endpointsModel(c.node)
		if got == nil {
			if c.want != nil {
				t.Errorf("%+v: nothing listed", c.node)
			}
			continue
		}
		var names []string
		for _, e := range got.InboundEndpoints {
			names = append(names, *e.Name)
		}
		if len(names) != len(c.want) || names[0] != c.want[0] || names[len(names)-1] != c.want[len(c.want)-1] {
			t.Errorf("%+v: %q, not %q", c.node, names, c.want)
		}
	}
}
