package compute

import (
	"regexp"
	"strings"

	millpond "millpond.dev/millpond"
)

const (
	gib = int64(1) << 30
	// maxDiskGB is the largest disk: 32 TiB less one GiB.
	maxDiskGB = 32767
	// minUpload and maxUpload bound uploadSizeBytes, footer included.
	minUpload = 20<<20 + 512
	maxUpload = 32<<40 + 512
	footer    = 512
)

var resourceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?$`)

func invalid(target, format string, args ...any) *millpond.Error {
	e := millpond.Errorf(millpond.Invalid, "InvalidParameter", format, args...)
	e.Target = target
	return e
}

// CheckName applies the rule for the names of disks, snapshots and images.
func CheckName(name string) error {
	if !resourceName.MatchString(name) {
		return invalid("name", "The name %q is not valid: 1 to 80 letters, digits, '_', '-' or '.', beginning with a letter or digit and ending with one or '_'.", name)
	}
	return nil
}

// CheckNew is the pure part of the validation of a new disk or snapshot.
// sizeGB is the size asked for, 0 if none.
func CheckNew(d *millpond.Disk, sizeGB int32) error {
	if err := CheckName(d.ID.Name()); err != nil {
		return err
	}
	if sizeGB < 0 || sizeGB > maxDiskGB {
		return invalid("disk.diskSizeGB", "The value '%d' of diskSizeGB is out of range: 1 to %d.", sizeGB, maxDiskGB)
	}
	c := d.Creation
	switch c.Option {
	case millpond.CreateEmpty:
		if sizeGB == 0 {
			return invalid("disk.diskSizeGB", "Required parameter 'disk.diskSizeGB' is missing (null): an empty disk needs a size. Add --size-gb.")
		}
		if d.Incremental {
			return invalid("snapshot.incremental", "An incremental snapshot is one of a disk: make it with createOption Copy. Add --source.")
		}
	case millpond.CreateCopy:
		if c.SourceID == "" {
			return invalid("creationData.sourceResourceId", "Required parameter 'creationData.sourceResourceId' is missing (null): Copy needs the id of a disk or snapshot.")
		}
	case millpond.CreateCopyStart:
		if !d.Snapshot || !d.Incremental {
			return invalid("creationData.createOption", "CopyStart makes an incremental snapshot of an incremental snapshot in another region. Add --incremental true; in one region use Copy.")
		}
		if c.SourceID == "" {
			return invalid("creationData.sourceResourceId", "Required parameter 'creationData.sourceResourceId' is missing (null): CopyStart needs the id of a snapshot.")
		}
	case millpond.CreateImport:
		if c.SourceURI == "" {
			return invalid("creationData.sourceUri", "Required parameter 'creationData.sourceUri' is missing (null): Import needs the URL of a fixed VHD.")
		}
	case millpond.CreateUpload:
		if d.Snapshot {
			return invalid("snapshot.creationData.createOption", "A snapshot is made by createOption Copy or Import. Upload to a disk, then snapshot the disk.")
		}
		if sizeGB != 0 {
			return invalid("disk.diskSizeGB", "diskSizeGB is not allowed with createOption Upload: the size follows from uploadSizeBytes.")
		}
		if c.UploadBytes < minUpload || c.UploadBytes > maxUpload {
			return invalid("creationData.uploadSizeBytes", "The value '%d' of uploadSizeBytes is out of range: %d (20 MiB + 512) to %d (32 TiB + 512). It counts the VHD's footer of 512 bytes.", c.UploadBytes, int64(minUpload), int64(maxUpload))
		}
		if (c.UploadBytes-footer)%(1<<20) != 0 {
			return invalid("creationData.uploadSizeBytes", "The value '%d' of uploadSizeBytes is not a whole number of MiB plus the footer of 512 bytes. Resize the image to a whole number of MiB first.", c.UploadBytes)
		}
	case millpond.CreateFromImage:
		if c.ImageID == "" {
			return invalid("creationData.galleryImageReference", "FromImage needs creationData.galleryImageReference.id, or imageReference.id for a Marketplace or managed image.")
		}
		if d.Snapshot {
			return invalid("snapshot.creationData.createOption", "A snapshot is made by createOption Copy or Import, not FromImage.")
		}
	case "":
		return invalid("creationData.createOption", "Required parameter 'creationData.createOption' is missing (null). Give one of Empty, Copy, Import, Upload, FromImage.")
	default:
		return millpond.Errorf(millpond.Unsupported, "OperationNotAllowed", "createOption %q is not supported here. Use one of Empty, Copy, Import, Upload, FromImage.", c.Option)
	}
	return nil
}

// CheckChange is the pure part of the validation of a PUT or PATCH of something
// that is there.
func CheckChange(old *millpond.Disk, creation *millpond.CreationData, sizeGB int32) error {
	if creation != nil && creation.Option != "" {
		same := creation.Option == old.Creation.Option &&
			strings.EqualFold(creation.SourceID, old.Creation.SourceID) &&
			(creation.SourceURI == "" || ShownURI(creation.SourceURI) == ShownURI(old.Creation.SourceURI)) &&
			(creation.ImageID == "" || sameImage(creation.ImageID, old.Creation.ImageID)) &&
			(creation.UploadBytes == 0 || creation.UploadBytes == old.Creation.UploadBytes)
		if !same {
			return millpond.Errorf(millpond.Conflict, "PropertyChangeNotAllowed", "Changing property 'creationData' is not allowed. Delete '%s' first, or choose another name.", old.ID.Name())
		}
	}
	if sizeGB != 0 && sizeGB < old.SizeGB() {
		return millpond.Errorf(millpond.Invalid, "OperationNotAllowed", "The size of '%s' may grow but not shrink: it is %d GB, and %d were asked for.", old.ID.Name(), old.SizeGB(), sizeGB)
	}
	if sizeGB > old.SizeGB() && old.Base().State == millpond.StateCreating {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "'%s' is being created. Wait until that has ended and resize it then.", old.ID.Name())
	}
	if sizeGB > old.SizeGB() && old.State == millpond.DiskAttached {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "Cannot resize disk %s while it is attached to running VM %s. Deallocate the VM first: az vm deallocate --ids %s", old.ID.Name(), old.ManagedBy, old.ManagedBy)
	}
	if sizeGB > old.SizeGB() && old.State != millpond.DiskUnattached && old.State != millpond.DiskReserved {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "'%s' cannot be resized in state %s; a disk can that is Unattached or Reserved.", old.ID.Name(), old.State)
	}
	return nil
}

// sameImage says whether a reference to an image, asked for again, can mean the
// version that a disk was made from: a definition means any version of it.
func sameImage(asked, version string) bool {
	a, v := strings.ToLower(strings.Trim(asked, "/")), strings.ToLower(strings.Trim(version, "/"))
	return a == v || strings.HasPrefix(v, a+"/versions/")
}

// refuse words a change of state that the table does not allow.
func refuse(d *millpond.Disk, e millpond.DiskEvent) error {
	if e == millpond.DiskDelete && d.ManagedBy != "" {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "Disk %s is attached to VM %s. Detach it first: az vm disk detach -n %s --ids %s; an OS disk goes with its VM.", d.ID.Name(), d.ManagedBy, d.ID.Name(), d.ManagedBy)
	}
	hint := "Wait until it is Unattached."
	switch d.State {
	case millpond.DiskActiveSAS:
		hint = "Revoke the access first: az disk revoke-access --ids " + d.ID.String()
		if d.Snapshot {
			hint = "Revoke the access first: az snapshot revoke-access --ids " + d.ID.String()
		}
	case millpond.DiskActiveUpload:
		hint = "Finish the upload with: az disk revoke-access --ids " + d.ID.String()
	case millpond.DiskReadyToUpload:
		hint = "It waits for an upload: az disk grant-access --access-level Write --duration-in-seconds 86400 --ids " + d.ID.String()
	case millpond.DiskUnattached:
		if e == millpond.DiskGrantWrite {
			hint = "Write access is given to disks created with --upload-type Upload only."
		}
	}
	return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "Cannot %s: '%s' is in state %s. %s", e, d.ID.Name(), d.State, hint)
}

// ShownURI is a source URI without its query, which may hold a signature.
func ShownURI(uri string) string {
	u, _, _ := strings.Cut(uri, "?")
	return u
}
