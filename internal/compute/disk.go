package compute

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Change is a PUT or PATCH of a disk or snapshot: the wanted noun and the size
// asked for. Members that a PATCH leaves out are empty.
type Change struct {
	Disk   millpond.Disk
	SizeGB int32
	Patch  bool
	// Tags of a PATCH: nil leaves them.
	Tags map[string]string
}

// PutDisk creates or changes a disk or snapshot. op is set while the work goes
// on after the answer.
func (s *Service) PutDisk(ctx context.Context, caller millpond.Caller, c Change) (out *millpond.Disk, op *millpond.Operation, err error) {
	d := &c.Disk
	if (d.Creation.Option == millpond.CreateCopy || d.Creation.Option == millpond.CreateCopyStart) && !c.Patch {
		if err := s.mayRead(ctx, caller, d.Creation.SourceID, "creationData.sourceResourceId", millpond.TypeDisk, millpond.TypeSnapshot); err != nil {
			return nil, nil, err
		}
	}
	if d.Creation.Option == millpond.CreateFromImage && d.Creation.ImageID != "" && d.Creation.PlatformID == "" && !c.Patch {
		if err := s.mayRead(ctx, caller, d.Creation.ImageID, "creationData.galleryImageReference.id", millpond.TypeVersion, millpond.TypeDefinition, millpond.TypeImage); err != nil {
			return nil, nil, err
		}
	}
	if d.Creation.Option == millpond.CreateImport && !c.Patch {
		if d.Creation.SourceURI, err = s.Source(ctx, caller, d.Creation.SourceURI, "creationData.sourceUri"); err != nil {
			return nil, nil, err
		}
	}
	return s.put(ctx, c)
}

// put is PutDisk for a caller whose rights have been checked.
func (s *Service) put(ctx context.Context, c Change) (out *millpond.Disk, op *millpond.Operation, err error) {
	d := &c.Disk
	created := false
	var resized, larger bool
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		old, err := sqlite.Load[millpond.Disk](tx, d.ID.Key())
		if err != nil && !errors.Is(err, sqlite.ErrNoRow) {
			return err
		}
		if c.Patch && old == nil {
			return s.Resources.NotFound(tx, d.ID)
		}
		if !c.Patch {
			id, loc, err := s.Resources.Admit(tx, d.ID, d.Location)
			if err != nil {
				return err
			}
			d.ID, d.Location = id, loc
		}
		if old != nil && old.Base().State != millpond.StateFailed {
			out, err = s.change(tx, old, c)
			// One that is being created gets its size with its bytes.
			resized = err == nil && c.SizeGB > 0 && !out.Snapshot && out.Base().State != millpond.StateCreating
			larger = err == nil && out.Snapshot && c.SizeGB > out.SizeGB()
			return err
		}
		if c.Patch {
			return failedToBeMade(old)
		}
		if d.Creation.Option == millpond.CreateFromImage && d.Creation.ImageID != "" && !isOther(d.Creation.ImageID) {
			// This reads the last commit on another connection, which is as good as
			// reading before this transaction, and knows the location.
			if d.Creation.ImageID, err = s.exactVersion(ctx, d.Creation.ImageID, d.Location); err != nil {
				return err
			}
			if version, ok := millpond.ParseResourceID(d.Creation.ImageID); ok && s.Usable != nil {
				if err := s.Usable(ctx, version, d.SKU); err != nil {
					return err
				}
			}
		}
		created = true
		o, err := s.admitDisk(tx, d, c.SizeGB)
		out, op = d, &o
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if resized {
		if err := s.resize(ctx, out); err != nil {
			return nil, nil, err
		}
	}
	if larger {
		out, err = s.enlarge(ctx, out.ID, int64(c.SizeGB)*gib)
		return out, nil, err
	}
	if !created && out.Base().State != millpond.StateCreating {
		return out, nil, nil
	}
	if _, err := s.settle(ctx, out.ID); err != nil {
		return nil, nil, err
	}
	out, err = s.Disk(ctx, out.ID)
	if err != nil {
		return nil, nil, err
	}
	switch out.Base().State {
	case millpond.StateCreating:
		return out, op, nil
	case millpond.StateFailed:
		if op == nil {
			return nil, nil, failedToBeMade(out)
		}
		return nil, nil, s.outcome(ctx, op)
	}
	return out, nil, nil
}

