package millpond

import (
	"net/netip"
	"strings"
	"time"
)

// PoolState is whether a pool can be used.
type PoolState string

const (
	PoolActive   PoolState = "active"
	PoolDeleting PoolState = "deleting"
)

// AllocationState is whether a pool's size is changing.
type AllocationState string

const (
	AllocationSteady   AllocationState = "steady"
	AllocationResizing AllocationState = "resizing"
	AllocationStopping AllocationState = "stopping"
)

// DeallocationOption is what happens to the tasks of a node that is taken away,
// rebooted, reimaged or disabled.
type DeallocationOption string

const (
	DeallocateRequeue        DeallocationOption = "requeue"
	DeallocateTerminate      DeallocationOption = "terminate"
	DeallocateTaskCompletion DeallocationOption = "taskcompletion"
	DeallocateRetainedData   DeallocationOption = "retaineddata"
)

// Check is the option, or the default for an empty one; property is what the
// request calls it. Not every operation can wait for retained data.
func (o DeallocationOption) Check(property string, retained bool) (DeallocationOption, error) {
	switch o {
	case "":
		return DeallocateRequeue, nil
	case DeallocateRequeue, DeallocateTerminate, DeallocateTaskCompletion:
		return o, nil
	case DeallocateRetainedData:
		if retained {
			return o, nil
		}
	}
	allowed := "requeue, terminate or taskcompletion"
	if retained {
		allowed = "requeue, terminate, taskcompletion or retaineddata"
	}
	return "", InvalidProperty(property, string(o), "The value must be "+allowed+".")
}

// Limits of Azure Batch for pools (batch-data-plane.md §2.1).
const (
	DefaultResizeTimeout = 15 * time.Minute
	MinResizeTimeout     = 5 * time.Minute
	MaxStartTaskChars    = 32768
	MaxTaskSlots         = 256
)

// FillType is how tasks are spread over nodes.
type FillType string

const (
	FillSpread FillType = "spread"
	FillPack   FillType = "pack"
)

// NameValue is a metadata item, an environment setting, or one word more about
// an error.
type NameValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PoolSpec is what a user asked for. It changes by Patch, Update and Resize only.
type PoolSpec struct {
	ID               PoolID         `json:"id"`
	DisplayName      string         `json:"displayName,omitempty"`
	VMSize           string         `json:"vmSize"`
	Image            ImageReference `json:"image"`
	NodeAgentSKU     string         `json:"nodeAgentSku"`
	DataDisks        []DataDiskSpec `json:"dataDisks,omitempty"`
	TaskSlotsPerNode int            `json:"taskSlotsPerNode"`
	FillType         FillType       `json:"fillType"`
	// OldestJobFirst is jobDefaultOrder creationtime: among jobs of one priority
	// the oldest goes first; else they share.
	OldestJobFirst bool          `json:"oldestJobFirst,omitempty"`
	StartTask      *StartTask    `json:"startTask,omitempty"`
	UserAccounts   []UserAccount `json:"userAccounts,omitempty"`
	Metadata       []NameValue   `json:"metadata,omitempty"`
	// Packages are installed on every node before its start task.
	Packages []PackageReference `json:"packages,omitempty"`
	// Certificates are on every node for those who may see them.
	Certificates []CertificateReference `json:"certificates,omitempty"`
	// OSDisk is what differs from the image's own OS disk.
	OSDisk OSDiskSpec `json:"osDisk,omitzero"`
	// Encrypted are the disks of its nodes that are encrypted where they lie.
	Encrypted []DiskTarget `json:"encrypted,omitempty"`
	Security  SecuritySpec `json:"security,omitzero"`
	// Upgrade is nil when the pool was added without a policy.
	Upgrade    *UpgradePolicy `json:"upgrade,omitempty"`
	Mounts     []Mount        `json:"mounts,omitempty"`
	Containers *ContainerPool `json:"containers,omitempty"`
	// Extensions are run on every node before all else.
	Extensions []PoolExtension `json:"extensions,omitempty"`
	// Identities are the resource ids of the managed identities that the nodes have.
	Identities []string `json:"identities,omitempty"`
	// ResourceTags are kept and echoed.
	ResourceTags map[string]string `json:"resourceTags,omitempty"`
	// InterNode puts the nodes into one network, in which they reach each other.
	InterNode bool `json:"interNode,omitempty"`
	// Subnet is the id of the subnet that the nodes are in; empty for networks of
	// their own.
	Subnet string `json:"subnet,omitempty"`
	// Inbound are ports of every node that can be reached from the host.
	Inbound []InboundPool `json:"inbound,omitempty"`
	// Private closes the nodes to the host: no remote login, no endpoints.
	Private bool `json:"private,omitempty"`
	// NodeCommunication is kept and echoed: default, classic or simplified.
	NodeCommunication string `json:"nodeCommunication,omitempty"`
	// Zonal and Accelerated are kept and echoed: the zones of a region are one
	// host here, and every network card is virtio.
	Zonal       bool `json:"zonal,omitempty"`
	Accelerated bool `json:"accelerated,omitempty"`
}

