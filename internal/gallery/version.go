package gallery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// DiskSource is where one disk of a version comes from.
type DiskSource struct {
	LUN     int32
	ID      string // snapshot or disk
	URI     string // VHD
	Caching string
}

// VersionSpec is a PUT or PATCH of a version. Absent members are nil or empty;
// on a version that is there they mean "unchanged".
type VersionSpec struct {
	ID       millpond.ResourceID
	Location string
	Tags     map[string]string
	// SourceID is a managed image, another version or a virtual machine.
	SourceID          string
	OSDisk            *DiskSource
	DataDisks         []DiskSource
	Targets           []millpond.TargetRegion
	ReplicaCount      *int32
	StorageType       string
	ReplicationMode   string
	ExcludeFromLatest *bool
	EndOfLife         *time.Time
	AllowDeletion     *bool
	BlockDeletion     *bool
	Patch             bool
}

func (sp *VersionSpec) hasSource() bool {
	return sp.SourceID != "" || sp.OSDisk != nil || len(sp.DataDisks) > 0
}

// Published is a version with its replicas.
type Published struct {
	*millpond.ImageVersion
	Replicas []millpond.Replica
}

// PutVersion publishes a version or changes one. It returns at once; op is the
// replication to wait for, nil if there is nothing to do.
func (s *Service) PutVersion(ctx context.Context, caller millpond.Caller, sp VersionSpec) (out Published, created bool, op *millpond.Operation, err error) {
	if _, ok := millpond.ParseVersion(sp.ID.Name()); !ok {
		return out, false, nil, invalid("galleryImageVersionName", "The version name %q is not valid: three whole numbers up to 2147483647 joined by dots, such as 1.0.0.", sp.ID.Name())
	}
	if err := s.maySource(ctx, caller, &sp); err != nil {
		return out, false, nil, err
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		old, err := sqlite.Load[millpond.ImageVersion](tx, sp.ID.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			if sp.Patch {
				return s.Resources.NotFound(tx, sp.ID)
			}
			old = nil
		} else if err != nil {
			return err
		}
		if !sp.Patch {
			if sp.ID, sp.Location, err = s.Resources.Admit(tx, sp.ID, sp.Location); err != nil {
				return err
			}
		}
		var v *millpond.ImageVersion
		if old == nil {
			v, err = s.newVersion(tx, &sp)
			created = true
		} else {
			v, err = s.changeVersion(old, &sp)
		}
		if err != nil {
			return err
		}
		verb := "update"
		if created {
			verb = "create"
		}
		have, err := tx.Replicas(v.ID.Key())
		if err != nil {
			return err
		}
		work, drop, err := PlanReplicas(v, have, s.storeName)
		if err != nil {
			return err
		}
		if created || len(work)+len(drop) > 0 || v.State != millpond.StateSucceeded {
			if v.State = millpond.StateUpdating; created {
				v.State = millpond.StateCreating
			}
			o, err := s.Resources.Begin(tx, v.ID, verb)
			if err != nil {
				return err
			}
			op = &o
		}
		if err := tx.Put(v); err != nil {
			return err
		}
		if created {
			// The source's contents are the version's own from now on, whatever
			// becomes of the source.
			for _, d := range v.Disks() {
				if d.Content == "" {
					continue
				}
				if err := tx.UseContent(v.ID.Key(), d.Store, d.Content); err != nil {
					return err
				}
			}
		}
		// The rows say what is under way from this commit on: a replica that
		// failed before is being tried again.
		for _, r := range work {
			if err := tx.PutReplica(r); err != nil {
				return err
			}
		}
		if have, err = tx.Replicas(v.ID.Key()); err != nil {
			return err
		}
		out = Published{v, have}
		return nil
	})
	if op != nil {
		s.forget(sp.ID)
	}
	s.wake.Wake()
	return out, created, op, err
}

func (s *Service) storeName(region string, ordinal int32) (string, error) {
	st, err := s.Keeper.Replica(region, int(ordinal))
	if err != nil {
		return "", err
	}
	return st.Name(), nil
}

