package machine

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// CustomScript is the configuration of the custom script extension; the
// protected part is laid over the public one.
type CustomScript struct {
	CommandToExecute string   `json:"commandToExecute"`
	Script           string   `json:"script"`
	FileURIs         []string `json:"fileUris"`
	// Timestamp has no meaning but to be another one.
	Timestamp json.Number `json:"timestamp"`
}

// PutExtension installs an extension on a machine, or runs one again whose
// settings or forceUpdateTag are others. The custom script for Linux is the one
// that there is.
func (s *Service) PutExtension(ctx context.Context, want *millpond.VMExtension, protected []byte) (out *millpond.VMExtension, created bool, op *millpond.Operation, err error) {
	script, err := s.customScript(want, protected)
	if err != nil {
		return nil, false, nil, err
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		vm, _ := want.ID.Parent()
		v, err := load[millpond.VirtualMachine](s, tx, vm)
		if err != nil {
			return err
		}
		if _, err := move(v, millpond.VMCommand, tx.Now); err != nil {
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
		if old != nil && old.Base().State == millpond.StateSucceeded && old.ForceUpdateTag == want.ForceUpdateTag && old.Command.Script == script.Script {
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

// customScript checks an extension and makes the script that installs it.
func (s *Service) customScript(e *millpond.VMExtension, protected []byte) (millpond.GuestCommand, error) {
	var none millpond.GuestCommand
	name := strings.ToLower(e.Publisher + "." + e.Type)
	if name != "microsoft.azure.extensions.customscript" && name != "microsoft.ostcextensions.customscriptforlinux" {
		return none, millpond.Errorf(millpond.Unsupported, "NotSupported", "The extension %s.%s is not available here. What runs on a machine is the custom script: az vm extension set --publisher Microsoft.Azure.Extensions --name CustomScript --settings '{\"commandToExecute\": \"…\"}'", e.Publisher, e.Type)
	}
	if e.Version == "" {
		return none, invalid("typeHandlerVersion", "Required parameter 'typeHandlerVersion' is missing (null). Give it with --version, for example 2.1.")
	}
	var c CustomScript
	for _, part := range [][]byte{e.Settings, protected} {
		if len(part) == 0 {
			continue
		}
		if err := json.Unmarshal(part, &c); err != nil {
			return none, invalid("settings", "The settings of the extension are not those of a custom script: %v.", err)
		}
	}
	if (c.CommandToExecute == "") == (c.Script == "") {
		return none, invalid("settings", "A custom script needs either commandToExecute or script in its settings or protected settings.")
	}
	command := c.CommandToExecute
	if c.Script != "" {
		text, err := base64.StdEncoding.DecodeString(c.Script)
		if err != nil {
			return none, invalid("settings.script", "The script must be base64 text of a shell script: %v.", err)
		}
		command = string(text)
	}
	text := prepareScript
	if len(c.FileURIs) > 0 {
		text += fetchScript
	}
	g := millpond.GuestCommand{Script: text + runScript, Env: []millpond.NameValue{
		{Name: "MILLPOND_HANDLER", Value: handlerFolder(e)}, {Name: "MILLPOND_COMMAND", Value: command},
		{Name: "MILLPOND_SETTINGS", Value: string(e.Settings)}, {Name: "MILLPOND_FILES", Value: strings.Join(c.FileURIs, "\n")},
	}}
	// The version of the script is what tells one run from another.
	g.Script += "# " + hashToken(command + strings.Join(c.FileURIs, "\n") + c.Timestamp.String())[:16] + "\n"
	return g, checkScript(g)
}

// handlerFolder is where Azure's agent keeps an extension.
func handlerFolder(e *millpond.VMExtension) string {
	version := e.Version
	for strings.Count(version, ".") < 2 {
		version += ".0"
	}
	return fmt.Sprintf("/var/lib/waagent/%s.%s-%s", e.Publisher, e.Type, version)
}

// prepareScript, fetchScript and runScript do what Azure's agent and the
// extension do: they keep the handler's folder, fetch the files, run the command
// in the download folder and write the status. What they leave is what a
// preflight finds.
const prepareScript = `mkdir -p "$MILLPOND_HANDLER/config" "$MILLPOND_HANDLER/status"
printf '%s' "$MILLPOND_SETTINGS" > "$MILLPOND_HANDLER/config/0.settings"
printf 'Enabled' > "$MILLPOND_HANDLER/config/HandlerState"
w=/var/lib/waagent/custom-script/download/0
mkdir -p $w && chmod 700 /var/lib/waagent/custom-script && cd $w
`

// fetchScript fetches the files of a custom script; it is put between the two
// others when there are any.
const fetchScript = `printf '%s\n' "$MILLPOND_FILES" | while read -r u; do
  [ -n "$u" ] || continue
  f=$(basename "${u%%\?*}")
  if command -v curl >/dev/null; then curl -fsSL -o "$f" "$u"; else wget -q -O "$f" "$u"; fi || { echo "cannot fetch ${u%%\?*}" >&2; exit 52; }
done || exit 52
`

// runScript runs the command and writes its status.
const runScript = `sh -c "$MILLPOND_COMMAND" > stdout 2> stderr
code=$?
cat stdout
cat stderr >&2
s=success; [ $code -eq 0 ] || s=error
printf '[{"version":1,"status":{"operation":"Enable","status":"%s","code":%d}}]\n' $s $code > "$MILLPOND_HANDLER/status/0.status"
exit $code
`

// removeScript takes an extension's traces out of the guest.
const removeScript = `rm -rf "$MILLPOND_HANDLER" /var/lib/waagent/custom-script
exit 0
`

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
		if _, err := move(v, millpond.VMCommand, tx.Now); err != nil {
			return err
		}
		if !e.Command.State.Ended() {
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The extension '%s' is still being installed. Wait until that has ended.", id.Name())
		}
		found, e.Removing = true, true
		e.Base().State = millpond.StateDeleting
		e.Command = s.fresh(millpond.GuestCommand{Script: removeScript, Env: []millpond.NameValue{{Name: "MILLPOND_HANDLER", Value: handlerFolder(e)}}}, tx.Now)
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
