package armapi

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/machine"
)

func (e *Edge) commandRoutes() []azwire.Route {
	const at, action = vmAt + "/{vm}/runCommands", millpond.TypeRunCommand
	const known = "/subscriptions/{sub}/providers/Microsoft.Compute/locations/{loc}/runCommands"
	return []azwire.Route{
		{Name: "VirtualMachines_RunCommand", Method: "POST", Path: vmAt + "/{vm}/runCommand", Action: millpond.TypeVM + "/runCommand/action", Handle: e.invokeCommand},
		{Name: "VirtualMachineRunCommands_CreateOrUpdate", Method: "PUT", Path: at + "/{name}", Action: action + "/write", Handle: e.putRunCommand},
		{Name: "VirtualMachineRunCommands_GetByVirtualMachine", Method: "GET", Path: at + "/{name}", Action: action + "/read", Handle: e.getRunCommand},
		{Name: "VirtualMachineRunCommands_ListByVirtualMachine", Method: "GET", Path: at, Action: action + "/read", Handle: e.listRunCommands},
		{Name: "VirtualMachineRunCommands_Delete", Method: "DELETE", Path: at + "/{name}", Action: action + "/delete", Handle: e.deleteRunCommand},
		{Name: "VirtualMachineRunCommands_Update", Method: "PATCH", Path: at + "/{name}", Action: action + "/write", Handle: e.patchRunCommand},
		{Name: "VirtualMachineRunCommands_List", Method: "GET", Path: known, Action: "Microsoft.Compute/locations/runCommands/read", ByItem: true, Handle: e.listKnownCommands},
		{Name: "VirtualMachineRunCommands_Get", Method: "GET", Path: known + "/{name}", Action: "Microsoft.Compute/locations/runCommands/read", Handle: e.getKnownCommand},
	}
}

// parameters are a script's; nil if the member is missing.
func parameters(in []*armcompute.RunCommandInputParameter) []millpond.NameValue {
	if in == nil {
		return nil
	}
	out := []millpond.NameValue{}
	for _, p := range in {
		if p != nil {
			out = append(out, millpond.NameValue{Name: val(p.Name), Value: val(p.Value)})
		}
	}
	return out
}

const onlyShell = "The command %s is not available for a Linux machine. Use RunShellScript: az vm run-command invoke --command-id RunShellScript --scripts 'COMMAND'"

func (e *Edge) invokeCommand(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.RunCommandInput
	if err := decode(r, &body); err != nil {
		return err
	}
	if name := val(body.CommandID); !strings.EqualFold(name, "RunShellScript") {
		if name == "" {
			return millpond.Errorf(millpond.Invalid, "InvalidParameter", "Required parameter 'commandId' is missing (null).")
		}
		return unsupported("commandId", onlyShell, name)
	}
	var c millpond.GuestCommand
	var lines []string
	for _, l := range body.Script {
		lines = append(lines, val(l))
	}
	c.Script = strings.Join(lines, "\n")
	c = machine.WithParameters(c, parameters(body.Parameters))
	at := id(r, millpond.TypeVM, "vm")
	op, err := e.Machines.Invoke(r.Context(), at, c)
	if err != nil {
		return err
	}
	v, err := e.Machines.Get(r.Context(), at)
	if err != nil {
		return err
	}
	e.accepted(w, r, op, "Microsoft.Compute", v.Location)
	return nil
}

// commandResult is the output of a script in the form that az prints.
func commandResult(c millpond.GuestCommand) *armcompute.RunCommandResult {
	code, display, level, word := "ProvisioningState/succeeded", "Provisioning succeeded", armcompute.StatusLevelTypesInfo, "Enable succeeded"
	if c.State != millpond.CommandSucceeded {
		code, display, level = fmt.Sprintf("ProvisioningState/failed/%d", c.Exit), "Provisioning failed", armcompute.StatusLevelTypesError
		word = fmt.Sprintf("Enable failed: failed to execute command: command terminated with exit status=%d", c.Exit)
	}
	return &armcompute.RunCommandResult{Value: []*armcompute.InstanceViewStatus{
		status(code, display, fmt.Sprintf("%s: \n[stdout]\n%s\n[stderr]\n%s", word, c.Stdout, c.Stderr), level, time.Time{})}}
}

func (e *Edge) putRunCommand(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.VirtualMachineRunCommand
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	if err := runCommandRefused(p); err != nil {
		return err
	}
	c := &millpond.VMRunCommand{Async: val(p.AsyncExecution), Timeout: seconds(p.TimeoutInSeconds), Parameters: parameters(p.Parameters), Protected: parameters(p.ProtectedParameters)}
	c.ID, c.Tags = id(r, millpond.TypeRunCommand, "vm", "name"), tagsIn(body.Tags)
	c.Command.Script, c.Command.User = val(val(p.Source).Script), val(p.RunAsUser)
	out, created, op, err := e.Machines.PutRunCommand(r.Context(), c)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	if op != nil {
		e.polling(w, r, *op, "Microsoft.Compute", out.Location)
	}
	azwire.WriteJSON(w, code, encodeRunCommand(out, false))
	return nil
}

