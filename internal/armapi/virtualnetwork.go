package armapi

import (
	"net/http"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/network"
)

type virtualNetworkBody struct {
	networkBody
	Properties struct {
		AddressSpace struct {
			AddressPrefixes []string `json:"addressPrefixes"`
			IPAM            given    `json:"ipamPoolPrefixAllocations"`
		} `json:"addressSpace"`
		DHCPOptions struct {
			DNSServers []string `json:"dnsServers"`
		} `json:"dhcpOptions"`
		Subnets      []subnetBody `json:"subnets"`
		Peerings     given        `json:"virtualNetworkPeerings"`
		DDoS         given        `json:"enableDdosProtection"`
		DDoSPlan     given        `json:"ddosProtectionPlan"`
		VMProtection given        `json:"enableVmProtection"`
		BGP          given        `json:"bgpCommunities"`
		Encryption   *struct {
			Enabled bool `json:"enabled"`
		} `json:"encryption"`
		FlowTimeout given `json:"flowTimeoutInMinutes"`
	} `json:"properties"`
}

type subnetBody struct {
	Name       string `json:"name"`
	Properties struct {
		AddressPrefix    string   `json:"addressPrefix"`
		AddressPrefixes  []string `json:"addressPrefixes"`
		SecurityGroup    *idRef   `json:"networkSecurityGroup"`
		DefaultOutbound  *bool    `json:"defaultOutboundAccess"`
		PrivateEndpoints string   `json:"privateEndpointNetworkPolicies"`
		NATGateway       given    `json:"natGateway"`
		RouteTable       given    `json:"routeTable"`
		ServiceEndpoints given    `json:"serviceEndpoints"`
		EndpointPolicies given    `json:"serviceEndpointPolicies"`
		Delegations      given    `json:"delegations"`
		IPAM             given    `json:"ipamPoolPrefixAllocations"`
	} `json:"properties"`
}

func (b subnetBody) noun() (millpond.Subnet, error) {
	p := b.Properties
	s := millpond.Subnet{Name: b.Name, Prefix: p.AddressPrefix, SecurityGroup: refID(p.SecurityGroup), DefaultOutbound: p.DefaultOutbound, PrivateEndpoints: p.PrivateEndpoints}
	if s.Prefix == "" && len(p.AddressPrefixes) > 0 {
		s.Prefix = p.AddressPrefixes[0]
	}
	switch {
	case len(p.AddressPrefixes) > 1:
		return s, unsupported("subnets.addressPrefixes", "More than one address prefix in a subnet is not supported. Give one.")
	case bool(p.NATGateway):
		return s, unsupported("subnets.natGateway", "NAT gateways are not supported. Machines reach the outside without one.")
	case bool(p.RouteTable):
		return s, unsupported("subnets.routeTable", "Route tables are not supported. Leave routeTable out.")
	case bool(p.ServiceEndpoints), bool(p.EndpointPolicies):
		return s, unsupported("subnets.serviceEndpoints", "Service endpoints are not supported. Leave serviceEndpoints out.")
	case bool(p.Delegations):
		return s, unsupported("subnets.delegations", "Delegating a subnet to a service is not supported. Leave delegations out.")
	case bool(p.IPAM):
		return s, unsupported("subnets.ipamPoolPrefixAllocations", "Address pools of a network manager are not supported. Give addressPrefix.")
	}
	return s, nil
}

func (e *Edge) decodeVirtualNetwork(r *azwire.Request) (*millpond.VirtualNetwork, error) {
	var body virtualNetworkBody
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	p := body.Properties
	switch {
	case bool(p.Peerings):
		return nil, unsupported("virtualNetworkPeerings", "Peering of virtual networks is not supported. Leave virtualNetworkPeerings out.")
	case bool(p.DDoS), bool(p.DDoSPlan):
		return nil, unsupported("enableDdosProtection", "Protection against denial of service is not supported. Leave it out.")
	case bool(p.BGP):
		return nil, unsupported("bgpCommunities", "BGP communities are not supported. Leave bgpCommunities out.")
	case bool(p.AddressSpace.IPAM):
		return nil, unsupported("addressSpace.ipamPoolPrefixAllocations", "Address pools of a network manager are not supported. Give addressPrefixes.")
	case p.Encryption != nil && p.Encryption.Enabled:
		return nil, unsupported("encryption", "Encryption of a virtual network is not supported. Leave it out.")
	case bool(p.FlowTimeout):
		return nil, unsupported("flowTimeoutInMinutes", "Flow timeouts are not supported. Leave flowTimeoutInMinutes out.")
	case bool(p.VMProtection):
		return nil, unsupported("enableVmProtection", "Protection of virtual machines is not supported. Leave enableVmProtection out.")
	}
	v := &millpond.VirtualNetwork{Prefixes: p.AddressSpace.AddressPrefixes, DNSServers: p.DHCPOptions.DNSServers}
	v.ID, v.Location, v.Tags = id(r, millpond.TypeVirtualNetwork, "name"), body.Location, tagsIn(body.Tags)
	for _, sb := range p.Subnets {
		sub, err := sb.noun()
		if err != nil {
			return nil, err
		}
		v.Subnets = append(v.Subnets, sub)
	}
	return v, nil
}

func (e *Edge) checkVirtualNetwork(r *azwire.Request) error {
	v, err := e.decodeVirtualNetwork(r)
	if err != nil {
		return err
	}
	return e.Network.CheckVirtualNetwork(r.Context(), r.Caller, v)
}

func (e *Edge) putVirtualNetwork(w http.ResponseWriter, r *azwire.Request) error {
	v, err := e.decodeVirtualNetwork(r)
	if err != nil {
		return err
	}
	out, created, err := e.Network.PutVirtualNetwork(r.Context(), r.Caller, v)
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err == nil {
		made(w, created, encodeVirtualNetwork(r, out, uses))
	}
	return err
}

