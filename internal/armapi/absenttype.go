package armapi

import (
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// absentTypes are types of Azure's of which nothing can be made here. Their lists
// read as empty, so that programs that take stock of a subscription go on; making
// one is refused. A name that is not Azure's is refused in a list, too: an empty
// answer would hide a slip.
func absentTypes() []string {
	return []string{
		"Microsoft.Compute/capacityReservationGroups", "Microsoft.Compute/cloudServices", "Microsoft.Compute/diskEncryptionSets", "Microsoft.Compute/hostGroups",
		"Microsoft.Compute/locations/virtualMachineScaleSets", "Microsoft.Compute/restorePointCollections", "Microsoft.Compute/virtualMachineScaleSets",
		"Microsoft.Network/applicationGateways", "Microsoft.Network/applicationSecurityGroups", "Microsoft.Network/azureFirewalls", "Microsoft.Network/bastionHosts",
		"Microsoft.Network/connections", "Microsoft.Network/customIPPrefixes", "Microsoft.Network/ddosProtectionPlans", "Microsoft.Network/dnsZones", "Microsoft.Network/expressRouteCircuits",
		"Microsoft.Network/firewallPolicies", "Microsoft.Network/ipGroups", "Microsoft.Network/loadBalancers", "Microsoft.Network/localNetworkGateways", "Microsoft.Network/natGateways",
		"Microsoft.Network/networkProfiles", "Microsoft.Network/networkWatchers", "Microsoft.Network/privateDnsZones", "Microsoft.Network/privateEndpoints", "Microsoft.Network/privateLinkServices",
		"Microsoft.Network/publicIPPrefixes", "Microsoft.Network/routeFilters", "Microsoft.Network/routeTables", "Microsoft.Network/serviceEndpointPolicies", "Microsoft.Network/virtualHubs",
		"Microsoft.Network/virtualNetworkGateways", "Microsoft.Network/virtualNetworkTaps", "Microsoft.Network/virtualWans", "Microsoft.KeyVault/vaults", "Microsoft.ContainerRegistry/registries",
	}
}

// listUnknown answers a list of a type that is not served, of a subscription or
// a group.
func (e *Edge) listUnknown(w http.ResponseWriter, r *azwire.Request) error {
	asked := r.Param("ns") + "/" + typeOf(r.Param("rest"))
	for _, t := range absentTypes() {
		if strings.EqualFold(t, asked) && strings.Count(r.Param("rest"), "/")%2 == 0 {
			azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{}})
			return nil
		}
	}
	return millpond.Errorf(millpond.Unsupported, "NotImplemented", "Resources of type %s are not supported yet. docs/wire/resource-manager.md lists what is.", asked)
}