func (e *Edge) patchRunCommand(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.VirtualMachineRunCommandUpdate
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	if err := runCommandRefused(p); err != nil {
		return err
	}
	change := millpond.VMRunCommandPatch{Script: val(p.Source).Script, User: p.RunAsUser, Async: p.AsyncExecution, Parameters: parameters(p.Parameters), Protected: parameters(p.ProtectedParameters)}
	if body.Tags != nil {
		change.Tags = tagsIn(body.Tags)
	}
	if p.TimeoutInSeconds != nil {
		change.Timeout = ptr(seconds(p.TimeoutInSeconds))
	}
	out, op, err := e.Machines.PatchRunCommand(r.Context(), id(r, millpond.TypeRunCommand, "vm", "name"), change)
	if err != nil {
		return err
	}
	if op != nil {
		e.polling(w, r, *op, "Microsoft.Compute", out.Location)
	}
	azwire.WriteJSON(w, http.StatusOK, encodeRunCommand(out, false))
	return nil
}

func seconds(n *int32) time.Duration { return time.Duration(val(n)) * time.Second }

// runCommandRefused refuses by name what a script cannot have here. The password
// of its user is not needed: the agent may become any.
func runCommandRefused(p armcompute.VirtualMachineRunCommandProperties) error {
	switch {
	case val(p.OutputBlobURI) != "" || val(p.ErrorBlobURI) != "":
		return unsupported("properties.outputBlobUri", "Output to a blob is not supported. The last 4 KiB of it are kept with the command; write more to a file in the machine.")
	case val(p.Source).ScriptURI != nil:
		return unsupported("properties.source.scriptUri", "Scripts by URL are not supported. Give the script's text, which may fetch others with curl.")
	case val(p.Source).CommandID != nil && !strings.EqualFold(*p.Source.CommandID, "RunShellScript"):
		return unsupported("properties.source.commandId", "Only the text of a script is taken. Give it with --script.")
	}
	return nil
}

func encodeRunCommand(c *millpond.VMRunCommand, view bool) *armcompute.VirtualMachineRunCommand {
	p := &armcompute.VirtualMachineRunCommandProperties{AsyncExecution: ptr(c.Async), ProvisioningState: ptr(string(c.Base().State)),
		Source: &armcompute.VirtualMachineRunCommandScriptSource{Script: ptr(c.Command.Script)}, TimeoutInSeconds: ptr(int32(c.Timeout / time.Second)), RunAsUser: strOrNil(c.Command.User)}
	for _, v := range c.Parameters {
		p.Parameters = append(p.Parameters, &armcompute.RunCommandInputParameter{Name: ptr(v.Name), Value: ptr(v.Value)})
	}
	if view {
		v := &armcompute.VirtualMachineRunCommandInstanceView{ExecutionState: ptr(armcompute.ExecutionState(c.Command.State)), ExitCode: ptr(c.Command.Exit),
			Output: ptr(c.Command.Stdout), Error: ptr(c.Command.Stderr), ExecutionMessage: strOrNil(c.Command.Message)}
		if !c.Command.Started.IsZero() {
			v.StartTime = ptr(c.Command.Started)
		}
		if !c.Command.Ended.IsZero() {
			v.EndTime = ptr(c.Command.Ended)
		}
		p.InstanceView = v
	}
	return &armcompute.VirtualMachineRunCommand{ID: ptr(c.ID.String()), Name: ptr(c.ID.Name()), Type: ptr(millpond.TypeRunCommand), Location: ptr(c.Location), Tags: tagsOut(c.Tags), Properties: p}
}

func (e *Edge) getRunCommand(w http.ResponseWriter, r *azwire.Request) error {
	c, err := e.Machines.GetRunCommand(r.Context(), id(r, millpond.TypeRunCommand, "vm", "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeRunCommand(c, wantsView(r)))
	}
	return err
}

func (e *Edge) listRunCommands(w http.ResponseWriter, r *azwire.Request) error {
	list, err := e.Machines.ListRunCommands(r.Context(), id(r, millpond.TypeVM, "vm"))
	if err != nil {
		return err
	}
	value := []any{}
	for _, c := range list {
		value = append(value, encodeRunCommand(c, wantsView(r)))
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) deleteRunCommand(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Machines.DeleteRunCommand(r.Context(), id(r, millpond.TypeRunCommand, "vm", "name"))
	return deleted(w, found, err)
}

func knownCommand(full bool) map[string]any {
	c := map[string]any{"$schema": "https://schema.management.azure.com/schemas/2016-11-17/runcommands.json", "id": "RunShellScript", "osType": "Linux", "label": "Executes a Linux shell script", "description": "Custom multiple lines shell script should be defined in script property. Optional parameters can be set in parameters property."}
	if full {
		c["script"], c["parameters"] = []string{"echo \"This is a sample script with parameters $1 $2\""}, []any{}
	}
	return c
}

func (e *Edge) listKnownCommands(w http.ResponseWriter, _ *azwire.Request) error {
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{knownCommand(false)}})
	return nil
}

func (e *Edge) getKnownCommand(w http.ResponseWriter, r *azwire.Request) error {
	if !strings.EqualFold(r.Param("name"), "RunShellScript") {
		return millpond.Errorf(millpond.NotFound, "NotFound", "The run command '%s' is not found. There is RunShellScript.", r.Param("name"))
	}
	azwire.WriteJSON(w, http.StatusOK, knownCommand(true))
	return nil
}
