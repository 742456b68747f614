package batchcore

import (
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

// TestAutoScale: a pool grows when tasks arrive, without waiting for its
// interval, shrinks at its interval, and goes on after a restart.
func TestAutoScale(t *testing.T) {
	c, _, restart := setup(t, node.Config{})
	spec := millpond.PoolSpec{ID: "p", VMSize: "standard_d2s_v3", NodeAgentSKU: "batch.node.debian 12", Image: millpond.ImageReference{ResourceID: "/x"}}
	formula := "tasks = $PendingTasks.GetSample(1); $TargetDedicatedNodes = min(3, max(tasks)); $NodeDeallocationOption = taskcompletion;"
	bad := "$TargetDedicatedNodes = ;"
	_, err := c.pools.Add(ctx, millpond.Caller{}, acct, spec, pool.Targets{AutoScale: &pool.AutoScale{Formula: &bad}})
	c.code(err, "AutoScalingFormulaSyntaxError")
	short := time.Minute
	_, err = c.pools.Add(ctx, millpond.Caller{}, acct, spec, pool.Targets{AutoScale: &pool.AutoScale{Formula: &formula, Interval: &short}})
	c.code(err, "InvalidPropertyValue")
	_, err = c.pools.Add(ctx, millpond.Caller{}, acct, spec, pool.Targets{AutoScale: &pool.AutoScale{Formula: &formula}})
	c.must(err)
	get := func() millpond.Pool {
		p, err := c.pools.Get(ctx, acct.Name, "p")
		c.must(err)
		return p
	}
	c.wait("it is evaluated", func() bool { return get().AutoScale.Run != nil })
	if p := get(); p.TargetDedicated != 0 || !strings.HasPrefix(p.AutoScale.Run.Results, "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=taskcompletion;$tasks=[0]") {
		t.Fatalf("%+v %+v", p, p.AutoScale.Run)
	}
	two := 2
	c.code(c.pools.Resize(ctx, acct.Name, "p", millpond.Condition{}, pool.Targets{Dedicated: &two}, ""), "OperationInvalidForCurrentState")
	c.code(c.pools.EnableAutoScale(ctx, acct.Name, "p", millpond.Condition{}, pool.AutoScale{Formula: &formula}), "TooManyEnableAutoScaleRequests")

	c.addJob("j", "p", depends)
	for _, id := range []string{"a", "b", "c", "d"} {
		c.addTask("j", id, "sleep 300ms", nil)
	}
	c.addTask("j", "blocked", "exit 0", after("never"))
	c.wait("it grows at once", func() bool { return get().TargetDedicated == 3 })
	c.taskIn("j", "d", millpond.TaskCompleted)
	time.Sleep(100 * time.Millisecond)
	if p := get(); p.TargetDedicated != 3 {
		t.Errorf("it shrinks to %d before its interval has passed", p.TargetDedicated)
	}
	c = restart()
	c.clock.manual.Advance(16 * time.Minute)
	c.wait("it shrinks", func() bool { return get().TargetDedicated == 0 && len(c.list("p")) == 0 })

	run, err := c.pools.EvaluateAutoScale(ctx, acct.Name, "p", "$TargetDedicatedNodes = 7; cpu = $CPUPercent.GetSample(1);")
	c.must(err)
	if run.Error == nil || run.Error.Code != "InsufficientSampleData" || get().TargetDedicated != 0 {
		t.Errorf("%+v", run)
	}
	run, err = c.pools.EvaluateAutoScale(ctx, acct.Name, "p", "$something_useless")
	c.must(err)
	if run.Error == nil || run.Error.Code != "AutoScalingFormulaEvaluationError" || run.Results != "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue" {
		t.Errorf("%q %+v", run.Results, run.Error)
	}
	c.must(c.pools.DisableAutoScale(ctx, acct.Name, "p"))
	_, err = c.pools.EvaluateAutoScale(ctx, acct.Name, "p", formula)
	c.code(err, "OperationInvalidForCurrentState")
	c.steady("p")
	c.must(c.pools.Resize(ctx, acct.Name, "p", millpond.Condition{}, pool.Targets{Dedicated: &two}, ""))
	c.idle("p", 2)
}
