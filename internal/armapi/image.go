package armapi

import (
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/compute"
)

func (e *Edge) imageRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute/images"
	const action = millpond.TypeImage
	return []azwire.Route{
		{Name: "Images_List", Method: "GET", Path: "/subscriptions/{sub}/providers/Microsoft.Compute/images", Action: action + "/read", ByItem: true, Handle: e.listImages},
		{Name: "Images_ListByResourceGroup", Method: "GET", Path: at, Action: action + "/read", ByItem: true, Handle: e.listImages},
		{Name: "Images_CreateOrUpdate", Method: "PUT", Path: at + "/{name}", Action: action + "/write", Handle: e.putImage},
		{Name: "Images_Update", Method: "PATCH", Path: at + "/{name}", Action: action + "/write", Handle: e.patchImage},
		{Name: "Images_Get", Method: "GET", Path: at + "/{name}", Action: action + "/read", Handle: e.getImage},
		{Name: "Images_Delete", Method: "DELETE", Path: at + "/{name}", Action: action + "/delete", Handle: e.deleteImage},
	}
}

func (e *Edge) putImage(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.Image
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	m := &millpond.ManagedImage{}
	m.ID, m.Location, m.Tags = id(r, millpond.TypeImage, "name"), val(body.Location), tagsIn(body.Tags)
	var err error
	if m.HyperV, err = canonical(p.HyperVGeneration, armcompute.PossibleHyperVGenerationTypesValues(), "hyperVGeneration"); err != nil {
		return err
	}
	sp := val(p.StorageProfile)
	m.ZoneResilient = val(sp.ZoneResilient)
	if os := sp.OSDisk; os != nil {
		if os.DiskEncryptionSet != nil {
			return unsupported("osDisk.diskEncryptionSet", "Disk encryption sets are not supported. Leave diskEncryptionSet out.")
		}
		if m.OSType, err = canonical(os.OSType, armcompute.PossibleOperatingSystemTypesValues(), "osDisk.osType"); err != nil {
			return err
		}
		if m.OSState, err = canonical(os.OSState, armcompute.PossibleOperatingSystemStateTypesValues(), "osDisk.osState"); err != nil {
			return err
		}
		if m.OSDisk, err = imageDisk(os.Snapshot, os.ManagedDisk, os.BlobURI, os.Caching, os.StorageAccountType); err != nil {
			return err
		}
	}
	for _, d := range sp.DataDisks {
		if d == nil {
			continue
		}
		if d.Lun == nil {
			return millpond.Errorf(millpond.Invalid, "InvalidParameter", "Required parameter 'dataDisks.lun' is missing (null).")
		}
		if d.DiskEncryptionSet != nil {
			return unsupported("dataDisks.diskEncryptionSet", "Disk encryption sets are not supported. Leave diskEncryptionSet out.")
		}
		disk, err := imageDisk(d.Snapshot, d.ManagedDisk, d.BlobURI, d.Caching, d.StorageAccountType)
		if err != nil {
			return err
		}
		disk.LUN = *d.Lun
		m.DataDisks = append(m.DataDisks, disk)
	}
	if p.SourceVirtualMachine != nil {
		if err := e.imageOfMachine(r, val(p.SourceVirtualMachine.ID), m); err != nil {
			return err
		}
	}
	out, created, op, err := e.Compute.PutImage(r.Context(), r.Caller, m)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated // and never 202
	}
	if op != nil {
		e.polling(w, r, *op, "Microsoft.Compute", out.Location)
	}
	azwire.WriteJSON(w, status, encodeImage(out))
	return nil
}

func imageDisk(snapshot, disk *armcompute.SubResource, uri *string, caching *armcompute.CachingTypes, sku *armcompute.StorageAccountTypes) (millpond.ImageDisk, error) {
	d := millpond.ImageDisk{SnapshotID: val(val(snapshot).ID), DiskID: val(val(disk).ID), BlobURI: val(uri)}
	var err error
	if d.Caching, err = canonical(caching, armcompute.PossibleCachingTypesValues(), "caching"); err != nil {
		return d, err
	}
	d.SKU, err = canonical(sku, armcompute.PossibleStorageAccountTypesValues(), "storageAccountType")
	return d, err
}

