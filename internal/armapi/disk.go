package armapi

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/sqlite"
)

func (e *Edge) diskRoutes() []azwire.Route {
	var out []azwire.Route
	for _, k := range []struct{ group, typ, full string }{{"Disks", "disks", millpond.TypeDisk}, {"Snapshots", "snapshots", millpond.TypeSnapshot}} {
		full := k.full
		at := "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute/" + k.typ
		handle := func(h func(http.ResponseWriter, *azwire.Request, string) error) func(http.ResponseWriter, *azwire.Request) error {
			return func(w http.ResponseWriter, r *azwire.Request) error { return h(w, r, full) }
		}
		out = append(out,
			azwire.Route{Name: k.group + "_List", Method: "GET", Path: "/subscriptions/{sub}/providers/Microsoft.Compute/" + k.typ, Action: full + "/read", ByItem: true, Handle: handle(e.listDisks)},
			azwire.Route{Name: k.group + "_ListByResourceGroup", Method: "GET", Path: at, Action: full + "/read", ByItem: true, Handle: handle(e.listDisks)},
			azwire.Route{Name: k.group + "_CreateOrUpdate", Method: "PUT", Path: at + "/{name}", Action: full + "/write", Handle: handle(e.putDisk)},
			azwire.Route{Name: k.group + "_Update", Method: "PATCH", Path: at + "/{name}", Action: full + "/write", Handle: handle(e.patchDisk)},
			azwire.Route{Name: k.group + "_Get", Method: "GET", Path: at + "/{name}", Action: full + "/read", Handle: handle(e.getDisk)},
			azwire.Route{Name: k.group + "_Delete", Method: "DELETE", Path: at + "/{name}", Action: full + "/delete", Handle: handle(e.deleteDisk)},
			azwire.Route{Name: k.group + "_GrantAccess", Method: "POST", Path: at + "/{name}/beginGetAccess", Action: full + "/beginGetAccess/action", Handle: handle(e.grantAccess)},
			azwire.Route{Name: k.group + "_RevokeAccess", Method: "POST", Path: at + "/{name}/endGetAccess", Action: full + "/endGetAccess/action", Handle: handle(e.revokeAccess)},
		)
	}
	return out
}

// diskIn is what disks and snapshots have in common on the wire, decoded.
type diskIn struct {
	creation *armcompute.CreationData
	osType   *armcompute.OperatingSystemTypes
	hyperV   *armcompute.HyperVGeneration
	network  *armcompute.NetworkAccessPolicy
	access   *string
	public   *armcompute.PublicNetworkAccess
	sku      string
	promise  millpond.DiskPromise
}

// promise decodes what a disk or snapshot is marked with; d has the members
// that only disks have.
func promise(d armcompute.DiskProperties, can *armcompute.SupportedCapabilities, hibernation *bool) millpond.DiskPromise {
	c := val(can)
	return millpond.DiskPromise{IOPS: d.DiskIOPSReadWrite, IOPSRead: d.DiskIOPSReadOnly, MBps: d.DiskMBpsReadWrite, MBpsRead: d.DiskMBpsReadOnly,
		Tier: val(d.Tier), Bursting: d.BurstingEnabled, OftenAttached: d.OptimizedForFrequentAttach, Hibernation: hibernation,
		AcceleratedNetwork: c.AcceleratedNetwork, Architecture: string(val(c.Architecture)), Controllers: val(c.DiskControllerTypes)}
}

// capabilities encodes what promise decoded; nil if nothing was given.
func capabilities(p millpond.DiskPromise) *armcompute.SupportedCapabilities {
	if p.AcceleratedNetwork == nil && p.Architecture == "" && p.Controllers == "" {
		return nil
	}
	return &armcompute.SupportedCapabilities{AcceleratedNetwork: p.AcceleratedNetwork, Architecture: enumOrNil[armcompute.Architecture](p.Architecture), DiskControllerTypes: strOrNil(p.Controllers)}
}

