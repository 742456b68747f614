package armapi

import (
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/network"
)

type publicAddressBody struct {
	networkBody
	SKU struct {
		Name string `json:"name"`
		Tier string `json:"tier"`
	} `json:"sku"`
	Zones      []string `json:"zones"`
	Properties struct {
		Allocation string `json:"publicIPAllocationMethod"`
		Version    string `json:"publicIPAddressVersion"`
		Idle       int32  `json:"idleTimeoutInMinutes"`
		DNS        struct {
			Label   string `json:"domainNameLabel"`
			Reverse string `json:"reverseFqdn"`
			Scope   given  `json:"domainNameLabelScope"`
		} `json:"dnsSettings"`
		IPTags     given `json:"ipTags"`
		Prefix     given `json:"publicIPPrefix"`
		NATGateway given `json:"natGateway"`
		DDoS       *struct {
			Mode string `json:"protectionMode"`
		} `json:"ddosSettings"`
	} `json:"properties"`
}

func decodePublicAddress(r *azwire.Request) (*millpond.PublicAddress, error) {
	var body publicAddressBody
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	p := body.Properties
	switch {
	case strings.EqualFold(p.Version, "IPv6"):
		return nil, unsupported("publicIPAddressVersion", "IPv6 addresses are not supported. Use IPv4.")
	case strings.EqualFold(body.SKU.Tier, "Global"):
		return nil, unsupported("sku.tier", "Global public addresses are not supported. Use the tier Regional.")
	case bool(p.IPTags):
		return nil, unsupported("ipTags", "Tags of public addresses are not supported. Leave ipTags out.")
	case bool(p.Prefix):
		return nil, unsupported("publicIPPrefix", "Public address prefixes are not supported. Leave publicIPPrefix out.")
	case bool(p.NATGateway):
		return nil, unsupported("natGateway", "NAT gateways are not supported. Leave natGateway out.")
	case bool(p.DNS.Scope):
		return nil, unsupported("dnsSettings.domainNameLabelScope", "Scopes of domain name labels are not supported. Leave domainNameLabelScope out.")
	case p.DDoS != nil && p.DDoS.Mode != "" && !strings.EqualFold(p.DDoS.Mode, "VirtualNetworkInherited"):
		return nil, unsupported("ddosSettings", "Protection against denial of service is not supported. Leave ddosSettings out.")
	}
	a := &millpond.PublicAddress{Zones: body.Zones, IdleMinutes: p.Idle, Label: p.DNS.Label, ReverseFQDN: p.DNS.Reverse}
	a.ID, a.Location, a.Tags = id(r, millpond.TypePublicAddress, "name"), body.Location, tagsIn(body.Tags)
	var err error
	if a.SKU, err = canonical(&body.SKU.Name, []string{"Basic", "Standard"}, "sku.name"); err != nil {
		return nil, err
	}
	a.Allocation, err = canonical(&p.Allocation, []string{"Static", "Dynamic"}, "properties.publicIPAllocationMethod")
	return a, err
}

func (e *Edge) checkPublicAddress(r *azwire.Request) error {
	a, err := decodePublicAddress(r)
	if err != nil {
		return err
	}
	return network.CheckPublicAddress(a)
}

func (e *Edge) putPublicAddress(w http.ResponseWriter, r *azwire.Request) error {
	a, err := decodePublicAddress(r)
	if err != nil {
		return err
	}
	out, created, err := e.Network.PutPublicAddress(r.Context(), a)
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err == nil {
		made(w, created, encodePublicAddress(out, uses))
	}
	return err
}

func encodePublicAddress(a *millpond.PublicAddress, uses *network.Uses) any {
	p := map[string]any{"resourceGuid": a.UniqueID, "publicIPAddressVersion": "IPv4", "publicIPAllocationMethod": a.Allocation, "idleTimeoutInMinutes": a.IdleMinutes,
		"ipAddress": a.Address, "ipTags": []any{}, "ddosSettings": map[string]any{"protectionMode": "VirtualNetworkInherited"}}
	if a.Label != "" {
		dns := map[string]any{"domainNameLabel": a.Label, "fqdn": network.FQDN(a)}
		if a.ReverseFQDN != "" {
			dns["reverseFqdn"] = a.ReverseFQDN
		}
		p["dnsSettings"] = dns
	}
	if by := uses.Public(a.ID); by != "" {
		p["ipConfiguration"] = map[string]any{"id": by}
	}
	out := envelope(a.Base(), millpond.TypePublicAddress, a.ETag, p)
	out["sku"] = map[string]any{"name": a.SKU, "tier": "Regional"}
	if len(a.Zones) > 0 {
		out["zones"] = a.Zones
	}
	return out
}

func (e *Edge) listPublicAddresses(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypePublicAddress)
	if err != nil {
		return err
	}
	as, err := e.Network.PublicAddresses(r.Context(), q)
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err != nil {
		return err
	}
	return writeList(e, w, r, as, resourceKey[*millpond.PublicAddress], func(a *millpond.PublicAddress) any { return encodePublicAddress(a, uses) })
}

func (e *Edge) getPublicAddress(w http.ResponseWriter, r *azwire.Request) error {
	a, err := e.Network.PublicAddress(r.Context(), id(r, millpond.TypePublicAddress, "name"))
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodePublicAddress(a, uses))
	}
	return err
}
