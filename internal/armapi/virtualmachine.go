package armapi

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/machine"
)

const vmAt = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute/virtualMachines"

func (e *Edge) machineRoutes() []azwire.Route {
	const action = millpond.TypeVM
	out := []azwire.Route{
		{Name: "VirtualMachines_CreateOrUpdate", Method: "PUT", Path: vmAt + "/{vm}", Action: action + "/write", Handle: e.putMachine, Check: e.checkMachine},
		{Name: "VirtualMachines_Update", Method: "PATCH", Path: vmAt + "/{vm}", Action: action + "/write", Handle: e.patchMachine},
		{Name: "VirtualMachines_Get", Method: "GET", Path: vmAt + "/{vm}", Action: action + "/read", Handle: e.getMachine},
		{Name: "VirtualMachines_InstanceView", Method: "GET", Path: vmAt + "/{vm}/instanceView", Action: action + "/instanceView/read", Handle: e.getInstanceView},
		{Name: "VirtualMachines_List", Method: "GET", Path: vmAt, Action: action + "/read", ByItem: true, Handle: e.listMachines},
		{Name: "VirtualMachines_ListAll", Method: "GET", Path: "/subscriptions/{sub}/providers/Microsoft.Compute/virtualMachines", Action: action + "/read", ByItem: true, Handle: e.listMachines},
		{Name: "VirtualMachines_ListByLocation", Method: "GET", Path: "/subscriptions/{sub}/providers/Microsoft.Compute/locations/{loc}/virtualMachines", Action: action + "/read", ByItem: true, Handle: e.listMachines},
		{Name: "VirtualMachines_ListAvailableSizes", Method: "GET", Path: vmAt + "/{vm}/vmSizes", Action: action + "/vmSizes/read", Handle: e.listResizes},
		{Name: "VirtualMachines_Delete", Method: "DELETE", Path: vmAt + "/{vm}", Action: action + "/delete", Handle: e.deleteMachine},
		{Name: "VirtualMachines_Generalize", Method: "POST", Path: vmAt + "/{vm}/generalize", Action: action + "/generalize/action", Handle: e.generalizeMachine},
		{Name: "VirtualMachines_AttachDetachDataDisks", Method: "POST", Path: vmAt + "/{vm}/attachDetachDataDisks", Action: action + "/attachDetachDataDisks/action", Handle: e.attachDetach},
	}
	for _, p := range []struct {
		name, verb string
		event      millpond.VMEvent
	}{{"Start", "start", millpond.VMStart}, {"PowerOff", "powerOff", millpond.VMPowerOff}, {"Deallocate", "deallocate", millpond.VMDeallocate}, {"Restart", "restart", millpond.VMRestart}} {
		out = append(out, azwire.Route{Name: "VirtualMachines_" + p.name, Method: "POST", Path: vmAt + "/{vm}/" + p.verb, Action: action + "/" + p.verb + "/action",
			Handle: func(w http.ResponseWriter, r *azwire.Request) error { return e.powerMachine(w, r, p.event) }})
	}
	for _, no := range []struct{ name, verb, why string }{
		{"Capture", "capture", "Capturing into a storage account is not supported. Generalize the machine and make an image of it: az image create --source VM"},
		{"Redeploy", "redeploy", "There is one host, so a machine cannot be moved to another. Stop and start it instead: az vm restart"},
		{"Reimage", "reimage", "Reimaging a machine is not supported. Delete it and create it again from its image."},
		{"ConvertToManagedDisks", "convertToManagedDisks", "Every machine here has managed disks already, so there is nothing to convert."},
		{"SimulateEviction", "simulateEviction", "Machines are not evicted here, so an eviction cannot be simulated."},
		{"AssessPatches", "assessPatches", "Patches are not assessed. Run the package manager in the guest: az vm run-command invoke"},
		{"InstallPatches", "installPatches", "Patches are not installed from outside. Run the package manager in the guest: az vm run-command invoke"},
		{"RetrieveBootDiagnosticsData", "retrieveBootDiagnosticsData", "Boot diagnostics are not kept in a storage account. The console's log lies in the server's data folder, vms/."},
		{"Reapply", "reapply", "A machine's state is compared with what is asked for all the time, so there is nothing to apply again."},
	} {
		out = append(out, azwire.Route{Name: "VirtualMachines_" + no.name, Method: "POST", Path: vmAt + "/{vm}/" + no.verb, Action: action + "/" + no.verb + "/action", Refused: no.why})
	}
	return out
}

