package batchcore

import (
	"encoding/json"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/pool"
)

// TestFormulasReadMachines: a formula reads what machines use, and the history of
// its evaluations tells what it read, what came of it and why.
func TestFormulasReadMachines(t *testing.T) {
	c, _ := realSetup(t)
	base, end := c.serve(everybody{})
	defer end()
	formula := "cpu = $CPUPercent.GetSamplePercent(TimeInterval_Minute * 5); $TargetDedicatedNodes = max(1, min(2, $PendingTasks.GetSample(1)));"
	_, err := c.pools.Add(ctx, millpond.Caller{}, acct, millpond.PoolSpec{ID: "p", VMSize: "standard_d2s_v3", NodeAgentSKU: "batch.node.debian 12", Image: millpond.ImageReference{ResourceID: "/x"}},
		pool.Targets{AutoScale: &pool.AutoScale{Formula: &formula}})
	c.must(err)
	c.idle("p", 1)
	var last millpond.AutoScaleRun
	c.wait("machines are sampled", func() bool {
		last, err = c.pools.EvaluateAutoScale(ctx, acct.Name, "p", "cpu = avg($CPUPercent.GetSample(1)); mem = avg($MemoryBytes.GetSample(1)); disk = $DiskBytes; net = $NetworkInBytes; ops = $DiskWriteOps; wall = $WallClockSeconds; $TargetDedicatedNodes = mem > 1 && cpu <= 1 ? 7 : 0;")
		return err == nil && (last.Error == nil || last.Error.Code != "InsufficientSampleData")
	})
	if want := "$TargetDedicatedNodes=7;"; last.Results[:len(want)] != want {
		t.Errorf("a formula over machines: %s %+v", last.Results, last.Error)
	}
	c.addJob("j", "p", nil)
	for _, id := range []string{"a", "b", "c"} {
		c.addTask("j", id, "/bin/sleep 10", nil)
	}
	c.wait("it grows", func() bool { return len(c.list("p")) == 2 })
	get := func(path string, into any) int {
		t.Helper()
		resp := c.get(base + path + "?" + version)
		defer resp.Body.Close()
		c.must(json.NewDecoder(resp.Body).Decode(into))
		return resp.StatusCode
	}
	var runs struct {
		Value []struct {
			Why, Results, Formula string
			Applied               bool
			Dedicated             [2]int `json:"targetDedicatedNodes"`
			Read                  map[string]struct {
				Samples int
				Last    float64
			}
		}
	}
	get("/pools/p/millpond/autoscaleruns", &runs)
	if n := len(runs.Value); n < 2 {
		t.Fatalf("%d runs: %+v", n, runs)
	}
	first, grown := runs.Value[len(runs.Value)-1], runs.Value[0]
	if first.Why != "interval" || !first.Applied || first.Dedicated != [2]int{0, 1} || first.Read["$CPUPercent"].Samples != 0 || first.Formula != formula {
		t.Errorf("the first run is %+v", first)
	}
	if grown.Why != "arrival" || !grown.Applied || grown.Dedicated != [2]int{1, 2} || grown.Read["$CPUPercent"].Samples == 0 || grown.Read["$PendingTasks"].Last < 2 || len(grown.Read) != 2 {
		t.Errorf("the run that grew is %+v", grown)
	}
	var usage struct {
		Value []struct {
			NodeID                            string
			CPU, MemoryTotalBytes, Seconds    float64
			MemoryUsedBytes, DiskTotalBytes   float64
			DiskUsedBytes, NetworkInPerSecond float64
		}
	}
	if get("/pools/p/millpond/usage", &usage); len(usage.Value) == 0 {
		t.Fatal("no node tells what it uses")
	}
	if u := usage.Value[0]; u.CPU < 0 || u.CPU > 1 || u.MemoryUsedBytes <= 0 || u.MemoryUsedBytes > u.MemoryTotalBytes || u.DiskUsedBytes > u.DiskTotalBytes || u.Seconds <= 0 {
		t.Errorf("usage is %+v", u)
	}
	var e errorCode
	if code := get("/pools/none/millpond/autoscaleruns", &e); code != 404 || e.Code != "PoolNotFound" {
		t.Errorf("of no pool: %d %+v", code, e)
	}
}

type errorCode struct{ Code string }