// maySource checks that the caller may read what a version is made from: read
// for images and versions, write for disks and snapshots, as Azure asks.
func (s *Service) maySource(ctx context.Context, caller millpond.Caller, sp *VersionSpec) error {
	check := func(id, target string, right string, types ...string) error {
		p, ok := millpond.ParseResourceID(id)
		if !ok || !slices.ContainsFunc(types, p.Is) {
			return invalid(target, "%q is not the id of a resource of type %s.", id, strings.Join(types, " or "))
		}
		if s.Auth == nil {
			return nil
		}
		return millpond.Linked(s.Auth.Authorize(ctx, caller, p.Type()+right, p.String()))
	}
	if sp.SourceID != "" {
		if err := check(sp.SourceID, "storageProfile.source.id", "/read", millpond.TypeImage, millpond.TypeVersion, millpond.TypeVM); err != nil {
			return err
		}
	}
	source := func(d *DiskSource) (err error) {
		d.URI, err = s.Freezer.Source(ctx, caller, d.URI, "storageProfile")
		return err
	}
	if sp.OSDisk != nil {
		if err := source(sp.OSDisk); err != nil {
			return err
		}
	}
	for i := range sp.DataDisks {
		if err := source(&sp.DataDisks[i]); err != nil {
			return err
		}
	}
	disks := sp.DataDisks
	if sp.OSDisk != nil {
		disks = append([]DiskSource{*sp.OSDisk}, disks...)
	}
	for _, d := range disks {
		if d.ID == "" || d.URI != "" {
			continue
		}
		if err := check(d.ID, "storageProfile", "/write", millpond.TypeSnapshot, millpond.TypeDisk); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) newVersion(tx *sqlite.Tx, sp *VersionSpec) (*millpond.ImageVersion, error) {
	parent, _ := sp.ID.Parent()
	def, err := sqlite.Load[millpond.ImageDefinition](tx, parent.Key())
	if err != nil {
		return nil, err
	}
	v := &millpond.ImageVersion{ReplicaCount: 1, StorageType: "Standard_LRS", ReplicationMode: "Full", Published: tx.Now}
	v.ID, v.Location, v.Tags = sp.ID, sp.Location, sp.Tags
	if sp.StorageType != "" {
		v.StorageType = sp.StorageType
	}
	if sp.ReplicationMode != "" {
		v.ReplicationMode = sp.ReplicationMode
	}
	if sp.ReplicaCount != nil {
		v.ReplicaCount = *sp.ReplicaCount
	}
	if err := s.settings(v, sp); err != nil {
		return nil, err
	}
	switch {
	case sp.SourceID != "" && (sp.OSDisk != nil || len(sp.DataDisks) > 0):
		return nil, invalid("storageProfile", "Give either storageProfile.source or storageProfile.osDiskImage with dataDiskImages, not both.")
	case sp.SourceID != "":
		err = s.fromImage(tx, v, def, sp.SourceID)
	case sp.OSDisk != nil:
		err = s.fromDisks(tx, v, def, sp)
	case len(sp.DataDisks) > 0:
		err = invalid("storageProfile.osDiskImage", "Data disks need an OS disk beside them: add --os-snapshot.")
	default:
		err = invalid("storageProfile.source", "The version has no source. Give one: --managed-image, --virtual-machine, --os-snapshot or --os-vhd-uri.")
	}
	if err != nil {
		return nil, err
	}
	for _, d := range v.Disks() {
		if d.SizeBytes > maxSource && v.ReplicationMode != "Shallow" {
			return nil, invalid("storageProfile", "A source disk has %d bytes; the limit is 2 TiB.", d.SizeBytes)
		}
	}
	return v, nil
}

// settings applies what may change over a version's life.
func (s *Service) settings(v *millpond.ImageVersion, sp *VersionSpec) error {
	if v.ReplicaCount < 1 || v.ReplicaCount > maxReplicas {
		return invalid("publishingProfile.replicaCount", "The replica count %d is out of range: 1 to %d.", v.ReplicaCount, maxReplicas)
	}
	if sp.ExcludeFromLatest != nil {
		v.ExcludeFromLatest = *sp.ExcludeFromLatest
	}
	if sp.EndOfLife != nil {
		v.EndOfLife = *sp.EndOfLife
	}
	if sp.AllowDeletion != nil {
		v.AllowDeletion = sp.AllowDeletion
	}
	if sp.BlockDeletion != nil {
		v.BlockDeletion = *sp.BlockDeletion
	}
	targets := sp.Targets
	if targets == nil && v.Targets != nil {
		return nil
	}
	t, err := Targets(targets, v.ReplicaCount, v.StorageType, v.Location, func(name string) error {
		_, err := s.Resources.Region(name)
		return err
	})
	if err == nil {
		err = mayLeave(v, t)
	}
	if err != nil {
		return err
	}
	v.Targets = t
	return checkShallow(v)
}

func (s *Service) changeVersion(v *millpond.ImageVersion, sp *VersionSpec) (*millpond.ImageVersion, error) {
	if v.State == millpond.StateDeleting {
		return nil, millpond.Errorf(millpond.Conflict, "Conflict", "The version %s is being deleted.", v.ID.Name())
	}
	if sp.hasSource() {
		if err := sameSource(v, sp); err != nil {
			return nil, err
		}
	}
	if sp.StorageType != "" && sp.StorageType != v.StorageType {
		return nil, fixed("publishingProfile.storageAccountType", v.ID.Name())
	}
	if sp.ReplicationMode != "" && sp.ReplicationMode != v.ReplicationMode {
		return nil, fixed("publishingProfile.replicationMode", v.ID.Name())
	}
	if sp.ReplicaCount != nil {
		v.ReplicaCount = *sp.ReplicaCount
	}
	if sp.Tags != nil || !sp.Patch {
		v.Tags = sp.Tags
	}
	return v, s.settings(v, sp)
}

// sameSource refuses a change of the source. Members that are absent are no
// change: clients send back only part of what they read.
func sameSource(v *millpond.ImageVersion, sp *VersionSpec) error {
	if sp.SourceID != "" && !strings.EqualFold(sp.SourceID, v.SourceID) {
		return fixed("galleryImageVersion.properties.storageProfile.source", v.ID.Name())
	}
	if sp.OSDisk != nil && sp.OSDisk.ID != "" && !strings.EqualFold(sp.OSDisk.ID, v.OSDisk.SourceID) && sp.OSDisk.URI == "" {
		return fixed("galleryImageVersion.properties.storageProfile.osDiskImage", v.ID.Name())
	}
	for _, d := range sp.DataDisks {
		found := false
		for _, o := range v.DataDisks {
			found = found || o.LUN == d.LUN && (d.ID == "" || strings.EqualFold(d.ID, o.SourceID))
		}
		if !found {
			return fixed("galleryImageVersion.properties.storageProfile.dataDiskImages", v.ID.Name())
		}
	}
	return nil
}

// fits checks a source against the definition.
func fits(def *millpond.ImageDefinition, what, osType, osState, hyperV string) error {
	for _, p := range []struct{ name, want, have string }{{"osType", def.OSType, osType}, {"osState", def.OSState, osState}, {"hyperVGeneration", def.HyperV, hyperV}} {
		if p.have != "" && !strings.EqualFold(p.want, p.have) {
			return invalid("galleryImageVersion.properties.storageProfile.source", "The source %s has %s %s, but the image definition '%s' says %s. Use a definition with %s %s.", what, p.name, p.have, def.ID.Name(), p.want, p.name, p.have)
		}
	}
	return nil
}

func ready(what millpond.ResourceID, state millpond.ProvisioningState, location, wanted string) error {
	if state != millpond.StateSucceeded {
		return millpond.Errorf(millpond.Conflict, "ResourceNotReady", "The source %s is not ready: it is %s.", what, state)
	}
	if location != wanted {
		return invalid("location", "The source %s is in %s, but the version's location is %s. Create the version in %s and add %s as a target region.", what, location, wanted, location, wanted)
	}
	return nil
}

func (s *Service) fromImage(tx *sqlite.Tx, v *millpond.ImageVersion, def *millpond.ImageDefinition, source string) error {
	p, _ := millpond.ParseResourceID(source)
	if p.Is(millpond.TypeVM) {
		return s.fromMachine(tx, v, def, p)
	}
	if p.Is(millpond.TypeVersion) {
		src, err := load[millpond.ImageVersion](s, tx, p)
		if err != nil {
			return err
		}
		if err := ready(src.ID, src.State, v.Location, v.Location); err != nil {
			return err
		}
		dp, _ := p.Parent()
		sdef, err := load[millpond.ImageDefinition](s, tx, dp)
		if err != nil {
			return err
		}
		if err := fits(def, src.ID.String(), sdef.OSType, sdef.OSState, sdef.HyperV); err != nil {
			return err
		}
		rs, err := tx.Replicas(src.ID.Key())
		if err != nil {
			return err
		}
		ready := Ready(rs, v.Location)
		if len(ready) == 0 {
			return invalid("location", "The source version %s has no replica in %s.", src.ID, v.Location)
		}
		v.SourceID, v.OSDisk, v.DataDisks = src.ID.String(), src.OSDisk, append([]millpond.VersionDisk(nil), src.DataDisks...)
		for _, d := range v.Disks() {
			d.Store, d.SourceID, d.SourceURI = ready[0].Store, "", ""
		}
		return nil
	}
	m, err := load[millpond.ManagedImage](s, tx, p)
	if err != nil {
		return err
	}
	if err := ready(m.ID, m.State, m.Location, v.Location); err != nil {
		return err
	}
	if err := fits(def, m.ID.String(), m.OSType, m.OSState, m.HyperV); err != nil {
		return err
	}
	disk := func(d millpond.ImageDisk) millpond.VersionDisk {
		return millpond.VersionDisk{LUN: d.LUN, Caching: d.Caching, SizeBytes: d.SizeBytes, Content: d.Content, Store: d.Store}
	}
	v.SourceID, v.OSDisk = m.ID.String(), disk(m.OSDisk)
	for _, d := range m.DataDisks {
		v.DataDisks = append(v.DataDisks, disk(d))
	}
	return nil
}

func (s *Service) fromDisks(tx *sqlite.Tx, v *millpond.ImageVersion, def *millpond.ImageDefinition, sp *VersionSpec) error {
	luns, ids := map[int32]bool{}, map[string]bool{}
	take := func(d DiskSource, os bool) (millpond.VersionDisk, error) {
		out := millpond.VersionDisk{LUN: d.LUN, Caching: d.Caching}
		if d.URI != "" {
			// az 2.45 gives the storage account in id beside the uri.
			out.SourceURI = d.URI
			return out, nil
		}
		p, ok := millpond.ParseResourceID(d.ID)
		if !ok {
			return out, invalid("storageProfile", "A disk of the version has neither an id nor a uri as its source.")
		}
		if ids[p.Key()] {
			return out, invalid("storageProfile", "The source %s is used for two disks of the version.", p)
		}
		ids[p.Key()] = true
		src, err := load[millpond.Disk](s, tx, p)
		if err != nil {
			return out, err
		}
		if err := ready(src.ID, src.Base().State, src.Location, v.Location); err != nil {
			return out, err
		}
		if _, ok := src.State.Next(millpond.DiskCopy); !ok {
			return out, millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The source %s is in state %s and cannot be copied. Finish its upload with: az disk revoke-access --ids %s", src.ID, src.State, src.ID)
		}
		if os {
			if err := fits(def, src.ID.String(), src.OSType, "", src.HyperV); err != nil {
				return out, err
			}
		}
		out.SourceID, out.SizeBytes, out.Content, out.Store = src.ID.String(), src.SizeBytes, src.Content, src.Store
		return out, nil
	}
	var err error
	if v.OSDisk, err = take(*sp.OSDisk, true); err != nil {
		return err
	}
	for i, d := range sp.DataDisks {
		if luns[d.LUN] || d.LUN < 0 || d.LUN > 63 {
			return invalid(fmt.Sprintf("storageProfile.dataDiskImages[%d].lun", i), "The LUN %d is used twice or out of range: each data disk needs its own from 0 to 63.", d.LUN)
		}
		luns[d.LUN] = true
		vd, err := take(d, false)
		if err != nil {
			return err
		}
		v.DataDisks = append(v.DataDisks, vd)
	}
	return nil
}

// Version returns one version with its replicas.
func (s *Service) Version(ctx context.Context, id millpond.ResourceID) (out Published, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if out.ImageVersion, err = load[millpond.ImageVersion](s, tx, id); err != nil {
			return err
		}
		out.Replicas, err = tx.Replicas(id.Key())
		return err
	})
	return out, err
}

