package millpond

// ImageReference says what the nodes of a pool boot from, as the user wrote it:
// a resource id, or a Marketplace triple with a version.
type ImageReference struct {
	ResourceID string `json:"resourceId,omitempty"`
	Publisher  string `json:"publisher,omitempty"`
	Offer      string `json:"offer,omitempty"`
	SKU        string `json:"sku,omitempty"`
	Version    string `json:"version,omitempty"`
	// SharedID and CommunityID name an image of a gallery that is shared with the
	// Batch account's subscription or tenant, or with everybody.
	SharedID    string `json:"sharedId,omitempty"`
	CommunityID string `json:"communityId,omitempty"`
	// AllowManaged is set by an api-version in which a pool may boot from a managed
	// image.
	AllowManaged bool `json:"allowManaged,omitempty"`
}

// BootImage is an ImageReference resolved for one region at one moment: the
// exact version and the contents that its disks have.
type BootImage struct {
	// VersionID is the exact version's resource id.
	VersionID string `json:"versionId"`
	// Reference is the same version as a shared or community gallery shows it,
	// where that is how it was named.
	Reference string `json:"reference,omitempty"`
	OSType    string `json:"osType"`     // Linux or Windows
	HyperV    string `json:"generation"` // V1 (BIOS) or V2 (UEFI)
	OSDisk    BootDisk
	DataDisks []BootDisk
	// Replicas is how many replicas are ready in the region, for the warning
	// about large pools.
	Replicas int `json:"replicas"`
	// Findings are what preflight warns of, for the pool's warnings.
	Findings []Finding `json:"findings,omitempty"`
}

// BootDisk is one immutable disk of a BootImage.
type BootDisk struct {
	LUN int `json:"lun"`
	// Content is the image store's id of the bytes.
	Content   string `json:"content"`
	SizeBytes int64  `json:"sizeBytes"`
	// Stores are the replicas that one node reads from, the one to be asked first
	// in front; empty until chosen.
	Stores []StorePlace `json:"stores,omitempty"`
	// FullCopy gives each node a copy of the whole disk, as pools from managed
	// images have.
	FullCopy bool `json:"fullCopy,omitempty"`
	// Backing is the file of a built base image, which is in no store; empty until
	// chosen.
	Backing string `json:"backing,omitempty"`
}

// StorePlace is an image store as another process can open it.
type StorePlace struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}
