package armapi

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/extension"
	"millpond.dev/millpond/internal/machine"
	"millpond.dev/millpond/internal/sqlite"
)

// catalogueRoutes are the look-ups of the Marketplace, of sizes and of quotas.
func (e *Edge) catalogueRoutes() []azwire.Route {
	const loc = "/subscriptions/{sub}/providers/Microsoft.Compute/locations/{loc}"
	const vm = loc + "/publishers/{publisher}/artifacttypes/vmimage/offers"
	const read = "Microsoft.Compute/locations/publishers"
	return []azwire.Route{
		{Name: "VirtualMachineImages_ListPublishers", Method: "GET", Path: loc + "/publishers", Action: read + "/read", ByItem: true, Handle: e.listPublishers},
		{Name: "VirtualMachineImages_ListOffers", Method: "GET", Path: vm, Action: read + "/artifacttypes/offers/read", ByItem: true, Handle: e.listOffers},
		{Name: "VirtualMachineImages_ListSkus", Method: "GET", Path: vm + "/{offer}/skus", Action: read + "/artifacttypes/offers/skus/read", ByItem: true, Handle: e.listOfferSKUs},
		{Name: "VirtualMachineImages_List", Method: "GET", Path: vm + "/{offer}/skus/{sku}/versions", Action: read + "/artifacttypes/offers/skus/versions/read", ByItem: true, Handle: e.listOfferVersions},
		{Name: "VirtualMachineImages_Get", Method: "GET", Path: vm + "/{offer}/skus/{sku}/versions/{version}", Action: read + "/artifacttypes/offers/skus/versions/read", Handle: e.getOffer},
		{Name: "VirtualMachineSizes_List", Method: "GET", Path: loc + "/vmSizes", Action: "Microsoft.Compute/locations/vmSizes/read", ByItem: true, Handle: e.listSizes},
		{Name: "Usage_List", Method: "GET", Path: loc + "/usages", Action: "Microsoft.Compute/locations/usages/read", Handle: e.listUsages},
		{Name: "ResourceSkus_List", Method: "GET", Path: "/subscriptions/{sub}/providers/Microsoft.Compute/skus", Action: "Microsoft.Compute/skus/read", ByItem: true, Handle: e.listSKUs},
	}
}

// offers lists the catalogue's entries that the route's parameters select, and
// checks the location.
func (e *Edge) offers(r *azwire.Request) ([]machine.Offer, error) {
	if _, err := e.Resources.Region(r.Param("loc")); err != nil {
		return nil, err
	}
	all, err := e.Machines.Catalogue(r.Context())
	if err != nil {
		return nil, err
	}
	matches := func(param, value string) bool {
		want := r.Param(param)
		return want == "" || strings.EqualFold(want, value)
	}
	var out []machine.Offer
	for _, o := range all {
		if matches("publisher", o.Publisher) && matches("offer", o.Offer) && matches("sku", o.SKU) {
			out = append(out, o)
		}
	}
	return out, nil
}

// names answers with one entry for each name; the answer is a bare array.
func (e *Edge) names(w http.ResponseWriter, r *azwire.Request, name func(machine.Offer) (path, name string)) error {
	list, err := e.offers(r)
	if err != nil {
		return err
	}
	if r.Param("publisher") == "" {
		// Publishers of extensions stand in the same list.
		for _, k := range extension.Kinds() {
			list = append(list, machine.Offer{Publisher: k.Publisher})
		}
	}
	out := []any{}
	seen := map[string]bool{}
	for _, o := range list {
		path, n := name(o)
		if seen[n] {
			continue
		}
		seen[n] = true
		out = append(out, map[string]any{"id": "/Subscriptions/" + r.Param("sub") + "/Providers/Microsoft.Compute/Locations/" + r.Param("loc") + "/Publishers/" + path, "name": n, "location": r.Param("loc")})
	}
	if len(out) == 0 && r.Param("publisher") != "" {
		return millpond.Errorf(millpond.NotFound, "NotFound", "Artifact: VMImage was not found in location %s for %s. List what there is with: az vm image list --all -o table", r.Param("loc"), strings.Trim(r.Param("publisher")+"/"+r.Param("offer")+"/"+r.Param("sku"), "/"))
	}
	if strings.HasPrefix(strings.ToLower(r.QueryValue("$orderby")), "name desc") {
		slices.Reverse(out)
	}
	if n, err := strconv.Atoi(r.QueryValue("$top")); err == nil && n >= 0 && n < len(out) {
		out = out[:n]
	}
	azwire.WriteJSON(w, http.StatusOK, out)
	return nil
}

