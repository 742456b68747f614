package armapi

import (
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/resource"
)

// The bodies of Microsoft.Network are written down here and not taken from the
// SDK: its module has more than a hundred kinds of resource and would double
// the time to build, for four of them that have not changed shape in ten years.

// given is a member that is not supported: it is true when a body uses it. Null,
// false, and what is empty count as not used.
type given bool

func (g *given) UnmarshalJSON(b []byte) error {
	switch strings.Join(strings.Fields(string(b)), "") {
	case "null", "false", "[]", "{}", `""`, "0":
		*g = false
	default:
		*g = true
	}
	return nil
}

// idRef is a reference to another resource.
type idRef struct {
	ID string `json:"id"`
}

func refID(r *idRef) string {
	if r == nil {
		return ""
	}
	return r.ID
}

// networkBody is what all resources of Microsoft.Network have in common.
type networkBody struct {
	Location         string             `json:"location"`
	Tags             map[string]*string `json:"tags"`
	ExtendedLocation given              `json:"extendedLocation"`
}

func (b networkBody) check() error {
	if b.ExtendedLocation {
		return unsupported("extendedLocation", "Edge zones are not supported. Leave extendedLocation out.")
	}
	return nil
}

// NetworkMembers tells the resource verbs how the network's resources are
// deleted with their group. It is called while the server is put together.
func NetworkMembers(res *resource.Service, net *network.Service) {
	for typ, del := range deleters(net) {
		res.Member(typ, plainRemove(del))
	}
}

func (e *Edge) networkRoutes() []azwire.Route {
	const sub = "/subscriptions/{sub}"
	const base = "/providers/Microsoft.Network/"
	const at = sub + "/resourceGroups/{rg}" + base
	kind := func(name, typ string, list, put, get func(http.ResponseWriter, *azwire.Request) error, check func(*azwire.Request) error) []azwire.Route {
		_, short, _ := strings.Cut(typ, "/")
		one := at + short + "/{name}"
		return []azwire.Route{
			{Name: name + "_ListAll", Method: "GET", Path: sub + base + short, Action: typ + "/read", ByItem: true, Handle: list},
			{Name: name + "_List", Method: "GET", Path: at + short, Action: typ + "/read", ByItem: true, Handle: list},
			{Name: name + "_CreateOrUpdate", Method: "PUT", Path: one, Action: typ + "/write", Handle: put, Check: check},
			{Name: name + "_UpdateTags", Method: "PATCH", Path: one, Action: typ + "/write", Handle: func(w http.ResponseWriter, r *azwire.Request) error {
				return e.patchNetworkTags(w, r, typ, get)
			}},
			{Name: name + "_Get", Method: "GET", Path: one, Action: typ + "/read", Handle: get},
			{Name: name + "_Delete", Method: "DELETE", Path: one, Action: typ + "/delete", Handle: func(w http.ResponseWriter, r *azwire.Request) error {
				found, err := deleters(e.Network)[typ](r.Context(), id(r, typ, "name"))
				return deleted(w, found, err)
			}},
		}
	}
	out := kind("VirtualNetworks", millpond.TypeVirtualNetwork, e.listVirtualNetworks, e.putVirtualNetwork, e.getVirtualNetwork, e.checkVirtualNetwork)
	out = append(out, kind("PublicIPAddresses", millpond.TypePublicAddress, e.listPublicAddresses, e.putPublicAddress, e.getPublicAddress, e.checkPublicAddress)...)
	out = append(out, kind("NetworkInterfaces", millpond.TypeInterface, e.listInterfaces, e.putInterface, e.getInterface, e.checkInterface)...)
	out = append(out, kind("NetworkSecurityGroups", millpond.TypeSecurityGroup, e.listSecurityGroups, e.putSecurityGroup, e.getSecurityGroup, e.checkSecurityGroup)...)
	const subnets, rules = at + "virtualNetworks/{name}/subnets", at + "networkSecurityGroups/{name}/securityRules"
	return append(out,
		azwire.Route{Name: "VirtualNetworks_CheckIPAddressAvailability", Method: "GET", Path: at + "virtualNetworks/{name}/CheckIPAddressAvailability", Action: millpond.TypeVirtualNetwork + "/read", Handle: e.checkAddress},
		azwire.Route{Name: "Subnets_List", Method: "GET", Path: subnets, Action: millpond.TypeVirtualNetwork + "/read", ByItem: true, Handle: e.listSubnets},
		azwire.Route{Name: "Subnets_CreateOrUpdate", Method: "PUT", Path: subnets + "/{name2}", Action: millpond.TypeSubnet + "/write", Handle: e.putSubnet, Check: e.checkSubnet},
		azwire.Route{Name: "Subnets_Get", Method: "GET", Path: subnets + "/{name2}", Action: millpond.TypeSubnet + "/read", Handle: e.getSubnet},
		azwire.Route{Name: "Subnets_Delete", Method: "DELETE", Path: subnets + "/{name2}", Action: millpond.TypeSubnet + "/delete", Handle: e.deleteSubnet},
		azwire.Route{Name: "NetworkInterfaceIPConfigurations_List", Method: "GET", Path: at + "networkInterfaces/{name}/ipConfigurations", Action: millpond.TypeInterface + "/read", ByItem: true, Handle: e.listIPConfigs},
		azwire.Route{Name: "NetworkInterfaceIPConfigurations_Get", Method: "GET", Path: at + "networkInterfaces/{name}/ipConfigurations/{name2}", Action: millpond.TypeInterface + "/ipConfigurations/read", Handle: e.getIPConfig},
		azwire.Route{Name: "SecurityRules_List", Method: "GET", Path: rules, Action: millpond.TypeSecurityGroup + "/read", ByItem: true, Handle: e.listRules},
		azwire.Route{Name: "SecurityRules_CreateOrUpdate", Method: "PUT", Path: rules + "/{name2}", Action: millpond.TypeSecurityRule + "/write", Handle: e.putRule, Check: e.checkRule},
		azwire.Route{Name: "SecurityRules_Get", Method: "GET", Path: rules + "/{name2}", Action: millpond.TypeSecurityRule + "/read", Handle: e.getRule},
		azwire.Route{Name: "SecurityRules_Delete", Method: "DELETE", Path: rules + "/{name2}", Action: millpond.TypeSecurityRule + "/delete", Handle: e.deleteRule},
		azwire.Route{Name: "DefaultSecurityRules_List", Method: "GET", Path: at + "networkSecurityGroups/{name}/defaultSecurityRules", Action: millpond.TypeSecurityGroup + "/read", ByItem: true, Handle: e.listDefaultRules},
		azwire.Route{Name: "CheckDnsNameAvailability", Method: "GET", Path: sub + base + "locations/{loc}/CheckDnsNameAvailability", Action: "Microsoft.Network/locations/checkDnsNameAvailability/read", Handle: e.checkLabel},
	)
}

