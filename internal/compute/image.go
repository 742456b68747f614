package compute

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// PutImage creates a managed image, or changes the tags of one. op is set while
// the work goes on after the answer.
func (s *Service) PutImage(ctx context.Context, caller millpond.Caller, m *millpond.ManagedImage) (out *millpond.ManagedImage, created bool, op *millpond.Operation, err error) {
	for _, d := range imageDisks(m) {
		for _, src := range []struct{ id, typ string }{{d.SnapshotID, millpond.TypeSnapshot}, {d.DiskID, millpond.TypeDisk}} {
			if src.id == "" {
				continue
			}
			if err := s.mayRead(ctx, caller, src.id, "storageProfile", src.typ); err != nil {
				return nil, false, nil, err
			}
		}
	}
	for _, d := range imageDisks(m) {
		if d.BlobURI, err = s.Source(ctx, caller, d.BlobURI, "storageProfile.blobUri"); err != nil {
			return nil, false, nil, err
		}
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		id, loc, err := s.Resources.Admit(tx, m.ID, m.Location)
		if err != nil {
			return err
		}
		m.ID, m.Location = id, loc
		old, err := sqlite.Load[millpond.ManagedImage](tx, id.Key())
		if err == nil && old.State != millpond.StateFailed {
			if !sameSources(old, m) {
				return millpond.Errorf(millpond.Conflict, "PropertyChangeNotAllowed", "Changing property 'storageProfile' of image '%s' is not allowed. Delete the image first, or choose another name.", id.Name())
			}
			old.Tags = m.Tags
			out = old
			return tx.Put(old)
		}
		if err != nil && !errors.Is(err, sqlite.ErrNoRow) {
			return err
		}
		if err := CheckImage(m); err != nil {
			return err
		}
		for _, d := range imageDisks(m) {
			if err := s.admitImageDisk(tx, m, d); err != nil {
				return err
			}
		}
		m.State = millpond.StateCreating
		if err := tx.Put(m); err != nil {
			return err
		}
		o, err := s.Resources.Begin(tx, m.ID, "create")
		out, created, op = m, true, &o
		return err
	})
	if err != nil || !created {
		return out, false, nil, err
	}
	if _, err := s.settle(ctx, out.ID); err != nil {
		return nil, false, nil, err
	}
	if out, err = s.Image(ctx, out.ID); err != nil {
		return nil, false, nil, err
	}
	switch out.State {
	case millpond.StateCreating:
		return out, true, op, nil
	case millpond.StateFailed:
		return nil, false, nil, s.outcome(ctx, op)
	}
	return out, true, nil, nil
}

// sameSources says whether a PUT over an image leaves its disks as they are. A
// PUT that names no OS disk, as one of tags does, asks for no change.
func sameSources(old, m *millpond.ManagedImage) bool {
	source := func(d *millpond.ImageDisk) string {
		return strings.ToLower(d.SnapshotID+d.DiskID) + ShownURI(d.BlobURI)
	}
	if source(&m.OSDisk) == "" {
		return true
	}
	was, is := imageDisks(old), imageDisks(m)
	if len(was) != len(is) {
		return false
	}
	for i := range was {
		if was[i].LUN != is[i].LUN || source(was[i]) != source(is[i]) {
			return false
		}
	}
	return true
}

// imageDisks lists the OS disk and then the data disks.
func imageDisks(m *millpond.ManagedImage) []*millpond.ImageDisk {
	out := []*millpond.ImageDisk{&m.OSDisk}
	for i := range m.DataDisks {
		out = append(out, &m.DataDisks[i])
	}
	return out
}

