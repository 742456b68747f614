package millpond

import "time"

// DiskState says who may touch a disk's bytes now.
//
//	ReadyToUpload --grant write--> ActiveUpload --revoke (footer checked)--> Unattached
//	Unattached --grant read--> ActiveSAS --revoke, expire--> Unattached
//	Unattached --attach--> Attached --deallocate--> Reserved --start--> Attached
type DiskState string

const (
	DiskUnattached    DiskState = "Unattached"
	DiskAttached      DiskState = "Attached"
	DiskReserved      DiskState = "Reserved"
	DiskReadyToUpload DiskState = "ReadyToUpload"
	DiskActiveUpload  DiskState = "ActiveUpload"
	DiskActiveSAS     DiskState = "ActiveSAS"
)

// DiskStates lists every state a disk can have here.
func DiskStates() []DiskState {
	return []DiskState{DiskUnattached, DiskAttached, DiskReserved, DiskReadyToUpload, DiskActiveUpload, DiskActiveSAS}
}

// DiskEvent is something that happens to a disk.
type DiskEvent string

const (
	DiskGrantRead  DiskEvent = "grant read access"
	DiskGrantWrite DiskEvent = "grant write access"
	DiskRevoke     DiskEvent = "revoke access"
	DiskExpire     DiskEvent = "let access expire"
	DiskAttach     DiskEvent = "attach"
	DiskDetach     DiskEvent = "detach"
	DiskDeallocate DiskEvent = "deallocate its VM"
	DiskStart      DiskEvent = "start its VM"
	DiskCopy       DiskEvent = "copy"
	DiskDelete     DiskEvent = "delete"
)

// DiskEvents lists every event.
func DiskEvents() []DiskEvent {
	return []DiskEvent{DiskGrantRead, DiskGrantWrite, DiskRevoke, DiskExpire, DiskAttach, DiskDetach, DiskDeallocate, DiskStart, DiskCopy, DiskDelete}
}

// Next is the state after e. It returns false when the event is not allowed in
// state s. Copy and Delete leave the state; the caller acts.
func (s DiskState) Next(e DiskEvent) (DiskState, bool) {
	table := map[DiskState]map[DiskEvent]DiskState{
		DiskUnattached: {DiskGrantRead: DiskActiveSAS, DiskRevoke: DiskUnattached, DiskAttach: DiskAttached,
			DiskCopy: DiskUnattached, DiskDelete: DiskUnattached},
		DiskAttached: {DiskDetach: DiskUnattached, DiskDeallocate: DiskReserved, DiskCopy: DiskAttached},
		DiskReserved: {DiskDetach: DiskUnattached, DiskStart: DiskAttached, DiskCopy: DiskReserved},
		DiskReadyToUpload: {DiskGrantWrite: DiskActiveUpload, DiskRevoke: DiskReadyToUpload,
			DiskDelete: DiskReadyToUpload},
		DiskActiveUpload: {DiskGrantWrite: DiskActiveUpload, DiskRevoke: DiskUnattached, DiskExpire: DiskReadyToUpload},
		DiskActiveSAS:    {DiskGrantRead: DiskActiveSAS, DiskRevoke: DiskUnattached, DiskExpire: DiskUnattached, DiskCopy: DiskActiveSAS},
	}
	n, ok := table[s][e]
	return n, ok
}

// CreateOption says what a new disk or snapshot holds.
type CreateOption string

const (
	CreateEmpty     CreateOption = "Empty"
	CreateCopy      CreateOption = "Copy"
	CreateUpload    CreateOption = "Upload"
	CreateFromImage CreateOption = "FromImage"
	CreateImport    CreateOption = "Import"
	CreateCopyStart CreateOption = "CopyStart" // a snapshot from another region
)

// CreationData is where a disk's or snapshot's bytes come from, as asked for.
type CreationData struct {
	Option           CreateOption
	SourceID         string `json:",omitempty"` // Copy
	SourceURI        string `json:",omitempty"` // Import; may hold a signature, so it is shown without its query
	StorageAccountID string `json:",omitempty"`
	ImageID          string `json:",omitempty"` // FromImage: a gallery version or definition
	ImageLUN         *int32 `json:",omitempty"` // FromImage: a data disk of it; nil is the OS disk
	// PlatformID is the id of the Marketplace image that ImageID's base image stands
	// for; empty for other images.
	PlatformID     string `json:",omitempty"`
	UploadBytes    int64  `json:",omitempty"`
	SourceUniqueID string `json:",omitempty"`
	// PerformancePlus and CopySpeed (Enhanced, Standard) are kept and shown.
	PerformancePlus bool   `json:",omitempty"`
	CopySpeed       string `json:",omitempty"`
}

