package gallery

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

const (
	maxReplicas = 100
	// maxSource is the largest source of a version that is replicated in full.
	maxSource = int64(2) << 40
)

// Targets fills in defaults and checks the target regions of a version in a
// location. known maps normalised region names to true.
func Targets(targets []millpond.TargetRegion, defaultReplicas int32, defaultStorage, location string, known func(string) error) ([]millpond.TargetRegion, error) {
	if len(targets) == 0 {
		targets = []millpond.TargetRegion{{Name: location}}
	}
	seen := map[string]bool{}
	out := make([]millpond.TargetRegion, len(targets))
	for i, t := range targets {
		t.Name = millpond.NormalizeRegion(t.Name)
		if t.Replicas == 0 {
			t.Replicas = defaultReplicas
		}
		if t.StorageType == "" {
			t.StorageType = defaultStorage
		}
		where := fmt.Sprintf("publishingProfile.targetRegions[%d]", i)
		switch {
		case t.Name == "":
			return nil, invalid(where+".name", "A target region needs a name.")
		case seen[t.Name]:
			return nil, invalid(where+".name", "The target region %s is given twice. Use regionalReplicaCount for more replicas in one region.", t.Name)
		case t.Replicas < 1 || t.Replicas > maxReplicas:
			return nil, invalid(where+".regionalReplicaCount", "The replica count %d for %s is out of range: 1 to %d.", t.Replicas, t.Name, maxReplicas)
		}
		if err := known(t.Name); err != nil {
			return nil, err
		}
		seen[t.Name] = true
		out[i] = t
	}
	if !seen[location] {
		return nil, invalid("publishingProfile.targetRegions", "The target regions must include the version's own location, %s.", location)
	}
	return out, nil
}

// PlanReplicas compares the wanted replicas of a version with the rows. Failed
// replicas are tried again. store names the store of a region's replica.
func PlanReplicas(v *millpond.ImageVersion, have []millpond.Replica, store func(region string, ordinal int32) (string, error)) (work, drop []millpond.Replica, err error) {
	type seat struct {
		region  string
		ordinal int32
	}
	rows := map[seat]millpond.Replica{}
	for _, r := range have {
		rows[seat{r.Region, r.Ordinal}] = r
	}
	for _, t := range v.Targets {
		for o := range t.Replicas {
			p := seat{t.Name, o}
			name, err := store(t.Name, o)
			if err != nil {
				return nil, nil, err
			}
			r, ok := rows[p]
			delete(rows, p)
			if ok && r.State == millpond.ReplicaCompleted && r.Store == name {
				continue
			}
			work = append(work, millpond.Replica{Version: v.ID.Key(), Region: t.Name, Ordinal: o, Store: name, State: millpond.ReplicaReplicating, Total: size(v)})
		}
	}
	for _, r := range have {
		if _, left := rows[seat{r.Region, r.Ordinal}]; left {
			drop = append(drop, r)
		}
	}
	return work, drop, nil
}

func size(v *millpond.ImageVersion) int64 {
	var n int64
	for _, d := range v.Disks() {
		n += d.SizeBytes
	}
	return n
}

// RegionStatus is the replication of a version in one region.
type RegionStatus struct {
	Region   string
	State    string // Unknown, Replicating, Completed, Failed
	Details  string
	Progress int32
}

// Status sums the replicas of a version up, by region, and overall: Unknown,
// InProgress, Completed or Failed.
func Status(v *millpond.ImageVersion, rs []millpond.Replica) (string, []RegionStatus) {
	var out []RegionStatus
	all := map[string]int{}
	for _, t := range v.Targets {
		s := RegionStatus{Region: t.Name, State: "Unknown"}
		var done, total int64
		ready, trouble := int32(0), ""
		var efforts []string
		for _, r := range rs {
			if r.Region != t.Name {
				continue
			}
			done, total = done+r.Done, total+r.Total
			switch r.State {
			case millpond.ReplicaCompleted:
				if ready++; r.Details != "" {
					efforts = append(efforts, fmt.Sprintf("replica %d: %s", r.Ordinal+1, r.Details))
				}
			case millpond.ReplicaFailed:
				if s.State, s.Details = "Failed", r.Details; s.Details == "" {
					s.Details = v.Failure
				}
			default:
				if r.Details != "" {
					trouble = r.Details
				}
			}
		}
		switch {
		case s.State == "Failed":
		case ready >= t.Replicas:
			s.State, s.Progress, s.Details = "Completed", 100, strings.Join(efforts, "; ")
		case v.State == millpond.StateFailed:
			// It failed before there was anything to replicate.
			s.State, s.Details = "Failed", v.Failure
		case total > 0 || v.State == millpond.StateCreating || v.State == millpond.StateUpdating:
			s.State = "Replicating"
			s.Details = fmt.Sprintf("%d of %d MiB copied; %d of %d replicas are there", done>>20, max(total, int64(t.Replicas)*size(v))>>20, ready, t.Replicas)
			if trouble != "" {
				s.Details += "; " + trouble
			}
		}
		if s.State != "Completed" && total > 0 {
			// Replicas that have no row yet count as not begun.
			s.Progress = int32(min(99, done*100/max(total, int64(t.Replicas)*size(v), 1)))
		}
		all[s.State]++
		out = append(out, s)
	}
	switch {
	case all["Failed"] > 0:
		return "Failed", out
	case all["Replicating"] > 0:
		return "InProgress", out
	case all["Completed"] == len(out) && len(out) > 0:
		return "Completed", out
	}
	return "Unknown", out
}

// Ready are the completed replicas in a region.
func Ready(rs []millpond.Replica, region string) []millpond.Replica {
	var out []millpond.Replica
	for _, r := range rs {
		if r.Region == region && r.State == millpond.ReplicaCompleted {
			out = append(out, r)
		}
	}
	return out
}

// LatestOf picks the highest number among versions that are not excluded for the
// region and have a replica there. It returns nil without one.
func LatestOf(vs []*millpond.ImageVersion, region string, ready func(*millpond.ImageVersion) bool) *millpond.ImageVersion {
	sorted := append([]*millpond.ImageVersion(nil), vs...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[j].Number().Less(sorted[i].Number()) })
	for _, v := range sorted {
		if !v.ExcludedIn(region) && v.State != millpond.StateDeleting && ready(v) {
			return v
		}
	}
	return nil
}

// deletable refuses to delete a version that its safety profile protects.
func deletable(v *millpond.ImageVersion, now time.Time) error {
	if v.BlockDeletion && now.Before(v.EndOfLife) {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The version %s is protected until its end of life on %s (safetyProfile.blockDeletionBeforeEndOfLife). Set that to false first.", v.ID.Name(), v.EndOfLife.Format(time.DateOnly))
	}
	return nil
}

// mayLeave refuses to take regions out of a version whose safety profile says
// that they stay.
func mayLeave(v *millpond.ImageVersion, targets []millpond.TargetRegion) error {
	if v.AllowDeletion == nil || *v.AllowDeletion {
		return nil
	}
	for _, t := range v.Targets {
		if !slices.ContainsFunc(targets, func(n millpond.TargetRegion) bool { return n.Name == t.Name }) {
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The version %s may not be taken out of %s (safetyProfile.allowDeletionOfReplicatedLocations is false). Allow it first: az sig image-version update --allow-replicated-location-deletion true", v.ID.Name(), t.Name)
		}
	}
	return nil
}