func (e *Edge) listPublishers(w http.ResponseWriter, r *azwire.Request) error {
	return e.names(w, r, func(o machine.Offer) (string, string) { return o.Publisher, o.Publisher })
}

const offerPath = "/ArtifactTypes/VMImage/Offers/"

func (e *Edge) listOffers(w http.ResponseWriter, r *azwire.Request) error {
	return e.names(w, r, func(o machine.Offer) (string, string) { return o.Publisher + offerPath + o.Offer, o.Offer })
}

func (e *Edge) listOfferSKUs(w http.ResponseWriter, r *azwire.Request) error {
	return e.names(w, r, func(o machine.Offer) (string, string) {
		return o.Publisher + offerPath + o.Offer + "/Skus/" + o.SKU, o.SKU
	})
}

func (e *Edge) listOfferVersions(w http.ResponseWriter, r *azwire.Request) error {
	return e.names(w, r, func(o machine.Offer) (string, string) {
		return o.Publisher + offerPath + o.Offer + "/Skus/" + o.SKU + "/Versions/" + o.Version, o.Version
	})
}

func (e *Edge) getOffer(w http.ResponseWriter, r *azwire.Request) error {
	list, err := e.offers(r)
	if err != nil {
		return err
	}
	for _, o := range list {
		if v := r.Param("version"); v != o.Version && !strings.EqualFold(v, "latest") {
			continue
		}
		p := map[string]any{"osDiskImage": map[string]any{"operatingSystem": o.OSType}, "dataDiskImages": []any{}, "hyperVGeneration": o.HyperV, "architecture": "x64", "features": []any{},
			"automaticOSUpgradeProperties": map[string]any{"automaticOSUpgradeSupported": false}, "imageDeprecationStatus": map[string]any{"imageState": "Active"}}
		if o.Base != nil {
			p["osDiskImage"] = map[string]any{"operatingSystem": o.OSType, "sizeInBytes": o.Base.Size, "sizeInGb": (o.Base.Size + 1<<30 - 1) >> 30}
		}
		if o.Plan != nil {
			p["plan"] = map[string]any{"name": o.Plan.Name, "product": o.Plan.Product, "publisher": o.Plan.Publisher}
		}
		azwire.WriteJSON(w, http.StatusOK, map[string]any{"id": "/Subscriptions/" + r.Param("sub") + "/Providers/Microsoft.Compute/Locations/" + r.Param("loc") + "/Publishers/" + o.Publisher + offerPath + o.Offer + "/Skus/" + o.SKU + "/Versions/" + o.Version,
			"name": o.Version, "location": r.Param("loc"), "properties": p})
		return nil
	}
	return millpond.Errorf(millpond.NotFound, "PlatformImageNotFound", "The platform image '%s:%s:%s:%s' is not available. List what there is with: az vm image list --all -o table", r.Param("publisher"), r.Param("offer"), r.Param("sku"), r.Param("version"))
}

