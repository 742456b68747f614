package machine

import (
	"context"
	"errors"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/extension"
	"millpond.dev/millpond/internal/sqlite"
)

// PutExtension installs an extension on a machine, or runs one again whose
// settings or forceUpdateTag are others; package extension has those that run.
func (s *Service) PutExtension(ctx context.Context, want *millpond.VMExtension, protected []byte) (out *millpond.VMExtension, created bool, op *millpond.Operation, err error) {
	script, always, err := s.extensionScript(want, protected)
	if err != nil {
		return nil, false, nil, err
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		vm, _ := want.ID.Parent()
		v, err := load[millpond.VirtualMachine](s, tx, vm)
		if err != nil {
			return err
		}
		if err := moveForExtension(v, tx.Now); err != nil {
			return err
		}
		id, location, err := s.Resources.Admit(tx, want.ID, v.Location)
		if err != nil {
			return err
		}
		old, err := sqlite.Load[millpond.VMExtension](tx, id.Key())
		if err != nil && err != sqlite.ErrNoRow {
			return err
		}
		b, err := openBook(tx, v)
		if err != nil {
			return err
		}
		for _, e := range b.extensions {
			if !strings.EqualFold(e.ID.Name(), id.Name()) && strings.EqualFold(e.Publisher+"."+e.Type, want.Publisher+"."+want.Type) {
				return millpond.Errorf(millpond.Invalid, "BadRequest", "Multiple VMExtensions per handler not supported for OS type 'Linux'. VMExtension '%s' with handler '%s.%s' already added or specified in input. Delete it first: az vm extension delete --ids %s", e.ID.Name(), e.Publisher, e.Type, e.ID)
			}
		}
		created = old == nil
		if old != nil && !old.Command.State.Ended() {
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The extension '%s' is still being installed. Wait until that has ended.", id.Name())
		}
		want.ID, want.Location, out = id, location, want
		if old != nil && !always && old.Base().State == millpond.StateSucceeded && old.ForceUpdateTag == want.ForceUpdateTag && old.Command.Script == script.Script {
			// The same again installs nothing again.
			want.Command = old.Command
			want.Base().State, want.Base().Created = old.Base().State, old.Base().Created
			return tx.Put(want)
		}
		want.Command = s.fresh(script, tx.Now)
		want.Base().State = millpond.StateCreating
		if err := tx.Put(want); err != nil {
			return err
		}
		o, err := s.Resources.Begin(tx, id, "create")
		op = &o
		return err
	})
	s.tellAll()
	return out, created, op, err
}

// moveForExtension says whether a machine can take an extension or lose one now,
// which is its guest's work.
func moveForExtension(v *millpond.VirtualMachine, now time.Time) error {
	switch v.Power {
	case millpond.VMStopping, millpond.VMStopped, millpond.VMDeallocating, millpond.VMDeallocated:
		if !v.Generalized {
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "Cannot modify extensions in the VM when the VM is not running: VM '%s' is %s. Start it first: az vm start --ids %s", v.ID.Name(), v.Power, v.ID)
		}
	}
	_, err := moveAs(v, millpond.VMCommand, "extension", now)
	return err
}

// extensionScript checks an extension and makes the script that installs it;
// always says that it runs again though it is the same.
func (s *Service) extensionScript(e *millpond.VMExtension, protected []byte) (g millpond.GuestCommand, always bool, err error) {
	p, err := extension.Make(extension.Asked{Publisher: e.Publisher, Type: e.Type, Version: e.Version, Settings: e.Settings, Protected: protected})
	if problem := (*extension.Problem)(nil); errors.As(err, &problem) {
		if problem.Property == "" {
			return g, false, millpond.Errorf(millpond.Unsupported, "NotSupported", "%s az vm extension set --publisher Microsoft.Azure.Extensions --name CustomScript --settings '{\"commandToExecute\": \"…\"}'", problem.Reason)
		}
		return g, false, invalid(problem.Property, "%s", problem.Reason)
	}
	g = millpond.GuestCommand{Script: p.Script, Env: p.Env}
	return g, p.Always, checkScript(g)
}

// extensionEdited writes an extension whose command has changed; one that was
// removed goes, and what waits for it ends.
func (b book) extensionEdited(tx *sqlite.Tx, e *millpond.VMExtension) error {
	c := e.Command
	if !c.State.Ended() {
		return tx.Put(e)
	}
	failure := notRun(c)
	if failure == nil && c.State != millpond.CommandSucceeded {
		failure = millpond.Errorf(millpond.Conflict, "VMExtensionProvisioningError", "VM has reported a failure when processing extension '%s' (publisher '%s' and type '%s'). Error message: 'Enable failed: failed to execute command: command terminated with exit status=%d\n[stdout]\n%s\n[stderr]\n%s'.",
			e.ID.Name(), e.Publisher, e.Type, c.Exit, c.Stdout, c.Stderr)
	}
	if e.Removing && failure == nil {
		if err := tx.DeleteResource(e.ID.Key()); err != nil {
			return err
		}
		return tx.EndOperations(e.ID.Key(), nil)
	}
	e.Removing = false
	e.Base().State = millpond.StateSucceeded
	if failure != nil {
		e.Base().State = millpond.StateFailed
	}
	// The environment may hold what was protected.
	e.Command.Env = e.Command.Env[:min(1, len(e.Command.Env))]
	if err := tx.Put(e); err != nil {
		return err
	}
	return tx.EndOperations(e.ID.Key(), failure)
}

// GetExtension returns one extension.
func (s *Service) GetExtension(ctx context.Context, id millpond.ResourceID) (e *millpond.VMExtension, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		e, err = load[millpond.VMExtension](s, tx, id)
		return err
	})
	return e, err
}

// ListExtensions lists a machine's extensions.
func (s *Service) ListExtensions(ctx context.Context, vm millpond.ResourceID) (out []*millpond.VMExtension, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := load[millpond.VirtualMachine](s, tx, vm); err != nil {
			return err
		}
		out, err = sqlite.List[millpond.VMExtension](tx, sqlite.Query{Type: millpond.TypeExtension, Parent: vm.Key()})
		return err
	})
	return out, err
}

// DeleteExtension takes an extension off a machine, which must run for it; nil
// and false without one.
func (s *Service) DeleteExtension(ctx context.Context, id millpond.ResourceID) (found bool, op *millpond.Operation, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		e, err := sqlite.Load[millpond.VMExtension](tx, id.Key())
		if err == sqlite.ErrNoRow {
			return nil
		}
		if err != nil {
			return err
		}
		vm, _ := id.Parent()
		v, err := load[millpond.VirtualMachine](s, tx, vm)
		if err != nil {
			return err
		}
		if err := moveForExtension(v, tx.Now); err != nil {
			return err
		}
		if !e.Command.State.Ended() {
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The extension '%s' is still being installed. Wait until that has ended.", id.Name())
		}
		found, e.Removing = true, true
		e.Base().State = millpond.StateDeleting
		e.Command = s.fresh(millpond.GuestCommand{Script: extension.RemoveScript, Env: []millpond.NameValue{{Name: "MILLPOND_HANDLER", Value: extension.Handler(e.Publisher, e.Type, e.Version)}}}, tx.Now)
		if err := tx.Put(e); err != nil {
			return err
		}
		o, err := s.Resources.Begin(tx, id, "delete")
		op = &o
		return err
	})
	s.tellAll()
	return found, op, err
}
