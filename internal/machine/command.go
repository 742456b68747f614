package machine

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

const (
	// keptCommands is how many scripts by action are remembered with their output.
	keptCommands = 8
	// maxScript bounds a script, its arguments and variables: the kernel takes no
	// longer argument.
	maxScript = 96 << 10
)

// CommandID is the id of a script that was run by action, as operations name it.
func CommandID(vm millpond.ResourceID, command string) millpond.ResourceID {
	return vm.Child("runCommands", command)
}

// Invoke runs a script on a machine by action (az vm run-command invoke). One at
// a time, as in Azure.
func (s *Service) Invoke(ctx context.Context, id millpond.ResourceID, c millpond.GuestCommand) (op millpond.Operation, err error) {
	if err := checkScript(c); err != nil {
		return op, err
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		v, err := load[millpond.VirtualMachine](s, tx, id)
		if err != nil {
			return err
		}
		if _, err := move(v, millpond.VMCommand, tx.Now); err != nil {
			return err
		}
		for _, other := range v.Commands {
			if !other.State.Ended() {
				return millpond.Errorf(millpond.Conflict, "Conflict", "Run command extension execution is in progress. Please wait for completion before invoking a run command.")
			}
		}
		c = s.fresh(c, tx.Now)
		v.Commands = append(v.Commands, c)
		v.Commands = v.Commands[max(0, len(v.Commands)-keptCommands):]
		if err := tx.Put(v); err != nil {
			return err
		}
		op, err = s.Resources.Begin(tx, CommandID(v.ID, c.ID), "runCommand")
		return err
	})
	s.tellAll()
	return op, err
}

// fresh makes a command one that waits for its run.
func (s *Service) fresh(c millpond.GuestCommand, now time.Time) millpond.GuestCommand {
	c.ID, c.State, c.Asked = uuid.NewString(), millpond.CommandPending, now
	c.Stdout, c.Stderr, c.Message, c.Exit = "", "", "", 0
	c.Started, c.Ended = time.Time{}, time.Time{}
	if c.Limit <= 0 || c.Limit > s.Config.Script {
		c.Limit = s.Config.Script
	}
	return c
}

func checkScript(c millpond.GuestCommand) error {
	n := len(c.Script)
	for _, a := range c.Args {
		n += len(a)
	}
	for _, e := range c.Env {
		n += len(e.Name) + len(e.Value)
	}
	switch {
	case strings.TrimSpace(c.Script) == "":
		return invalid("script", "Required parameter 'script' is missing (null): give the lines to run with --scripts.")
	case n > maxScript:
		return invalid("script", "The script and its parameters have %d bytes; at most %d are taken. Put the program on the machine with scp, or have a short script fetch it.", n, maxScript)
	case strings.ContainsRune(c.Script, 0):
		return invalid("script", "The script contains a zero byte.")
	}
	return nil
}

// Invocation is a script that was run by action.
func (s *Service) Invocation(ctx context.Context, vm millpond.ResourceID, command string) (millpond.GuestCommand, error) {
	v, err := s.Get(ctx, vm)
	if err != nil {
		return millpond.GuestCommand{}, err
	}
	for _, c := range v.Commands {
		if strings.EqualFold(c.ID, command) {
			return c, nil
		}
	}
	return millpond.GuestCommand{}, millpond.Errorf(millpond.NotFound, "ResourceNotFound", "The output of that script is not kept any more: the last %d are.", keptCommands)
}

// PutRunCommand creates a script as a resource, or runs it again when it is
// another one.
func (s *Service) PutRunCommand(ctx context.Context, want *millpond.VMRunCommand) (out *millpond.VMRunCommand, created bool, op *millpond.Operation, err error) {
	return s.writeRunCommand(ctx, want.ID, func(*millpond.VMRunCommand) (*millpond.VMRunCommand, error) {
		filled(want)
		return want, nil
	})
}

// PatchRunCommand changes a script that is a resource and runs it again.
func (s *Service) PatchRunCommand(ctx context.Context, id millpond.ResourceID, p millpond.VMRunCommandPatch) (out *millpond.VMRunCommand, op *millpond.Operation, err error) {
	out, _, op, err = s.writeRunCommand(ctx, id, func(old *millpond.VMRunCommand) (*millpond.VMRunCommand, error) {
		if old == nil {
			return nil, millpond.Errorf(millpond.NotFound, "ResourceNotFound", "The run command '%s' is not there to be changed. Create it: az vm run-command create", id.Name())
		}
		c := *old
		if p.Tags != nil {
			c.Tags = p.Tags
		}
		if p.Script != nil {
			c.Command.Script = *p.Script
		}
		if p.User != nil {
			c.Command.User = *p.User
		}
		if p.Async != nil {
			c.Async = *p.Async
		}
		if p.Timeout != nil {
			c.Timeout = *p.Timeout
		}
		if p.Parameters != nil {
			c.Parameters = p.Parameters
		}
		if p.Protected != nil {
			c.Protected = p.Protected
		}
		// Rows of earlier releases have their parameters only as arguments.
		if c.Parameters != nil || c.Protected != nil {
			filled(&c)
		}
		c.Command.Limit = c.Timeout
		return &c, nil
	})
	return out, op, err
}

