package millpond

// Types of Microsoft.Compute that say where machines and traffic of disks go. There
// is one host, so they are kept and shown and place nothing.
const (
	TypeAvailabilitySet = "Microsoft.Compute/availabilitySets"
	TypeProximityGroup  = "Microsoft.Compute/proximityPlacementGroups"
	TypeDiskAccess      = "Microsoft.Compute/diskAccesses"
)

// TypeSSHPublicKey is the full type of SSH public keys.
const TypeSSHPublicKey = "Microsoft.Compute/sshPublicKeys"

// Placement is a resource of one of the first three types, with the settings that
// its type has.
type Placement struct {
	Resource `json:"-"`
	// SKU is Classic or Aligned, FaultDomains 1 to 3 and UpdateDomains 1 to 20, of an
	// availability set.
	SKU                         string
	FaultDomains, UpdateDomains int
	// Group is Standard or Ultra, Sizes the VM sizes that it is meant for, and Zones
	// its zones, of a proximity placement group.
	Group        string
	Sizes, Zones []string
}

// SSHPublicKey is a public key under a name; machines are made with a copy of it.
type SSHPublicKey struct {
	Resource `json:"-"`
	// Key is as in authorized_keys; empty until it is given or generated.
	Key string
}