func (e *Edge) putMachine(w http.ResponseWriter, r *azwire.Request) error {
	c, err := decodeMachine(r)
	if err != nil {
		return err
	}
	return e.changeMachine(w, r, c)
}

// checkMachine is the dry run of a template: what is refused by the body alone,
// and the size, which is wrong most often.
func (e *Edge) checkMachine(r *azwire.Request) error {
	c, err := decodeMachine(r)
	if err != nil || c.VM.Size == "" {
		return err
	}
	for _, s := range e.VMSizes() {
		if strings.EqualFold(s.Name, c.VM.Size) {
			return nil
		}
	}
	return millpond.Errorf(millpond.Invalid, "InvalidParameter", "The value %s provided for the VM size is not valid. The valid sizes in the current region are: az vm list-sizes -l %s -o table", c.VM.Size, c.VM.Location)
}

func decodeMachine(r *azwire.Request) (machine.Change, error) {
	c := machine.Change{}
	var body armcompute.VirtualMachine
	if err := decode(r, &body); err != nil {
		return c, err
	}
	if body.Identity != nil && body.Identity.Type != nil && *body.Identity.Type != armcompute.ResourceIdentityTypeNone {
		return c, unsupported("identity", "Managed identities of machines are not supported yet. Leave out --assign-identity.")
	}
	if body.Plan != nil {
		return c, purchasePlan(body.Plan)
	}
	v := &c.VM
	v.ID, v.Location, v.Tags = id(r, millpond.TypeVM, "vm"), millpond.NormalizeRegion(val(body.Location)), tagsIn(body.Tags)
	for _, z := range body.Zones {
		v.Zones = append(v.Zones, val(z))
	}
	return c, machineIn(r, body.Properties, &c)
}

// purchasePlan refuses a third party's image by the name of its plan.
func purchasePlan(p *armcompute.Plan) error {
	e := millpond.Errorf(millpond.Unsupported, "VMMarketplaceInvalidInput",
		"The image has the purchase plan '%s' (product '%s', publisher '%s'), so it is a third party's. Only first-party images without a purchase plan can be the base here. List them with: az vm image list --all -o table",
		val(p.Name), val(p.Product), val(p.Publisher))
	e.Target = "plan"
	return e
}

func (e *Edge) patchMachine(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.VirtualMachineUpdate
	if err := decode(r, &body); err != nil {
		return err
	}
	if body.Identity != nil && body.Identity.Type != nil && *body.Identity.Type != armcompute.ResourceIdentityTypeNone {
		return unsupported("identity", "Managed identities of machines are not supported yet. Leave out --assign-identity.")
	}
	c := machine.Change{Patch: true}
	c.VM.ID, c.VM.Tags = id(r, millpond.TypeVM, "vm"), tagsIn(body.Tags)
	if err := machineIn(r, body.Properties, &c); err != nil {
		return err
	}
	return e.changeMachine(w, r, c)
}

func (e *Edge) changeMachine(w http.ResponseWriter, r *azwire.Request, c machine.Change) error {
	v, created, op, err := e.Machines.Put(r.Context(), r.Caller, c)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated // and never 202
	}
	if op != nil {
		e.polling(w, r, *op, "Microsoft.Compute", v.Location)
	}
	azwire.WriteJSON(w, status, e.encodeMachine(r, v, false))
	return nil
}

func wantsView(r *azwire.Request) bool {
	return strings.EqualFold(r.QueryValue("$expand"), "instanceView") || strings.EqualFold(r.QueryValue("statusOnly"), "true")
}

func (e *Edge) getMachine(w http.ResponseWriter, r *azwire.Request) error {
	v, err := e.Machines.Get(r.Context(), id(r, millpond.TypeVM, "vm"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeMachine(r, v, wantsView(r)))
	}
	return err
}

func (e *Edge) getInstanceView(w http.ResponseWriter, r *azwire.Request) error {
	v, err := e.Machines.Get(r.Context(), id(r, millpond.TypeVM, "vm"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.instanceView(r, v))
	}
	return err
}

func (e *Edge) listMachines(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeVM)
	if err != nil {
		return err
	}
	all, err := e.Machines.List(r.Context(), q)
	if err != nil {
		return err
	}
	if loc := r.Param("loc"); loc != "" {
		kept := all[:0]
		for _, v := range all {
			if v.Location == millpond.NormalizeRegion(loc) {
				kept = append(kept, v)
			}
		}
		all = kept
	}
	return writeList(e, w, r, all, resourceKey[*millpond.VirtualMachine], func(v *millpond.VirtualMachine) any { return e.encodeMachine(r, v, wantsView(r)) })
}