func subResource(id string) *armcompute.SubResource {
	if id == "" {
		return nil
	}
	return &armcompute.SubResource{ID: ptr(id)}
}

func sizeGB(b int64) *int32 { return ptr(int32((b + 1<<30 - 1) >> 30)) }

func encodeImage(m *millpond.ManagedImage) *armcompute.Image {
	caching := func(s string) *armcompute.CachingTypes {
		if s == "" {
			s = string(armcompute.CachingTypesNone)
		}
		return ptr(armcompute.CachingTypes(s))
	}
	sku := func(s string) *armcompute.StorageAccountTypes {
		if s == "" {
			s = string(armcompute.StorageAccountTypesStandardLRS)
		}
		return ptr(armcompute.StorageAccountTypes(s))
	}
	sp := &armcompute.ImageStorageProfile{ZoneResilient: ptr(m.ZoneResilient), DataDisks: []*armcompute.ImageDataDisk{}, OSDisk: &armcompute.ImageOSDisk{
		OSType: ptr(armcompute.OperatingSystemTypes(m.OSType)), OSState: ptr(armcompute.OperatingSystemStateTypes(m.OSState)), Snapshot: subResource(m.OSDisk.SnapshotID), ManagedDisk: subResource(m.OSDisk.DiskID),
		BlobURI: strOrNil(compute.ShownURI(m.OSDisk.BlobURI)), Caching: caching(m.OSDisk.Caching), DiskSizeGB: sizeGB(m.OSDisk.SizeBytes), StorageAccountType: sku(m.OSDisk.SKU),
	}}
	for _, d := range m.DataDisks {
		sp.DataDisks = append(sp.DataDisks, &armcompute.ImageDataDisk{Lun: ptr(d.LUN), Snapshot: subResource(d.SnapshotID), ManagedDisk: subResource(d.DiskID),
			BlobURI: strOrNil(compute.ShownURI(d.BlobURI)), Caching: caching(d.Caching), DiskSizeGB: sizeGB(d.SizeBytes), StorageAccountType: sku(d.SKU)})
	}
	return &armcompute.Image{ID: ptr(m.ID.String()), Name: ptr(m.ID.Name()), Type: ptr(millpond.TypeImage), Location: ptr(m.Location), Tags: tagsOut(m.Tags),
		Properties: &armcompute.ImageProperties{HyperVGeneration: enumOrNil[armcompute.HyperVGenerationTypes](m.HyperV), ProvisioningState: ptr(string(m.State)), StorageProfile: sp, SourceVirtualMachine: subResource(m.SourceVM)}}
}

func (e *Edge) patchImage(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.ImageUpdate
	if err := decode(r, &body); err != nil {
		return err
	}
	at := id(r, millpond.TypeImage, "name")
	if body.Tags != nil {
		if _, err := e.Resources.SetTags(r.Context(), at.String(), "Replace", tagsIn(body.Tags)); err != nil {
			return err
		}
	}
	return e.getImage(w, r)
}

func (e *Edge) listImages(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeImage)
	if err != nil {
		return err
	}
	ms, err := e.Compute.ListImages(r.Context(), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, ms, resourceKey[*millpond.ManagedImage], func(m *millpond.ManagedImage) any { return encodeImage(m) })
}

func (e *Edge) getImage(w http.ResponseWriter, r *azwire.Request) error {
	m, err := e.Compute.Image(r.Context(), id(r, millpond.TypeImage, "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeImage(m))
	}
	return err
}

func (e *Edge) deleteImage(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Compute.DeleteImage(r.Context(), id(r, millpond.TypeImage, "name"))
	return deleted(w, found, err)
}