func (e *Edge) listSizes(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Resources.Region(r.Param("loc")); err != nil {
		return err
	}
	value := []any{}
	for _, s := range e.VMSizes() {
		value = append(value, encodeSize(s))
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) listUsages(w http.ResponseWriter, r *azwire.Request) error {
	region, err := e.Resources.Region(r.Param("loc"))
	if err != nil {
		return err
	}
	all, err := e.Machines.List(r.Context(), sqlite.Query{Subscription: r.Param("sub")})
	if err != nil {
		return err
	}
	vms, cores := 0, 0
	for _, v := range all {
		if v.Location != region.Name {
			continue
		}
		vms++
		for _, s := range e.VMSizes() {
			if s.Name == v.Size && v.Power != millpond.VMDeallocated {
				cores += s.VCPUs
			}
		}
	}
	usage := func(name, label string, n, limit int) any {
		return map[string]any{"unit": "Count", "currentValue": n, "limit": limit, "name": map[string]any{"value": name, "localizedValue": label}}
	}
	// There are no quotas for machines: what limits them is the host's memory.
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{usage("virtualMachines", "Virtual Machines", vms, 25000), usage("cores", "Total Regional vCPUs", cores, 100000)}})
	return nil
}

// listSKUs lists VM sizes and disk types as Azure's list of resource SKUs.
func (e *Edge) listSKUs(w http.ResponseWriter, r *azwire.Request) error {
	var places []string
	terms, err := filterTerms(r, "location")
	if err != nil {
		return err
	}
	only := millpond.NormalizeRegion(terms["location"])
	for _, region := range e.Resources.Regions() {
		if only == "" || region.Name == only {
			places = append(places, region.Name)
		}
	}
	value := []any{}
	if len(places) == 0 {
		azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
		return nil
	}
	info := []any{}
	for _, p := range places {
		info = append(info, map[string]any{"location": p, "zones": []string{"1", "2", "3"}, "zoneDetails": []any{}})
	}
	for _, s := range e.VMSizes() {
		generations := "V1"
		switch {
		case s.Gen1 && s.Gen2:
			generations = "V1,V2"
		case s.Gen2:
			generations = "V2"
		}
		capability := func(name string, v any) any { return map[string]any{"name": name, "value": fmt.Sprint(v)} }
		value = append(value, map[string]any{"resourceType": "virtualMachines", "name": s.Name, "tier": "Standard", "size": strings.TrimPrefix(s.Name, "Standard_"), "family": s.Family,
			"locations": places, "locationInfo": info, "restrictions": []any{}, "capabilities": []any{capability("MaxResourceVolumeMB", s.TempDiskMiB), capability("vCPUs", s.VCPUs),
				capability("vCPUsAvailable", s.VCPUs), capability("MemoryGB", float64(s.MemoryMiB)/1024), capability("MaxDataDiskCount", s.MaxDataDisks), capability("HyperVGenerations", generations),
				capability("CpuArchitectureType", "x64"), capability("PremiumIO", "True"), capability("EphemeralOSDiskSupported", "False"), capability("AcceleratedNetworkingEnabled", "False"),
				capability("EncryptionAtHostSupported", "False"), capability("TrustedLaunchDisabled", "True")}})
	}
	for _, d := range []struct{ name, tier string }{{"Standard_LRS", "Standard"}, {"StandardSSD_LRS", "Standard"}, {"Premium_LRS", "Premium"}} {
		value = append(value, map[string]any{"resourceType": "disks", "name": d.name, "tier": d.tier, "size": "", "locations": places, "locationInfo": info, "restrictions": []any{}, "capabilities": []any{}})
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

// Aliases is the document of the short names of images, which az fetches from
// where its source lies. It is open to anonymous callers and says nothing secret.
func (e *Edge) Aliases(w http.ResponseWriter, r *http.Request) {
	list, err := e.Machines.Catalogue(r.Context())
	if err != nil {
		azwire.WriteARMError(w, r, err)
		return
	}
	value := map[string]map[string]any{"Linux": {}, "Windows": {}}
	for _, o := range list {
		if o.Alias == "" {
			continue
		}
		value[o.OSType][o.Alias] = map[string]any{"publisher": o.Publisher, "offer": o.Offer, "sku": o.SKU, "version": "latest", "architecture": "x64"}
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"$schema": "http://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json", "contentVersion": "1.0.0.0", "parameters": map[string]any{}, "variables": map[string]any{}, "resources": []any{},
		"outputs": map[string]any{"aliases": map[string]any{"type": "object", "value": value}}})
}
