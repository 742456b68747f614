package millpond

// MountType is the kind of a file system that a pool's nodes mount.
type MountType string

const (
	MountNFS       MountType = "nfs"
	MountCIFS      MountType = "cifs"
	MountAzureFile MountType = "azurefile"
)

// MaxMounts is Azure's limit per pool.
const MaxMounts = 10

// Mount is a file system that every node of a pool mounts before anything runs.
type Mount struct {
	Type MountType `json:"type"`
	// Source is host:/path for NFS, //host/share for SMB, the share's address
	// (https://host/share) for Azure Files.
	Source string `json:"source"`
	// Path is relative to the node's directory for mounts.
	Path string `json:"path"`
	// Options are words for mount(8), such as "-o vers=4.1".
	Options string `json:"options,omitempty"`
	// User is the account's name for Azure Files.
	User string `json:"user,omitempty"`
	// Password is write-only; the account's key for Azure Files. Secret.
	Password string `json:"password,omitempty"`
}

// ContainerPool is a pool's containerConfiguration: its nodes must have a
// container engine.
type ContainerPool struct {
	// Type is dockerCompatible or criCompatible; kept and echoed.
	Type string `json:"type"`
	// Images are there on every node before anything runs.
	Images     []string   `json:"images,omitempty"`
	Registries []Registry `json:"registries,omitempty"`
}

// Registry is where container images come from.
type Registry struct {
	Server string `json:"server,omitempty"`
	User   string `json:"user,omitempty"`
	// Password is write-only. Secret.
	Password string `json:"password,omitempty"`
}

// ContainerSettings are how a task's command runs in a container.
type ContainerSettings struct {
	Image      string    `json:"image"`
	RunOptions string    `json:"runOptions,omitempty"`
	Registry   *Registry `json:"registry,omitempty"`
	// OwnDirectory is workingDirectory containerImageDefault.
	OwnDirectory bool `json:"ownDirectory,omitempty"`
	// Binds nil mounts the whole root of the node; empty mounts nothing.
	Binds *[]ContainerBind `json:"binds,omitempty"`
}

// ContainerBind is one of a node's directories, spelled as Azure does: Shared,
// Startup, VfsMounts, Task, JobPrep or Applications.
type ContainerBind struct {
	Source   string `json:"source"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// ContainerInfo is the container that a task's last attempt ran in.
type ContainerInfo struct {
	ID    string `json:"id"`
	State string `json:"state,omitempty"`
	Error string `json:"error,omitempty"`
}
