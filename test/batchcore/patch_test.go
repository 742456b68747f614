package batchcore

import (
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

// TestPatchPool changes what may change at any time on a pool with nodes, and
// all else once it has none.
func TestPatchPool(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	was := c.steady("p")
	patch := func(p pool.Patch) error {
		return c.pools.Patch(ctx, millpond.Caller{}, acct, "p", millpond.Condition{}, p)
	}
	start := &millpond.StartTask{CommandLine: "sleep 1ms", WaitForSuccess: true}
	c.must(patch(pool.Patch{StartTask: &start, Metadata: &[]millpond.NameValue{{Name: "a", Value: "b"}}, NodeCommunication: ptr("simplified")}))
	same := pool.Machine{Image: was.Spec.Image, NodeAgentSKU: was.Spec.NodeAgentSKU}
	// What it has already is no change.
	c.must(patch(pool.Patch{VMSize: ptr(was.Spec.VMSize), TaskSlots: ptr(was.Spec.TaskSlotsPerNode), Machine: &same}))
	bigger := same
	bigger.OSDisk = millpond.OSDiskSpec{SizeGB: 64, Caching: "readonly"}
	whenEmpty := map[string]pool.Patch{
		"displayName":                        {DisplayName: ptr("x")},
		"taskSlotsPerNode":                   {TaskSlots: ptr(2)},
		"taskSchedulingPolicy":               {Scheduling: &pool.Scheduling{FillType: millpond.FillPack}},
		"userAccounts":                       {UserAccounts: &[]millpond.UserAccount{{Name: "u"}}},
		"resourceTags":                       {ResourceTags: &map[string]string{"k": "v"}},
		"virtualMachineConfiguration.osDisk": {Machine: &bigger},
	}
	for name, p := range whenEmpty {
		err := patch(p)
		c.code(err, "OperationNotValidOnPool")
		if e := millpond.AsError(err); len(e.Details) == 0 || e.Details[0].Value != name {
			t.Errorf("%s: %v", name, e.Details)
		}
	}
	c.code(patch(pool.Patch{TaskSlots: ptr(1000)}), "InvalidPropertyValue")
	nobody := &millpond.StartTask{CommandLine: "x", User: millpond.UserIdentity{UserName: "nobody"}}
	c.code(patch(pool.Patch{StartTask: &nobody}), "InvalidPropertyValue")
	if p := c.steady("p"); p.Spec.TaskSlotsPerNode != 1 || p.Spec.StartTask.CommandLine != "sleep 1ms" || p.Spec.NodeCommunication != "simplified" {
		t.Fatalf("%+v", p.Spec)
	}
	if n := c.list("p")[0]; n.StartTask != nil {
		t.Fatal("the new start task ran before the next boot")
	}
	c.must(c.nodes.Reboot(ctx, acct.Name, "p", c.list("p")[0].ID, ""))
	c.wait("the new start task has run", func() bool {
		n := c.list("p")[0]
		return n.State == millpond.NodeIdle && n.StartTaskInfo != nil && n.StartTaskInfo.Result == "success"
	})
	c.must(c.pools.Resize(ctx, acct.Name, "p", millpond.Condition{}, pool.Targets{Dedicated: ptr(0)}, ""))
	c.wait("the pool is empty", func() bool {
		p, err := c.pools.Get(ctx, acct.Name, "p")
		return err == nil && p.Allocation == millpond.AllocationSteady && len(c.list("p")) == 0
	})
	for _, p := range whenEmpty {
		c.must(patch(p))
	}
	c.must(c.pools.Resize(ctx, acct.Name, "p", millpond.Condition{}, pool.Targets{Dedicated: ptr(1)}, ""))
	c.idle("p", 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := h.machines[c.list("p")[0].ID.Key()].spec.OSDisk.SizeBytes; got != 64<<30 {
		t.Errorf("the OS disk has %d bytes", got)
	}
}
