package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

// change applies a PUT or PATCH to a machine that is there: tags, size, data
// disks, cards and delete options. A change of the size of a running machine
// restarts it, as in Azure; a change of disks or cards of one needs a launcher
// that can do it, or the machine to be stopped.
func (s *Service) change(ctx context.Context, c Change) (out *millpond.VirtualMachine, op *millpond.Operation, err error) {
	want := &c.VM
	if c.HasDisks {
		done, err := s.plugs(ctx, want.ID)
		if err != nil {
			return nil, nil, err
		}
		defer done()
	}
	made, err := s.newDisks(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	var added, gone []millpond.VMDisk
	apply := func(tx *sqlite.Tx) error {
		added, gone, op = nil, nil, nil
		v, err := load[millpond.VirtualMachine](s, tx, want.ID)
		if err != nil {
			return err
		}
		out = v
		if err := unchanged(v, want); err != nil {
			return err
		}
		if want.Tags != nil || !c.Patch {
			v.Tags = want.Tags
		}
		takeOptions(v, want)
		restart, changed := false, false
		if want.Size != "" && !strings.EqualFold(want.Size, v.Size) {
			size, ok := s.Sizes(want.Size)
			if !ok {
				return invalid("vmSize", "The value %s provided for the VM size is not valid. List the sizes with: az vm list-vm-resize-options --ids %s -o table", want.Size, v.ID)
			}
			if v.HyperV == "V2" && !size.Gen2 || v.HyperV == "V1" && !size.Gen1 {
				return millpond.Errorf(millpond.Invalid, "BadRequest", "The selected VM size '%s' cannot boot Hypervisor Generation '%s'.", size.Name, strings.TrimPrefix(v.HyperV, "V"))
			}
			v.Size = size.Name
			changed, restart = true, v.Power == millpond.VMRunning
		}
		if c.HasDisks {
			if added, gone, err = s.changeDisks(tx, v, want.DataDisks); err != nil {
				return err
			}
			changed = changed || len(added)+len(gone) > 0
		}
		if c.HasCards && s.Networks != nil && !sameCards(v.Cards, want.Cards) {
			if v.Power == millpond.VMRunning {
				return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "Network interfaces of VM '%s' cannot be changed while it runs. Deallocate it first: az vm deallocate --ids %s", v.ID.Name(), v.ID)
			}
			var cards []millpond.ResourceID
			for _, k := range want.Cards {
				id, _ := millpond.ParseResourceID(k.ID)
				cards = append(cards, id)
			}
			if err := s.Networks.Claim(tx, v.ID, v.Location, cards); err != nil {
				return err
			}
			v.Cards, changed = want.Cards, true
		}
		if changed {
			if _, err := move(v, millpond.VMChange, tx.Now); err != nil {
				return err
			}
			size, _ := s.Sizes(v.Size)
			if err := checkDisks(v.DataDisks, size); err != nil {
				return err
			}
		}
		if !restart {
			return tx.Put(v)
		}
		if _, err := move(v, millpond.VMRestart, tx.Now); err != nil {
			return err
		}
		v.Restart, v.Base().State = true, millpond.StateUpdating
		if err := tx.Put(v); err != nil {
			return err
		}
		o, err := s.Resources.Begin(tx, v.ID, "update")
		op = &o
		return err
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if err := apply(tx); err != nil || len(gone) == 0 || out.Power != millpond.VMRunning {
			return err
		}
		return errTried
	})
	if errors.Is(err, errTried) {
		if err = s.unplug(ctx, out, gone); err == nil {
			err = s.DB.Update(ctx, apply)
		}
	}
	s.wake.Wake()
	if err != nil {
		s.unmake(ctx, made)
		return nil, nil, err
	}
	if out.Power == millpond.VMRunning {
		err = s.plug(ctx, out, added)
	}
	return out, op, err
}

// errTried undoes a change of rows that was only tried.
var errTried = errors.New("this was a try")