func failedToBeMade(d *millpond.Disk) error {
	return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "'%s' failed to be created: %s Delete it and create it again.", d.ID.Name(), d.Failure)
}

// outcome is the error of a failed operation.
func (s *Service) outcome(ctx context.Context, op *millpond.Operation) error {
	var o millpond.Operation
	if err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		o, err = tx.Operation(op.ID)
		return err
	}); err != nil {
		return err
	}
	kind := millpond.Invalid
	if o.Code == millpond.AsError(errors.New("")).Code {
		kind = millpond.Internal
	}
	return &millpond.Error{Kind: kind, Code: o.Code, Message: o.Message}
}

// mayRead checks an id that a request links to: its form, its type and the
// caller's right to read it.
func (s *Service) mayRead(ctx context.Context, caller millpond.Caller, id, target string, types ...string) error {
	p, ok := millpond.ParseResourceID(id)
	if !ok || !slices.ContainsFunc(types, p.Is) {
		return invalid(target, "%q is not the id of a resource of type %s.", id, strings.Join(types, " or "))
	}
	if s.Auth == nil {
		return nil
	}
	return millpond.Linked(s.Auth.Authorize(ctx, caller, p.Type()+"/read", p.String()))
}

func (s *Service) exactVersion(ctx context.Context, id, location string) (string, error) {
	p, _ := millpond.ParseResourceID(id)
	if p.Is(millpond.TypeVersion) {
		return id, nil
	}
	if s.Latest == nil {
		return "", invalid("creationData.galleryImageReference.id", "Give the id of an image version.")
	}
	v, err := s.Latest(ctx, p, location)
	return v.String(), err
}

// admitDisk checks the sources of a new disk or snapshot and writes its row.
func (s *Service) admitDisk(tx *sqlite.Tx, d *millpond.Disk, sizeGB int32) (millpond.Operation, error) {
	if err := CheckNew(d, sizeGB); err != nil {
		return millpond.Operation{}, err
	}
	if err := s.privacy(tx, d); err != nil {
		return millpond.Operation{}, err
	}
	d.SizeBytes = int64(sizeGB) * gib
	d.State = millpond.DiskUnattached
	d.UniqueID = uuid.NewString()
	inherit := func(size int64, os, hyperv, unique string) error {
		if d.SizeBytes == 0 {
			d.SizeBytes = size
		}
		if d.SizeBytes < size {
			return invalid("disk.diskSizeGB", "diskSizeGB %d is smaller than the source, which has %d bytes.", sizeGB, size)
		}
		if d.Snapshot && sizeGB == 0 {
			d.SizeBytes = size
		}
		if os != "" {
			d.OSType = os
		}
		if hyperv != "" {
			d.HyperV = hyperv
		}
		d.Creation.SourceUniqueID = unique
		return nil
	}
	switch d.Creation.Option {
	case millpond.CreateUpload:
		d.State = millpond.DiskReadyToUpload
		d.SizeBytes = d.Creation.UploadBytes - footer
	case millpond.CreateCopy, millpond.CreateCopyStart:
		p, _ := millpond.ParseResourceID(d.Creation.SourceID)
		src, err := load[millpond.Disk](s, tx, p)
		if err != nil {
			return millpond.Operation{}, err
		}
		where := d.Location
		if d.Creation.Option == millpond.CreateCopyStart {
			where = ""
			if !src.Incremental {
				return millpond.Operation{}, invalid("creationData.sourceResourceId", "The source '%s' of CopyStart is not an incremental snapshot. Make one: az snapshot create --incremental true", src.ID.Name())
			}
		}
		if err := copyable(src, where); err != nil {
			return millpond.Operation{}, err
		}
		if d.Snapshot && d.Incremental {
			d.Family = family(src)
		}
		d.Creation.SourceID = src.ID.String()
		if err := inherit(src.SizeBytes, src.OSType, src.HyperV, src.UniqueID); err != nil {
			return millpond.Operation{}, err
		}
	case millpond.CreateFromImage:
		if done, err := s.admitOther(tx, d, inherit); done || err != nil {
			if err != nil {
				return millpond.Operation{}, err
			}
			break
		}
		p, _ := millpond.ParseResourceID(d.Creation.ImageID)
		v, err := load[millpond.ImageVersion](s, tx, p)
		if err != nil {
			return millpond.Operation{}, err
		}
		disk, err := versionDisk(v, d.Creation.ImageLUN)
		if err != nil {
			return millpond.Operation{}, err
		}
		def, err := parentDefinition(tx, v)
		if err != nil {
			return millpond.Operation{}, err
		}
		os, hyperv := def.OSType, def.HyperV
		if d.Creation.ImageLUN != nil {
			os, hyperv = "", ""
		}
		if err := inherit(disk.SizeBytes, os, hyperv, ""); err != nil {
			return millpond.Operation{}, err
		}
		if _, err := regionContent(tx, v, d.Location, disk.Content); err != nil {
			return millpond.Operation{}, err
		}
	}
	if !d.Snapshot {
		d.File = d.UniqueID
	}
	d.Base().State = millpond.StateCreating
	if err := tx.Put(d); err != nil {
		return millpond.Operation{}, err
	}
	return s.Resources.Begin(tx, d.ID, "create")
}

