package armapi

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/gallery"
)

func (e *Edge) versionRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute/galleries/{gallery}/images/{image}/versions"
	const v = millpond.TypeVersion
	return []azwire.Route{
		{Name: "GalleryImageVersions_ListByGalleryImage", Method: "GET", Path: at, Action: v + "/read", ByItem: true, Handle: e.listVersions},
		{Name: "GalleryImageVersions_CreateOrUpdate", Method: "PUT", Path: at + "/{version}", Action: v + "/write", Handle: e.putVersion},
		{Name: "GalleryImageVersions_Update", Method: "PATCH", Path: at + "/{version}", Action: v + "/write", Handle: e.putVersion},
		{Name: "GalleryImageVersions_Get", Method: "GET", Path: at + "/{version}", Action: v + "/read", Handle: e.getVersion},
		{Name: "GalleryImageVersions_Delete", Method: "DELETE", Path: at + "/{version}", Action: v + "/delete", Handle: e.deleteVersion},
	}
}

// diskSource tells where one disk comes from; nil when the member names nothing,
// which an update does.
func diskSource(s *armcompute.GalleryDiskImageSource, caching *armcompute.HostCaching, lun int32) (*gallery.DiskSource, error) {
	if s == nil || val(s.ID) == "" && val(s.URI) == "" {
		return nil, nil
	}
	c, err := canonical(caching, armcompute.PossibleHostCachingValues(), "hostCaching")
	return &gallery.DiskSource{LUN: lun, ID: val(s.ID), URI: val(s.URI), Caching: c}, err
}

func versionIn(r *azwire.Request, body *armcompute.GalleryImageVersion) (gallery.VersionSpec, error) {
	sp := gallery.VersionSpec{ID: id(r, millpond.TypeVersion, "gallery", "image", "version"), Location: val(body.Location), Tags: tagsIn(body.Tags), Patch: r.Method == http.MethodPatch}
	p := val(body.Properties)
	if val(p.Restore) {
		return sp, unsupported("properties.restore", "Soft-deleted versions are not supported yet, so there is nothing to restore.")
	}
	if st := p.StorageProfile; st != nil {
		if src := st.Source; src != nil {
			if src.CommunityGalleryImageID != nil {
				return sp, unsupported("storageProfile.source.communityGalleryImageId", "Versions from images of community galleries are not supported yet. Give the id of an image version.")
			}
			if sp.SourceID = val(src.ID); sp.SourceID == "" {
				sp.SourceID = val(src.VirtualMachineID)
			}
		}
		if os := st.OSDiskImage; os != nil {
			var err error
			if sp.OSDisk, err = diskSource(os.Source, os.HostCaching, 0); err != nil {
				return sp, err
			}
		}
		for _, d := range st.DataDiskImages {
			if d == nil {
				continue
			}
			ds, err := diskSource(d.Source, d.HostCaching, val(d.Lun))
			if err != nil {
				return sp, err
			}
			if ds != nil {
				sp.DataDisks = append(sp.DataDisks, *ds)
			}
		}
	}
	if s := p.SafetyProfile; s != nil {
		sp.AllowDeletion, sp.BlockDeletion = s.AllowDeletionOfReplicatedLocations, s.BlockDeletionBeforeEndOfLife
	}
	pp := p.PublishingProfile
	if pp == nil {
		return sp, nil
	}
	var err error
	if sp.StorageType, err = canonical(pp.StorageAccountType, armcompute.PossibleStorageAccountTypeValues(), "publishingProfile.storageAccountType"); err != nil {
		return sp, err
	}
	if sp.ReplicationMode, err = canonical(pp.ReplicationMode, armcompute.PossibleReplicationModeValues(), "publishingProfile.replicationMode"); err != nil {
		return sp, err
	}
	sp.ReplicaCount, sp.ExcludeFromLatest, sp.EndOfLife = pp.ReplicaCount, pp.ExcludeFromLatest, pp.EndOfLifeDate
	if len(pp.TargetExtendedLocations) > 0 {
		return sp, unsupported("publishingProfile.targetExtendedLocations", "Edge zones are not supported. Name regions in targetRegions.")
	}
	for _, t := range pp.TargetRegions {
		if t == nil {
			continue
		}
		if t.Encryption != nil {
			return sp, unsupported("publishingProfile.targetRegions.encryption", "Encryption of replicas with own keys is not supported. Leave encryption out.")
		}
		st, err := canonical(t.StorageAccountType, armcompute.PossibleStorageAccountTypeValues(), "publishingProfile.targetRegions.storageAccountType")
		if err != nil {
			return sp, err
		}
		region := millpond.TargetRegion{Name: val(t.Name), Replicas: val(t.RegionalReplicaCount), StorageType: st, ExcludeFromLatest: val(t.ExcludeFromLatest)}
		if t.RegionalReplicaCount != nil && *t.RegionalReplicaCount == 0 {
			region.Replicas = -1 // an explicit 0 is out of range, not a default
		}
		sp.Targets = append(sp.Targets, region)
	}
	return sp, nil
}

func (e *Edge) putVersion(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.GalleryImageVersion
	if err := decode(r, &body); err != nil {
		return err
	}
	sp, err := versionIn(r, &body)
	if err != nil {
		return err
	}
	v, created, op, err := e.Gallery.PutVersion(r.Context(), r.Caller, sp)
	if err != nil {
		return err
	}
	if op != nil {
		e.polling(w, r, *op, "Microsoft.Compute", v.Location)
	}
	azwire.WriteJSON(w, putStatus(created), e.encodeVersion(v, false))
	return nil
}

