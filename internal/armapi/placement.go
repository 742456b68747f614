package armapi

import (
	"net/http"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/resource"
)

// KeptMembers tells the resource verbs how placement resources and SSH public keys are
// deleted with their group.
func KeptMembers(res *resource.Service, comp *compute.Service) {
	for _, typ := range []string{millpond.TypeAvailabilitySet, millpond.TypeProximityGroup, millpond.TypeDiskAccess, millpond.TypeSSHPublicKey} {
		res.Member(typ, plainRemove(comp.DeleteKept))
	}
}

func (e *Edge) placementRoutes() []azwire.Route {
	const base = "/providers/Microsoft.Compute/"
	const at = "/subscriptions/{sub}/resourceGroups/{rg}" + base
	var out []azwire.Route
	for _, k := range []struct{ typ, name, all, some, put string }{
		{millpond.TypeAvailabilitySet, "AvailabilitySets", "ListBySubscription", "List", "CreateOrUpdate"},
		{millpond.TypeProximityGroup, "ProximityPlacementGroups", "ListBySubscription", "ListByResourceGroup", "CreateOrUpdate"},
		{millpond.TypeDiskAccess, "DiskAccesses", "List", "ListByResourceGroup", "CreateOrUpdate"},
	} {
		_, short, _ := strings.Cut(k.typ, "/")
		handle := func(fn func(http.ResponseWriter, *azwire.Request, string) error) func(http.ResponseWriter, *azwire.Request) error {
			return func(w http.ResponseWriter, r *azwire.Request) error { return fn(w, r, k.typ) }
		}
		out = append(out,
			azwire.Route{Name: k.name + "_" + k.all, Method: "GET", Path: "/subscriptions/{sub}" + base + short, Action: k.typ + "/read", ByItem: true, Handle: handle(e.listPlacements)},
			azwire.Route{Name: k.name + "_" + k.some, Method: "GET", Path: at + short, Action: k.typ + "/read", ByItem: true, Handle: handle(e.listPlacements)},
			azwire.Route{Name: k.name + "_" + k.put, Method: "PUT", Path: at + short + "/{name}", Action: k.typ + "/write", Handle: handle(e.putPlacement)},
			azwire.Route{Name: k.name + "_Update", Method: "PATCH", Path: at + short + "/{name}", Action: k.typ + "/write", Handle: handle(e.patchPlacement)},
			azwire.Route{Name: k.name + "_Get", Method: "GET", Path: at + short + "/{name}", Action: k.typ + "/read", Handle: handle(e.getPlacement)},
			azwire.Route{Name: k.name + "_Delete", Method: "DELETE", Path: at + short + "/{name}", Action: k.typ + "/delete", Handle: handle(e.deleteKept)})
	}
	const access = at + "diskAccesses/{name}"
	return append(out,
		azwire.Route{Name: "AvailabilitySets_ListAvailableSizes", Method: "GET", Path: at + "availabilitySets/{name}/vmSizes", Action: millpond.TypeAvailabilitySet + "/vmSizes/read", Handle: e.availableSizes},
		azwire.Route{Name: "DiskAccesses_ListPrivateEndpointConnections", Method: "GET", Path: access + "/privateEndpointConnections", Action: millpond.TypeDiskAccess + "/privateEndpointConnections/read", Handle: e.diskAccessConnections},
		azwire.Route{Name: "DiskAccesses_GetPrivateLinkResources", Method: "GET", Path: access + "/privateLinkResources", Action: millpond.TypeDiskAccess + "/read", Handle: e.diskAccessLinks},
	)
}

type placementBody struct {
	Location string             `json:"location"`
	Tags     map[string]*string `json:"tags"`
	Zones    []string           `json:"zones"`
	Extended given              `json:"extendedLocation"`
	SKU      struct {
		Name string `json:"name"`
	} `json:"sku"`
	Properties struct {
		FaultDomains  *int   `json:"platformFaultDomainCount"`
		UpdateDomains *int   `json:"platformUpdateDomainCount"`
		Machines      given  `json:"virtualMachines"`
		Near          *idRef `json:"proximityPlacementGroup"`
		Group         string `json:"proximityPlacementGroupType"`
		Intent        *struct {
			Sizes []string `json:"vmSizes"`
		} `json:"intent"`
	} `json:"properties"`
}

// placement is what a body says of a resource of a type.
func (b placementBody) placement(r *azwire.Request, typ string) (*millpond.Placement, error) {
	p := &millpond.Placement{}
	p.ID, p.Location, p.Tags = id(r, typ, "name"), b.Location, tagsIn(b.Tags)
	if err := resource.CheckTags(p.Tags); err != nil {
		return nil, err
	}
	if b.Extended {
		return nil, unsupported("extendedLocation", "Edge zones are not supported. Leave extendedLocation out.")
	}
	within := func(v *int, most, otherwise int, target string) (int, error) {
		if v == nil {
			return otherwise, nil
		}
		if *v < 1 || *v > most {
			e := millpond.Errorf(millpond.Invalid, "InvalidParameter", "The value %d of parameter %s is out of range. It must be from 1 to %d.", *v, target, most)
			e.Target = target
			return 0, e
		}
		return *v, nil
	}
	var err error
	switch typ {
	case millpond.TypeAvailabilitySet:
		if refID(b.Properties.Near) != "" {
			return nil, unsupported("properties.proximityPlacementGroup", "An availability set in a proximity placement group is not supported: neither places a machine on the one host that there is.")
		}
		if p.SKU, err = canonical(&b.SKU.Name, []string{"Classic", "Aligned"}, "sku.name"); err != nil {
			return nil, err
		}
		if p.SKU == "" {
			p.SKU = "Classic"
		}
		if p.FaultDomains, err = within(b.Properties.FaultDomains, 3, 2, "platformFaultDomainCount"); err != nil {
			return nil, err
		}
		p.UpdateDomains, err = within(b.Properties.UpdateDomains, 20, 5, "platformUpdateDomainCount")
	case millpond.TypeProximityGroup:
		if p.Group, err = canonical(&b.Properties.Group, []string{"Standard", "Ultra"}, "properties.proximityPlacementGroupType"); err != nil {
			return nil, err
		}
		if p.Group == "" {
			p.Group = "Standard"
		}
		if b.Properties.Intent != nil {
			p.Sizes = b.Properties.Intent.Sizes
		}
		p.Zones = b.Zones
	}
	return p, err
}