// unchanged refuses a change of what a machine keeps for life. Members that a
// request leaves out count as unchanged.
func unchanged(v, want *millpond.VirtualMachine) error {
	fixed := func(property string) error {
		e := millpond.Errorf(millpond.Conflict, "PropertyChangeNotAllowed", "Changing property '%s' is not allowed. Delete VM '%s' and create it again; its disks can be kept.", property, v.ID.Name())
		e.Target = property
		return e
	}
	switch {
	case want.Location != "" && want.Location != v.Location:
		return millpond.Errorf(millpond.Conflict, "InvalidResourceLocation", "The resource '%s' already exists in location '%s'. A resource with the same name cannot be created in location '%s'.", v.ID.Name(), v.Location, want.Location)
	case want.OSDisk.ID != "" && !same(want.OSDisk.ID, v.OSDisk.ID):
		return fixed("osDisk.managedDisk.id")
	case want.Image.ResourceID != "" && !same(want.Image.ResourceID, v.Image.ResourceID),
		want.Image.SKU != "" && !strings.EqualFold(want.Image.Publisher+want.Image.Offer+want.Image.SKU, v.Image.Publisher+v.Image.Offer+v.Image.SKU):
		return fixed("imageReference")
	case want.Profile != nil && v.Profile == nil:
		return fixed("osProfile")
	case want.Profile != nil && want.Profile.ComputerName != "" && want.Profile.ComputerName != v.Profile.ComputerName:
		return fixed("osProfile.computerName")
	case want.Profile != nil && want.Profile.Admin != "" && want.Profile.Admin != v.Profile.Admin:
		return fixed("osProfile.adminUsername")
	}
	return nil
}

// takeOptions copies what may change at any time: delete options, caching, and what is
// only shown.
func takeOptions(v, want *millpond.VirtualMachine) {
	if want.Diagnostics != nil {
		v.Diagnostics = want.Diagnostics
	}
	if v.Profile != nil && want.Profile != nil {
		v.Profile.PatchMode = cmp.Or(want.Profile.PatchMode, v.Profile.PatchMode)
		v.Profile.Assessment = cmp.Or(want.Profile.Assessment, v.Profile.Assessment)
	}
	if want.OSDisk.ID != "" {
		v.OSDisk.Delete = want.OSDisk.Delete
		if want.OSDisk.Caching != "" {
			v.OSDisk.Caching = want.OSDisk.Caching
		}
	}
	for i := range v.DataDisks {
		for _, w := range want.DataDisks {
			if same(w.ID, v.DataDisks[i].ID) {
				v.DataDisks[i].Delete = w.Delete
				if w.Caching != "" {
					v.DataDisks[i].Caching = w.Caching
				}
			}
		}
	}
	for i := range v.Cards {
		for _, w := range want.Cards {
			if same(w.ID, v.Cards[i].ID) {
				v.Cards[i].Delete = w.Delete
			}
		}
	}
}

func sameCards(a, b []millpond.VMCard) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !same(a[i].ID, b[i].ID) {
			return false
		}
	}
	return true
}

// newDisks makes the empty disks that a change asks for, before it is applied:
// a disk takes longer than a transaction may.
func (s *Service) newDisks(ctx context.Context, c Change) ([]millpond.ResourceID, error) {
	if !c.HasDisks {
		return nil, nil
	}
	v, err := s.Get(ctx, c.VM.ID)
	if err != nil {
		return nil, err
	}
	var made []millpond.ResourceID
	for i := range c.VM.DataDisks {
		d := &c.VM.DataDisks[i]
		if d.Option != millpond.CreateEmpty {
			continue
		}
		old := atLUN(v.DataDisks, d.LUN)
		switch {
		case d.ID == "" && old != nil:
			d.ID = old.ID
			continue
		case d.ID == "":
			d.ID = diskID(v.ID, fmt.Sprintf("%s_disk%d_%s", v.ID.Name(), d.LUN+2, strings.ReplaceAll(uuid.NewString(), "-", "")))
		case old != nil && same(old.ID, d.ID):
			continue
		default:
			// A name in the machine's group; one that is there already is attached.
			if there, err := s.hasDisk(ctx, v, d.ID); err != nil || there {
				if err != nil {
					s.unmake(ctx, made)
					return nil, err
				}
				continue
			}
		}
		if d.SizeGB == 0 {
			s.unmake(ctx, made)
			return nil, invalid("dataDisk.diskSizeGB", "Required parameter 'dataDisk.diskSizeGB' is missing (null) for LUN %d. Give it with --size-gb.", d.LUN)
		}
		if err := s.makeDisk(ctx, v, d, false); err != nil {
			s.unmake(ctx, made)
			return nil, err
		}
		id, _ := millpond.ParseResourceID(d.ID)
		made = append(made, id)
	}
	return made, nil
}

