package armapi

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/gallery"
)

func (e *Edge) sharingRoutes() []azwire.Route {
	const g = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute/galleries/{gallery}"
	const at = "/subscriptions/{sub}/providers/Microsoft.Compute/locations/{loc}"
	const sh, co = at + "/sharedGalleries", at + "/communityGalleries"
	get := func(name, path, action string, h func(http.ResponseWriter, *azwire.Request) error) azwire.Route {
		return azwire.Route{Name: name, Method: "GET", Path: path, Action: "Microsoft.Compute/locations/" + action + "/read", Handle: h}
	}
	no := func(name, method, path, action, why string) azwire.Route {
		return azwire.Route{Name: name, Method: method, Path: path, Action: action, Refused: why}
	}
	const apps = "VM applications in galleries are not supported. Put the program into the image, or fetch it with a resource file."
	const access = "Access control profiles of virtual machines are not supported."
	const ns = "Microsoft.Compute/galleries/"
	return []azwire.Route{
		{Name: "GallerySharingProfile_Update", Method: "POST", Path: g + "/share", Action: ns + "share/action", Handle: e.shareGallery},
		get("SharedGalleries_List", sh, "sharedGalleries", e.listShared),
		get("SharedGalleries_Get", sh+"/{gallery}", "sharedGalleries", e.onShared(false, e.getSharedGallery)),
		get("SharedGalleryImages_List", sh+"/{gallery}/images", "sharedGalleries/images", e.onShared(false, e.listSharedImages)),
		get("SharedGalleryImages_Get", sh+"/{gallery}/images/{image}", "sharedGalleries/images", e.onShared(false, e.getSharedImage)),
		get("SharedGalleryImageVersions_List", sh+"/{gallery}/images/{image}/versions", "sharedGalleries/images/versions", e.onShared(false, e.listSharedVersions)),
		get("SharedGalleryImageVersions_Get", sh+"/{gallery}/images/{image}/versions/{version}", "sharedGalleries/images/versions", e.onShared(false, e.getSharedVersion)),
		get("CommunityGalleries_Get", co+"/{gallery}", "communityGalleries", e.onShared(true, e.getSharedGallery)),
		get("CommunityGalleryImages_List", co+"/{gallery}/images", "communityGalleries/images", e.onShared(true, e.listSharedImages)),
		get("CommunityGalleryImages_Get", co+"/{gallery}/images/{image}", "communityGalleries/images", e.onShared(true, e.getSharedImage)),
		get("CommunityGalleryImageVersions_List", co+"/{gallery}/images/{image}/versions", "communityGalleries/images/versions", e.onShared(true, e.listSharedVersions)),
		get("CommunityGalleryImageVersions_Get", co+"/{gallery}/images/{image}/versions/{version}", "communityGalleries/images/versions", e.onShared(true, e.getSharedVersion)),
		{Name: "ResourceGraph_Resources", Method: "POST", Path: "/providers/Microsoft.ResourceGraph/resources", Action: SignedIn, Handle: e.resourceGraph},

		{Name: "GalleryApplications_ListByGallery", Method: "GET", Path: g + "/applications", Action: ns + "applications/read", Handle: emptyValue},
		no("GalleryApplications_CreateOrUpdate", "PUT", g+"/applications/{name}", ns+"applications/write", apps),
		no("GalleryApplicationVersions_CreateOrUpdate", "PUT", g+"/applications/{name}/versions/{version}", ns+"applications/versions/write", apps),
		{Name: "GalleryInVMAccessControlProfiles_ListByGallery", Method: "GET", Path: g + "/inVMAccessControlProfiles", Action: ns + "inVMAccessControlProfiles/read", Handle: emptyValue},
		no("GalleryInVMAccessControlProfiles_CreateOrUpdate", "PUT", g+"/inVMAccessControlProfiles/{name}", ns+"inVMAccessControlProfiles/write", access),
		no("GalleryInVMAccessControlProfileVersions_CreateOrUpdate", "PUT", g+"/inVMAccessControlProfiles/{name}/versions/{version}", ns+"inVMAccessControlProfiles/versions/write", access),
		{Name: "SoftDeletedResource_ListByArtifactName", Method: "GET", Path: g + "/softDeletedArtifactTypes/{kind}/artifacts/{image}/versions", Action: ns + "softDeletedArtifactTypes/artifacts/versions/read", Handle: emptyValue},
	}
}