func (e *Edge) displayName(region string) *string {
	if l, err := e.Resources.Region(region); err == nil && l.DisplayName != "" {
		return ptr(l.DisplayName)
	}
	return ptr(region)
}

func (e *Edge) encodeVersion(v gallery.Published, status bool) versionDoc {
	caching := func(s string) *armcompute.HostCaching {
		if s == "" {
			s = string(armcompute.HostCachingNone)
		}
		return ptr(armcompute.HostCaching(s))
	}
	source := func(d millpond.VersionDisk) *armcompute.GalleryDiskImageSource {
		if d.SourceID == "" && d.SourceURI == "" {
			return nil
		}
		return &armcompute.GalleryDiskImageSource{ID: strOrNil(d.SourceID), URI: strOrNil(compute.ShownURI(d.SourceURI))}
	}
	storage := &armcompute.GalleryImageVersionStorageProfile{OSDiskImage: &armcompute.GalleryOSDiskImage{HostCaching: caching(v.OSDisk.Caching), SizeInGB: sizeGB(v.OSDisk.SizeBytes), Source: source(v.OSDisk)}}
	if v.SourceID != "" {
		storage.Source = &armcompute.GalleryArtifactVersionFullSource{ID: ptr(v.SourceID)}
		if p, ok := millpond.ParseResourceID(v.SourceID); ok && p.Is(millpond.TypeVM) {
			storage.Source.ID, storage.Source.VirtualMachineID = nil, ptr(v.SourceID)
		}
	}
	for _, d := range v.DataDisks {
		storage.DataDiskImages = append(storage.DataDiskImages, &armcompute.GalleryDataDiskImage{Lun: ptr(d.LUN), HostCaching: caching(d.Caching), SizeInGB: sizeGB(d.SizeBytes), Source: source(d)})
	}
	pub := &armcompute.GalleryImageVersionPublishingProfile{ReplicaCount: ptr(v.ReplicaCount), ExcludeFromLatest: ptr(v.ExcludeFromLatest), PublishedDate: ptr(v.Published),
		StorageAccountType: ptr(armcompute.StorageAccountType(v.StorageType)), ReplicationMode: ptr(armcompute.ReplicationMode(v.ReplicationMode))}
	if !v.EndOfLife.IsZero() {
		pub.EndOfLifeDate = ptr(v.EndOfLife)
	}
	for _, t := range v.Targets {
		pub.TargetRegions = append(pub.TargetRegions, &armcompute.TargetRegion{Name: e.displayName(t.Name), RegionalReplicaCount: ptr(t.Replicas), StorageAccountType: ptr(armcompute.StorageAccountType(t.StorageType)), ExcludeFromLatest: ptr(t.ExcludeFromLatest)})
	}
	out := &armcompute.GalleryImageVersion{ID: ptr(v.ID.String()), Name: ptr(v.ID.Name()), Type: ptr(millpond.TypeVersion), Location: ptr(v.Location), Tags: tagsOut(v.Tags),
		Properties: &armcompute.GalleryImageVersionProperties{ProvisioningState: ptr(armcompute.GalleryProvisioningState(v.State)), StorageProfile: storage, PublishingProfile: pub,
			SafetyProfile: &armcompute.GalleryImageVersionSafetyProfile{AllowDeletionOfReplicatedLocations: v.AllowDeletion, BlockDeletionBeforeEndOfLife: ptr(v.BlockDeletion), ReportedForPolicyViolation: ptr(false)}}}
	doc := versionDoc{out, v.Preflight.Findings}
	if !status {
		return doc
	}
	overall, regions := gallery.Status(v.ImageVersion, v.Replicas)
	rs := &armcompute.ReplicationStatus{AggregatedState: ptr(armcompute.AggregatedReplicationState(overall)), Summary: []*armcompute.RegionalReplicationStatus{}}
	for _, s := range regions {
		rs.Summary = append(rs.Summary, &armcompute.RegionalReplicationStatus{Region: e.displayName(s.Region), State: ptr(armcompute.ReplicationState(s.State)), Details: ptr(s.Details), Progress: ptr(s.Progress)})
	}
	out.Properties.ReplicationStatus = rs
	return doc
}

func (e *Edge) listVersions(w http.ResponseWriter, r *azwire.Request) error {
	after, limit, err := e.page(r)
	if err != nil {
		return err
	}
	vs, err := e.Gallery.Versions(r.Context(), id(r, millpond.TypeDefinition, "gallery", "image"), after, limit)
	if err != nil {
		return err
	}
	return writeList(e, w, r, vs, resourceKey[*millpond.ImageVersion], func(v *millpond.ImageVersion) any { return e.encodeVersion(gallery.Published{ImageVersion: v}, false) })
}

func (e *Edge) getVersion(w http.ResponseWriter, r *azwire.Request) error {
	v, err := e.Gallery.Version(r.Context(), id(r, millpond.TypeVersion, "gallery", "image", "version"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeVersion(v, strings.Contains(strings.ToLower(r.QueryValue("$expand")), "replicationstatus")).warn(w))
	}
	return err
}

func (e *Edge) deleteVersion(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Gallery.DeleteVersion(r.Context(), id(r, millpond.TypeVersion, "gallery", "image", "version"))
	return deleted(w, found, err)
}