// hasDisk says whether a disk is there, or is none that a machine may make: it
// makes them in its own group only.
func (s *Service) hasDisk(ctx context.Context, v *millpond.VirtualMachine, text string) (bool, error) {
	id, ok := millpond.ParseResourceID(text)
	if !ok || !same(diskID(v.ID, id.Name()), text) {
		return true, nil // attaching it tells what is wrong
	}
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.Resource(id.Key())
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return false, nil
	}
	return true, err
}

// unmake deletes disks of a change that was refused.
func (s *Service) unmake(ctx context.Context, made []millpond.ResourceID) {
	for _, id := range made {
		if _, err := s.Disks.Delete(ctx, id); err != nil {
			s.Log.Warn("a disk was left behind", "disk", id.String(), "err", err)
		}
	}
}

func atLUN(list []millpond.VMDisk, lun int32) *millpond.VMDisk {
	for i := range list {
		if list[i].LUN == lun {
			return &list[i]
		}
	}
	return nil
}

// changeDisks makes a machine's data disks those that are wanted.
func (s *Service) changeDisks(tx *sqlite.Tx, v *millpond.VirtualMachine, want []millpond.VMDisk) (added, gone []millpond.VMDisk, err error) {
	var kept []millpond.VMDisk
	for _, have := range v.DataDisks {
		w := atLUN(want, have.LUN)
		if w != nil && (w.ID == "" || same(w.ID, have.ID)) {
			kept = append(kept, have)
			continue
		}
		gone = append(gone, have)
	}
	for _, w := range want {
		if atLUN(kept, w.LUN) != nil {
			continue
		}
		if w.ID == "" {
			return nil, nil, invalid("dataDisk.managedDisk.id", "The data disk at LUN %d has no id.", w.LUN)
		}
		added = append(added, w)
	}
	if len(added)+len(gone) == 0 {
		return nil, nil, nil
	}
	if launch.AttacherOf(s.Launcher) == nil && v.Power == millpond.VMRunning {
		return nil, nil, millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "This launcher cannot change the disks of a running machine. Deallocate it first: az vm deallocate --ids %s", v.ID)
	}
	for _, d := range gone {
		id, _ := millpond.ParseResourceID(d.ID)
		if err := s.Disks.Event(tx, id, millpond.DiskDetach, v.ID); err != nil {
			return nil, nil, err
		}
	}
	for i := range added {
		id, _ := millpond.ParseResourceID(added[i].ID)
		if added[i].SKU, err = s.attachable(tx, id, v); err != nil {
			return nil, nil, err
		}
		if err := s.Disks.Event(tx, id, millpond.DiskAttach, v.ID); err != nil {
			return nil, nil, err
		}
		if v.Power == millpond.VMDeallocated {
			if err := s.Disks.Event(tx, id, millpond.DiskDeallocate, v.ID); err != nil {
				return nil, nil, err
			}
		}
	}
	v.DataDisks = append(kept, added...)
	return added, gone, nil
}

// unplug takes disks of a running machine away, before the rows say so: as long as
// the guest has a disk, nobody else may.
func (s *Service) unplug(ctx context.Context, v *millpond.VirtualMachine, gone []millpond.VMDisk) error {
	a := launch.AttacherOf(s.Launcher)
	for _, d := range gone {
		if err := a.DetachDisk(ctx, v.Node(), int(d.LUN)); err != nil {
			return fmt.Errorf("detach LUN %d of %s: %w", d.LUN, v.ID.Name(), err)
		}
	}
	return nil
}

