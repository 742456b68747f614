package gallery

import (
	"testing"

	millpond "millpond.dev/millpond"
)

// TestStandIns: without machines a Marketplace image need not be built, but it
// must be one that the node agent is for.
func TestStandIns(t *testing.T) {
	ctx, acct := t.Context(), millpond.BatchAccount{Name: "acct", Region: "westus2"}
	jammy := millpond.ImageReference{Publisher: "Canonical", Offer: "0001-com-ubuntu-server-jammy", SKU: "22_04-LTS"}
	windows := millpond.ImageReference{Publisher: "MicrosoftWindowsServer", Offer: "WindowsServer", SKU: "2016-Datacenter-smalldisk"}
	for _, c := range []struct {
		ref   millpond.ImageReference
		agent string
		os    string
	}{
		{jammy, "batch.node.ubuntu 22.04", "Linux"},
		{windows, "batch.node.windows amd64", "Windows"},
		{jammy, "batch.node.ubuntu 20.04", ""},
		{jammy, "batch.node.windows amd64", ""},
		{windows, "batch.node.ubuntu 22.04", ""},
	} {
		for _, standIns := range []bool{true, false} {
			s := &Service{Options: Options{StandIns: standIns}}
			boot, err := s.ResolveForPool(ctx, millpond.Caller{}, acct, c.ref, c.agent)
			if !standIns || c.os == "" {
				if millpond.AsError(err).Code != "InvalidPropertyValue" {
					t.Errorf("%v with %s: %+v, %v", c.ref, c.agent, boot, err)
				}
				continue
			}
			if err != nil || boot.OSType != c.os {
				t.Errorf("%v with %s: %+v, %v", c.ref, c.agent, boot, err)
				continue
			}
			if _, err := s.ChooseReplicas(ctx, acct, boot, "n"); err != nil {
				t.Errorf("%v: %v", c.ref, err)
			}
		}
	}
}
