package armapi

import (
	"context"
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/resource"
)

// deleters are the deletions of the network's types.
func deleters(n *network.Service) map[string]func(context.Context, millpond.ResourceID) (bool, error) {
	return map[string]func(context.Context, millpond.ResourceID) (bool, error){
		millpond.TypeVirtualNetwork: n.DeleteVirtualNetwork, millpond.TypePublicAddress: n.DeletePublicAddress,
		millpond.TypeInterface: n.DeleteInterface, millpond.TypeSecurityGroup: n.DeleteSecurityGroup,
	}
}

func plainRemove(del func(context.Context, millpond.ResourceID) (bool, error)) resource.Remove {
	return func(ctx context.Context, id millpond.ResourceID) (bool, error) {
		_, err := del(ctx, id)
		return err == nil, err
	}
}

type interfaceBody struct {
	networkBody
	Properties struct {
		Configs       []ipConfigBody `json:"ipConfigurations"`
		SecurityGroup *idRef         `json:"networkSecurityGroup"`
		DNS           struct {
			Servers  []string `json:"dnsServers"`
			Internal given    `json:"internalDnsNameLabel"`
		} `json:"dnsSettings"`
		Accelerated    bool  `json:"enableAcceleratedNetworking"`
		Forwarding     given `json:"enableIPForwarding"`
		PrivateLink    given `json:"privateLinkService"`
		DisableTCPFlow given `json:"disableTcpStateTracking"`
	} `json:"properties"`
}

type ipConfigBody struct {
	Name       string `json:"name"`
	Properties struct {
		Primary       bool   `json:"primary"`
		Address       string `json:"privateIPAddress"`
		Allocation    string `json:"privateIPAllocationMethod"`
		Version       string `json:"privateIPAddressVersion"`
		Prefix        given  `json:"privateIPAddressPrefixLength"`
		Subnet        *idRef `json:"subnet"`
		Public        *idRef `json:"publicIPAddress"`
		Pools         given  `json:"loadBalancerBackendAddressPools"`
		NATRules      given  `json:"loadBalancerInboundNatRules"`
		Gateways      given  `json:"applicationGatewayBackendAddressPools"`
		AppGroups     given  `json:"applicationSecurityGroups"`
		GatewayLB     given  `json:"gatewayLoadBalancer"`
		VirtualNetTap given  `json:"virtualNetworkTaps"`
	} `json:"properties"`
}

func (b ipConfigBody) noun() (millpond.IPConfig, error) {
	p := b.Properties
	c := millpond.IPConfig{Name: b.Name, Primary: p.Primary, Subnet: refID(p.Subnet), Address: p.Address, PublicAddress: refID(p.Public)}
	switch {
	case strings.EqualFold(p.Version, "IPv6"):
		return c, unsupported("ipConfigurations.privateIPAddressVersion", "IPv6 addresses are not supported. Use IPv4.")
	case bool(p.Pools), bool(p.NATRules), bool(p.GatewayLB):
		return c, unsupported("ipConfigurations.loadBalancerBackendAddressPools", "Load balancers are not supported. Leave them out of the network interface.")
	case bool(p.Gateways):
		return c, unsupported("ipConfigurations.applicationGatewayBackendAddressPools", "Application gateways are not supported. Leave them out of the network interface.")
	case bool(p.AppGroups):
		return c, unsupported("ipConfigurations.applicationSecurityGroups", "Application security groups are not supported. Use address prefixes in the rules of a network security group.")
	case bool(p.VirtualNetTap):
		return c, unsupported("ipConfigurations.virtualNetworkTaps", "Taps on virtual networks are not supported. Leave virtualNetworkTaps out.")
	case bool(p.Prefix):
		return c, unsupported("ipConfigurations.privateIPAddressPrefixLength", "Address prefixes on a network interface are not supported. Leave privateIPAddressPrefixLength out.")
	}
	method, err := canonical(&p.Allocation, []string{"Static", "Dynamic"}, "properties.ipConfigurations.properties.privateIPAllocationMethod")
	c.Static = method == "Static"
	return c, err
}

func decodeInterface(r *azwire.Request) (*millpond.NetworkInterface, error) {
	var body interfaceBody
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	p := body.Properties
	switch {
	case bool(p.Forwarding):
		return nil, unsupported("enableIPForwarding", "Forwarding between machines is not supported. Leave enableIPForwarding out.")
	case bool(p.DNS.Internal):
		return nil, unsupported("dnsSettings.internalDnsNameLabel", "Labels for internal DNS are not supported. Machines are found by their host names.")
	case bool(p.PrivateLink):
		return nil, unsupported("privateLinkService", "Private link services are not supported. Leave privateLinkService out.")
	case bool(p.DisableTCPFlow):
		return nil, unsupported("disableTcpStateTracking", "Switching off the tracking of connections is not supported. Leave disableTcpStateTracking out.")
	}
	n := &millpond.NetworkInterface{SecurityGroup: refID(p.SecurityGroup), DNSServers: p.DNS.Servers, Accelerated: p.Accelerated}
	n.ID, n.Location, n.Tags = id(r, millpond.TypeInterface, "name"), body.Location, tagsIn(body.Tags)
	for _, cb := range p.Configs {
		c, err := cb.noun()
		if err != nil {
			return nil, err
		}
		n.Configs = append(n.Configs, c)
	}
	return n, nil
}

func (e *Edge) checkInterface(r *azwire.Request) error {
	n, err := decodeInterface(r)
	if err != nil {
		return err
	}
	return e.Network.CheckInterface(r.Context(), r.Caller, n)
}