func (e *Edge) patchNetworkTags(w http.ResponseWriter, r *azwire.Request, typ string, get func(http.ResponseWriter, *azwire.Request) error) error {
	var body networkBody
	if err := decode(r, &body); err != nil {
		return err
	}
	if body.Tags != nil {
		tags := tagsIn(body.Tags)
		if err := resource.CheckTags(tags); err != nil {
			return err
		}
		if err := e.Network.Tags(r.Context(), id(r, typ, "name"), tags); err != nil {
			return err
		}
	}
	return get(w, r)
}

// nested is one item of a list that is not cut into pages, with what a caller
// needs to see it.
type nested struct {
	scope, action string
	body          any
}

// writeNested writes a short list. As in writeList, a caller without the right
// to the whole sees what the rights to single items show.
func (e *Edge) writeNested(w http.ResponseWriter, r *azwire.Request, items []nested) error {
	value := []any{}
	for _, it := range items {
		if r.Param(filtered) != "" && e.Auth.Authorize(r.Context(), r.Caller, it.action, it.scope) != nil {
			continue
		}
		value = append(value, it.body)
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

// made writes a resource with the status of a PUT.
func made(w http.ResponseWriter, created bool, body any) {
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	azwire.WriteJSON(w, status, body)
}

func weak(etag string) string { return `W/"` + etag + `"` }

func refs(ids []string) []any {
	out := []any{}
	for _, id := range ids {
		out = append(out, map[string]any{"id": id})
	}
	return out
}

// envelope is the outside of a resource.
func envelope(r *millpond.Resource, typ, etag string, properties map[string]any) map[string]any {
	tags := r.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	properties["provisioningState"] = string(r.State)
	return map[string]any{"id": r.ID.String(), "name": r.ID.Name(), "type": typ, "location": r.Location, "tags": tags, "etag": weak(etag), "properties": properties}
}

// expands says whether $expand asks for a member.
func expands(r *azwire.Request, what string) bool {
	for _, part := range strings.Split(r.QueryValue("$expand"), ",") {
		if strings.EqualFold(strings.TrimSpace(part), what) {
			return true
		}
	}
	return false
}

// child is the id of a nested resource from the route's parameters.
func child(r *azwire.Request, parentType, typ string) millpond.ResourceID {
	return id(r, parentType, "name").Child(typ, r.Param("name2"))
}

func (e *Edge) checkLabel(w http.ResponseWriter, r *azwire.Request) error {
	free, err := e.Network.LabelAvailable(r.Context(), r.Param("loc"), r.QueryValue("domainNameLabel"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, map[string]any{"available": free})
	}
	return err
}
