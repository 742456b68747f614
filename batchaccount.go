package millpond

import (
	"net/netip"
	"time"
)

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
	// Access says from where clients reach it.
	Access    EndpointRules
	PoolQuota int
	CoreQuota int
	Created   time.Time
}

// Host is the account's name in Azure's own address scheme.
func (a BatchAccount) Host() string {
	return string(a.Name) + "." + a.Region + ".batch.azure.com"
}

// EndpointRules say from which addresses an endpoint is reached. The zero value is
// from everywhere.
type EndpointRules struct {
	// Deny closes it to all but Addresses, which are IPv4 addresses or ranges such
	// as 10.0.0.0/8, as they were given.
	Deny      bool
	Addresses []string `json:",omitempty"`
}

// Admits tells whether a client at an address, host or host:port, may come in.
// One whose address nobody can read may not.
func (r EndpointRules) Admits(remote string) bool {
	if !r.Deny {
		return true
	}
	addr, err := netip.ParseAddr(remote)
	if err != nil {
		ap, err := netip.ParseAddrPort(remote)
		if err != nil {
			return false
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap()
	for _, a := range r.Addresses {
		if p, ok := AddressRange(a); ok && p.Contains(addr) {
			return true
		}
	}
	return false
}

// AddressRange reads one of EndpointRules' addresses.
func AddressRange(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), a.Is4()
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err == nil && p.Addr().Is4()
}
