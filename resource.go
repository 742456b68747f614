package millpond

import "time"

// ProvisioningState is where a resource is between being asked for and being
// there.
type ProvisioningState string

const (
	StateCreating  ProvisioningState = "Creating"
	StateUpdating  ProvisioningState = "Updating"
	StateSucceeded ProvisioningState = "Succeeded"
	StateFailed    ProvisioningState = "Failed"
	StateDeleting  ProvisioningState = "Deleting"
)

// Full types of the resources that are kept, in canonical spelling.
const (
	TypeDisk       = "Microsoft.Compute/disks"
	TypeSnapshot   = "Microsoft.Compute/snapshots"
	TypeImage      = "Microsoft.Compute/images"
	TypeGallery    = "Microsoft.Compute/galleries"
	TypeDefinition = "Microsoft.Compute/galleries/images"
	TypeVersion    = "Microsoft.Compute/galleries/images/versions"
	TypeAccount    = "Microsoft.Batch/batchAccounts"
	TypeVM         = "Microsoft.Compute/virtualMachines"
	TypeExtension  = "Microsoft.Compute/virtualMachines/extensions"
	TypeRunCommand = "Microsoft.Compute/virtualMachines/runCommands"
)

// Resource is what every resource of a group has. Nouns embed it; the database
// keeps it in columns and the rest of the noun as a document.
type Resource struct {
	ID       ResourceID
	Location string // normalised: westus2
	Tags     map[string]string
	State    ProvisioningState
	Created  time.Time
	Changed  time.Time
}

// Base is the resource inside a noun.
func (r *Resource) Base() *Resource { return r }

// Subscription is a billing and rights boundary inside one tenant.
type Subscription struct {
	ID      string // GUID, lower case
	Tenant  string
	Name    string
	Created time.Time
}

// Scope is the subscription's id in the Resource Manager.
func (s Subscription) Scope() string { return "/subscriptions/" + s.ID }

// Group is a resource group.
type Group struct {
	Subscription string
	Name         string // as first written
	Location     string
	Tags         map[string]string
	State        ProvisioningState
	Created      time.Time
}

// Scope is the group's id in the Resource Manager.
func (g Group) Scope() string {
	return "/subscriptions/" + g.Subscription + "/resourceGroups/" + g.Name
}
