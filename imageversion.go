package millpond

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// VersionNumber is major.minor.patch; versions compare as numbers.
type VersionNumber [3]int32

// ParseVersion reads three decimal int32 numbers joined by dots.
func ParseVersion(s string) (VersionNumber, bool) {
	parts := strings.Split(s, ".")
	var v VersionNumber
	if len(parts) != 3 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseInt(p, 10, 32)
		if err != nil || n < 0 || p[0] == '+' || p[0] == '-' {
			return v, false
		}
		v[i] = int32(n)
	}
	return v, true
}

// Less compares as numbers.
func (v VersionNumber) Less(o VersionNumber) bool {
	for i := range v {
		if v[i] != o[i] {
			return v[i] < o[i]
		}
	}
	return false
}

func (v VersionNumber) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// TargetRegion is a region that a version is to be in.
type TargetRegion struct {
	Name              string // normalised
	Replicas          int32
	StorageType       string
	ExcludeFromLatest bool `json:",omitempty"`
}

// VersionDisk is one disk of a version.
type VersionDisk struct {
	LUN int32
	// SourceID is a snapshot or disk that the user named; empty when the disk
	// came with an image.
	SourceID  string `json:",omitempty"`
	SourceURI string `json:",omitempty"`
	Caching   string `json:",omitempty"`
	SizeBytes int64
	// Content is set as soon as the bytes are immutable; Store is where
	// replication reads them first.
	Content string `json:",omitempty"`
	Store   string `json:",omitempty"`
}

// ImageVersion is one published state of an image definition.
type ImageVersion struct {
	Resource `json:"-"`
	// SourceID is the managed image or other version that it was made from.
	SourceID          string `json:",omitempty"`
	OSDisk            VersionDisk
	DataDisks         []VersionDisk `json:",omitempty"`
	ReplicaCount      int32
	Targets           []TargetRegion
	StorageType       string
	ReplicationMode   string
	ExcludeFromLatest bool      `json:",omitempty"`
	EndOfLife         time.Time `json:",omitzero"`
	Published         time.Time
	// AllowDeletion says whether regions may be taken out; nil if nobody said.
	AllowDeletion *bool `json:",omitempty"`
	BlockDeletion bool  `json:",omitempty"`
	// Release is what the OS on the OS disk says it is; Inspected tells whether
	// anybody looked.
	Inspected bool      `json:",omitempty"`
	Release   OSRelease `json:",omitzero"`
	// Preflight is what was found when it was looked at.
	Preflight Preflight `json:",omitzero"`
	Failure   string    `json:",omitempty"`
}

// Number is the version's number.
func (v *ImageVersion) Number() VersionNumber {
	n, _ := ParseVersion(v.ID.Name())
	return n
}

// Disks lists the OS disk and then the data disks.
func (v *ImageVersion) Disks() []*VersionDisk {
	out := []*VersionDisk{&v.OSDisk}
	for i := range v.DataDisks {
		out = append(out, &v.DataDisks[i])
	}
	return out
}

// ExcludedIn says whether the version must not be "latest" in a region.
func (v *ImageVersion) ExcludedIn(region string) bool {
	if v.ExcludeFromLatest {
		return true
	}
	for _, t := range v.Targets {
		if t.Name == region && t.ExcludeFromLatest {
			return true
		}
	}
	return false
}

// OSRelease is what an operating system says about itself.
type OSRelease struct {
	OSType  string `json:"osType,omitempty"`  // Linux or Windows
	ID      string `json:"id,omitempty"`      // ubuntu, debian
	Version string `json:"version,omitempty"` // 16.04, 12
	Name    string `json:"name,omitempty"`    // Ubuntu 16.04.7 LTS
}

// ReplicaState is where one replica is.
//
//	Replicating --copied--> Completed
//	Replicating --cannot be copied--> Failed --retried by an update--> Replicating
type ReplicaState string

const (
	ReplicaReplicating ReplicaState = "Replicating"
	ReplicaCompleted   ReplicaState = "Completed"
	ReplicaFailed      ReplicaState = "Failed"
)

// Replica is one copy of a version's contents in one store of a region.
type Replica struct {
	Version string // key of the version
	Region  string
	Ordinal int32 // 0-based within the region
	Store   string
	State   ReplicaState
	Done    int64
	Total   int64
	Details string
}