// Versions lists the versions of a definition by key.
func (s *Service) Versions(ctx context.Context, definition millpond.ResourceID, after string, limit int) (out []*millpond.ImageVersion, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := load[millpond.ImageDefinition](s, tx, definition); err != nil {
			return err
		}
		out, err = sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion, Parent: definition.Key(), After: after, Limit: limit})
		return err
	})
	return out, err
}

// Latest resolves a definition to its latest version in a region.
func (s *Service) Latest(ctx context.Context, definition millpond.ResourceID, region string) (millpond.ResourceID, error) {
	var v *millpond.ImageVersion
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if _, err := load[millpond.ImageDefinition](s, tx, definition); err != nil {
			return err
		}
		v, err = latest(tx, definition, region)
		return err
	})
	if err != nil {
		return millpond.ResourceID{}, err
	}
	if v == nil {
		return millpond.ResourceID{}, millpond.Errorf(millpond.NotFound, "GalleryImageNotFound", "The image definition %s has no version that is replicated to %s and not excluded from latest.", definition, region)
	}
	return v.ID, nil
}

func latest(tx *sqlite.Tx, definition millpond.ResourceID, region string) (*millpond.ImageVersion, error) {
	vs, err := sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion, Parent: definition.Key()})
	if err != nil {
		return nil, err
	}
	var failure error
	v := LatestOf(vs, region, func(v *millpond.ImageVersion) bool {
		rs, err := tx.Replicas(v.ID.Key())
		if err != nil {
			failure = err
		}
		return len(Ready(rs, region)) > 0
	})
	return v, failure
}