// family names the line of incremental snapshots that one of src belongs to.
func family(src *millpond.Disk) string {
	if src.Family != "" {
		return src.Family
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(src.UniqueID)).String()
}

func copyable(src *millpond.Disk, location string) error {
	if src.Base().State != millpond.StateSucceeded {
		return millpond.Errorf(millpond.Conflict, "ResourceNotReady", "The source '%s' is not ready: it is %s.", src.ID.Name(), src.Base().State)
	}
	if _, ok := src.State.Next(millpond.DiskCopy); !ok {
		return refuse(src, millpond.DiskCopy)
	}
	if location != "" && src.Location != location {
		return invalid("location", "The source '%s' is in %s and the copy is to be in %s: a copy stays in its region. Create it in %s, or publish an image version and replicate that.", src.ID.Name(), src.Location, location, src.Location)
	}
	return nil
}

func parentDefinition(tx *sqlite.Tx, v *millpond.ImageVersion) (*millpond.ImageDefinition, error) {
	p, _ := v.ID.Parent()
	return sqlite.Load[millpond.ImageDefinition](tx, p.Key())
}

func versionDisk(v *millpond.ImageVersion, lun *int32) (millpond.VersionDisk, error) {
	if lun == nil {
		return v.OSDisk, nil
	}
	for _, d := range v.DataDisks {
		if d.LUN == *lun {
			return d, nil
		}
	}
	return millpond.VersionDisk{}, invalid("galleryImageReference.lun", "The image version %s has no data disk at LUN %d.", v.ID, *lun)
}

// regionContent finds a store of a region that has a version's content.
func regionContent(tx *sqlite.Tx, v *millpond.ImageVersion, region, content string) (store string, err error) {
	rs, err := tx.Replicas(v.ID.Key())
	if err != nil {
		return "", err
	}
	for _, r := range rs {
		if r.Region == region && r.State == millpond.ReplicaCompleted && content != "" {
			return r.Store, nil
		}
	}
	return "", millpond.Errorf(millpond.NotFound, "GalleryImageNotFound", "The gallery image %s is not available in %s region. Please contact image owner to replicate to this region, or change your requested region.", v.ID, region)
}

