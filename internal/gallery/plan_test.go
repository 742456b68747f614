package gallery

import (
	"fmt"
	"testing"

	millpond "millpond.dev/millpond"
)

func store(region string, ordinal int32) (string, error) {
	return fmt.Sprintf("%s-%d", region, ordinal%2), nil
}

func TestPlanReplicas(t *testing.T) {
	v := &millpond.ImageVersion{Targets: []millpond.TargetRegion{{Name: "a", Replicas: 2}, {Name: "b", Replicas: 1}}}
	row := func(region string, ordinal int32, st millpond.ReplicaState) millpond.Replica {
		s, _ := store(region, ordinal)
		return millpond.Replica{Region: region, Ordinal: ordinal, Store: s, State: st}
	}
	moved := row("b", 0, millpond.ReplicaCompleted)
	moved.Store = "old"
	for name, c := range map[string]struct {
		have       []millpond.Replica
		work, drop int
	}{
		"new":       {nil, 3, 0},
		"done":      {[]millpond.Replica{row("a", 0, millpond.ReplicaCompleted), row("a", 1, millpond.ReplicaCompleted), row("b", 0, millpond.ReplicaCompleted)}, 0, 0},
		"half":      {[]millpond.Replica{row("a", 0, millpond.ReplicaCompleted), row("a", 1, millpond.ReplicaReplicating), row("b", 0, millpond.ReplicaFailed)}, 2, 0},
		"too many":  {[]millpond.Replica{row("a", 0, millpond.ReplicaCompleted), row("a", 1, millpond.ReplicaCompleted), row("a", 2, millpond.ReplicaCompleted), row("b", 0, millpond.ReplicaCompleted), row("c", 0, millpond.ReplicaCompleted)}, 0, 2},
		"new store": {[]millpond.Replica{row("a", 0, millpond.ReplicaCompleted), row("a", 1, millpond.ReplicaCompleted), moved}, 1, 0},
	} {
		work, drop, err := PlanReplicas(v, c.have, store)
		if err != nil || len(work) != c.work || len(drop) != c.drop {
			t.Errorf("%s: work %v, drop %v, %v", name, work, drop, err)
		}
	}
}

func TestStatus(t *testing.T) {
	row := func(st millpond.ReplicaState, done int64) millpond.Replica {
		return millpond.Replica{Region: "a", State: st, Done: done, Total: 100, Details: string(st)}
	}
	for name, c := range map[string]struct {
		state    millpond.ProvisioningState
		rows     []millpond.Replica
		all, one string
		progress int32
	}{
		"being made":            {millpond.StateCreating, nil, "InProgress", "Replicating", 0},
		"never made":            {millpond.StateFailed, nil, "Failed", "Failed", 0},
		"half of two":           {millpond.StateCreating, []millpond.Replica{row(millpond.ReplicaCompleted, 100), row(millpond.ReplicaReplicating, 0)}, "InProgress", "Replicating", 50},
		"one failed":            {millpond.StateFailed, []millpond.Replica{row(millpond.ReplicaCompleted, 100), row(millpond.ReplicaFailed, 20)}, "Failed", "Failed", 60},
		"all bytes, not synced": {millpond.StateCreating, []millpond.Replica{row(millpond.ReplicaCompleted, 100), row(millpond.ReplicaReplicating, 100)}, "InProgress", "Replicating", 99},
		"done":                  {millpond.StateSucceeded, []millpond.Replica{row(millpond.ReplicaCompleted, 100), row(millpond.ReplicaCompleted, 100)}, "Completed", "Completed", 100},
	} {
		v := &millpond.ImageVersion{Targets: []millpond.TargetRegion{{Name: "a", Replicas: 2}}, OSDisk: millpond.VersionDisk{SizeBytes: 100}}
		v.State, v.Failure = c.state, "why"
		all, rs := Status(v, c.rows)
		if all != c.all || len(rs) != 1 || rs[0].State != c.one || rs[0].Progress != c.progress || c.one == "Failed" && rs[0].Details == "" {
			t.Errorf("%s: %s %+v", name, all, rs)
		}
	}
}

func TestTargets(t *testing.T) {
	known := func(n string) error {
		if n == "mars" {
			return fmt.Errorf("no %s", n)
		}
		return nil
	}
	for name, c := range map[string]struct {
		in []millpond.TargetRegion
		ok bool
	}{
		"none is home":       {nil, true},
		"home by its title":  {[]millpond.TargetRegion{{Name: "West US 2"}}, true},
		"home is missing":    {[]millpond.TargetRegion{{Name: "eastus"}}, false},
		"twice":              {[]millpond.TargetRegion{{Name: "westus2"}, {Name: "West US 2"}}, false},
		"not a region":       {[]millpond.TargetRegion{{Name: "westus2"}, {Name: "mars"}}, false},
		"no name":            {[]millpond.TargetRegion{{Name: "westus2"}, {}}, false},
		"too many replicas":  {[]millpond.TargetRegion{{Name: "westus2", Replicas: 101}}, false},
		"a hundred replicas": {[]millpond.TargetRegion{{Name: "westus2", Replicas: 100}}, true},
		"explicitly none":    {[]millpond.TargetRegion{{Name: "westus2", Replicas: -1}}, false},
	} {
		out, err := Targets(c.in, 3, "Standard_LRS", "westus2", known)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && len(c.in) == 0 && (out[0].Replicas != 3 || out[0].StorageType != "Standard_LRS") {
			t.Errorf("%s: %+v", name, out)
		}
	}
}