func encodeVirtualNetwork(r *azwire.Request, v *millpond.VirtualNetwork, uses *network.Uses) any {
	subnets := []any{}
	for i := range v.Subnets {
		subnets = append(subnets, encodeSubnet(v, &v.Subnets[i], uses))
	}
	p := map[string]any{"resourceGuid": v.UniqueID, "addressSpace": map[string]any{"addressPrefixes": v.Prefixes}, "subnets": subnets, "virtualNetworkPeerings": []any{},
		"enableDdosProtection": false, "privateEndpointVNetPolicies": "Disabled"}
	if len(v.DNSServers) > 0 {
		p["dhcpOptions"] = map[string]any{"dnsServers": v.DNSServers}
	}
	return envelope(v.Base(), millpond.TypeVirtualNetwork, v.ETag, p)
}

func encodeSubnet(v *millpond.VirtualNetwork, s *millpond.Subnet, uses *network.Uses) any {
	id := v.ID.Child("subnets", s.Name)
	policies := s.PrivateEndpoints
	if policies == "" {
		policies = "Disabled"
	}
	p := map[string]any{"provisioningState": string(v.State), "addressPrefix": s.Prefix, "delegations": []any{}, "privateEndpointNetworkPolicies": policies, "privateLinkServiceNetworkPolicies": "Enabled"}
	if s.DefaultOutbound != nil {
		p["defaultOutboundAccess"] = *s.DefaultOutbound
	}
	if s.SecurityGroup != "" {
		p["networkSecurityGroup"] = map[string]any{"id": s.SecurityGroup}
	}
	if users := uses.Subnet(id); len(users) > 0 {
		p["ipConfigurations"] = refs(users)
	}
	return map[string]any{"id": id.String(), "name": s.Name, "type": millpond.TypeSubnet, "etag": weak(s.ETag), "properties": p}
}

func (e *Edge) listVirtualNetworks(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeVirtualNetwork)
	if err != nil {
		return err
	}
	vs, err := e.Network.VirtualNetworks(r.Context(), q)
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err != nil {
		return err
	}
	return writeList(e, w, r, vs, resourceKey[*millpond.VirtualNetwork], func(v *millpond.VirtualNetwork) any { return encodeVirtualNetwork(r, v, uses) })
}

func (e *Edge) virtualNetwork(r *azwire.Request) (*millpond.VirtualNetwork, *network.Uses, error) {
	v, err := e.Network.VirtualNetwork(r.Context(), id(r, millpond.TypeVirtualNetwork, "name"))
	if err != nil {
		return nil, nil, err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	return v, uses, err
}

func (e *Edge) getVirtualNetwork(w http.ResponseWriter, r *azwire.Request) error {
	v, uses, err := e.virtualNetwork(r)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeVirtualNetwork(r, v, uses))
	}
	return err
}

func (e *Edge) checkAddress(w http.ResponseWriter, r *azwire.Request) error {
	free, others, err := e.Network.AddressAvailable(r.Context(), id(r, millpond.TypeVirtualNetwork, "name"), r.QueryValue("ipAddress"))
	if err != nil {
		return err
	}
	if others == nil {
		others = []string{}
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"available": free, "availableIPAddresses": others, "isPlatformReserved": false})
	return nil
}

func (e *Edge) listSubnets(w http.ResponseWriter, r *azwire.Request) error {
	v, uses, err := e.virtualNetwork(r)
	if err != nil {
		return err
	}
	var items []nested
	for i := range v.Subnets {
		items = append(items, nested{v.ID.Child("subnets", v.Subnets[i].Name).String(), millpond.TypeSubnet + "/read", encodeSubnet(v, &v.Subnets[i], uses)})
	}
	return e.writeNested(w, r, items)
}

func findSubnet(v *millpond.VirtualNetwork, name string) (*millpond.Subnet, error) {
	for i := range v.Subnets {
		if millpond.PoolID(v.Subnets[i].Name).Key() == millpond.PoolID(name).Key() {
			return &v.Subnets[i], nil
		}
	}
	return nil, millpond.Errorf(millpond.NotFound, "NotFound", "Resource %s not found.", v.ID.Child("subnets", name))
}

func (e *Edge) getSubnet(w http.ResponseWriter, r *azwire.Request) error {
	v, uses, err := e.virtualNetwork(r)
	if err != nil {
		return err
	}
	s, err := findSubnet(v, r.Param("name2"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeSubnet(v, s, uses))
	}
	return err
}

func decodeSubnet(r *azwire.Request) (millpond.Subnet, error) {
	var body subnetBody
	if err := decode(r, &body); err != nil {
		return millpond.Subnet{}, err
	}
	body.Name = r.Param("name2")
	return body.noun()
}

func (e *Edge) checkSubnet(r *azwire.Request) error {
	s, err := decodeSubnet(r)
	if err != nil {
		return err
	}
	return network.CheckName(s.Name)
}

func (e *Edge) putSubnet(w http.ResponseWriter, r *azwire.Request) error {
	s, err := decodeSubnet(r)
	if err != nil {
		return err
	}
	v, created, err := e.Network.PutSubnet(r.Context(), r.Caller, child(r, millpond.TypeVirtualNetwork, "subnets"), s)
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err != nil {
		return err
	}
	out, err := findSubnet(v, s.Name)
	if err == nil {
		made(w, created, encodeSubnet(v, out, uses))
	}
	return err
}

func (e *Edge) deleteSubnet(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Network.DeleteSubnet(r.Context(), child(r, millpond.TypeVirtualNetwork, "subnets"))
	return deleted(w, found, err)
}