// OSDiskSpec is the OS disk that a pool's nodes get. All but its size is kept
// and echoed: every OS disk is a local overlay that goes with its node.
type OSDiskSpec struct {
	// SizeGB is 0 for the image's own.
	SizeGB  int    `json:"sizeGB,omitempty"`
	Caching string `json:"caching,omitempty"`
	Storage string `json:"storage,omitempty"`
	// Placement is that of ephemeralOSDiskSettings: the disk must fit into the size's
	// cache, and a node is not deallocated, which would lose it.
	Placement string `json:"placement,omitempty"`
	// Accelerated asks for a write accelerator, which no size has.
	Accelerated bool `json:"accelerated,omitempty"`
}

// SecuritySpec is a machine's securityProfile.
type SecuritySpec struct {
	// TrustedLaunch is the security type; without it the machine is a standard one.
	// SecureBoot and TPM are its settings.
	TrustedLaunch bool `json:"trustedLaunch,omitempty"`
	SecureBoot    bool `json:"secureBoot,omitempty"`
	TPM           bool `json:"tpm,omitempty"`
	// AtHost has all disks of a node encrypted.
	AtHost bool `json:"atHost,omitempty"`
	// Given tells a profile that says nothing from none.
	Given bool `json:"given,omitempty"`
}

// Check refuses settings that do not go with each other.
func (s SecuritySpec) Check() error {
	if !s.TrustedLaunch && (s.SecureBoot || s.TPM) {
		return InvalidProperty("uefiSettings", "", "Use of UEFI settings is not supported when security type is not set. Set securityType to trustedLaunch.")
	}
	return nil
}

// DiskTarget is a disk of a node that can be encrypted.
type DiskTarget string

const (
	EncryptOSDisk DiskTarget = "osdisk"
	// EncryptTemporary is the temporary disk; data disks go with it, as on Azure's
	// Linux nodes.
	EncryptTemporary DiskTarget = "temporarydisk"
)

// InboundPool leads to one port of every node, for each from another port of
// the range From to To.
type InboundPool struct {
	Name     string `json:"name"`
	UDP      bool   `json:"udp,omitempty"` // else TCP
	Backend  int    `json:"backend"`
	From, To int
	// Rules are kept and echoed in their order; see Admits.
	Rules []InboundRule `json:"rules,omitempty"`
}

// InboundRule lets in or keeps out who comes from a source.
type InboundRule struct {
	Priority int      `json:"priority"`
	Deny     bool     `json:"deny,omitempty"`
	Source   string   `json:"source"`
	Ports    []string `json:"ports,omitempty"`
}

// MaxInterNode is how many nodes a pool with a network of its own may have.
const MaxInterNode = 100

// DataDiskSpec is an empty data disk that every node gets beside those of the image.
type DataDiskSpec struct {
	LUN     int    `json:"lun"`
	SizeGB  int    `json:"sizeGB"`
	Caching string `json:"caching,omitempty"`
	Storage string `json:"storage,omitempty"`
}

// UserAccount is a named account that a pool's nodes have.
type UserAccount struct {
	Name  string `json:"name"`
	Admin bool   `json:"admin,omitempty"`
	UID   int    `json:"uid,omitempty"`
	GID   int    `json:"gid,omitempty"`
	// Password and SSHPrivateKey are write-only. Secret.
	Password      string `json:"password,omitempty"`
	SSHPrivateKey string `json:"sshPrivateKey,omitempty"`
}

// UserIdentity is who a task runs as: a named account, or an auto user.
type UserIdentity struct {
	UserName string `json:"userName,omitempty"`
	// TaskScope makes an account for the task alone; else the pool's is used.
	TaskScope bool `json:"taskScope,omitempty"`
	Admin     bool `json:"admin,omitempty"`
	// Given tells an identity that the user wrote from the default.
	Given bool `json:"given,omitempty"`
}

// ResourceFile is fetched to the node before the command runs: one file by URL,
// or the blobs of a container, by a signed URL or by its name in the account's
// linked storage.
type ResourceFile struct {
	URL string `json:"url"`
	// ContainerURL is signed for reading and listing. Secret.
	ContainerURL  string `json:"containerUrl,omitempty"`
	AutoContainer string `json:"autoContainer,omitempty"`
	// BlobPrefix limits a container to the blobs whose names begin with it.
	BlobPrefix string `json:"blobPrefix,omitempty"`
	// Identity is the resource id of the managed identity by which a URL is read;
	// empty for one that is signed.
	Identity string `json:"identity,omitempty"`
	// FilePath is the file, or for a container the directory.
	FilePath string `json:"filePath"`
	FileMode string `json:"fileMode,omitempty"`
}

