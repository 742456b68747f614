package armapi

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/gallery"
)

func (e *Edge) galleryRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute/galleries"
	const g, d = millpond.TypeGallery, millpond.TypeDefinition
	return []azwire.Route{
		{Name: "Galleries_List", Method: "GET", Path: "/subscriptions/{sub}/providers/Microsoft.Compute/galleries", Action: g + "/read", ByItem: true, Handle: e.listGalleries},
		{Name: "Galleries_ListByResourceGroup", Method: "GET", Path: at, Action: g + "/read", ByItem: true, Handle: e.listGalleries},
		{Name: "Galleries_CreateOrUpdate", Method: "PUT", Path: at + "/{gallery}", Action: g + "/write", Handle: e.putGallery},
		{Name: "Galleries_Update", Method: "PATCH", Path: at + "/{gallery}", Action: g + "/write", Handle: e.patchGallery},
		{Name: "Galleries_Get", Method: "GET", Path: at + "/{gallery}", Action: g + "/read", Handle: e.getGallery},
		{Name: "Galleries_Delete", Method: "DELETE", Path: at + "/{gallery}", Action: g + "/delete", Handle: e.deleteGallery},
		{Name: "GalleryImages_ListByGallery", Method: "GET", Path: at + "/{gallery}/images", Action: d + "/read", ByItem: true, Handle: e.listDefinitions},
		{Name: "GalleryImages_CreateOrUpdate", Method: "PUT", Path: at + "/{gallery}/images/{image}", Action: d + "/write", Handle: e.putDefinition},
		{Name: "GalleryImages_Update", Method: "PATCH", Path: at + "/{gallery}/images/{image}", Action: d + "/write", Handle: e.putDefinition},
		{Name: "GalleryImages_Get", Method: "GET", Path: at + "/{gallery}/images/{image}", Action: d + "/read", Handle: e.getDefinition},
		{Name: "GalleryImages_Delete", Method: "DELETE", Path: at + "/{gallery}/images/{image}", Action: d + "/delete", Handle: e.deleteDefinition},
	}
}

func (e *Edge) galleryBody(r *azwire.Request) (*armcompute.Gallery, error) {
	var body armcompute.Gallery
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if body.Properties == nil { // az sends none
		body.Properties = &armcompute.GalleryProperties{}
	}
	if s := body.Properties.SoftDeletePolicy; s != nil && val(s.IsSoftDeleteEnabled) {
		return nil, unsupported("softDeletePolicy", "Soft delete of galleries is not supported. Leave softDeletePolicy out; a lock keeps versions: az lock create --lock-type CanNotDelete.")
	}
	if body.Identity != nil && val(body.Identity.Type) != "" && !strings.EqualFold(string(*body.Identity.Type), string(armcompute.ResourceIdentityTypeNone)) {
		return nil, unsupported("identity", "Managed identities are not supported. A gallery needs none here.")
	}
	return &body, nil
}

// sharingIn is what a body says of the sharing profile. Groups are changed by
// the operation share alone, and what clients send back of them is let pass.
func sharingIn(body *armcompute.Gallery) (permissions string, info *millpond.CommunityInfo, err error) {
	s := body.Properties.SharingProfile
	if s == nil {
		return "", nil, nil
	}
	permissions, err = canonical(s.Permissions, armcompute.PossibleGallerySharingPermissionTypesValues(), "sharingProfile.permissions")
	if c := s.CommunityGalleryInfo; c != nil {
		info = &millpond.CommunityInfo{PublisherURI: val(c.PublisherURI), PublisherContact: val(c.PublisherContact), EULA: val(c.Eula), Prefix: val(c.PublicNamePrefix)}
	}
	return permissions, info, err
}

func (e *Edge) putGallery(w http.ResponseWriter, r *azwire.Request) error {
	body, err := e.galleryBody(r)
	if err != nil {
		return err
	}
	g := &millpond.Gallery{}
	g.ID, g.Location, g.Tags = id(r, millpond.TypeGallery, "gallery"), val(body.Location), tagsIn(body.Tags)
	if g.Permissions, g.Community, err = sharingIn(body); err != nil {
		return err
	}
	out, created, err := e.Gallery.PutGallery(r.Context(), g, body.Properties.Description)
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, putStatus(created), e.encodeGallery(out))
	return nil
}

func putStatus(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

func (e *Edge) patchGallery(w http.ResponseWriter, r *azwire.Request) error {
	body, err := e.galleryBody(r)
	if err != nil {
		return err
	}
	p := gallery.Patch{Tags: tagsIn(body.Tags), Description: body.Properties.Description}
	if p.Permissions, p.Community, err = sharingIn(body); err != nil {
		return err
	}
	g, err := e.Gallery.PatchGallery(r.Context(), id(r, millpond.TypeGallery, "gallery"), p)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeGallery(g))
	}
	return err
}