// CheckImage is the pure part of the validation of a new managed image.
func CheckImage(m *millpond.ManagedImage) error {
	if err := CheckName(m.ID.Name()); err != nil {
		return err
	}
	if m.OSType == "" {
		return invalid("osDisk.osType", "Required parameter 'osDisk.osType' is missing (null). Give Linux or Windows; az: --os-type.")
	}
	if m.OSState == "" {
		return invalid("osDisk.osState", "Required parameter 'osDisk.osState' is missing (null). Give Generalized.")
	}
	seen := map[int32]bool{}
	for i, d := range imageDisks(m) {
		where := "osDisk"
		if i > 0 {
			where = fmt.Sprintf("dataDisks[%d]", i-1)
			if seen[d.LUN] {
				return invalid(where+".lun", "The LUN %d is used by two data disks. Give each its own.", d.LUN)
			}
			if d.LUN < 0 || d.LUN > 63 {
				return invalid(where+".lun", "The LUN %d is out of range: 0 to 63.", d.LUN)
			}
			seen[d.LUN] = true
		}
		sources := 0
		for _, s := range []string{d.SnapshotID, d.DiskID, d.BlobURI} {
			if s != "" {
				sources++
			}
		}
		if sources != 1 {
			return invalid(where, "%s must have exactly one of snapshot, managedDisk and blobUri.", where)
		}
	}
	return nil
}

func (s *Service) admitImageDisk(tx *sqlite.Tx, m *millpond.ManagedImage, d *millpond.ImageDisk) error {
	src := d.SnapshotID + d.DiskID
	if src == "" {
		return nil
	}
	p, _ := millpond.ParseResourceID(src)
	disk, err := load[millpond.Disk](s, tx, p)
	if err != nil {
		return err
	}
	if err := copyable(disk, m.Location); err != nil {
		return err
	}
	d.SizeBytes = disk.SizeBytes
	if d == &m.OSDisk {
		if disk.OSType != "" && disk.OSType != m.OSType {
			return invalid("osDisk.osType", "The image is to be %s, but '%s' is a disk of %s.", m.OSType, disk.ID.Name(), disk.OSType)
		}
		if m.HyperV == "" {
			m.HyperV = disk.HyperV
		}
	}
	return nil
}

// fillImage captures the sources of an image's disks and ends its creation.
func (s *Service) fillImage(ctx context.Context, m *millpond.ManagedImage) error {
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	for i, d := range imageDisks(m) {
		var c content
		var err error
		if d.BlobURI != "" {
			c, err = s.ingestURL(ctx, hold, d.BlobURI, fmt.Sprintf("%simage-%s-%d", scratchPrefix, uuid.NewString(), i), m.Location)
		} else {
			p, _ := millpond.ParseResourceID(d.SnapshotID + d.DiskID)
			c, err = s.capture(ctx, hold, p, m.Location, nil)
		}
		if err != nil {
			return err
		}
		d.Content, d.Store, d.SizeBytes = c.id, c.store, c.size
	}
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := sqlite.Load[millpond.ManagedImage](tx, m.ID.Key())
		if err != nil {
			return err
		}
		now.OSDisk, now.DataDisks, now.State, now.Failure = m.OSDisk, m.DataDisks, millpond.StateSucceeded, ""
		if now.HyperV == "" {
			now.HyperV = "V1"
		}
		for _, d := range imageDisks(now) {
			if err := tx.UseContent(now.ID.Key(), d.Store, d.Content); err != nil {
				return err
			}
		}
		if err := tx.Put(now); err != nil {
			return err
		}
		return tx.EndOperations(now.ID.Key(), nil)
	})
}

// Image returns one managed image.
func (s *Service) Image(ctx context.Context, id millpond.ResourceID) (m *millpond.ManagedImage, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		m, err = load[millpond.ManagedImage](s, tx, id)
		return err
	})
	return m, err
}

// ListImages lists managed images by key.
func (s *Service) ListImages(ctx context.Context, q sqlite.Query) (out []*millpond.ManagedImage, err error) {
	q.Type = millpond.TypeImage
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[millpond.ManagedImage](tx, q)
		return err
	})
	return out, err
}

// DeleteImage deletes a managed image; false if it was not there. Versions that
// were made from it have contents of their own and stay.
func (s *Service) DeleteImage(ctx context.Context, id millpond.ResourceID) (bool, error) {
	var uses []sqlite.ContentUse
	found := false
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		m, err := sqlite.Load[millpond.ManagedImage](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.State == millpond.StateCreating {
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "'%s' is being created. Wait until that has ended and try again.", id.Name())
		}
		found = true
		if uses, err = tx.ContentsOf(id.Key()); err != nil {
			return err
		}
		return tx.DeleteResource(id.Key())
	})
	if err != nil || !found {
		return found, err
	}
	s.leftover(s.Keeper.Release(ctx, uses))
	return true, nil
}