// DiskPromise is what a disk or snapshot is marked with for clients: nothing
// of it changes how the disk works, which is always as fast as its host.
// Members that nobody gave are nil or empty.
type DiskPromise struct {
	// IOPS and MBps are for reading and writing, those ending in Read for
	// readers of a shared disk.
	IOPS, IOPSRead, MBps, MBpsRead *int64 `json:",omitempty"`
	// Tier is the performance tier, such as P4.
	Tier                    string `json:",omitempty"`
	Bursting, OftenAttached *bool  `json:",omitempty"`
	// Hibernation, AcceleratedNetwork, Architecture and Controllers (such as
	// SCSI, NVMe) say what the system on the disk is fit for.
	Hibernation        *bool  `json:",omitempty"`
	AcceleratedNetwork *bool  `json:",omitempty"`
	Architecture       string `json:",omitempty"`
	Controllers        string `json:",omitempty"`
}

// Merge puts what a change gives over p.
func (p *DiskPromise) Merge(c DiskPromise) {
	for _, f := range []struct{ to, from **int64 }{{&p.IOPS, &c.IOPS}, {&p.IOPSRead, &c.IOPSRead}, {&p.MBps, &c.MBps}, {&p.MBpsRead, &c.MBpsRead}} {
		if *f.from != nil {
			*f.to = *f.from
		}
	}
	for _, f := range []struct{ to, from **bool }{{&p.Bursting, &c.Bursting}, {&p.OftenAttached, &c.OftenAttached}, {&p.Hibernation, &c.Hibernation}, {&p.AcceleratedNetwork, &c.AcceleratedNetwork}} {
		if *f.from != nil {
			*f.to = *f.from
		}
	}
	for _, f := range []struct{ to, from *string }{{&p.Tier, &c.Tier}, {&p.Architecture, &c.Architecture}, {&p.Controllers, &c.Controllers}} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
}

// Disk is a writable managed disk, or (Snapshot true) an immutable snapshot.
type Disk struct {
	Resource    `json:"-"`
	Snapshot    bool `json:",omitempty"`
	SKU         string
	Zones       []string `json:",omitempty"`
	OSType      string   `json:",omitempty"` // Linux, Windows or empty
	HyperV      string   `json:",omitempty"` // V1 or V2
	SizeBytes   int64
	State       DiskState
	UniqueID    string
	Creation    CreationData
	Promise     DiskPromise
	Incremental bool `json:",omitempty"`
	// Family is the same for all incremental snapshots of one disk.
	Family  string `json:",omitempty"`
	Network string // networkAccessPolicy
	Public  string // publicNetworkAccess
	// AccessID is the disk access through whose private endpoints alone the bytes
	// are exported, of the policy AllowPrivate.
	AccessID string `json:",omitempty"`
	// File names the writable file of a disk; Content the bytes of a snapshot,
	// which lie in the store Store.
	File    string `json:",omitempty"`
	Content string `json:",omitempty"`
	Store   string `json:",omitempty"`
	// Footer is the VHD footer that an upload wrote, 512 bytes.
	Footer  []byte `json:",omitempty"`
	Failure string `json:",omitempty"`
	// ManagedBy is the id of the machine that has the disk.
	ManagedBy string `json:",omitempty"`
}

// SizeGB is the size as Azure shows it, rounded up.
func (d *Disk) SizeGB() int32 { return int32((d.SizeBytes + 1<<30 - 1) >> 30) }

// DiskAccess is one grant of access by signed URL.
type DiskAccess struct {
	ID      string // GUID, the signed identifier
	Disk    string // key of the disk or snapshot
	Write   bool
	Expires time.Time
}

// ImageDisk is one disk of a managed image: a source and, when it is ready, a
// content.
type ImageDisk struct {
	LUN        int32
	SnapshotID string `json:",omitempty"`
	DiskID     string `json:",omitempty"`
	BlobURI    string `json:",omitempty"`
	Caching    string `json:",omitempty"`
	SKU        string `json:",omitempty"`
	SizeBytes  int64
	Content    string `json:",omitempty"`
	Store      string `json:",omitempty"`
}

// ManagedImage is a generalised (or specialised) image outside of galleries.
type ManagedImage struct {
	Resource      `json:"-"`
	OSType        string
	OSState       string
	HyperV        string
	ZoneResilient bool `json:",omitempty"`
	// SourceVM is the id of the machine that it was made of, or empty.
	SourceVM  string `json:",omitempty"`
	OSDisk    ImageDisk
	DataDisks []ImageDisk `json:",omitempty"`
	Failure   string      `json:",omitempty"`
}
