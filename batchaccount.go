package millpond

import "time"

// BatchAccount is a Microsoft.Batch account as the data plane needs it.
type BatchAccount struct {
	ID           ResourceID
	Name         AccountName
	Region       string
	Subscription string
	Tenant       string
	// Keys are the two shared keys, base64. Secret.
	PrimaryKey, SecondaryKey string
	// SharedKeyAllowed is whether allowedAuthenticationModes admits shared keys.
	SharedKeyAllowed bool
	// TaskTokenAllowed is whether they admit tokens of tasks.
	TaskTokenAllowed bool
	// AutoStorage is the linked storage account; the zero id without one.
	AutoStorage ResourceID
	// AutoStorageByIdentity says that nodes open it by an identity of their pool,
	// AutoStorageIdentity which, a resource id; empty if they do not.
	AutoStorageByIdentity bool
	AutoStorageIdentity   string
	PoolQuota             int
	CoreQuota             int
	Created               time.Time
}

// Host is the account's name in Azure's own address scheme.
func (a BatchAccount) Host() string {
	return string(a.Name) + "." + a.Region + ".batch.azure.com"
}
