package compute

import (
	"cmp"
	"context"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// This file is what virtual machines need of disks.

// Base is a built base image: a raw file of this host.
type Base struct {
	File   string
	Size   int64
	HyperV string // V1 or V2; empty: it boots as either
}

// Make creates a disk for a machine whose caller's rights have been checked, or
// returns the one that is there; it may be Creating still. Beside what PutDisk
// takes, the image may be a managed image or, behind millpond.BasePrefix, a base
// image.
func (s *Service) Make(ctx context.Context, d millpond.Disk, sizeGB int32) (*millpond.Disk, error) {
	out, op, err := s.put(ctx, Change{Disk: d, SizeGB: sizeGB})
	if err == nil && op != nil {
		return out, nil
	}
	return out, err
}

// Event moves a disk's state for the machine that has it, inside a verb of the
// machine. Repeated for the same machine it changes nothing.
func (s *Service) Event(tx *sqlite.Tx, id millpond.ResourceID, e millpond.DiskEvent, machine millpond.ResourceID) error {
	d, err := load[millpond.Disk](s, tx, id)
	if err != nil {
		return err
	}
	mine := strings.EqualFold(d.ManagedBy, machine.String())
	switch {
	case e == millpond.DiskAttach && mine, e != millpond.DiskAttach && !mine:
		return nil
	case e == millpond.DiskDeallocate && d.State == millpond.DiskReserved, e == millpond.DiskStart && d.State == millpond.DiskAttached:
		return nil
	}
	next, ok := d.State.Next(e)
	if !ok {
		return refuse(d, e)
	}
	d.State = next
	switch e {
	case millpond.DiskAttach:
		d.ManagedBy = machine.String()
	case millpond.DiskDetach:
		d.ManagedBy = ""
	}
	return tx.Put(d)
}

// isOther says whether an image is none of a gallery.
func isOther(image string) bool {
	id, ok := millpond.ParseResourceID(image)
	return strings.HasPrefix(image, millpond.BasePrefix) || ok && id.Is(millpond.TypeImage)
}

// admitOther checks a disk that is made from a base image or a managed image;
// false for one that is not.
func (s *Service) admitOther(tx *sqlite.Tx, d *millpond.Disk, inherit func(size int64, os, hyperv, unique string) error) (bool, error) {
	image := d.Creation.ImageID
	if !isOther(image) {
		return false, nil
	}
	if name, ok := strings.CutPrefix(image, millpond.BasePrefix); ok {
		b, err := s.base(name)
		if err != nil {
			return true, err
		}
		return true, inherit(b.Size, "Linux", cmp.Or(b.HyperV, d.HyperV, "V1"), "")
	}
	m, disk, err := s.imageDisk(tx, d)
	if err != nil {
		return true, err
	}
	os, hyperv := m.OSType, m.HyperV
	if d.Creation.ImageLUN != nil {
		os, hyperv = "", ""
	}
	return true, inherit(disk.SizeBytes, os, hyperv, "")
}

func (s *Service) base(name string) (Base, error) {
	if s.Base == nil {
		return Base{}, millpond.Errorf(millpond.NotFound, "PlatformImageNotFound", "There are no base images here.")
	}
	return s.Base(context.Background(), name)
}

func (s *Service) imageDisk(tx *sqlite.Tx, d *millpond.Disk) (*millpond.ManagedImage, millpond.ImageDisk, error) {
	id, _ := millpond.ParseResourceID(d.Creation.ImageID)
	m, err := load[millpond.ManagedImage](s, tx, id)
	if err != nil {
		return nil, millpond.ImageDisk{}, err
	}
	if m.State != millpond.StateSucceeded || m.Location != d.Location {
		return nil, millpond.ImageDisk{}, millpond.Errorf(millpond.Conflict, "ResourceNotReady", "The image '%s' is %s in %s; the disk is to be in %s.", id.Name(), m.State, m.Location, d.Location)
	}
	if d.Creation.ImageLUN == nil {
		return m, m.OSDisk, nil
	}
	for _, o := range m.DataDisks {
		if o.LUN == *d.Creation.ImageLUN {
			return m, o, nil
		}
	}
	return nil, millpond.ImageDisk{}, invalid("dataDisk.lun", "The image %s has no data disk at LUN %d.", id, *d.Creation.ImageLUN)
}

// otherSource is where the bytes of such a disk are: in a store, or in a file of
// this host.
func (s *Service) otherSource(tx *sqlite.Tx, d *millpond.Disk) (store, content, file string, err error) {
	if name, ok := strings.CutPrefix(d.Creation.ImageID, millpond.BasePrefix); ok {
		b, err := s.base(name)
		return "", "", b.File, err
	}
	_, disk, err := s.imageDisk(tx, d)
	return disk.Store, disk.Content, "", err
}