// plugs waits until nobody else changes the data disks of a machine, and keeps others
// from it until done is called.
func (s *Service) plugs(ctx context.Context, id millpond.ResourceID) (done func(), err error) {
	mine := make(chan struct{})
	for {
		s.mu.Lock()
		other := s.plugging[id.Key()]
		if other == nil {
			s.plugging[id.Key()] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.plugging, id.Key())
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// luns are the managed data disks that a machine shall have.
func (s *Service) luns(tx *sqlite.Tx, v *millpond.VirtualMachine) (map[int]string, error) {
	out := map[int]string{}
	for _, d := range v.DataDisks {
		id, ok := millpond.ParseResourceID(d.ID)
		if !ok {
			continue
		}
		disk, err := load[millpond.Disk](s, tx, id)
		if err != nil {
			return nil, err
		}
		out[int(d.LUN)] = disk.File
	}
	return out, nil
}

// settleDisks gives a running machine the data disks that its row says, and takes
// away what it does not: a server ended, or a launcher failed, between the two.
func (s *Service) settleDisks(ctx context.Context, v *millpond.VirtualMachine) error {
	a := launch.AttacherOf(s.Launcher)
	if a == nil {
		return nil
	}
	done, err := s.plugs(ctx, v.ID)
	if err != nil {
		return err
	}
	defer done()
	list, err := s.Launcher.List(ctx)
	if err != nil {
		return err
	}
	var have map[int]string
	for _, m := range list {
		if m.Node == v.Node() && m.Phase == launch.Running {
			have = m.Managed
		}
	}
	// Whoever changed the disks meanwhile has written it down.
	var want map[int]string
	sizes := map[int]int64{}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		now, err := load[millpond.VirtualMachine](s, tx, v.ID)
		if err != nil || now.Power != millpond.VMRunning {
			return err
		}
		for _, d := range now.DataDisks {
			id, _ := millpond.ParseResourceID(d.ID)
			disk, err := load[millpond.Disk](s, tx, id)
			if err != nil {
				return err
			}
			sizes[int(d.LUN)] = disk.SizeBytes
		}
		want, err = s.luns(tx, now)
		return err
	})
	if err != nil || have == nil || want == nil {
		return err
	}
	var errs []error
	for lun, file := range have {
		if want[lun] != file {
			s.Log.Warn("a running machine has a disk that its row does not say; it is taken away", "vm", v.ID.String(), "lun", lun)
			errs = append(errs, a.DetachDisk(ctx, v.Node(), lun))
		}
	}
	for lun, file := range want {
		if have[lun] != file {
			s.Log.Warn("a running machine lacks a disk; it is attached", "vm", v.ID.String(), "lun", lun)
			errs = append(errs, a.AttachDisk(ctx, v.Node(), launch.Disk{LUN: lun, Managed: file, SizeBytes: sizes[lun]}))
		}
	}
	return errors.Join(errs...)
}

// plug gives a running machine its new disks. One that cannot be given is taken
// out of the row again.
func (s *Service) plug(ctx context.Context, v *millpond.VirtualMachine, added []millpond.VMDisk) error {
	a := launch.AttacherOf(s.Launcher)
	if a == nil {
		return nil
	}
	for _, d := range added {
		id, _ := millpond.ParseResourceID(d.ID)
		var disk *millpond.Disk
		err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
			disk, err = load[millpond.Disk](s, tx, id)
			return err
		})
		if err == nil {
			err = a.AttachDisk(ctx, v.Node(), launch.Disk{LUN: int(d.LUN), Managed: disk.File, SizeBytes: disk.SizeBytes})
		}
		if err == nil {
			continue
		}
		undo := s.edit(ctx, v.ID, millpond.VMRunning, func(tx *sqlite.Tx, now *millpond.VirtualMachine) error {
			now.DataDisks = slices.DeleteFunc(now.DataDisks, func(o millpond.VMDisk) bool { return same(o.ID, d.ID) })
			if err := s.Disks.Event(tx, id, millpond.DiskDetach, now.ID); err != nil {
				return err
			}
			return tx.Put(now)
		})
		return errors.Join(fmt.Errorf("attach LUN %d of %s: %w", d.LUN, v.ID.Name(), err), undo)
	}
	return nil
}
