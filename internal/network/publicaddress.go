package network

import (
	"context"
	"regexp"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// dnsLabel is what Azure takes as the first label of a public address's name.
var dnsLabel = regexp.MustCompile(`^[a-z][a-z0-9-]{1,61}[a-z0-9]$`)

// FQDN is the public name of an address with a label, or empty. The name is
// shown and kept unique; no name server knows it.
func FQDN(a *millpond.PublicAddress) string {
	if a.Label == "" {
		return ""
	}
	return a.Label + "." + a.Location + ".cloudapp.azure.com"
}

// CheckPublicAddress is the part of the validation that needs no other row; it
// fills in defaults.
func CheckPublicAddress(a *millpond.PublicAddress) error {
	if err := CheckName(a.ID.Name()); err != nil {
		return err
	}
	if a.SKU == "" {
		a.SKU = "Basic"
	}
	if a.Allocation == "" {
		a.Allocation = "Dynamic"
		if a.SKU == "Standard" {
			a.Allocation = "Static"
		}
	}
	if a.SKU == "Standard" && a.Allocation != "Static" {
		return invalid("StandardSkuPublicIPAddressesMustBeStatic", "properties.publicIPAllocationMethod", "Standard sku publicIp %s must have AllocationMethod set to Static.", a.ID)
	}
	if a.IdleMinutes == 0 {
		a.IdleMinutes = 4
	}
	if a.IdleMinutes < 4 || a.IdleMinutes > 30 {
		return invalid("InvalidIdleTimeout", "properties.idleTimeoutInMinutes", "The idle timeout of %d minutes is out of range: 4 to 30.", a.IdleMinutes)
	}
	if a.Label != "" && !dnsLabel.MatchString(a.Label) {
		return invalid("InvalidDomainNameLabel", "properties.dnsSettings.domainNameLabel", "The domain name label %s is invalid. It must conform to the following regular expression: %s.", a.Label, dnsLabel)
	}
	return nil
}

// PutPublicAddress creates an address or changes its settings. The loopback
// address is given at the first PUT, also to one that is allocated dynamically.
func (s *Service) PutPublicAddress(ctx context.Context, a *millpond.PublicAddress) (out *millpond.PublicAddress, created bool, err error) {
	if err := CheckPublicAddress(a); err != nil {
		return nil, false, err
	}
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		if a.ID, a.Location, err = s.resources.Admit(tx, a.ID, a.Location); err != nil {
			return err
		}
		old, err := previous[millpond.PublicAddress](tx, a.ID)
		if err != nil {
			return err
		}
		all, err := sqlite.List[millpond.PublicAddress](tx, sqlite.Query{Type: millpond.TypePublicAddress})
		if err != nil {
			return err
		}
		taken := map[string]bool{}
		for _, o := range all {
			if o.ID.Key() == a.ID.Key() {
				continue
			}
			taken[o.Address] = true
			if a.Label != "" && o.Label == a.Label && o.Location == a.Location {
				return invalid("DnsRecordInUse", "properties.dnsSettings.domainNameLabel", "DNS record %s is already used by another public IP. Choose another domain name label.", FQDN(a))
			}
		}
		a.UniqueID, a.ETag = uuid.NewString(), newETag()
		if old != nil {
			if old.SKU != a.SKU {
				return invalid("PublicIPAddressSkuCannotBeUpdated", "sku.name", "The sku of public IP address %s cannot be changed from %s to %s. Delete it and make it again.", a.ID, old.SKU, a.SKU)
			}
			a.UniqueID, a.Address = old.UniqueID, old.Address
		} else if a.Address, err = loopback(a.ID.Key(), func(x string) bool { return taken[x] }); err != nil {
			return err
		}
		out = a
		created, err = put(tx, a, old)
		return err
	})
	return out, created, err
}

// PublicAddress returns one address.
func (s *Service) PublicAddress(ctx context.Context, id millpond.ResourceID) (*millpond.PublicAddress, error) {
	return view[millpond.PublicAddress](ctx, s, id)
}

// PublicAddresses lists addresses by key.
func (s *Service) PublicAddresses(ctx context.Context, q sqlite.Query) ([]*millpond.PublicAddress, error) {
	return list[millpond.PublicAddress](ctx, s, millpond.TypePublicAddress, q)
}

// DeletePublicAddress deletes an address; false if it was not there.
func (s *Service) DeletePublicAddress(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		a, err := previous[millpond.PublicAddress](tx, id)
		if a == nil || err != nil {
			return err
		}
		found = true
		used, err := s.usesOf(tx, id.Subscription)
		if err != nil {
			return err
		}
		if by := used.Public(id); by != "" {
			return inUse("PublicIPAddressCannotBeDeleted", "Public IP address %s can not be deleted since it is still allocated to resource %s. In order to delete the public IP, disassociate it first: az network nic ip-config update --remove publicIpAddress, or delete the network interface.", a.ID, by)
		}
		return tx.DeleteResource(id.Key())
	})
	return found, err
}

// LabelAvailable says whether a DNS label is free in a region.
func (s *Service) LabelAvailable(ctx context.Context, region, label string) (bool, error) {
	if !dnsLabel.MatchString(label) {
		return false, invalid("InvalidDomainNameLabel", "domainNameLabel", "The domain name label %s is invalid. It must conform to the following regular expression: %s.", label, dnsLabel)
	}
	all, err := s.PublicAddresses(ctx, sqlite.Query{})
	for _, a := range all {
		if strings.EqualFold(a.Label, label) && a.Location == millpond.NormalizeRegion(region) {
			return false, err
		}
	}
	return err == nil, err
}