// emptyValue lists what there can be none of.
func emptyValue(w http.ResponseWriter, _ *azwire.Request) error {
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{}})
	return nil
}

// sharingProfile shows how a gallery is shared; the groups only where asked for.
func sharingProfile(g *millpond.Gallery, groups bool) *armcompute.SharingProfile {
	permissions := g.Permissions
	if permissions == "" {
		permissions = millpond.GalleryPrivate
	}
	out := &armcompute.SharingProfile{Permissions: ptr(armcompute.GallerySharingPermissionTypes(permissions))}
	if c := g.Community; c != nil {
		out.CommunityGalleryInfo = &armcompute.CommunityGalleryInfo{PublisherURI: strOrNil(c.PublisherURI), PublisherContact: strOrNil(c.PublisherContact), Eula: strOrNil(c.EULA),
			PublicNamePrefix: strOrNil(c.Prefix), CommunityGalleryEnabled: ptr(c.Enabled)}
		if c.PublicName != "" {
			out.CommunityGalleryInfo.PublicNames = []*string{ptr(c.PublicName)}
		}
	}
	if groups {
		out.Groups = sharedGroups(g)
	}
	return out
}

func sharedGroups(g *millpond.Gallery) []*armcompute.SharingProfileGroup {
	var out []*armcompute.SharingProfileGroup
	for _, k := range []struct {
		kind armcompute.SharingProfileGroupTypes
		ids  []string
	}{{armcompute.SharingProfileGroupTypesSubscriptions, g.SharedSubscriptions}, {armcompute.SharingProfileGroupTypesAADTenants, g.SharedTenants}} {
		if len(k.ids) == 0 {
			continue
		}
		group := &armcompute.SharingProfileGroup{Type: ptr(k.kind)}
		for _, id := range k.ids {
			group.IDs = append(group.IDs, ptr(id))
		}
		out = append(out, group)
	}
	return out
}

// sharingStatus says that sharing is done: it is a row that all regions read.
func (e *Edge) sharingStatus(g *millpond.Gallery) *armcompute.SharingStatus {
	return &armcompute.SharingStatus{AggregatedState: ptr(armcompute.SharingStateSucceeded), Summary: []*armcompute.RegionalSharingStatus{
		{Region: e.displayName(g.Location), State: ptr(armcompute.SharingStateSucceeded), Details: ptr("")}}}
}

func (e *Edge) shareGallery(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.SharingUpdate
	if err := decode(r, &body); err != nil {
		return err
	}
	op, err := canonical(body.OperationType, armcompute.PossibleSharingUpdateOperationTypesValues(), "operationType")
	if err != nil {
		return err
	}
	var subscriptions, tenants []string
	for _, g := range body.Groups {
		if g == nil {
			continue
		}
		kind, err := canonical(g.Type, armcompute.PossibleSharingProfileGroupTypesValues(), "groups.type")
		if err != nil {
			return err
		}
		to := &tenants
		if kind == string(armcompute.SharingProfileGroupTypesSubscriptions) {
			to = &subscriptions
		}
		for _, id := range g.IDs {
			*to = append(*to, val(id))
		}
	}
	g, err := e.Gallery.Share(r.Context(), id(r, millpond.TypeGallery, "gallery"), gallery.ShareOp(op), subscriptions, tenants)
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, armcompute.SharingUpdate{OperationType: ptr(armcompute.SharingUpdateOperationTypes(op)), Groups: sharedGroups(g)})
	return nil
}

func (e *Edge) viewer(r *azwire.Request) (gallery.Viewer, error) {
	sub, err := e.Resources.Subscription(r.Context(), r.Param("sub"))
	return gallery.Viewer{Subscription: sub.ID, Tenant: sub.Tenant}, err
}