func (e *Edge) putInterface(w http.ResponseWriter, r *azwire.Request) error {
	n, err := decodeInterface(r)
	if err != nil {
		return err
	}
	out, created, err := e.Network.PutInterface(r.Context(), r.Caller, n)
	if err == nil {
		made(w, created, e.encodeInterface(r, out))
	}
	return err
}

func (e *Edge) encodeInterface(r *azwire.Request, n *millpond.NetworkInterface) any {
	configs := []any{}
	for i := range n.Configs {
		configs = append(configs, e.encodeIPConfig(r, n, &n.Configs[i]))
	}
	dns := n.DNSServers
	if dns == nil {
		dns = []string{}
	}
	p := map[string]any{"resourceGuid": n.UniqueID, "ipConfigurations": configs, "macAddress": n.MAC, "primary": n.Primary, "enableAcceleratedNetworking": n.Accelerated,
		"enableIPForwarding": false, "disableTcpStateTracking": false, "vnetEncryptionSupported": false, "nicType": "Standard", "hostedWorkloads": []any{}, "tapConfigurations": []any{},
		"dnsSettings": map[string]any{"dnsServers": dns, "appliedDnsServers": dns}}
	if n.SecurityGroup != "" {
		p["networkSecurityGroup"] = map[string]any{"id": n.SecurityGroup}
	}
	if n.Machine != "" {
		p["virtualMachine"] = map[string]any{"id": n.Machine}
	}
	return envelope(n.Base(), millpond.TypeInterface, n.ETag, p)
}

// encodeIPConfig shows references as ids, or in full where $expand asks for it.
func (e *Edge) encodeIPConfig(r *azwire.Request, n *millpond.NetworkInterface, c *millpond.IPConfig) any {
	method := "Dynamic"
	if c.Static {
		method = "Static"
	}
	p := map[string]any{"provisioningState": string(n.State), "privateIPAddress": c.Address, "privateIPAllocationMethod": method, "privateIPAddressVersion": "IPv4", "primary": c.Primary}
	var subnet, public any = map[string]any{"id": c.Subnet}, map[string]any{"id": c.PublicAddress}
	if full := e.expanded(r, "ipConfigurations/subnet", c.Subnet); full != nil {
		subnet = full
	}
	if full := e.expanded(r, "ipConfigurations/publicIPAddress", c.PublicAddress); full != nil {
		public = full
	}
	p["subnet"] = subnet
	if c.PublicAddress != "" {
		p["publicIPAddress"] = public
	}
	return map[string]any{"id": n.ID.Child("ipConfigurations", c.Name).String(), "name": c.Name, "type": millpond.TypeInterface + "/ipConfigurations", "etag": weak(c.ETag), "properties": p}
}

// expanded is the full form of a reference, if $expand asks for it and the
// caller may read it; otherwise nil, and the id alone is shown.
func (e *Edge) expanded(r *azwire.Request, what, ref string) any {
	id, ok := millpond.ParseResourceID(ref)
	if !ok || !expands(r, what) || e.Auth.Authorize(r.Context(), r.Caller, id.Type()+"/read", ref) != nil {
		return nil
	}
	uses, err := e.Network.Uses(r.Context(), id.Subscription)
	if err != nil {
		return nil
	}
	if id.Is(millpond.TypePublicAddress) {
		if a, err := e.Network.PublicAddress(r.Context(), id); err == nil {
			return encodePublicAddress(a, uses)
		}
		return nil
	}
	parent, _ := id.Parent()
	v, err := e.Network.VirtualNetwork(r.Context(), parent)
	if err != nil {
		return nil
	}
	s, err := findSubnet(v, id.Name())
	if err != nil {
		return nil
	}
	return encodeSubnet(v, s, uses)
}

func (e *Edge) listInterfaces(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeInterface)
	if err != nil {
		return err
	}
	ns, err := e.Network.Interfaces(r.Context(), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, ns, resourceKey[*millpond.NetworkInterface], func(n *millpond.NetworkInterface) any { return e.encodeInterface(r, n) })
}

func (e *Edge) getInterface(w http.ResponseWriter, r *azwire.Request) error {
	n, err := e.Network.Interface(r.Context(), id(r, millpond.TypeInterface, "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeInterface(r, n))
	}
	return err
}

func (e *Edge) listIPConfigs(w http.ResponseWriter, r *azwire.Request) error {
	n, err := e.Network.Interface(r.Context(), id(r, millpond.TypeInterface, "name"))
	if err != nil {
		return err
	}
	var items []nested
	for i := range n.Configs {
		items = append(items, nested{n.ID.Child("ipConfigurations", n.Configs[i].Name).String(), millpond.TypeInterface + "/ipConfigurations/read", e.encodeIPConfig(r, n, &n.Configs[i])})
	}
	return e.writeNested(w, r, items)
}

func (e *Edge) getIPConfig(w http.ResponseWriter, r *azwire.Request) error {
	n, err := e.Network.Interface(r.Context(), id(r, millpond.TypeInterface, "name"))
	if err != nil {
		return err
	}
	for i := range n.Configs {
		if strings.EqualFold(n.Configs[i].Name, r.Param("name2")) {
			azwire.WriteJSON(w, http.StatusOK, e.encodeIPConfig(r, n, &n.Configs[i]))
			return nil
		}
	}
	return millpond.Errorf(millpond.NotFound, "NotFound", "Resource %s not found.", n.ID.Child("ipConfigurations", r.Param("name2")))
}