func (e *Edge) encodeGallery(g *millpond.Gallery) *armcompute.Gallery {
	out := &armcompute.Gallery{ID: ptr(g.ID.String()), Name: ptr(g.ID.Name()), Type: ptr(millpond.TypeGallery), Location: ptr(g.Location), Tags: tagsOut(g.Tags),
		Properties: &armcompute.GalleryProperties{Description: strOrNil(g.Description), ProvisioningState: ptr(armcompute.GalleryProvisioningState(g.State)),
			Identifier: &armcompute.GalleryIdentifier{UniqueName: ptr(g.UniqueName())}}}
	// As in Azure, a gallery that only roles open has no profile unless it is
	// asked for.
	if g.Permissions != millpond.GalleryPrivate && g.Permissions != "" {
		out.Properties.SharingProfile = sharingProfile(g, false)
	}
	return out
}

func (e *Edge) listGalleries(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeGallery)
	if err != nil {
		return err
	}
	gs, err := e.Gallery.Galleries(r.Context(), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, gs, resourceKey[*millpond.Gallery], func(g *millpond.Gallery) any { return e.encodeGallery(g) })
}

func (e *Edge) getGallery(w http.ResponseWriter, r *azwire.Request) error {
	g, err := e.Gallery.Gallery(r.Context(), id(r, millpond.TypeGallery, "gallery"))
	if err != nil {
		return err
	}
	out := e.encodeGallery(g)
	sel, expand := r.QueryValue("$select"), r.QueryValue("$expand")
	if sel != "" && !strings.EqualFold(sel, "Permissions") {
		return millpond.Errorf(millpond.Invalid, "InvalidParameter", "The value '%s' of $select is not valid. Use Permissions.", sel)
	}
	groups := false
	for _, x := range strings.FieldsFunc(expand, func(c rune) bool { return c == ',' }) {
		switch strings.ToLower(strings.TrimSpace(x)) {
		case "sharingprofile/groups":
			groups = true
		default:
			return millpond.Errorf(millpond.Invalid, "InvalidParameter", "The value '%s' of $expand is not valid. Use SharingProfile/Groups.", x)
		}
	}
	if sel != "" || expand != "" {
		out.Properties.SharingProfile = sharingProfile(g, groups)
	}
	if g.Shared() {
		out.Properties.SharingStatus = e.sharingStatus(g)
	}
	azwire.WriteJSON(w, http.StatusOK, out)
	return nil
}

func (e *Edge) deleteGallery(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Gallery.DeleteGallery(r.Context(), id(r, millpond.TypeGallery, "gallery"))
	return deleted(w, found, err)
}

func (e *Edge) putDefinition(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.GalleryImage
	if err := decode(r, &body); err != nil {
		return err
	}
	d := &millpond.ImageDefinition{}
	d.ID, d.Location, d.Tags = id(r, millpond.TypeDefinition, "gallery", "image"), val(body.Location), tagsIn(body.Tags)
	if r.Method == http.MethodPatch {
		old, err := e.Gallery.Definition(r.Context(), d.ID)
		if err != nil {
			return err
		}
		tags := d.Tags
		*d = *old
		if tags != nil {
			d.Tags = tags
		}
	}
	if err := definitionIn(body.Properties, d); err != nil {
		return err
	}
	out, created, err := e.Gallery.PutDefinition(r.Context(), d)
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, putStatus(created), encodeDefinition(out))
	return nil
}

// definitionIn puts the members that are present over d.
func definitionIn(p *armcompute.GalleryImageProperties, d *millpond.ImageDefinition) error {
	if p == nil {
		return nil
	}
	set := func(to *string, v string, err error) error {
		if v != "" {
			*to = v
		}
		return err
	}
	osType, err := canonical(p.OSType, armcompute.PossibleOperatingSystemTypesValues(), "osType")
	if err := set(&d.OSType, osType, err); err != nil {
		return err
	}
	osState, err := canonical(p.OSState, armcompute.PossibleOperatingSystemStateTypesValues(), "osState")
	if err := set(&d.OSState, osState, err); err != nil {
		return err
	}
	gen, err := canonical(p.HyperVGeneration, armcompute.PossibleHyperVGenerationValues(), "hyperVGeneration")
	if err := set(&d.HyperV, gen, err); err != nil {
		return err
	}
	arch, err := canonical(p.Architecture, armcompute.PossibleArchitectureValues(), "architecture")
	if err := set(&d.Architecture, arch, err); err != nil {
		return err
	}
	if i := p.Identifier; i != nil {
		d.Publisher, d.Offer, d.SKU = val(i.Publisher), val(i.Offer), val(i.SKU)
	}
	for _, s := range []struct {
		to   *string
		from *string
	}{{&d.Description, p.Description}, {&d.EULA, p.Eula}, {&d.PrivacyURI, p.PrivacyStatementURI}, {&d.ReleaseNoteURI, p.ReleaseNoteURI}} {
		if s.from != nil {
			*s.to = *s.from
		}
	}
	if p.EndOfLifeDate != nil {
		d.EndOfLife = *p.EndOfLifeDate
	}
	if p.AllowUpdateImage != nil {
		d.AllowUpdateImage = p.AllowUpdateImage
	}
	if rec := p.Recommended; rec != nil {
		d.HasRecommendation = true
		if rec.VCPUs != nil {
			d.VCPUs = &millpond.MinMax{Min: rec.VCPUs.Min, Max: rec.VCPUs.Max}
		}
		if rec.Memory != nil {
			d.Memory = &millpond.MinMax{Min: rec.Memory.Min, Max: rec.Memory.Max}
		}
	}
	if p.Disallowed != nil {
		d.DisallowedDisks = nil
		for _, t := range p.Disallowed.DiskTypes {
			d.DisallowedDisks = append(d.DisallowedDisks, val(t))
		}
	}
	if p.Features != nil {
		d.Features = nil
		for _, f := range p.Features {
			d.Features = append(d.Features, millpond.ImageFeature{Name: val(f.Name), Value: val(f.Value)})
		}
	}
	if pl := p.PurchasePlan; pl != nil {
		d.Plan = &millpond.PurchasePlan{Name: val(pl.Name), Publisher: val(pl.Publisher), Product: val(pl.Product)}
	}
	return nil
}