func encodePlacement(p *millpond.Placement) map[string]any {
	typ := p.ID.Type()
	properties := map[string]any{}
	tags := p.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	out := map[string]any{"id": p.ID.String(), "name": p.ID.Name(), "location": p.Location, "tags": tags, "properties": properties}
	switch {
	case strings.EqualFold(typ, millpond.TypeAvailabilitySet):
		out["type"], out["sku"] = millpond.TypeAvailabilitySet, map[string]any{"name": p.SKU}
		properties["platformFaultDomainCount"], properties["platformUpdateDomainCount"], properties["virtualMachines"] = p.FaultDomains, p.UpdateDomains, []any{}
	case strings.EqualFold(typ, millpond.TypeProximityGroup):
		out["type"] = millpond.TypeProximityGroup
		properties["proximityPlacementGroupType"] = p.Group
		for _, members := range []string{"virtualMachines", "virtualMachineScaleSets", "availabilitySets"} {
			properties[members] = []any{}
		}
		if len(p.Sizes) > 0 {
			properties["intent"] = map[string]any{"vmSizes": p.Sizes}
		}
		if len(p.Zones) > 0 {
			out["zones"] = p.Zones
		}
	default:
		out["type"] = millpond.TypeDiskAccess
		properties["provisioningState"], properties["privateEndpointConnections"], properties["timeCreated"] = string(p.State), []any{}, p.Created.UTC().Format(time.RFC3339Nano)
	}
	return out
}

func (e *Edge) putPlacement(w http.ResponseWriter, r *azwire.Request, typ string) error {
	var body placementBody
	if err := decode(r, &body); err != nil {
		return err
	}
	p, err := body.placement(r, typ)
	if err != nil {
		return err
	}
	created, err := e.Compute.PutPlacement(r.Context(), p)
	if err != nil {
		return err
	}
	// The other types answer 200 to every PUT.
	made(w, created && typ == millpond.TypeProximityGroup, encodePlacement(p))
	return nil
}

func (e *Edge) patchPlacement(w http.ResponseWriter, r *azwire.Request, typ string) error {
	if err := e.patchKeptTags(r, typ); err != nil {
		return err
	}
	return e.getPlacement(w, r, typ)
}

// patchKeptTags changes the tags that a PATCH has; nothing else of these can change.
func (e *Edge) patchKeptTags(r *azwire.Request, typ string) error {
	var body struct {
		Tags map[string]*string `json:"tags"`
	}
	if err := decode(r, &body); err != nil || body.Tags == nil {
		return err
	}
	tags := tagsIn(body.Tags)
	if err := resource.CheckTags(tags); err != nil {
		return err
	}
	return e.Compute.TagKept(r.Context(), id(r, typ, "name"), tags)
}

func (e *Edge) getPlacement(w http.ResponseWriter, r *azwire.Request, typ string) error {
	p, err := e.Compute.Placement(r.Context(), id(r, typ, "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodePlacement(p))
	}
	return err
}

func (e *Edge) listPlacements(w http.ResponseWriter, r *azwire.Request, typ string) error {
	q, err := e.listQuery(r, typ)
	if err != nil {
		return err
	}
	all, err := e.Compute.Placements(r.Context(), typ, q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, all, resourceKey[*millpond.Placement], func(p *millpond.Placement) any { return encodePlacement(p) })
}

func (e *Edge) deleteKept(w http.ResponseWriter, r *azwire.Request, typ string) error {
	found, err := e.Compute.DeleteKept(r.Context(), id(r, typ, "name"))
	return deleted(w, found, err)
}

func (e *Edge) availableSizes(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Compute.Placement(r.Context(), id(r, millpond.TypeAvailabilitySet, "name")); err != nil {
		return err
	}
	return e.computeSizes(w, r)
}

// diskAccessConnections lists none: nothing makes private endpoints.
func (e *Edge) diskAccessConnections(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Compute.Placement(r.Context(), id(r, millpond.TypeDiskAccess, "name")); err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{}})
	return nil
}

func (e *Edge) diskAccessLinks(w http.ResponseWriter, r *azwire.Request) error {
	p, err := e.Compute.Placement(r.Context(), id(r, millpond.TypeDiskAccess, "name"))
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{map[string]any{"id": p.ID.String() + "/privateLinkResources/disks", "name": "disks", "type": millpond.TypeDiskAccess + "/privateLinkResources",
		"properties": map[string]any{"groupId": "disks", "requiredMembers": []string{"disks"}, "requiredZoneNames": []string{"privatelink.blob.core.windows.net"}}}}})
	return nil
}