func (in diskIn) into(d *millpond.Disk) (err error) {
	if d.OSType, err = canonical(in.osType, armcompute.PossibleOperatingSystemTypesValues(), "osType"); err != nil {
		return err
	}
	if d.HyperV, err = canonical(in.hyperV, armcompute.PossibleHyperVGenerationValues(), "hyperVGeneration"); err != nil {
		return err
	}
	if d.Network, err = canonical(in.network, armcompute.PossibleNetworkAccessPolicyValues(), "networkAccessPolicy"); err != nil {
		return err
	}
	if d.Public, err = canonical(in.public, armcompute.PossiblePublicNetworkAccessValues(), "publicNetworkAccess"); err != nil {
		return err
	}
	d.SKU, d.Promise, d.AccessID = in.sku, in.promise, val(in.access)
	c := in.creation
	if c == nil {
		return nil
	}
	option, err := canonical(c.CreateOption, armcompute.PossibleDiskCreateOptionValues(), "creationData.createOption")
	if err != nil {
		return err
	}
	d.Creation = millpond.CreationData{Option: millpond.CreateOption(option), SourceID: val(c.SourceResourceID), SourceURI: val(c.SourceURI), StorageAccountID: val(c.StorageAccountID), UploadBytes: val(c.UploadSizeBytes), PerformancePlus: val(c.PerformancePlus)}
	if d.Creation.CopySpeed, err = canonical(c.ProvisionedBandwidthCopySpeed, armcompute.PossibleProvisionedBandwidthCopyOptionValues(), "creationData.provisionedBandwidthCopySpeed"); err != nil {
		return err
	}
	if n := val(c.LogicalSectorSize); n != 0 && n != 512 {
		return unsupported("creationData.logicalSectorSize", "Disks have sectors of 512 bytes; %d is not supported. Leave out --logical-sector-size.", n)
	}
	// A managed image is named by the other reference, as in Azure.
	if i := c.ImageReference; i != nil && c.GalleryImageReference == nil {
		d.Creation.ImageID, d.Creation.ImageLUN = val(i.ID), i.Lun
	}
	if g := c.GalleryImageReference; g != nil {
		if g.SharedGalleryImageID != nil || g.CommunityGalleryImageID != nil {
			return unsupported("creationData.galleryImageReference", "Disks from images of shared and community galleries are not supported yet. Give the id of an image version.")
		}
		d.Creation.ImageID, d.Creation.ImageLUN = val(g.ID), g.Lun
	}
	if c.SecurityDataURI != nil {
		return unsupported("creationData.securityDataUri", "Confidential disks are not supported. Leave it out.")
	}
	return nil
}