func encodeDefinition(d *millpond.ImageDefinition) *armcompute.GalleryImage {
	p := &armcompute.GalleryImageProperties{
		OSType: ptr(armcompute.OperatingSystemTypes(d.OSType)), OSState: ptr(armcompute.OperatingSystemStateTypes(d.OSState)), HyperVGeneration: ptr(armcompute.HyperVGeneration(d.HyperV)), Architecture: ptr(armcompute.Architecture(d.Architecture)),
		Identifier:  &armcompute.GalleryImageIdentifier{Publisher: ptr(d.Publisher), Offer: ptr(d.Offer), SKU: ptr(d.SKU)},
		Description: strOrNil(d.Description), Eula: strOrNil(d.EULA), PrivacyStatementURI: strOrNil(d.PrivacyURI), ReleaseNoteURI: strOrNil(d.ReleaseNoteURI), AllowUpdateImage: d.AllowUpdateImage,
		ProvisioningState: ptr(armcompute.GalleryProvisioningState(d.State)),
	}
	if !d.EndOfLife.IsZero() {
		p.EndOfLifeDate = ptr(d.EndOfLife)
	}
	if d.HasRecommendation {
		p.Recommended = &armcompute.RecommendedMachineConfiguration{}
		if d.VCPUs != nil {
			p.Recommended.VCPUs = &armcompute.ResourceRange{Min: d.VCPUs.Min, Max: d.VCPUs.Max}
		}
		if d.Memory != nil {
			p.Recommended.Memory = &armcompute.ResourceRange{Min: d.Memory.Min, Max: d.Memory.Max}
		}
	}
	if len(d.DisallowedDisks) > 0 {
		p.Disallowed = &armcompute.Disallowed{}
		for _, t := range d.DisallowedDisks {
			p.Disallowed.DiskTypes = append(p.Disallowed.DiskTypes, ptr(t))
		}
	}
	for _, f := range d.Features {
		p.Features = append(p.Features, &armcompute.GalleryImageFeature{Name: ptr(f.Name), Value: ptr(f.Value)})
	}
	if d.Plan != nil {
		p.PurchasePlan = &armcompute.ImagePurchasePlan{Name: strOrNil(d.Plan.Name), Publisher: strOrNil(d.Plan.Publisher), Product: strOrNil(d.Plan.Product)}
	}
	return &armcompute.GalleryImage{ID: ptr(d.ID.String()), Name: ptr(d.ID.Name()), Type: ptr(millpond.TypeDefinition), Location: ptr(d.Location), Tags: tagsOut(d.Tags), Properties: p}
}

func (e *Edge) listDefinitions(w http.ResponseWriter, r *azwire.Request) error {
	after, limit, err := e.page(r)
	if err != nil {
		return err
	}
	ds, err := e.Gallery.Definitions(r.Context(), id(r, millpond.TypeGallery, "gallery"), after, limit)
	if err != nil {
		return err
	}
	return writeList(e, w, r, ds, resourceKey[*millpond.ImageDefinition], func(d *millpond.ImageDefinition) any { return encodeDefinition(d) })
}

func (e *Edge) getDefinition(w http.ResponseWriter, r *azwire.Request) error {
	d, err := e.Gallery.Definition(r.Context(), id(r, millpond.TypeDefinition, "gallery", "image"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeDefinition(d))
	}
	return err
}

func (e *Edge) deleteDefinition(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Gallery.DeleteDefinition(r.Context(), id(r, millpond.TypeDefinition, "gallery", "image"))
	return deleted(w, found, err)
}
