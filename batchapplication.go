package millpond

import "time"

// Full types of the applications of Batch accounts.
const (
	TypeBatchApplication   = "Microsoft.Batch/batchAccounts/applications"
	TypeApplicationPackage = "Microsoft.Batch/batchAccounts/applications/versions"
)

// Limits of Azure Batch for applications (batch-data-plane.md §9).
const (
	MaxApplications = 20
	MaxPackages     = 40
	MaxPackageRefs  = 10
)

// BatchApplication is a program that nodes can install, in one or more versions.
type BatchApplication struct {
	Resource    `json:"-"`
	DisplayName string
	// DefaultVersion is what references without a version mean.
	DefaultVersion string
	// AllowUpdates lets versions be uploaded anew.
	AllowUpdates bool
}

// ApplicationPackage is one version of an application, a zip archive in the
// account's linked storage.
type ApplicationPackage struct {
	Resource `json:"-"`
	// Storage, Container and Blob are where the archive lies.
	Storage         ResourceID
	Container, Blob string
	// Stamp tells uploads of one version apart.
	Stamp string
	// Active: it was activated and nodes can install it; else it is pending.
	Active    bool
	Format    string
	Activated time.Time `json:",omitzero"`
}