// variable is what a parameter's name must be to be a variable of a shell.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// filled gives a command its parameters.
func filled(c *millpond.VMRunCommand) {
	c.Command.Args, c.Command.Env, c.Command.Limit = nil, nil, c.Timeout
	c.Command = WithParameters(c.Command, slices.Concat(c.Parameters, c.Protected))
}

// WithParameters gives a script parameters both by position and, where the name
// can be one, as variables.
func WithParameters(c millpond.GuestCommand, in []millpond.NameValue) millpond.GuestCommand {
	for _, p := range in {
		c.Args = append(c.Args, p.Value)
		if variable.MatchString(p.Name) {
			c.Env = append(c.Env, p)
		}
	}
	return c
}

// writeRunCommand writes what made makes of the row that is there, nil if there
// is none, and has it run.
func (s *Service) writeRunCommand(ctx context.Context, at millpond.ResourceID, made func(old *millpond.VMRunCommand) (*millpond.VMRunCommand, error)) (out *millpond.VMRunCommand, created bool, op *millpond.Operation, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		vm, _ := at.Parent()
		v, err := load[millpond.VirtualMachine](s, tx, vm)
		if err != nil {
			return err
		}
		if _, err := move(v, millpond.VMCommand, tx.Now); err != nil {
			return err
		}
		id, location, err := s.Resources.Admit(tx, at, v.Location)
		if err != nil {
			return err
		}
		old, err := sqlite.Load[millpond.VMRunCommand](tx, id.Key())
		if err != nil && err != sqlite.ErrNoRow {
			return err
		}
		created = old == nil
		if old != nil && !old.Command.State.Ended() {
			return millpond.Errorf(millpond.Conflict, "Conflict", "The run command '%s' still runs. Wait until it has ended, or delete it.", id.Name())
		}
		want, err := made(old)
		if err != nil {
			return err
		}
		if err := checkScript(want.Command); err != nil {
			return err
		}
		want.ID, want.Location = id, location
		want.Command = s.fresh(want.Command, tx.Now)
		want.Base().State = millpond.StateCreating
		if want.Async {
			want.Base().State = millpond.StateSucceeded
		}
		if err := tx.Put(want); err != nil {
			return err
		}
		out = want
		if want.Async {
			return nil
		}
		o, err := s.Resources.Begin(tx, id, "create")
		op = &o
		return err
	})
	s.tellAll()
	return out, created, op, err
}

// GetRunCommand returns one script that is a resource.
func (s *Service) GetRunCommand(ctx context.Context, id millpond.ResourceID) (c *millpond.VMRunCommand, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		c, err = load[millpond.VMRunCommand](s, tx, id)
		return err
	})
	return c, err
}

// ListRunCommands lists the scripts of a machine that are resources.
func (s *Service) ListRunCommands(ctx context.Context, vm millpond.ResourceID) (out []*millpond.VMRunCommand, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := load[millpond.VirtualMachine](s, tx, vm); err != nil {
			return err
		}
		out, err = sqlite.List[millpond.VMRunCommand](tx, sqlite.Query{Type: millpond.TypeRunCommand, Parent: vm.Key()})
		return err
	})
	return out, err
}

// DeleteRunCommand deletes a script that is a resource; one that runs is killed.
func (s *Service) DeleteRunCommand(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if _, err := tx.Resource(id.Key()); err != nil {
			if err == sqlite.ErrNoRow {
				return nil
			}
			return err
		}
		found = true
		if err := tx.EndOperations(id.Key(), millpond.Errorf(millpond.Conflict, "OperationPreempted", "The run command '%s' was deleted.", id.Name())); err != nil {
			return err
		}
		return tx.DeleteResource(id.Key())
	})
	s.tellAll()
	return found, err
}

// book is a machine's scripts of all three kinds, as rows.
type book struct {
	vm         *millpond.VirtualMachine
	extensions []*millpond.VMExtension
	commands   []*millpond.VMRunCommand
}