func (e *Edge) listShared(w http.ResponseWriter, r *azwire.Request) error {
	v, err := e.viewer(r)
	if err != nil {
		return err
	}
	if _, err := e.Resources.Region(r.Param("loc")); err != nil {
		return err
	}
	all, err := e.Gallery.SharedGalleries(r.Context(), v, strings.EqualFold(r.QueryValue("sharedTo"), "tenant"))
	if err != nil {
		return err
	}
	value := []any{}
	for _, g := range all {
		value = append(value, sharedGallery(r, g))
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

// onShared finds the shared or community gallery that a path names, as the path's
// subscription sees it, and hands it on.
func (e *Edge) onShared(community bool, do func(http.ResponseWriter, *azwire.Request, *millpond.Gallery) error) func(http.ResponseWriter, *azwire.Request) error {
	return func(w http.ResponseWriter, r *azwire.Request) error {
		if _, err := e.Resources.Region(r.Param("loc")); err != nil {
			return err
		}
		var g *millpond.Gallery
		var err error
		if community {
			g, err = e.Gallery.CommunityGallery(r.Context(), r.Param("gallery"))
		} else {
			var v gallery.Viewer
			if v, err = e.viewer(r); err == nil {
				g, err = e.Gallery.SharedGallery(r.Context(), v, r.Param("gallery"))
			}
		}
		if err != nil {
			return err
		}
		return do(w, r, g)
	}
}

// outside is the document of something in a gallery that is not the viewer's
// own: it has a unique id in the place of a resource id.
func outside(r *azwire.Request, g *millpond.Gallery, kind, name, below string, properties any) map[string]any {
	community := strings.HasPrefix(r.Route.Name, "Community") || strings.HasPrefix(r.Route.Name, "ResourceGraph")
	base, typ := "/SharedGalleries/"+g.UniqueName(), "Microsoft.Compute/Locations/SharedGalleries"+kind
	if community {
		base, typ = "/CommunityGalleries/"+g.PublicName(), "Microsoft.Compute/Locations/CommunityGalleries"+kind
	}
	loc := r.Param("loc")
	if loc == "" {
		loc = g.Location
	}
	// The region in the letters of the request's path, as Azure has it here.
	return map[string]any{"name": name, "type": typ, "location": loc, "identifier": map[string]any{"uniqueId": base + below}, "properties": properties}
}

func sharedGallery(r *azwire.Request, g *millpond.Gallery) map[string]any {
	if c := g.Community; c != nil && c.Enabled {
		return outside(r, g, "", c.PublicName, "", armcompute.CommunityGalleryProperties{CommunityMetadata: &armcompute.CommunityGalleryMetadata{
			PublicNames: []*string{ptr(c.PublicName)}, PublisherContact: ptr(c.PublisherContact), PublisherURI: ptr(c.PublisherURI), Eula: ptr(c.EULA)}})
	}
	return outside(r, g, "", g.UniqueName(), "", map[string]any{})
}

func (e *Edge) getSharedGallery(w http.ResponseWriter, r *azwire.Request, g *millpond.Gallery) error {
	azwire.WriteJSON(w, http.StatusOK, sharedGallery(r, g))
	return nil
}

func sharedImage(r *azwire.Request, g *millpond.Gallery, d *millpond.ImageDefinition) map[string]any {
	p := encodeDefinition(d).Properties
	return outside(r, g, "/Images", d.ID.Name(), "/Images/"+d.ID.Name(), armcompute.SharedGalleryImageProperties{Identifier: p.Identifier, OSState: p.OSState, OSType: p.OSType,
		Architecture: p.Architecture, Disallowed: p.Disallowed, EndOfLifeDate: p.EndOfLifeDate, Eula: p.Eula, Features: p.Features, HyperVGeneration: p.HyperVGeneration,
		PrivacyStatementURI: p.PrivacyStatementURI, PurchasePlan: p.PurchasePlan, Recommended: p.Recommended})
}

func (e *Edge) listSharedImages(w http.ResponseWriter, r *azwire.Request, g *millpond.Gallery) error {
	all, err := e.Gallery.Definitions(r.Context(), g.ID, "", 0)
	if err != nil {
		return err
	}
	value := []any{}
	for _, d := range all {
		value = append(value, sharedImage(r, g, d))
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) getSharedImage(w http.ResponseWriter, r *azwire.Request, g *millpond.Gallery) error {
	d, err := e.Gallery.Definition(r.Context(), g.ID.Child("images", r.Param("image")))
	if err != nil {
		return missing(r, err)
	}
	azwire.WriteJSON(w, http.StatusOK, sharedImage(r, g, d))
	return nil
}

// missing hides the owner's resource id from whoever a gallery is shared with.
func missing(r *azwire.Request, err error) error {
	if millpond.KindOf(err) != millpond.NotFound {
		return err
	}
	return millpond.Errorf(millpond.NotFound, "GalleryImageNotFound", "There is no image '%s' in the gallery '%s'.", strings.Trim(r.Param("image")+"/"+r.Param("version"), "/"), r.Param("gallery"))
}

func sharedVersion(r *azwire.Request, g *millpond.Gallery, v *millpond.ImageVersion) map[string]any {
	caching := func(s string) *armcompute.SharedGalleryHostCaching {
		if s == "" {
			s = "None"
		}
		return ptr(armcompute.SharedGalleryHostCaching(s))
	}
	st := &armcompute.SharedGalleryImageVersionStorageProfile{OSDiskImage: &armcompute.SharedGalleryOSDiskImage{DiskSizeGB: sizeGB(v.OSDisk.SizeBytes), HostCaching: caching(v.OSDisk.Caching)}}
	for _, d := range v.DataDisks {
		st.DataDiskImages = append(st.DataDiskImages, &armcompute.SharedGalleryDataDiskImage{Lun: ptr(d.LUN), DiskSizeGB: sizeGB(d.SizeBytes), HostCaching: caching(d.Caching)})
	}
	p := armcompute.SharedGalleryImageVersionProperties{ExcludeFromLatest: ptr(v.ExcludeFromLatest), PublishedDate: ptr(v.Published), StorageProfile: st}
	if !v.EndOfLife.IsZero() {
		p.EndOfLifeDate = ptr(v.EndOfLife)
	}
	return outside(r, g, "/Images/Versions", v.ID.Name(), "/Images/"+v.ID.Names[1]+"/Versions/"+v.ID.Name(), p)
}

func (e *Edge) listSharedVersions(w http.ResponseWriter, r *azwire.Request, g *millpond.Gallery) error {
	all, err := e.Gallery.VersionsIn(r.Context(), g.ID.Child("images", r.Param("image")), millpond.NormalizeRegion(r.Param("loc")))
	if err != nil {
		return missing(r, err)
	}
	value := []any{}
	for _, v := range all {
		value = append(value, sharedVersion(r, g, v))
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) getSharedVersion(w http.ResponseWriter, r *azwire.Request, g *millpond.Gallery) error {
	def, loc := g.ID.Child("images", r.Param("image")), millpond.NormalizeRegion(r.Param("loc"))
	name := r.Param("version")
	if strings.EqualFold(name, "latest") {
		latest, err := e.Gallery.Latest(r.Context(), def, loc)
		if err != nil {
			return missing(r, err)
		}
		name = latest.Name()
	}
	all, err := e.Gallery.VersionsIn(r.Context(), def, loc)
	if err != nil {
		return missing(r, err)
	}
	for _, v := range all {
		if v.ID.Name() == name {
			azwire.WriteJSON(w, http.StatusOK, sharedVersion(r, g, v))
			return nil
		}
	}
	return missing(r, millpond.Errorf(millpond.NotFound, "", ""))
}

// communityQuery is the one query of the Resource Graph that az writes for
// galleries.
var communityQuery = regexp.MustCompile(`(?i)^\s*communitygalleryresources\s*\|\s*where\s+type\s*==\s*'microsoft\.compute/locations/communitygalleries'\s*(?:\|\s*where\s+location\s*==\s*'([^']*)'\s*)?$`)

// resourceGraph answers az sig list-community, which asks the Resource Graph;
// other queries are refused.
func (e *Edge) resourceGraph(w http.ResponseWriter, r *azwire.Request) error {
	var body struct {
		Query string `json:"query"`
	}
	if err := decode(r, &body); err != nil {
		return err
	}
	m := communityQuery.FindStringSubmatch(body.Query)
	if m == nil {
		return unsupported("query", "The Resource Graph answers the query of az sig list-community only. List resources with: az resource list")
	}
	all, err := e.Gallery.CommunityGalleries(r.Context())
	if err != nil {
		return err
	}
	data := []any{}
	for _, g := range all {
		if m[1] != "" && millpond.NormalizeRegion(m[1]) != g.Location {
			continue
		}
		doc := sharedGallery(r, g)
		p, err := azwire.Entity(doc["properties"], map[string]any{"identifier": doc["identifier"]}, nil)
		if err != nil {
			return err
		}
		doc["properties"] = p
		doc["id"] = "/providers/Microsoft.Compute/locations/" + g.Location + "/communityGalleries/" + g.PublicName()
		data = append(data, doc)
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"totalRecords": len(data), "count": len(data), "data": data, "facets": []any{}, "resultTruncated": "false"})
	return nil
}
