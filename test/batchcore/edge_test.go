package batchcore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/batchapi"
	"millpond.dev/millpond/internal/node"
)

func (accounts) Lookup(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return acct, nil
}

type everybody struct{}

func (everybody) Authorize(context.Context, millpond.Caller, string, string) error { return nil }

func (everybody) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "x", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// refusedWith says whether a client's error has Azure's code.
func refusedWith(err error, code string) bool {
	var r *azcore.ResponseError
	return errors.As(err, &r) && r.ErrorCode == code
}

// The Go SDK drives the whole core through the edge.
func TestThroughTheEdge(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	server := httptest.NewServer(batchapi.New(batchapi.Options{Accounts: accounts{}, Authz: everybody{}, Pools: c.pools, Nodes: c.nodes, Jobs: c.jobs, Schedules: c.jobs, Stats: c.stats, Clock: c.clock,
		Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Verify: func(context.Context, string) (millpond.Caller, error) {
			return millpond.Caller{Method: millpond.AuthToken, Object: "o"}, nil
		}}))
	defer server.Close()
	client, err := azbatch.NewClient(server.URL+"/batch/acct.westus2", everybody{}, &azbatch.ClientOptions{ClientOptions: policy.ClientOptions{InsecureAllowCredentialWithHTTP: true}})
	c.must(err)
	ctx := t.Context()
	poolBody := azbatch.CreatePoolContent{ID: ptr("p"), VMSize: ptr("Standard_D2s_v3"), TargetDedicatedNodes: ptr(int32(2)), TaskSlotsPerNode: ptr(int32(2)),
		VirtualMachineConfiguration: &azbatch.VirtualMachineConfiguration{NodeAgentSKUID: ptr("batch.node.debian 12"),
			ImageReference: &azbatch.ImageReference{VirtualMachineImageID: ptr("/x")}}}
	_, err = client.CreatePool(ctx, poolBody, nil)
	c.must(err)
	if _, err = client.CreatePool(ctx, poolBody, nil); !refusedWith(err, "PoolExists") {
		t.Errorf("the second pool: %v", err)
	}
	if _, err = client.ResizePool(ctx, "p", azbatch.ResizePoolContent{TargetDedicatedNodes: ptr(int32(1)), ResizeTimeout: ptr("PT4M")}, nil); !refusedWith(err, "InvalidPropertyValue") {
		t.Errorf("a short timeout: %v", err)
	}
	nodes := func(filter string) (out []azbatch.Node) {
		for pager := client.NewListNodesPager("p", &azbatch.ListNodesOptions{Filter: &filter, MaxResults: ptr(int32(1))}); pager.More(); {
			page, err := pager.NextPage(ctx)
			c.must(err)
			out = append(out, page.Value...)
		}
		return out
	}
	c.wait("two nodes are idle", func() bool { return len(nodes("state eq 'idle'")) == 2 })
	p, err := client.GetPool(ctx, "P", nil)
	c.must(err)
	if *p.CurrentDedicatedNodes != 2 || *p.ID != "p" {
		t.Errorf("%d nodes of %s", *p.CurrentDedicatedNodes, *p.ID)
	}
	if _, err = client.UpdatePool(ctx, "p", azbatch.UpdatePoolContent{Metadata: []azbatch.MetadataItem{{Name: ptr("a"), Value: ptr("b")}}}, &azbatch.UpdatePoolOptions{IfMatch: ptr(azcore.ETag("0x8D0"))}); !refusedWith(err, "ConditionNotMet") {
		t.Errorf("an old ETag: %v", err)
	}
	_, err = client.UpdatePool(ctx, "p", azbatch.UpdatePoolContent{Metadata: []azbatch.MetadataItem{{Name: ptr("a"), Value: ptr("b")}}}, &azbatch.UpdatePoolOptions{IfMatch: p.ETag})
	c.must(err)
	_, err = client.ReplacePoolProperties(ctx, "p", azbatch.ReplacePoolContent{StartTask: &azbatch.StartTask{CommandLine: ptr("true")}}, nil)
	c.must(err)

	_, err = client.CreateJob(ctx, azbatch.CreateJobContent{ID: ptr("j"), PoolInfo: &azbatch.PoolInfo{PoolID: ptr("p")}}, nil)
	c.must(err)
	var group azbatch.TaskGroup
	for i := range 100 {
		group.Value = append(group.Value, azbatch.CreateTaskContent{ID: ptr(fmt.Sprintf("t%03d", i)), CommandLine: ptr("true")})
	}
	group.Value[99].ID = ptr("T000") // ids do not differ by case
	added, err := client.CreateTaskCollection(ctx, "j", group, nil)
	c.must(err)
	bad := 0
	for _, v := range added.Value {
		if *v.Status != azbatch.TaskAddStatusSuccess {
			bad++
			if *v.Error.Code != "TaskExists" {
				t.Errorf("%s: %s", *v.TaskID, *v.Error.Code)
			}
		}
	}
	if bad != 1 || len(added.Value) != 100 {
		t.Errorf("%d of %d tasks are bad", bad, len(added.Value))
	}
	tasks := func(filter string) (n int) {
		for pager := client.NewListTasksPager("j", &azbatch.ListTasksOptions{Filter: &filter, MaxResults: ptr(int32(40))}); pager.More(); {
			page, err := pager.NextPage(ctx)
			c.must(err)
			n += len(page.Value)
		}
		return n
	}
	c.wait("99 tasks have succeeded", func() bool { return tasks("state eq 'completed' and executionInfo/result eq 'success'") == 99 })
	if n := tasks("startswith(id,'t00') and executionInfo/exitCode eq 0"); n != 10 {
		t.Errorf("%d tasks begin with t00", n)
	}
	counts, err := client.GetJobTaskCounts(ctx, "j", nil)
	c.must(err)
	if *counts.TaskCounts.Succeeded != 99 || *counts.TaskCounts.Active != 0 {
		t.Errorf("%+v", counts.TaskCounts)
	}
	if _, err = client.TerminateTask(ctx, "j", "t001", nil); !refusedWith(err, "TaskCompleted") {
		t.Errorf("terminate a completed task: %v", err)
	}
	_, err = client.UpdateJob(ctx, "j", azbatch.UpdateJobContent{Priority: ptr(int32(9)), OnAllTasksComplete: ptr(azbatch.OnAllTasksCompleteTerminateJob)}, nil)
	c.must(err)
	c.wait("the job ends itself", func() bool {
		j, err := client.GetJob(ctx, "j", nil)
		c.must(err)
		return *j.State == azbatch.JobStateCompleted && *j.ExecutionInfo.TerminationReason == "AllTasksComplete" && *j.Priority == 9 && *j.PreviousState != ""
	})
	_, err = client.RebootNode(ctx, "p", *nodes("")[0].ID, nil)
	c.must(err)
	c.wait("the node is back", func() bool { return len(nodes("state eq 'idle'")) == 2 })
	_, err = client.RemoveNodes(ctx, "p", azbatch.RemoveNodeContent{NodeList: []string{*nodes("")[0].ID}}, nil)
	c.must(err)
	c.wait("one node is left", func() bool {
		p, err := client.GetPool(ctx, "p", nil)
		c.must(err)
		return *p.AllocationState == azbatch.AllocationStateSteady && *p.CurrentDedicatedNodes == 1 && *p.TargetDedicatedNodes == 1
	})
	for pager := client.NewListPoolNodeCountsPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		c.must(err)
		if len(page.Value) != 1 || *page.Value[0].Dedicated.Total != 1 {
			t.Errorf("%+v", page.Value)
		}
	}
	_, err = client.DeleteJob(ctx, "j", nil)
	c.must(err)
	_, err = client.DeletePool(ctx, "p", nil)
	c.must(err)
	c.wait("pool and job are gone", func() bool {
		_, err1 := client.GetPool(ctx, "p", nil)
		_, err2 := client.GetJob(ctx, "j", nil)
		return refusedWith(err1, "PoolNotFound") && refusedWith(err2, "JobNotFound")
	})
}
