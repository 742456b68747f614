package millpond

import "time"

// TypeStorageAccount is the full type of storage accounts.
const TypeStorageAccount = "Microsoft.Storage/storageAccounts"

// StorageAccount is an account of blob storage: a name with two keys before a
// part of the real blob service that the server was given.
type StorageAccount struct {
	Resource `json:"-"`
	Tenant   string
	Kind     string // StorageV2, BlobStorage, Storage, BlockBlobStorage
	SKU      string // Standard_LRS and its kin; kept and shown
	Tier     string // access tier of Hot or Cool; kept and shown
	// Keys are key1 and key2, base64. Secret.
	Keys [2]string
	// KeyTimes are when each was made.
	KeyTimes [2]time.Time
	// SharedKey is whether requests may be signed with the keys, PublicBlobs
	// whether containers may be opened to everybody.
	SharedKey, PublicBlobs bool
	// HTTPSOnly, MinimumTLS and PublicNetwork are kept and shown.
	HTTPSOnly     bool
	MinimumTLS    string
	PublicNetwork string
}

// BlobHost is the account's blob endpoint in Azure's own address scheme.
func (a *StorageAccount) BlobHost() string { return a.ID.Name() + ".blob.core.windows.net" }

// AutoStorage is a Batch account's link to a storage account.
type AutoStorage struct {
	ID ResourceID
	// Mode is StorageKeys; the other one needs managed identities.
	Mode string
	// Synced is when the keys were last said to have changed.
	Synced time.Time
}
