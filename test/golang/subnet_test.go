//go:build e2e

package golang

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	"millpond.dev/millpond/test/lab"
)

// TestPoolInSubnet adds pools to subnets: one that is not there, one that is in
// another region, one that is too small; the nodes have its addresses, and it
// cannot be deleted under them.
func TestPoolInSubnet(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cred, core := signIn(t, s)
	const region = "westus2"
	group := "/subscriptions/" + s.Creds.SubscriptionID + "/resourceGroups/golang"
	l := &lab.Lab{Server: s, Group: group, Account: "goaccount", Region: region}
	s.Put(group, map[string]any{"location": region})
	s.Put(group+"/providers/Microsoft.Batch/batchAccounts/goaccount", map[string]any{"location": region})
	network := func(name, location, prefix string) string {
		id := group + "/providers/Microsoft.Network/virtualNetworks/" + name
		s.Put(id, map[string]any{"location": location, "properties": map[string]any{"addressSpace": map[string]any{"addressPrefixes": []string{"10.9.0.0/16"}},
			"subnets": []any{map[string]any{"name": "nodes", "properties": map[string]any{"addressPrefix": prefix}}}}})
		return id + "/subnets/nodes"
	}
	small, far := network("small", region, "10.9.1.0/29"), network("far", "eastus", "10.9.1.0/24")

	client, err := azbatch.NewClient(l.BatchURL(), cred, &azbatch.ClientOptions{ClientOptions: core})
	must(t, err)
	pool := func(id, subnet string, nodes int32) azbatch.CreatePoolContent {
		return azbatch.CreatePoolContent{ID: to.Ptr(id), VMSize: to.Ptr("standard_d1_v2"), TargetDedicatedNodes: to.Ptr(nodes),
			NetworkConfiguration: &azbatch.NetworkConfiguration{SubnetID: to.Ptr(subnet)},
			VirtualMachineConfiguration: &azbatch.VirtualMachineConfiguration{NodeAgentSKUID: to.Ptr("batch.node.debian 12"),
				ImageReference: &azbatch.ImageReference{Publisher: to.Ptr("debian"), Offer: to.Ptr("debian-12"), SKU: to.Ptr("12")}}}
	}
	for _, c := range []struct{ subnet, part string }{
		{small + "x", "not found"},
		{far, "region"},
		{strings.Replace(small, s.Creds.SubscriptionID, "00000000-0000-0000-0000-000000000000", 1), "subscription"},
		{"/nothing", "not the id"},
	} {
		_, err := client.CreatePool(ctx, pool("p", c.subnet, 0), nil)
		var answer *azcore.ResponseError
		if !errors.As(err, &answer) || answer.StatusCode != 400 || answer.ErrorCode != "InvalidPropertyValue" || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v", c.subnet, err)
		}
	}

	// A /29 has room for three machines.
	_, err = client.CreatePool(ctx, pool("p", small, 4), nil)
	must(t, err)
	var got azbatch.GetPoolResponse
	lab.Wait(t, time.Minute, "the pool steady", func() (bool, string) {
		got, err = client.GetPool(ctx, "p", nil)
		must(t, err)
		return *got.AllocationState == azbatch.AllocationStateSteady, string(*got.AllocationState)
	})
	if *got.NetworkConfiguration.SubnetID != small || *got.CurrentDedicatedNodes != 3 || len(got.ResizeErrors) != 1 || *got.ResizeErrors[0].Code != "AllocationFailed" {
		t.Errorf("%s, %d nodes, %+v", *got.NetworkConfiguration.SubnetID, *got.CurrentDedicatedNodes, got.ResizeErrors)
	}
	addresses := map[string]bool{}
	for pager := client.NewListNodesPager("p", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		must(t, err)
		for _, n := range page.Value {
			addresses[*n.IPAddress] = true
		}
	}
	if len(addresses) != 3 || !addresses["10.9.1.4"] || !addresses["10.9.1.5"] || !addresses["10.9.1.6"] {
		t.Errorf("the nodes are at %v", addresses)
	}
	deleted := func() lab.Answer { return s.Do(s.Admin(), lab.ARM, "DELETE", small+"?api-version=2024-03-01", nil) }
	if a := deleted(); a.Status != 400 || !strings.Contains(string(a.Body), "InUseSubnetCannotBeDeleted") {
		t.Errorf("deleting the subnet: %d %s", a.Status, a.Body)
	}
	// A job may not move its nodes.
	if a := l.Batch("POST", "/jobs", map[string]any{"id": "j", "poolInfo": map[string]any{"poolId": "p"}, "networkConfiguration": map[string]any{"subnetId": small}}); a.Status != 400 || !strings.Contains(string(a.Body), "UnsupportedProperty") {
		t.Errorf("a job in a subnet: %d %s", a.Status, a.Body)
	}
	_, err = client.DeletePool(ctx, "p", nil)
	must(t, err)
	_, err = client.CreatePool(ctx, pool("q", network("other", region, "10.9.2.0/24"), 1), nil)
	must(t, err)
	lab.Wait(t, time.Minute, "the subnet deleted", func() (bool, string) {
		a := deleted()
		return a.Status < 300, string(a.Body)
	})
	// With the group everything goes, in whatever order.
	if a := s.Do(s.Admin(), lab.ARM, "DELETE", group+"?api-version=2024-03-01", nil); a.Status >= 300 {
		t.Fatalf("deleting the group: %d %s", a.Status, a.Body)
	}
	lab.Wait(t, time.Minute, "the group deleted", func() (bool, string) {
		a := s.Do(s.Admin(), lab.ARM, "GET", group+"?api-version=2024-03-01", nil)
		return a.Status == 404, string(a.Body)
	})
}