var platformImage = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/providers/microsoft\.compute/locations/[^/]+/publishers/([^/]+)/artifacttypes/vmimage/offers/([^/]+)/skus/([^/]+)/versions/([^/]+)$`)

// platformSource finds the base image for a disk that is to be made of a Marketplace
// image, and tells its version in the place of latest. The disk has the image's
// generation, whatever was asked for.
func (e *Edge) platformSource(ctx context.Context, d *millpond.Disk) error {
	c := &d.Creation
	m := platformImage.FindStringSubmatch(c.ImageID)
	if m == nil || c.Option != millpond.CreateFromImage {
		return nil
	}
	if c.ImageLUN != nil {
		return unsupported("creationData.imageReference.lun", "Images of the Marketplace have no data disks here. Leave lun out.")
	}
	if e.Machines == nil {
		return unsupported("creationData.imageReference", "There is no Marketplace here.")
	}
	p, err := e.Machines.Platform(ctx, millpond.ImageReference{Publisher: m[1], Offer: m[2], SKU: m[3], Version: m[4]})
	if err != nil {
		return err
	}
	c.PlatformID, c.ImageID = strings.TrimSuffix(c.ImageID, m[4])+p.Version, p.Base
	d.HyperV = p.HyperV
	return nil
}

func diskSKU(sku *armcompute.DiskSKU, fallback string) (string, error) {
	if sku == nil || sku.Name == nil {
		return fallback, nil
	}
	return canonical(sku.Name, armcompute.PossibleDiskStorageAccountTypesValues(), "sku.name")
}

// plain refuses what no disk or snapshot can have here, in PUT and PATCH alike.
func plain(encryption *armcompute.Encryption, shares *int32, auth *armcompute.DataAccessAuthMode) error {
	switch {
	case auth != nil && !strings.EqualFold(string(*auth), string(armcompute.DataAccessAuthModeNone)):
		return unsupported("properties.dataAccessAuthMode", "A signed URL alone gives access to a disk's bytes; asking for a token beside it is not supported. Leave out --data-access-auth-mode.")
	case val(shares) > 1:
		return unsupported("properties.maxShares", "Shared disks are not supported. Leave maxShares out, or give 1.")
	case encryption != nil && val(encryption.DiskEncryptionSetID) != "":
		return unsupported("properties.encryption", "Disk encryption sets are not supported. Use the type EncryptionAtRestWithPlatformKey, or leave encryption out.")
	}
	return nil
}

func (e *Edge) putDisk(w http.ResponseWriter, r *azwire.Request, full string) error {
	var c compute.Change
	d := &c.Disk
	if full == millpond.TypeSnapshot {
		var body armcompute.Snapshot
		if err := decode(r, &body); err != nil {
			return err
		}
		p := val(body.Properties)
		sku, err := canonical(val(body.SKU).Name, armcompute.PossibleSnapshotStorageAccountTypesValues(), "sku.name")
		if err != nil {
			return err
		}
		if sku == "" {
			sku = string(armcompute.SnapshotStorageAccountTypesStandardLRS)
		}
		if p.SecurityProfile != nil {
			return unsupported("properties.securityProfile", "Security profiles of snapshots are not supported.")
		}
		if err := plain(p.Encryption, nil, p.DataAccessAuthMode); err != nil {
			return err
		}
		if err := (diskIn{p.CreationData, p.OSType, p.HyperVGeneration, p.NetworkAccessPolicy, p.DiskAccessID, p.PublicNetworkAccess, sku, promise(armcompute.DiskProperties{}, p.SupportedCapabilities, p.SupportsHibernation)}).into(d); err != nil {
			return err
		}
		d.Snapshot, d.Incremental, c.SizeGB = true, val(p.Incremental), val(p.DiskSizeGB)
		d.Location, d.Tags = val(body.Location), tagsIn(body.Tags)
	} else {
		var body armcompute.Disk
		if err := decode(r, &body); err != nil {
			return err
		}
		p := val(body.Properties)
		sku, err := diskSKU(body.SKU, string(armcompute.DiskStorageAccountTypesStandardLRS))
		if err != nil {
			return err
		}
		if err := plain(p.Encryption, p.MaxShares, p.DataAccessAuthMode); err != nil {
			return err
		}
		if p.SecurityProfile != nil && p.SecurityProfile.SecurityType != nil && !strings.EqualFold(string(*p.SecurityProfile.SecurityType), "Standard") {
			return unsupported("properties.securityProfile", "Security type %s is not supported. Create the disk with --security-type Standard.", *p.SecurityProfile.SecurityType)
		}
		if err := (diskIn{p.CreationData, p.OSType, p.HyperVGeneration, p.NetworkAccessPolicy, p.DiskAccessID, p.PublicNetworkAccess, sku, promise(p, p.SupportedCapabilities, p.SupportsHibernation)}).into(d); err != nil {
			return err
		}
		if err := e.platformSource(r.Context(), d); err != nil {
			return err
		}
		for _, z := range body.Zones {
			d.Zones = append(d.Zones, val(z))
		}
		c.SizeGB = val(p.DiskSizeGB)
		d.Location, d.Tags = val(body.Location), tagsIn(body.Tags)
	}
	d.ID = id(r, full, "name")
	if d.Network == "" {
		d.Network = string(armcompute.NetworkAccessPolicyAllowAll)
	}
	if d.Public == "" {
		d.Public = string(armcompute.PublicNetworkAccessEnabled)
	}
	d.Location = millpond.NormalizeRegion(d.Location)
	return e.changeDisk(w, r, c)
}

func (e *Edge) patchDisk(w http.ResponseWriter, r *azwire.Request, full string) error {
	c := compute.Change{Patch: true}
	d := &c.Disk
	d.ID = id(r, full, "name")
	if full == millpond.TypeSnapshot {
		var body armcompute.SnapshotUpdate
		if err := decode(r, &body); err != nil {
			return err
		}
		p := val(body.Properties)
		sku, err := canonical(val(body.SKU).Name, armcompute.PossibleSnapshotStorageAccountTypesValues(), "sku.name")
		if err != nil {
			return err
		}
		if err := plain(p.Encryption, nil, p.DataAccessAuthMode); err != nil {
			return err
		}
		if err := (diskIn{nil, p.OSType, nil, p.NetworkAccessPolicy, p.DiskAccessID, p.PublicNetworkAccess, sku, promise(armcompute.DiskProperties{}, p.SupportedCapabilities, p.SupportsHibernation)}).into(d); err != nil {
			return err
		}
		d.Snapshot, c.SizeGB, c.Tags = true, val(p.DiskSizeGB), tagsIn(body.Tags)
	} else {
		var body armcompute.DiskUpdate
		if err := decode(r, &body); err != nil {
			return err
		}
		p := val(body.Properties)
		sku, err := diskSKU(body.SKU, "")
		if err != nil {
			return err
		}
		if err := plain(p.Encryption, p.MaxShares, p.DataAccessAuthMode); err != nil {
			return err
		}
		if err := (diskIn{nil, p.OSType, nil, p.NetworkAccessPolicy, p.DiskAccessID, p.PublicNetworkAccess, sku, promise(armcompute.DiskProperties{DiskIOPSReadWrite: p.DiskIOPSReadWrite, DiskIOPSReadOnly: p.DiskIOPSReadOnly,
			DiskMBpsReadWrite: p.DiskMBpsReadWrite, DiskMBpsReadOnly: p.DiskMBpsReadOnly, Tier: p.Tier, BurstingEnabled: p.BurstingEnabled, OptimizedForFrequentAttach: p.OptimizedForFrequentAttach}, p.SupportedCapabilities, p.SupportsHibernation)}).into(d); err != nil {
			return err
		}
		c.SizeGB, c.Tags = val(p.DiskSizeGB), tagsIn(body.Tags)
	}
	return e.changeDisk(w, r, c)
}

// changeDisk answers 200, or 202 while the work goes on: clients take no 201
// for disks and snapshots.
func (e *Edge) changeDisk(w http.ResponseWriter, r *azwire.Request, c compute.Change) error {
	d, op, err := e.Compute.PutDisk(r.Context(), r.Caller, c)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if op != nil {
		status = http.StatusAccepted
		e.polling(w, r, *op, "Microsoft.Compute", d.Location)
	}
	if d.Snapshot {
		azwire.WriteJSON(w, status, e.encodeSnapshot(d))
	} else {
		azwire.WriteJSON(w, status, encodeDisk(d))
	}
	return nil
}

func encodeCreation(c millpond.CreationData) *armcompute.CreationData {
	out := &armcompute.CreationData{CreateOption: ptr(armcompute.DiskCreateOption(c.Option)), SourceResourceID: strOrNil(c.SourceID), SourceURI: strOrNil(compute.ShownURI(c.SourceURI)),
		StorageAccountID: strOrNil(c.StorageAccountID), SourceUniqueID: strOrNil(c.SourceUniqueID)}
	if c.PerformancePlus {
		out.PerformancePlus = ptr(true)
	}
	out.ProvisionedBandwidthCopySpeed = enumOrNil[armcompute.ProvisionedBandwidthCopyOption](c.CopySpeed)
	if c.UploadBytes > 0 {
		out.UploadSizeBytes = ptr(c.UploadBytes)
	}
	if c.PlatformID != "" {
		out.ImageReference = &armcompute.ImageDiskReference{ID: ptr(c.PlatformID)}
	} else if c.ImageID != "" {
		ref := &armcompute.ImageDiskReference{ID: ptr(c.ImageID), Lun: c.ImageLUN}
		if p, ok := millpond.ParseResourceID(c.ImageID); ok && p.Is(millpond.TypeImage) {
			out.ImageReference = ref
		} else {
			out.GalleryImageReference = ref
		}
	}
	return out
}

func encodeDisk(d *millpond.Disk) *armcompute.Disk {
	var zones []*string
	for _, z := range d.Zones {
		zones = append(zones, ptr(z))
	}
	tier, _, _ := strings.Cut(d.SKU, "_")
	return &armcompute.Disk{
		ManagedBy: strOrNil(d.ManagedBy),
		ID:        ptr(d.ID.String()), Name: ptr(d.ID.Name()), Type: ptr(millpond.TypeDisk), Location: ptr(d.Location), Tags: tagsOut(d.Tags), Zones: zones,
		SKU: &armcompute.DiskSKU{Name: ptr(armcompute.DiskStorageAccountTypes(d.SKU)), Tier: ptr(tier)},
		Properties: &armcompute.DiskProperties{
			CreationData: encodeCreation(d.Creation), OSType: enumOrNil[armcompute.OperatingSystemTypes](d.OSType), HyperVGeneration: enumOrNil[armcompute.HyperVGeneration](d.HyperV),
			DiskSizeGB: ptr(d.SizeGB()), DiskSizeBytes: ptr(d.SizeBytes), DiskState: ptr(armcompute.DiskState(d.State)), ProvisioningState: ptr(string(d.Base().State)),
			TimeCreated: ptr(d.Created), UniqueID: ptr(d.UniqueID), NetworkAccessPolicy: ptr(armcompute.NetworkAccessPolicy(d.Network)), DiskAccessID: strOrNil(d.AccessID), PublicNetworkAccess: ptr(armcompute.PublicNetworkAccess(d.Public)),
			Encryption:        &armcompute.Encryption{Type: ptr(armcompute.EncryptionTypeEncryptionAtRestWithPlatformKey)},
			DiskIOPSReadWrite: d.Promise.IOPS, DiskIOPSReadOnly: d.Promise.IOPSRead, DiskMBpsReadWrite: d.Promise.MBps, DiskMBpsReadOnly: d.Promise.MBpsRead,
			Tier: strOrNil(d.Promise.Tier), BurstingEnabled: d.Promise.Bursting, OptimizedForFrequentAttach: d.Promise.OftenAttached,
			SupportsHibernation: d.Promise.Hibernation, SupportedCapabilities: capabilities(d.Promise),
		},
	}
}

func (e *Edge) encodeSnapshot(d *millpond.Disk) *armcompute.Snapshot {
	tier, _, _ := strings.Cut(d.SKU, "_")
	var completion *float32
	if d.Incremental {
		completion = ptr(float32(e.Compute.Completion(d)))
	}
	return &armcompute.Snapshot{
		ID: ptr(d.ID.String()), Name: ptr(d.ID.Name()), Type: ptr(millpond.TypeSnapshot), Location: ptr(d.Location), Tags: tagsOut(d.Tags),
		SKU: &armcompute.SnapshotSKU{Name: ptr(armcompute.SnapshotStorageAccountTypes(d.SKU)), Tier: ptr(tier)},
		Properties: &armcompute.SnapshotProperties{
			CreationData: encodeCreation(d.Creation), OSType: enumOrNil[armcompute.OperatingSystemTypes](d.OSType), HyperVGeneration: enumOrNil[armcompute.HyperVGeneration](d.HyperV),
			DiskSizeGB: ptr(d.SizeGB()), DiskSizeBytes: ptr(d.SizeBytes), DiskState: ptr(armcompute.DiskState(d.State)), ProvisioningState: ptr(string(d.Base().State)),
			TimeCreated: ptr(d.Created), UniqueID: ptr(d.UniqueID), Incremental: ptr(d.Incremental), IncrementalSnapshotFamilyID: strOrNil(d.Family), CompletionPercent: completion, NetworkAccessPolicy: ptr(armcompute.NetworkAccessPolicy(d.Network)), DiskAccessID: strOrNil(d.AccessID), PublicNetworkAccess: ptr(armcompute.PublicNetworkAccess(d.Public)),
			Encryption:          &armcompute.Encryption{Type: ptr(armcompute.EncryptionTypeEncryptionAtRestWithPlatformKey)},
			SupportsHibernation: d.Promise.Hibernation, SupportedCapabilities: capabilities(d.Promise),
		},
	}
}

func (e *Edge) encodeEither(d *millpond.Disk) any {
	if d.Snapshot {
		return e.encodeSnapshot(d)
	}
	return encodeDisk(d)
}

func (e *Edge) listQuery(r *azwire.Request, full string) (sqlite.Query, error) {
	after, limit, err := e.page(r)
	q := sqlite.Query{Type: full, Subscription: r.Param("sub"), After: after, Limit: limit}
	if err == nil && r.Param("rg") != "" {
		q.Group = groupScope(r)
		_, err = e.Resources.Group(r.Context(), q.Group)
	}
	return q, err
}

func (e *Edge) listDisks(w http.ResponseWriter, r *azwire.Request, full string) error {
	q, err := e.listQuery(r, full)
	if err != nil {
		return err
	}
	ds, err := e.Compute.ListDisks(r.Context(), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, ds, resourceKey[*millpond.Disk], e.encodeEither)
}

func (e *Edge) getDisk(w http.ResponseWriter, r *azwire.Request, full string) error {
	d, err := e.Compute.Disk(r.Context(), id(r, full, "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeEither(d))
	}
	return err
}

func (e *Edge) deleteDisk(w http.ResponseWriter, r *azwire.Request, full string) error {
	found, err := e.Compute.DeleteDisk(r.Context(), id(r, full, "name"))
	return deleted(w, found, err)
}

// deleted answers a deletion that has ended.
func deleted(w http.ResponseWriter, found bool, err error) error {
	if err != nil {
		return err
	}
	if found {
		w.WriteHeader(http.StatusOK)
	} else {
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

// clientHost is the host that a client uses, and whether that is Azure's name
// and not this server's own address.
func clientHost(r *azwire.Request) (host string, azure bool) {
	host = strings.TrimPrefix(strings.TrimPrefix(r.BaseURL, "https://"), "http://")
	return host, azwire.ServiceOf(strings.ToLower(host)) == azwire.ServiceARM
}

// blobURL is where a signed path is served: under Azure's name for clients that
// use Azure's names, and under this server's own address for the others.
func blobURL(r *azwire.Request, a compute.Access) string {
	if _, azure := clientHost(r); azure {
		return "https://md-" + a.Container + azwire.DiskSuffix + a.Path()
	}
	return r.BaseURL + "/blob" + a.Path()
}

func (e *Edge) grantAccess(w http.ResponseWriter, r *azwire.Request, full string) error {
	var body armcompute.GrantAccessData
	if err := decode(r, &body); err != nil {
		return err
	}
	access, err := canonical(body.Access, []armcompute.AccessLevel{armcompute.AccessLevelRead, armcompute.AccessLevelWrite}, "access")
	if err != nil {
		return err
	}
	if access == "" {
		return millpond.Errorf(millpond.Invalid, "InvalidParameter", "Required parameter 'access' is missing (null). Give Read or Write.")
	}
	if val(body.GetSecureVMGuestStateSAS) {
		return unsupported("getSecureVMGuestStateSAS", "Confidential disks are not supported. Leave it out.")
	}
	if body.FileFormat != nil && !strings.EqualFold(string(*body.FileFormat), "VHD") {
		return unsupported("fileFormat", "Disks are exported as VHD only.")
	}
	a, err := e.Compute.Grant(r.Context(), id(r, full, "name"), access == string(armcompute.AccessLevelWrite), time.Duration(val(body.DurationInSeconds))*time.Second)
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, armcompute.AccessURI{AccessSAS: ptr(blobURL(r, a))})
	return nil
}

func (e *Edge) revokeAccess(w http.ResponseWriter, r *azwire.Request, full string) error {
	if err := e.Compute.Revoke(r.Context(), id(r, full, "name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
