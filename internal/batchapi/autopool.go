package batchapi

import (
	"encoding/json"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

// poolInfoRule is a job's pool: one that is there, or one that is made for it.
func poolInfoRule() *rule {
	pool := poolAddShape()
	delete(pool.members, "id")
	pool.like = "pool add"
	return object(map[string]*rule{
		"poolId": text(128),
		"autoPoolSpecification": object(map[string]*rule{
			"poolLifetimeOption": word(string(millpond.LifetimeJob), string(millpond.LifetimeSchedule)).needed(),
			"autoPoolIdPrefix":   text(20), "keepAlive": truth(), "pool": pool,
		}),
	}).check(func(_ *body, m map[string]any, path string) error {
		id, _ := m["poolId"].(string)
		auto, _ := m["autoPoolSpecification"].(map[string]any)
		switch {
		case id == "" && auto == nil:
			return missing(path + ".poolId")
		case id != "" && auto != nil:
			return invalid(path+".autoPoolSpecification", "", "poolId and autoPoolSpecification exclude each other.")
		case auto != nil && auto["pool"] == nil:
			return missing(path + ".autoPoolSpecification.pool")
		}
		return nil
	})
}

// autoPool is the pool that a checked job or job specification wants to be made
// for it; nil without one. To make a pool takes the right to make pools.
func (e *Edge) autoPool(r *request, job any) (*millpond.AutoPool, error) {
	m, _ := job.(map[string]any)
	info, _ := m["poolInfo"].(map[string]any)
	auto, ok := info["autoPoolSpecification"].(map[string]any)
	if !ok {
		return nil, nil
	}
	if err := e.Authz.Authorize(r.Context(), r.Caller, actPoolsWrite, r.acct.ID.String()); err != nil {
		return nil, recoded(err)
	}
	asked, _ := auto["pool"].(map[string]any)
	var in azbatch.CreatePoolContent
	b, err := json.Marshal(asked)
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err != nil {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidRequestBody", "The specified request body is not syntactically valid: a property of the pool has the wrong type.").Because(err)
	}
	spec, t, err := r.newPool(in, asked)
	if err != nil {
		return nil, err
	}
	word := func(name string) string { s, _ := auto[name].(string); return s }
	out := &millpond.AutoPool{Lifetime: millpond.PoolLifetime(word("poolLifetimeOption")), Prefix: word("autoPoolIdPrefix"), Creator: r.Caller,
		Pool: millpond.PoolRequest{Spec: spec, Dedicated: t.Dedicated, LowPriority: t.LowPriority, ResizeTimeout: t.ResizeTimeout}}
	out.KeepAlive, _ = auto["keepAlive"].(bool)
	if a := t.AutoScale; a != nil {
		out.Pool.AutoScale, out.Pool.Formula, out.Pool.Interval = true, a.Formula, a.Interval
	}
	return out, nil
}

func (r *request) poolInfoModel(s millpond.JobSpec) *azbatch.PoolInfo {
	a := s.Auto
	if a == nil {
		return &azbatch.PoolInfo{PoolID: ptr(string(s.Pool))}
	}
	// As a pool would show it, without what only a pool has.
	p := millpond.Pool{Spec: a.Pool.Spec, ResizeTimeout: millpond.DefaultResizeTimeout}
	if a.Pool.ResizeTimeout != nil {
		p.ResizeTimeout = *a.Pool.ResizeTimeout
	}
	if a.Pool.AutoScale {
		p.AutoScale = &millpond.AutoScale{Interval: millpond.DefaultAutoScaleInterval}
		if a.Pool.Formula != nil {
			p.AutoScale.Formula = *a.Pool.Formula
		}
		if a.Pool.Interval != nil {
			p.AutoScale.Interval = *a.Pool.Interval
		}
	}
	spec := azbatch.PoolSpecification{}
	if b, err := json.Marshal(r.poolEntity(p).model); err == nil {
		_ = json.Unmarshal(b, &spec) // the members that both have are alike
	}
	spec.TargetDedicatedNodes, spec.TargetLowPriorityNodes = nil, nil
	if a.Pool.Dedicated != nil {
		spec.TargetDedicatedNodes = count(*a.Pool.Dedicated)
	}
	if a.Pool.LowPriority != nil {
		spec.TargetLowPriorityNodes = count(*a.Pool.LowPriority)
	}
	return &azbatch.PoolInfo{AutoPoolSpecification: &azbatch.AutoPoolSpecification{PoolLifetimeOption: ptr(azbatch.PoolLifetimeOption(a.Lifetime)),
		AutoPoolIDPrefix: some(a.Prefix), KeepAlive: ptr(a.KeepAlive), Pool: &spec}}
}