// change applies a PUT or PATCH to a row that is there.
func (s *Service) change(tx *sqlite.Tx, old *millpond.Disk, c Change) (*millpond.Disk, error) {
	var creation *millpond.CreationData
	if !c.Patch {
		creation = &c.Disk.Creation
	}
	if err := CheckChange(old, creation, c.SizeGB); err != nil {
		return nil, err
	}
	if c.Patch {
		if c.Tags != nil {
			old.Tags = c.Tags
		}
	} else {
		old.Tags = c.Disk.Tags
	}
	set := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	if c.Disk.SKU != "" && c.Disk.SKU != old.SKU && old.State == millpond.DiskAttached {
		return nil, millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "Cannot change the SKU of disk %s while it is attached to running VM %s. Deallocate the VM first: az vm deallocate --ids %s", old.ID.Name(), old.ManagedBy, old.ManagedBy)
	}
	set(&old.SKU, c.Disk.SKU)
	set(&old.OSType, c.Disk.OSType)
	set(&old.Network, c.Disk.Network)
	set(&old.Public, c.Disk.Public)
	set(&old.AccessID, c.Disk.AccessID)
	if !strings.EqualFold(old.Network, "AllowPrivate") && c.Disk.AccessID == "" {
		old.AccessID = ""
	}
	if err := s.privacy(tx, old); err != nil {
		return nil, err
	}
	old.Promise.Merge(c.Disk.Promise)
	// A snapshot's size is its content's, which is made first.
	if c.SizeGB > old.SizeGB() && !old.Snapshot {
		old.SizeBytes = int64(c.SizeGB) * gib
	}
	return old, tx.Put(old)
}

func (s *Service) resize(ctx context.Context, d *millpond.Disk) error {
	if d.State != millpond.DiskUnattached && d.State != millpond.DiskReserved {
		return nil
	}
	err := s.Disks.Resize(d.File, d.SizeBytes)
	if millpond.KindOf(err) == millpond.Conflict && s.Live != nil {
		if err := s.Live.Release(ctx, d.File); err != nil {
			return err
		}
		return s.Disks.Resize(d.File, d.SizeBytes)
	}
	return err
}

// Disk returns one disk or snapshot.
func (s *Service) Disk(ctx context.Context, id millpond.ResourceID) (d *millpond.Disk, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		d, err = load[millpond.Disk](s, tx, id)
		return err
	})
	return d, err
}

// ListDisks lists disks or snapshots by key.
func (s *Service) ListDisks(ctx context.Context, q sqlite.Query) (out []*millpond.Disk, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[millpond.Disk](tx, q)
		return err
	})
	return out, err
}

// DeleteDisk deletes a disk or snapshot; false if it was not there.
func (s *Service) DeleteDisk(ctx context.Context, id millpond.ResourceID) (bool, error) {
	var d *millpond.Disk
	var uses []sqlite.ContentUse
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) (err error) {
		d, err = sqlite.Load[millpond.Disk](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			d = nil
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case d.Base().State == millpond.StateFailed:
		case d.Base().State == millpond.StateCreating:
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "'%s' is being created. Wait until that has ended and try again.", id.Name())
		default:
			if _, ok := d.State.Next(millpond.DiskDelete); !ok {
				return refuse(d, millpond.DiskDelete)
			}
		}
		if err := busy(tx, d.ID); err != nil {
			return err
		}
		if uses, err = tx.ContentsOf(id.Key()); err != nil {
			return err
		}
		return tx.DeleteResource(id.Key())
	})
	if err != nil || d == nil {
		return false, err
	}
	if d.File != "" {
		if err := s.removeFile(ctx, d.File); err != nil {
			s.Log.Error("disk file not deleted", "disk", d.ID.String(), "err", err)
		}
	}
	s.leftover(s.Keeper.Release(ctx, uses))
	return true, nil
}