// StartTask runs on every node when it joins, reboots or is reimaged.
type StartTask struct {
	CommandLine   string         `json:"commandLine"`
	Environment   []NameValue    `json:"environment,omitempty"`
	ResourceFiles []ResourceFile `json:"resourceFiles,omitempty"`
	User          UserIdentity   `json:"user"`
	// MaxRetries is the number of tries after the first; -1 means no limit.
	MaxRetries     int                `json:"maxRetries"`
	WaitForSuccess bool               `json:"waitForSuccess"`
	Container      *ContainerSettings `json:"container,omitempty"`
}

// Prepared says whether a node has to be prepared before anything runs on it.
func (s PoolSpec) Prepared() bool { return len(s.Mounts)+len(s.Extensions) > 0 || s.Containers != nil }

// Warning is advice that does not refuse anything. Time is when it arose.
type Warning struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	Time    time.Time `json:"time"`
}

// ResizeError is why the last resize did not reach its target. It never blocks
// a later resize.
type ResizeError struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Values  []NameValue `json:"values,omitempty"`
	Time    time.Time   `json:"time"`
}

// Pool is a pool and how far it is.
//
// Writers: the verbs of package pool write Spec, State, targets, warnings and
// the resize order; its allocator writes Boot, ResizeErrors and the end of a
// resize; its rollouts write Rollout.
type Pool struct {
	Account AccountName
	Spec    PoolSpec

	State                PoolState
	StateTransition      time.Time
	Allocation           AllocationState
	AllocationTransition time.Time
	TargetDedicated      int
	TargetLowPriority    int
	ResizeTimeout        time.Duration
	Deallocation         DeallocationOption
	ResizeStarted        time.Time
	// ResizeRequest is the call that asked for the size.
	ResizeRequest      Request `json:",omitzero"`
	ResizeErrors       []ResizeError
	Warnings           []Warning
	CurrentDedicated   int // counted from nodes when read
	CurrentLowPriority int
	Boot               BootImage // resolved at add; resolved anew at each allocation when the reference has no version
	Creator            Caller    // rights were checked for this caller
	// ImageRevision and StartRevision count the changes of image and start task;
	// a node with a lower number has what was before.
	ImageRevision, StartRevision int
	Rollout                      *Rollout   // the last one; nil before the first
	AutoScale                    *AutoScale // nil: the size is fixed
	Created, LastModified        time.Time
	Version                      int64 // grows with each change by a user; the ETag
}

// AutoScale is how a pool sizes itself.
type AutoScale struct {
	Formula  string
	Interval time.Duration
	// Set is when it was enabled or last changed; evaluations are due from then on.
	Set time.Time
	// Run is the last evaluation.
	Run *AutoScaleRun
}

// AutoScaleRun is one evaluation of a formula.
type AutoScaleRun struct {
	Time    time.Time
	Results string
	// Error is nil when the formula had a value.
	Error *ResizeError
}

// ScaleInput is what a formula could read of one sampled variable.
type ScaleInput struct {
	Samples int
	Last    float64
}

// ScaleRecord is one evaluation of a pool's formula with all that explains it.
type ScaleRecord struct {
	Run     AutoScaleRun
	Formula string
	// Why is interval, or arrival when tasks came between.
	Why string
	// Read is what there was of each sampled variable that the formula names.
	Read map[string]ScaleInput
	// The targets before, and those that the formula asked for.
	WasDedicated, WasLowPriority int
	Dedicated, LowPriority       int
	// Applied says that the pool was resized; Note why it was not although the
	// formula asked for it.
	Applied bool
	Note    string
}

// Limits of Azure Batch for formulas (batch-data-plane.md §7.1).
const (
	DefaultAutoScaleInterval = 15 * time.Minute
	MinAutoScaleInterval     = 5 * time.Minute
	MaxAutoScaleInterval     = 168 * time.Hour
)

// ETag is a text that differs for each change by a user.
func (p Pool) ETag() string { return etag(p.Version, p.LastModified) }

// Modified is when a user last changed the pool.
func (p Pool) Modified() time.Time { return p.LastModified }

// Phase is the pair of states that PoolTransition knows.
func (p Pool) Phase() PoolPhase { return PoolPhase{p.State, p.Allocation} }

// NodeCounts are nodes by state.
type NodeCounts map[NodeState]int

// PoolNodeCounts are the nodes of one pool by state.
type PoolNodeCounts struct {
	Pool                   PoolID
	Dedicated, LowPriority NodeCounts
}

// Admits says whether a program on the host, which counts as the Internet with
// the address 127.0.0.1, is let in: by the first rule that means it, or without
// any.
func (p InboundPool) Admits() bool {
	for _, r := range p.Rules {
		means := r.Source == "*" || strings.EqualFold(r.Source, "Internet")
		if prefix, err := netip.ParsePrefix(r.Source); err == nil {
			means = prefix.Contains(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
		} else if a, err := netip.ParseAddr(r.Source); err == nil {
			means = a.IsLoopback()
		}
		if means {
			return !r.Deny
		}
	}
	return true
}