func (e *Edge) deleteMachine(w http.ResponseWriter, r *azwire.Request) error {
	at := id(r, millpond.TypeVM, "vm")
	// Read before: a machine can be gone as soon as its deletion is asked for.
	was, err := e.Resources.Get(r.Context(), at)
	if err != nil && millpond.KindOf(err) != millpond.NotFound {
		return err
	}
	op, err := e.Machines.Delete(r.Context(), at)
	if err != nil || op == nil {
		return deleted(w, false, err)
	}
	e.accepted(w, r, *op, "Microsoft.Compute", was.Location)
	return nil
}

func (e *Edge) powerMachine(w http.ResponseWriter, r *azwire.Request, event millpond.VMEvent) error {
	v, op, err := e.Machines.Power(r.Context(), id(r, millpond.TypeVM, "vm"), event)
	if err != nil {
		return err
	}
	if op == nil {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	e.accepted(w, r, *op, "Microsoft.Compute", v.Location)
	return nil
}

func (e *Edge) generalizeMachine(w http.ResponseWriter, r *azwire.Request) error {
	if err := e.Machines.Generalize(r.Context(), id(r, millpond.TypeVM, "vm")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (e *Edge) attachDetach(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.AttachDetachDataDisksRequest
	if err := decode(r, &body); err != nil {
		return err
	}
	at := id(r, millpond.TypeVM, "vm")
	v, err := e.Machines.Get(r.Context(), at)
	if err != nil {
		return err
	}
	c := machine.Change{Patch: true, HasDisks: true}
	c.VM.ID = at
	gone := map[string]bool{}
	for _, d := range body.DataDisksToDetach {
		gone[strings.ToLower(val(d.DiskID))] = true
	}
	used := map[int32]bool{}
	for _, d := range v.DataDisks {
		if gone[strings.ToLower(d.ID)] {
			delete(gone, strings.ToLower(d.ID))
			continue
		}
		used[d.LUN] = true
		c.VM.DataDisks = append(c.VM.DataDisks, d)
	}
	for missing := range gone {
		return millpond.Errorf(millpond.Invalid, "InvalidParameter", "The disk %s is not attached to VM '%s'.", missing, v.ID.Name())
	}
	for _, d := range body.DataDisksToAttach {
		caching, err := canonical(d.Caching, armcompute.PossibleCachingTypesValues(), "caching")
		if err != nil {
			return err
		}
		disk := millpond.VMDisk{ID: val(d.DiskID), Option: millpond.CreateAttach, Caching: caching, Delete: isDelete(d.DeleteOption)}
		if d.Lun != nil {
			disk.LUN = *d.Lun
		} else {
			for used[disk.LUN] {
				disk.LUN++
			}
		}
		used[disk.LUN] = true
		c.VM.DataDisks = append(c.VM.DataDisks, disk)
	}
	if v, _, _, err = e.Machines.Put(r.Context(), r.Caller, c); err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, encodeStorage(v))
	return nil
}

func (e *Edge) listResizes(w http.ResponseWriter, r *azwire.Request) error {
	v, err := e.Machines.Get(r.Context(), id(r, millpond.TypeVM, "vm"))
	if err != nil {
		return err
	}
	value := []any{}
	for _, s := range e.VMSizes() {
		if v.HyperV == "V2" && !s.Gen2 || v.HyperV == "V1" && !s.Gen1 {
			continue
		}
		value = append(value, encodeSize(s))
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

// imageOfMachine fills in an image that is to be made of a machine.
func (e *Edge) imageOfMachine(r *azwire.Request, text string, m *millpond.ManagedImage) error {
	at, ok := millpond.ParseResourceID(text)
	if !ok || !at.Is(millpond.TypeVM) {
		return millpond.Errorf(millpond.Invalid, "InvalidParameter", "%q is not the id of a virtual machine.", text)
	}
	v, err := e.Machines.ImageSource(r.Context(), r.Caller, at)
	if err != nil {
		return err
	}
	m.SourceVM, m.OSType, m.OSState, m.HyperV = v.ID.String(), v.OSType, "Generalized", v.HyperV
	m.OSDisk = millpond.ImageDisk{DiskID: v.OSDisk.ID, Caching: v.OSDisk.Caching, SKU: v.OSDisk.SKU}
	m.DataDisks = nil
	for _, d := range v.DataDisks {
		m.DataDisks = append(m.DataDisks, millpond.ImageDisk{LUN: d.LUN, DiskID: d.ID, Caching: d.Caching, SKU: d.SKU})
	}
	if m.Location == "" {
		m.Location = v.Location
	}
	return nil
}
