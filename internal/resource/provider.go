package resource

import (
	"context"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Provider is a namespace with the resource types that are served.
type Provider struct {
	Namespace string
	Types     []ProviderType
	// Registered is filled by the verbs, for one subscription.
	Registered bool
}

// ProviderType is one resource type of a provider.
type ProviderType struct {
	Name        string
	APIVersions []string
	// Everywhere is whether the type has a location.
	Located bool
}

// Providers lists what is served. Clients look types up here before they build
// a generic request, so nested types are listed too.
func Providers() []Provider {
	computeV := []string{"2025-03-03", "2024-11-01", "2024-07-01", "2024-03-03", "2024-03-02", "2023-10-02", "2023-09-01", "2023-07-03", "2023-04-02", "2022-11-01", "2022-08-03", "2022-08-01", "2022-07-02", "2022-03-03", "2022-03-02", "2021-12-01", "2021-10-01", "2021-07-01", "2020-12-01", "2020-09-30", "2020-06-01", "2019-12-01", "2019-07-01"}
	batchV := []string{"2025-06-01", "2024-07-01", "2024-02-01", "2023-11-01", "2023-05-01", "2022-10-01", "2022-06-01", "2022-01-01", "2021-06-01", "2021-01-01", "2020-09-01", "2020-05-01", "2020-03-01", "2019-08-01"}
	resourcesV := []string{"2025-04-01", "2024-11-01", "2024-03-01", "2023-07-01", "2022-12-01", "2022-09-01", "2022-01-01", "2021-04-01", "2020-10-01", "2020-06-01", "2019-11-01", "2019-10-01", "2018-05-01", "2016-06-01"}
	authV := []string{"2022-04-01", "2020-10-01-preview", "2020-04-01-preview", "2018-01-01-preview", "2015-07-01"}
	networkV := []string{"2025-01-01", "2024-10-01", "2024-07-01", "2024-05-01", "2024-03-01", "2024-01-01", "2023-11-01", "2023-09-01", "2023-05-01", "2022-11-01", "2022-07-01", "2022-01-01", "2021-08-01", "2021-02-01", "2020-11-01", "2020-06-01", "2019-11-01", "2018-11-01", "2017-10-01", "2015-06-15"}
	storageV := []string{"2025-06-01", "2025-01-01", "2024-01-01", "2023-05-01", "2023-04-01", "2023-01-01", "2022-09-01", "2022-05-01", "2021-09-01", "2021-08-01", "2021-06-01", "2021-04-01", "2021-02-01", "2021-01-01", "2019-06-01", "2019-04-01", "2018-07-01", "2018-02-01", "2017-10-01", "2017-06-01"}
	identityV := []string{"2024-11-30", "2023-07-31-preview", "2023-01-31", "2022-01-31-preview", "2021-09-30-preview", "2018-11-30", "2015-08-31-preview"}
	types := func(versions []string, located bool, names ...string) []ProviderType {
		out := make([]ProviderType, len(names))
		for i, n := range names {
			out[i] = ProviderType{n, versions, located}
		}
		return out
	}
	return []Provider{
		{Namespace: "Microsoft.Batch", Types: append(types(batchV, true, "batchAccounts"), types(batchV, false, "batchAccounts/pools", "batchAccounts/applications", "batchAccounts/applications/versions", "operations", "locations", "locations/quotas", "locations/checkNameAvailability", "locations/virtualMachineSkus", "locations/accountOperationResults")...)},
		{Namespace: "Microsoft.Compute", Types: append(types(computeV, true, "disks", "snapshots", "images", "galleries", "galleries/images", "galleries/images/versions", "virtualMachines", "virtualMachines/extensions", "virtualMachines/runCommands", "availabilitySets", "proximityPlacementGroups", "diskAccesses", "sshPublicKeys"), types(computeV, false, "locations", "locations/operations", "locations/vmSizes", "locations/usages", "locations/publishers", "locations/runCommands", "skus", "operations")...)},
		{Namespace: "Microsoft.Network", Types: append(types(networkV, true, "virtualNetworks", "publicIPAddresses", "networkInterfaces", "networkSecurityGroups"),
			types(networkV, false, "virtualNetworks/subnets", "networkSecurityGroups/securityRules", "networkInterfaces/ipConfigurations", "locations", "locations/CheckDnsNameAvailability", "operations")...)},
		{Namespace: "Microsoft.Storage", Types: append(types(storageV, true, "storageAccounts"), types(storageV, false, "checkNameAvailability", "operations")...)},
		{Namespace: "Microsoft.ManagedIdentity", Types: append(types(identityV, true, "userAssignedIdentities"), types(identityV, false, "operations")...)},
		{Namespace: "Microsoft.Resources", Types: types(resourcesV, false, "subscriptions", "subscriptions/resourceGroups", "resourceGroups", "subscriptions/providers", "subscriptions/locations", "tenants", "tags", "resources", "deployments", "deployments/operations", "operations")},
		{Namespace: "Microsoft.Authorization", Types: types(authV, false, "roleAssignments", "roleDefinitions", "permissions", "operations")},
		{Namespace: "Microsoft.Subscription", Types: types([]string{"2021-10-01", "2020-09-01"}, false, "aliases")},
	}
}

// ListProviders lists all providers with a subscription's registrations.
func (s *Service) ListProviders(ctx context.Context, subscription string) ([]Provider, error) {
	ps := Providers()
	err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		for i := range ps {
			if ps[i].Registered, err = tx.Registered(subscription, ps[i].Namespace); err != nil {
				return err
			}
		}
		return nil
	})
	return ps, err
}

// Provider returns one provider with a subscription's registration.
func (s *Service) Provider(ctx context.Context, subscription, namespace string) (Provider, error) {
	ps, err := s.ListProviders(ctx, subscription)
	if err != nil {
		return Provider{}, err
	}
	for _, p := range ps {
		if strings.EqualFold(p.Namespace, namespace) {
			return p, nil
		}
	}
	return Provider{}, millpond.Errorf(millpond.NotFound, "InvalidResourceNamespace", "The resource namespace '%s' is not served here. List what is with: az provider list --query [].namespace", namespace)
}

// SetRegistered registers or unregisters a provider in a subscription.
func (s *Service) SetRegistered(ctx context.Context, subscription, namespace string, on bool) (Provider, error) {
	p, err := s.Provider(ctx, subscription, namespace)
	if err != nil {
		return p, err
	}
	p.Registered = on
	return p, s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if on {
			return tx.Register(subscription, p.Namespace)
		}
		used, err := tx.Resources(sqlite.Query{Subscription: subscription})
		if err != nil {
			return err
		}
		for _, r := range used {
			if strings.EqualFold(r.ID.Namespace, p.Namespace) {
				return millpond.Errorf(millpond.Conflict, "CannotUnregisterProvider", "The provider %s has resources in the subscription, for example %s. Delete them first.", p.Namespace, r.ID)
			}
		}
		return tx.Unregister(subscription, p.Namespace)
	})
}
