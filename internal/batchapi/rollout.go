package batchapi

import (
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// upgradePolicy decodes a policy of a checked body; nil without one.
func upgradePolicy(in *azbatch.UpgradePolicy, m map[string]any) *millpond.UpgradePolicy {
	if in == nil || in.Mode == nil {
		return nil
	}
	on := func(b *bool) bool { return b != nil && *b }
	p := &millpond.UpgradePolicy{Mode: millpond.UpgradeMode(*in.Mode)}
	if a := in.AutomaticOsUpgradePolicy; a != nil {
		p.AutomaticOS, p.KeepFailed = on(a.EnableAutomaticOsUpgrade), on(a.DisableAutomaticRollback)
		p.UseRolling, p.Deferral = on(a.UseRollingUpgradePolicy), on(a.OSRollingUpgradeDeferral)
	}
	r := in.RollingUpgradePolicy
	if r == nil {
		return p
	}
	l := (*millpond.UpgradePolicy)(nil).Limits()
	for _, x := range []struct {
		to   *int
		from *int32
	}{{&l.MaxBatch, r.MaxBatchInstancePercent}, {&l.MaxUnhealthy, r.MaxUnhealthyInstancePercent}, {&l.MaxUnhealthyUpgraded, r.MaxUnhealthyUpgradedInstancePercent}} {
		if x.from != nil {
			*x.to = int(*x.from)
		}
	}
	l.PrioritizeUnhealthy, l.RollBack = on(r.PrioritizeUnhealthyInstances), on(r.RollbackFailedInstancesOnPolicyBreach)
	l.CrossZone = on(r.EnableCrossZoneUpgrade)
	l.Pause, l.Option = limit(r.PauseTimeBetweenBatches), ""
	// The SDK's model does not have it.
	policy, _ := m["upgradePolicy"].(map[string]any)
	rolling, _ := policy["rollingUpgradePolicy"].(map[string]any)
	if o, _ := rolling["nodeDeallocationOption"].(string); o != "" {
		l.Option = millpond.DeallocationOption(o)
	}
	p.Rolling = &l
	return p
}

func upgradeModel(p *millpond.UpgradePolicy) *azbatch.UpgradePolicy {
	if p == nil {
		return nil
	}
	m := &azbatch.UpgradePolicy{Mode: ptr(azbatch.UpgradeMode(p.Mode))}
	if p.AutomaticOS || p.KeepFailed || p.UseRolling || p.Deferral {
		m.AutomaticOsUpgradePolicy = &azbatch.AutomaticOSUpgradePolicy{EnableAutomaticOsUpgrade: ptr(p.AutomaticOS), DisableAutomaticRollback: ptr(p.KeepFailed),
			UseRollingUpgradePolicy: ptr(p.UseRolling), OSRollingUpgradeDeferral: ptr(p.Deferral)}
	}
	if r := p.Rolling; r != nil {
		m.RollingUpgradePolicy = &azbatch.RollingUpgradePolicy{MaxBatchInstancePercent: count(r.MaxBatch), MaxUnhealthyInstancePercent: count(r.MaxUnhealthy),
			MaxUnhealthyUpgradedInstancePercent: count(r.MaxUnhealthyUpgraded), PauseTimeBetweenBatches: ptr(azwire.FormatDuration(r.Pause)),
			PrioritizeUnhealthyInstances: ptr(r.PrioritizeUnhealthy), RollbackFailedInstancesOnPolicyBreach: ptr(r.RollBack)}
		if r.CrossZone {
			m.RollingUpgradePolicy.EnableCrossZoneUpgrade = ptr(true)
		}
	}
	return m
}

// rolloutModel is how a pool tells of its rollout.
func rolloutModel(r millpond.Rollout) map[string]any {
	m := map[string]any{"state": r.State, "startTime": azwire.ISO(r.Started), "batch": r.Batch}
	if !r.Ended.IsZero() {
		m["endTime"] = azwire.ISO(r.Ended)
	}
	if len(r.Nodes) > 0 {
		m["nodes"] = r.Nodes
	}
	if r.Next.After(time.Time{}) && r.State == millpond.RolloutRunning {
		m["nextBatchTime"] = azwire.ISO(r.Next)
	}
	if r.Error != nil {
		m["error"] = map[string]any{"code": r.Error.Code, "message": r.Error.Message}
	}
	return m
}
