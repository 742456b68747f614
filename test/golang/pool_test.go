//go:build e2e

package golang

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/batch/armbatch/v2"

	"millpond.dev/millpond/test/lab"
)

// TestPoolByResourceManager makes, scales and deletes a pool with the management
// SDK; the Batch service has the same pool.
func TestPoolByResourceManager(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cred, core := signIn(t, s)
	const group, region, name = "golang", "westus2", "poolaccount"
	l := &lab.Lab{Server: s, Group: "/subscriptions/" + s.Creds.SubscriptionID + "/resourceGroups/" + group, Account: name, Region: region}
	s.Put(l.Group, map[string]any{"location": region})
	s.Put(l.Group+"/providers/Microsoft.Batch/batchAccounts/"+name, map[string]any{"location": region})
	pools, err := armbatch.NewPoolClient(s.Creds.SubscriptionID, cred, &arm.ClientOptions{ClientOptions: core})
	must(t, err)
	fixed := func(n int32) *armbatch.ScaleSettings {
		return &armbatch.ScaleSettings{FixedScale: &armbatch.FixedScaleSettings{TargetDedicatedNodes: to.Ptr(n)}}
	}
	in := armbatch.Pool{Properties: &armbatch.PoolProperties{VMSize: to.Ptr("STANDARD_D1_V2"), DisplayName: to.Ptr("A pool"), ScaleSettings: fixed(2),
		InterNodeCommunication: to.Ptr(armbatch.InterNodeCommunicationStateDisabled), TaskSlotsPerNode: to.Ptr[int32](2),
		TaskSchedulingPolicy: &armbatch.TaskSchedulingPolicy{NodeFillType: to.Ptr(armbatch.ComputeNodeFillTypePack)},
		Metadata:             []*armbatch.MetadataItem{{Name: to.Ptr("Steady"), Value: to.Ptr("Pack")}},
		StartTask:            &armbatch.StartTask{CommandLine: to.Ptr("echo ready"), UserIdentity: &armbatch.UserIdentity{AutoUser: &armbatch.AutoUserSpecification{ElevationLevel: to.Ptr(armbatch.ElevationLevelAdmin)}}},
		DeploymentConfiguration: &armbatch.DeploymentConfiguration{VirtualMachineConfiguration: &armbatch.VirtualMachineConfiguration{NodeAgentSKUID: to.Ptr("batch.node.debian 12"),
			ImageReference: &armbatch.ImageReference{Publisher: to.Ptr("debian"), Offer: to.Ptr("debian-12"), SKU: to.Ptr("12")}}}}}
	made, err := pools.Create(ctx, group, name, "p", in, nil)
	must(t, err)
	if *made.Name != "p" || *made.Properties.ProvisioningState != armbatch.PoolProvisioningStateSucceeded || made.ETag == nil {
		t.Errorf("%+v", made.Pool)
	}
	steady := func() (p armbatch.Pool) {
		lab.Wait(t, time.Minute, "the pool is steady", func() (bool, string) {
			got, err := pools.Get(ctx, group, name, "p", nil)
			must(t, err)
			p = got.Pool
			return *p.Properties.AllocationState == armbatch.AllocationStateSteady, string(*p.Properties.AllocationState)
		})
		return p
	}
	p := steady()
	if *p.Properties.CurrentDedicatedNodes != 2 || *p.Properties.TaskSchedulingPolicy.NodeFillType != armbatch.ComputeNodeFillTypePack || *p.Properties.Metadata[0].Value != "Pack" ||
		*p.Properties.StartTask.UserIdentity.AutoUser.ElevationLevel != armbatch.ElevationLevelAdmin || *p.Properties.DeploymentConfiguration.VirtualMachineConfiguration.NodeAgentSKUID != "batch.node.debian 12" {
		t.Errorf("%+v", p.Properties)
	}
	if a := l.Batch("GET", "/pools/p", nil); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// The same body again changes nothing; another target is a resize.
	must2(pools.Create(ctx, group, name, "p", in, nil))(t)
	in.Properties.ScaleSettings = fixed(1)
	must2(pools.Create(ctx, group, name, "p", in, nil))(t)
	if p = steady(); *p.Properties.CurrentDedicatedNodes != 1 {
		t.Errorf("%d nodes", *p.Properties.CurrentDedicatedNodes)
	}
	must2(pools.Update(ctx, group, name, "p", armbatch.Pool{Properties: &armbatch.PoolProperties{
		ScaleSettings: &armbatch.ScaleSettings{AutoScale: &armbatch.AutoScaleSettings{Formula: to.Ptr("$TargetDedicatedNodes=0"), EvaluationInterval: to.Ptr("PT5M")}}}}, nil))(t)
	auto := steady()
	if a := auto.Properties.ScaleSettings.AutoScale; a == nil || *a.EvaluationInterval != "PT5M" {
		t.Errorf("%+v", auto.Properties.ScaleSettings)
	}
	// A fixed size takes the formula away under the same condition.
	_, err = pools.Update(ctx, group, name, "p", armbatch.Pool{Properties: &armbatch.PoolProperties{ScaleSettings: fixed(1)}}, &armbatch.PoolClientUpdateOptions{IfMatch: made.ETag})
	var re *azcore.ResponseError
	if !errors.As(err, &re) || re.StatusCode != 412 {
		t.Errorf("with an old ETag: %v", err)
	}
	if auto = steady(); auto.Properties.ScaleSettings.AutoScale == nil {
		t.Error("the formula is gone after a request that was refused")
	}
	must2(pools.Update(ctx, group, name, "p", armbatch.Pool{Properties: &armbatch.PoolProperties{ScaleSettings: fixed(1)}}, &armbatch.PoolClientUpdateOptions{IfMatch: auto.Etag}))(t)
	if p = steady(); p.Properties.ScaleSettings.FixedScale == nil || *p.Properties.CurrentDedicatedNodes != 1 {
		t.Errorf("%+v", p.Properties)
	}
	must2(pools.Update(ctx, group, name, "p", armbatch.Pool{Properties: &armbatch.PoolProperties{ScaleSettings: &armbatch.ScaleSettings{AutoScale: &armbatch.AutoScaleSettings{Formula: to.Ptr("$TargetDedicatedNodes=0")}}}}, nil))(t)
	steady()
	must2(pools.DisableAutoScale(ctx, group, name, "p", nil))(t)
	steady()
	must2(pools.Update(ctx, group, name, "p", armbatch.Pool{Properties: &armbatch.PoolProperties{ScaleSettings: fixed(3)}}, nil))(t)
	must2(pools.StopResize(ctx, group, name, "p", nil))(t)
	steady()
	n := 0
	for pager := pools.NewListByBatchAccountPager(group, name, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		must(t, err)
		n += len(page.Value)
	}
	if n != 1 {
		t.Errorf("%d pools", n)
	}
	gone, err := pools.BeginDelete(ctx, group, name, "p", nil)
	must(t, err)
	must2(gone.PollUntilDone(ctx, nil))(t)
	if _, err := pools.Get(ctx, group, name, "p", nil); err == nil {
		t.Error("the pool is there after its deletion")
	}
}

func must2[T any](_ T, err error) func(*testing.T) {
	return func(t *testing.T) { t.Helper(); must(t, err) }
}
