package millpond

import (
	"net/url"
	"regexp"
	"strings"
	"time"
)

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

var storageAccountName = regexp.MustCompile(`^[a-z0-9]{3,24}$`)

// IsStorageAccountName says whether a name has the form that Azure wants: 3 to 24
// lower-case letters and digits.
func IsStorageAccountName(name string) bool { return storageAccountName.MatchString(name) }

// IsServerPath says whether a name that could be a storage account's leads
// elsewhere as the first segment of a path: under the server's own address an
// account is the first segment, too.
func IsServerPath(name string) bool {
	switch name {
	case "batch", "blob", "node", "subscriptions", "providers", "tenants", "metadata", "adfs", "common", "organizations", "consumers", "beta", "healthz", "metrics", "status", "events", "portal":
		return true
	}
	return false
}

// BlobHost is the account's blob endpoint in Azure's own address scheme.
func (a *StorageAccount) BlobHost() string { return a.ID.Name() + blobSuffix }

const blobSuffix = ".blob.core.windows.net"

// IsBlobURL says whether a link leads to a storage account's blob endpoint in Azure's
// own address scheme, over TLS.
func IsBlobURL(link string) bool {
	u, err := url.Parse(link)
	return err == nil && u.Scheme == "https" && u.Port() == "" && u.User == nil && strings.HasSuffix(strings.ToLower(u.Hostname()), blobSuffix)
}

// StorageByIdentity is the mode of an AutoStorage that nodes open by an identity.
const StorageByIdentity = "BatchAccountManagedIdentity"

// AutoStorage is a Batch account's link to a storage account.
type AutoStorage struct {
	ID ResourceID
	// Mode is StorageKeys or BatchAccountManagedIdentity.
	Mode string
	// NodeIdentity is, in the second mode, the resource id of the identity by which
	// nodes open the storage account; empty if they do not.
	NodeIdentity string `json:",omitempty"`
	// Synced is when the keys were last said to have changed.
	Synced time.Time
}
