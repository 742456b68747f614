package batchapi

import (
	"encoding/json"
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

// TestPoolNetwork: what a pool left out of its network is shown as Azure shows it.
func TestPoolNetwork(t *testing.T) {
	if m := networkModel(millpond.PoolSpec{}); m != nil {
		t.Errorf("a pool without one has %+v", m)
	}
	b, err := json.Marshal(networkModel(millpond.PoolSpec{Inbound: []millpond.InboundPool{{Name: "web", Backend: 80, From: 1000, To: 1100,
		Rules: []millpond.InboundRule{{Priority: 150, Source: "*"}}}}}))
	const want = `{"dynamicVNetAssignmentScope":"none","enableAcceleratedNetworking":false,"endpointConfiguration":{"inboundNATPools":[{"backendPort":80,` +
		`"frontendPortRangeEnd":1100,"frontendPortRangeStart":1000,"name":"web","networkSecurityGroupRules":[{"access":"allow","priority":150,` +
		`"sourceAddressPrefix":"*","sourcePortRanges":["*"]}],"protocol":"tcp"}]}}`
	if err != nil || string(b) != want {
		t.Errorf("%s %v", b, err)
	}
	if m := networkModel(millpond.PoolSpec{Accelerated: true}); m == nil || !*m.EnableAcceleratedNetworking || m.EndpointConfiguration != nil {
		t.Errorf("accelerated: %+v", m)
	}
	if m := networkModel(millpond.PoolSpec{Private: true}); m == nil || *m.PublicIPAddressConfiguration.IPAddressProvisioningType != "nopublicipaddresses" {
		t.Errorf("private: %+v", m)
	}
	vm := machineModel(millpond.PoolSpec{Zonal: true})
	if vm.NodePlacementConfiguration == nil || *vm.NodePlacementConfiguration.Policy != "zonal" {
		t.Errorf("zonal: %+v", vm.NodePlacementConfiguration)
	}
}

// TestFailureDetails: a failure always has details; clients go through them.
func TestFailureDetails(t *testing.T) {
	if failureModel(nil) != nil {
		t.Error("a failure of none")
	}
	m := failureModel(&millpond.TaskFailure{Category: "usererror", Code: "TaskEnded", Message: "The task was ended"})
	if len(m.Details) != 1 || *m.Details[0].Name != "Message" || *m.Details[0].Value != "The task was ended" {
		t.Errorf("%+v", m.Details)
	}
	m = failureModel(&millpond.TaskFailure{Code: "BlobNotFound", Message: "m", Details: []millpond.NameValue{{Name: "FilePath", Value: "x"}}})
	if len(m.Details) != 1 || *m.Details[0].Name != "FilePath" {
		t.Errorf("%+v", m.Details)
	}
}
