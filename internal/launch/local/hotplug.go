package local

import (
	"context"
	"errors"
	"slices"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/vmrun"
)

// AttachDisk gives a VM a managed disk: at once if it runs, else from its next
// start on. A disk that it has at this LUN already is no error.
func (l *Launcher) AttachDisk(ctx context.Context, node millpond.NodeID, d launch.Disk) error {
	if d.Managed == "" {
		return millpond.Errorf(millpond.Invalid, "InvalidParameter", "Only a managed disk can be attached to a machine.")
	}
	return l.changeDisks(ctx, node, vmrun.Request{Op: vmrun.OpAttach, Disk: d}, func(have []launch.Disk) ([]launch.Disk, bool, error) {
		for _, h := range have {
			switch {
			case h.LUN == d.LUN && h.Managed == d.Managed:
				return have, false, nil
			case h.LUN == d.LUN:
				return nil, false, millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The machine %s has another disk at LUN %d.", node, d.LUN)
			}
		}
		return append(slices.Clone(have), d), true, nil
	})
}

// DetachDisk takes the managed disk at a LUN away. One that is not there is no
// error.
func (l *Launcher) DetachDisk(ctx context.Context, node millpond.NodeID, lun int) error {
	return l.changeDisks(ctx, node, vmrun.Request{Op: vmrun.OpDetach, Disk: launch.Disk{LUN: lun}}, func(have []launch.Disk) ([]launch.Disk, bool, error) {
		left := slices.DeleteFunc(slices.Clone(have), func(h launch.Disk) bool { return h.LUN == lun && h.Managed != "" })
		return left, len(left) < len(have), nil
	})
}

// changeDisks asks the running VM first and writes the configuration when it
// agrees: a VM that cannot have the disk now shall not have it later unasked.
func (l *Launcher) changeDisks(ctx context.Context, node millpond.NodeID, ask vmrun.Request, change func([]launch.Disk) ([]launch.Disk, bool, error)) error {
	unlock, err := l.lock(ctx, node.Key())
	if err != nil {
		return err
	}
	defer unlock()
	v, err := l.known(node)
	if err != nil {
		return err
	}
	want, changed, err := change(v.cfg.Spec.DataDisks)
	if err != nil || !changed {
		return err
	}
	next := v.cfg.Spec
	next.DataDisks = want
	st, err := vmrun.LoadStatus(v.dir)
	if err == nil && st.Phase == launch.Running && v.alive() {
		// Another VM's end must not take the export away before this one uses it.
		v.expect(want)
		defer v.expect(nil)
		if err := l.provide(ctx, next); err != nil {
			return hostError("attach a disk", err)
		}
		if _, err := vmrun.Call(ctx, v.dir, ask); err != nil && !errors.Is(err, vmrun.ErrNoSupervisor) {
			v.expect(nil)
			l.loops.Go(func() { l.keepImages(l.ctx) })
			return hostError("change the disks of a running machine", err)
		}
	}
	v.mu.Lock()
	v.cfg.Spec.DataDisks, v.coming = want, nil
	err = v.cfg.Save(v.dir)
	v.mu.Unlock()
	// Not until the configuration is written does nobody use what was taken away.
	l.keepImages(ctx)
	return hostError("change the disks", err)
}

// expect notes the disks that a VM is about to have.
func (v *vm) expect(disks []launch.Disk) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.coming = disks
}