func openBook(tx *sqlite.Tx, v *millpond.VirtualMachine) (book, error) {
	b := book{vm: v}
	var err error
	if b.extensions, err = sqlite.List[millpond.VMExtension](tx, sqlite.Query{Type: millpond.TypeExtension, Parent: v.ID.Key()}); err != nil {
		return b, err
	}
	b.commands, err = sqlite.List[millpond.VMRunCommand](tx, sqlite.Query{Type: millpond.TypeRunCommand, Parent: v.ID.Key()})
	return b, err
}

// wanted lists copies of the commands that have not ended.
func (b book) wanted() []millpond.GuestCommand {
	var out []millpond.GuestCommand
	add := func(c millpond.GuestCommand) {
		if c.ID != "" && !c.State.Ended() {
			out = append(out, c)
		}
	}
	for _, c := range b.vm.Commands {
		add(c)
	}
	for _, e := range b.extensions {
		add(e.Command)
	}
	for _, c := range b.commands {
		add(c.Command)
	}
	return out
}

// edit changes the command with an id and writes the row that it is in; when it
// has ended, so has what waits for it.
func (b book) edit(tx *sqlite.Tx, id string, fn func(c *millpond.GuestCommand)) error {
	for i := range b.vm.Commands {
		c := &b.vm.Commands[i]
		if c.ID != id {
			continue
		}
		fn(c)
		if err := tx.Put(b.vm); err != nil || !c.State.Ended() {
			return err
		}
		return tx.EndOperations(CommandID(b.vm.ID, c.ID).Key(), notRun(*c))
	}
	for _, e := range b.extensions {
		if e.Command.ID != id {
			continue
		}
		fn(&e.Command)
		return b.extensionEdited(tx, e)
	}
	for _, c := range b.commands {
		if c.Command.ID != id {
			continue
		}
		fn(&c.Command)
		if c.Command.State.Ended() {
			c.Base().State = millpond.StateSucceeded
			if notRun(c.Command) != nil {
				c.Base().State = millpond.StateFailed
			}
		}
		if err := tx.Put(c); err != nil || !c.Command.State.Ended() {
			return err
		}
		return tx.EndOperations(c.ID.Key(), notRun(c.Command))
	}
	return nil
}

// notRun is the failure of an operation whose script could not be run to its
// end. One that ran and failed is a success of the operation, as in Azure; its
// output tells.
func notRun(c millpond.GuestCommand) *millpond.Error {
	switch {
	case c.State == millpond.CommandTimedOut:
		return millpond.Errorf(millpond.Conflict, "VMExtensionProvisioningTimeout", "The script ran longer than %s and was ended.", c.Limit)
	case c.State.Ended() && c.Started.IsZero() && c.Message != "":
		return millpond.Errorf(millpond.Conflict, "VMAgentStatusCommunicationError", "%s", c.Message)
	case c.State == millpond.CommandCanceled:
		return millpond.Errorf(millpond.Conflict, "OperationPreempted", "%s", c.Message)
	}
	return nil
}

// endCommands gives up what runs or waits on a machine that is down.
func (s *Service) endCommands(tx *sqlite.Tx, v *millpond.VirtualMachine, why string) error {
	b, err := openBook(tx, v)
	if err != nil {
		return err
	}
	for _, c := range b.wanted() {
		if c.State != millpond.CommandRunning {
			continue
		}
		if err := b.edit(tx, c.ID, func(c *millpond.GuestCommand) {
			c.State, c.Message, c.Ended = millpond.CommandCanceled, why, tx.Now
		}); err != nil {
			return err
		}
	}
	return nil
}

// expire gives up scripts whose machine has an agent that does not speak.
func (s *Service) expire(ctx context.Context, vms []*millpond.VirtualMachine, now time.Time) {
	for _, v := range vms {
		if s.Live(v) {
			continue
		}
		err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
			v, err := sqlite.Load[millpond.VirtualMachine](tx, v.ID.Key())
			if err != nil {
				return nil
			}
			b, err := openBook(tx, v)
			if err != nil {
				return err
			}
			for _, c := range b.wanted() {
				if c.State != millpond.CommandPending || now.Before(c.Asked.Add(s.Config.AgentWait)) {
					continue
				}
				why := fmt.Sprintf("VM '%s' has not reported status for VM agent or extensions: its agent was not heard within %s. Verify that the VM has a running agent; images of millpond image build have one, and cloud-init installs it on others.", v.ID.Name(), s.Config.AgentWait)
				if err := b.edit(tx, c.ID, func(c *millpond.GuestCommand) {
					c.State, c.Message, c.Ended = millpond.CommandFailed, why, tx.Now
				}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			s.Log.Error("scripts were not given up", "vm", v.ID.String(), "err", err)
		}
	}
}
