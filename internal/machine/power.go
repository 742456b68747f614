package machine

import (
	"context"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Power starts, powers off, deallocates or restarts a machine. The operation is
// nil when there is nothing to wait for.
func (s *Service) Power(ctx context.Context, id millpond.ResourceID, e millpond.VMEvent) (v *millpond.VirtualMachine, op *millpond.Operation, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if v, err = load[millpond.VirtualMachine](s, tx, id); err != nil {
			return err
		}
		was := v.Power
		outcome, err := move(v, e, tx.Now)
		if err != nil {
			return err
		}
		if outcome == millpond.Duplicate && settled(v) {
			return nil
		}
		if outcome == millpond.Duplicate && e == millpond.VMPowerOff && v.Restart {
			// It is on its way down to be started again, which is not wanted any more.
			v.Restart = false
			if err := tx.Put(v); err != nil {
				return err
			}
		}
		if outcome == millpond.Accepted {
			v.Failure, v.FailureCode = "", ""
			v.Restart = e == millpond.VMRestart
			v.Base().State = millpond.StateUpdating
			if e == millpond.VMStart {
				if err := s.powerOn(tx, v, was); err != nil {
					return err
				}
			}
			if err := tx.Put(v); err != nil {
				return err
			}
		}
		o, err := s.Resources.Begin(tx, v.ID, string(e))
		op = &o
		return err
	})
	s.wake.Wake()
	return v, op, err
}

// powerOn prepares a row for the next launch.
func (s *Service) powerOn(tx *sqlite.Tx, v *millpond.VirtualMachine, was millpond.VMState) error {
	v.Generation++
	v.Restart = false
	v.TokenHash = ""
	if was != millpond.VMDeallocated {
		return nil
	}
	return s.eachDisk(v, func(id millpond.ResourceID) error {
		return s.Disks.Event(tx, id, millpond.DiskStart, v.ID)
	})
}

// eachDisk calls fn for the OS disk and the data disks.
func (s *Service) eachDisk(v *millpond.VirtualMachine, fn func(millpond.ResourceID) error) error {
	for _, d := range disksOf(v) {
		id, ok := millpond.ParseResourceID(d.ID)
		if !ok {
			continue
		}
		if err := fn(id); err != nil {
			return err
		}
	}
	return nil
}

// disksOf lists the OS disk and then the data disks.
func disksOf(v *millpond.VirtualMachine) []*millpond.VMDisk {
	out := []*millpond.VMDisk{&v.OSDisk}
	for i := range v.DataDisks {
		out = append(out, &v.DataDisks[i])
	}
	return out
}

// Generalize marks a machine whose guest has been generalized. It never runs
// again.
func (s *Service) Generalize(ctx context.Context, id millpond.ResourceID) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		v, err := load[millpond.VirtualMachine](s, tx, id)
		if err != nil {
			return err
		}
		if v.Generalized {
			return nil
		}
		if v.Specialized {
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "VM '%s' was created from a specialized disk. Snapshot its OS disk and publish it under a definition with --os-state Specialized.", v.ID.Name())
		}
		if _, err := move(v, millpond.VMGeneralize, tx.Now); err != nil {
			return err
		}
		v.Generalized = true
		return tx.Put(v)
	})
}

// Delete begins to delete a machine; nil without one. What happens to its disks
// and cards is what their delete options say.
func (s *Service) Delete(ctx context.Context, id millpond.ResourceID) (op *millpond.Operation, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		v, err := sqlite.Load[millpond.VirtualMachine](tx, id.Key())
		if err == sqlite.ErrNoRow {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := move(v, millpond.VMDelete, tx.Now); err != nil {
			return err
		}
		v.Base().State = millpond.StateDeleting
		v.Restart = false
		if err := tx.Put(v); err != nil {
			return err
		}
		// What was under way has been overtaken.
		if err := tx.EndOperations(v.ID.Key(), millpond.Errorf(millpond.Conflict, "OperationPreempted", "The operation was preempted by the deletion of VM '%s'.", v.ID.Name())); err != nil {
			return err
		}
		o, err := s.Resources.Begin(tx, v.ID, "delete")
		op = &o
		return err
	})
	s.wake.Wake()
	return op, err
}

// Remove deletes a machine for its group; false while it is going.
func (s *Service) Remove(ctx context.Context, id millpond.ResourceID) (bool, error) {
	v, err := s.Get(ctx, id)
	if millpond.KindOf(err) == millpond.NotFound && err != nil {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if v.Power == millpond.VMDeleting {
		s.wake.Wake()
		return false, nil
	}
	op, err := s.Delete(ctx, id)
	return err == nil && op == nil, err
}