// DeleteVersion deletes a version and those of its contents that nothing else
// needs; false if it was not there.
func (s *Service) DeleteVersion(ctx context.Context, id millpond.ResourceID) (bool, error) {
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		v, err := sqlite.Load[millpond.ImageVersion](tx, id.Key())
		if err != nil {
			return err
		}
		if err := deletable(v, tx.Now); err != nil {
			return err
		}
		v.State = millpond.StateDeleting
		return tx.Put(v)
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.remove(ctx, id)
}

// remove ends the deletion of a version. The loop calls it again after a crash.
func (s *Service) remove(ctx context.Context, id millpond.ResourceID) error {
	s.stop(id)
	var uses []sqlite.ContentUse
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		// Somebody else may have ended the deletion, and the version may have been
		// published anew since.
		r, err := tx.Resource(id.Key())
		if errors.Is(err, sqlite.ErrNoRow) || err == nil && r.State != millpond.StateDeleting {
			return nil
		}
		if err != nil {
			return err
		}
		if uses, err = tx.ContentsOf(id.Key()); err != nil {
			return err
		}
		if err := tx.EndOperations(id.Key(), &millpond.Error{Code: "OperationPreempted", Message: "The version was deleted."}); err != nil {
			return err
		}
		return tx.DeleteResource(id.Key())
	})
	if err != nil {
		return err
	}
	s.leftover(s.Keeper.Release(ctx, uses))
	return nil
}
