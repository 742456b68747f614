package armapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/extension"
)

func (e *Edge) extensionRoutes() []azwire.Route {
	const at, action = vmAt + "/{vm}/extensions", millpond.TypeExtension
	const images = "/subscriptions/{sub}/providers/Microsoft.Compute/locations/{loc}/publishers/{publisher}/artifacttypes/vmextension/types"
	const reading = "Microsoft.Compute/locations/publishers/artifacttypes/types"
	return []azwire.Route{
		{Name: "VirtualMachineExtensions_CreateOrUpdate", Method: "PUT", Path: at + "/{name}", Action: action + "/write", Handle: e.putExtension},
		{Name: "VirtualMachineExtensions_Update", Method: "PATCH", Path: at + "/{name}", Action: action + "/write", Handle: e.putExtension},
		{Name: "VirtualMachineExtensions_Get", Method: "GET", Path: at + "/{name}", Action: action + "/read", Handle: e.getExtension},
		{Name: "VirtualMachineExtensions_List", Method: "GET", Path: at, Action: action + "/read", Handle: e.listExtensions},
		{Name: "VirtualMachineExtensions_Delete", Method: "DELETE", Path: at + "/{name}", Action: action + "/delete", Handle: e.deleteExtension},
		{Name: "VirtualMachineExtensionImages_ListTypes", Method: "GET", Path: images, Action: reading + "/read", ByItem: true, Handle: e.listExtensionTypes},
		{Name: "VirtualMachineExtensionImages_ListVersions", Method: "GET", Path: images + "/{type}/versions", Action: reading + "/versions/read", ByItem: true, Handle: e.listExtensionVersions},
		{Name: "VirtualMachineExtensionImages_Get", Method: "GET", Path: images + "/{type}/versions/{version}", Action: reading + "/versions/read", Handle: e.getExtensionImage},
	}
}

func (e *Edge) putExtension(w http.ResponseWriter, r *azwire.Request) error {
	var body armcompute.VirtualMachineExtension
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	if p.ProtectedSettingsFromKeyVault != nil {
		return unsupported("properties.protectedSettingsFromKeyVault", "Settings out of a key vault are not supported. Give them as protected settings.")
	}
	x := &millpond.VMExtension{Publisher: val(p.Publisher), Type: val(p.Type), Version: val(p.TypeHandlerVersion), AutoUpgradeMinor: val(p.AutoUpgradeMinorVersion), ForceUpdateTag: val(p.ForceUpdateTag), AutoUpgrade: p.EnableAutomaticUpgrade}
	x.ID, x.Tags = id(r, millpond.TypeExtension, "vm", "name"), tagsIn(body.Tags)
	if r.Method == http.MethodPatch {
		old, err := e.Machines.GetExtension(r.Context(), x.ID)
		if err != nil {
			return err
		}
		x.Publisher, x.Type = old.Publisher, old.Type
		if x.Version == "" {
			x.Version = old.Version
		}
		if x.AutoUpgrade == nil {
			x.AutoUpgrade = old.AutoUpgrade
		}
		if p.Settings == nil {
			x.Settings = old.Settings
		}
	}
	var protected []byte
	var err error
	if p.Settings != nil {
		if x.Settings, err = json.Marshal(p.Settings); err != nil {
			return err
		}
	}
	if p.ProtectedSettings != nil {
		if protected, err = json.Marshal(p.ProtectedSettings); err != nil {
			return err
		}
	}
	out, created, op, err := e.Machines.PutExtension(r.Context(), x, protected)
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
	azwire.WriteJSON(w, code, encodeExtension(out))
	return nil
}

func encodeExtension(x *millpond.VMExtension) *armcompute.VirtualMachineExtension {
	p := &armcompute.VirtualMachineExtensionProperties{Publisher: ptr(x.Publisher), Type: ptr(x.Type), TypeHandlerVersion: ptr(x.Version), AutoUpgradeMinorVersion: ptr(x.AutoUpgradeMinor), EnableAutomaticUpgrade: x.AutoUpgrade,
		ForceUpdateTag: strOrNil(x.ForceUpdateTag), ProvisioningState: ptr(string(x.Base().State))}
	if len(x.Settings) > 0 {
		p.Settings = json.RawMessage(x.Settings)
	}
	return &armcompute.VirtualMachineExtension{ID: ptr(x.ID.String()), Name: ptr(x.ID.Name()), Type: ptr(millpond.TypeExtension), Location: ptr(x.Location), Tags: tagsOut(x.Tags), Properties: p}
}

// extensionView is an extension's outcome, with the output of its command.
func extensionView(x *millpond.VMExtension) *armcompute.VirtualMachineExtensionInstanceView {
	code, display, level := "ProvisioningState/succeeded", "Provisioning succeeded", armcompute.StatusLevelTypesInfo
	message := fmt.Sprintf("Enable succeeded: \n[stdout]\n%s\n[stderr]\n%s", x.Command.Stdout, x.Command.Stderr)
	switch x.Base().State {
	case millpond.StateFailed:
		code, display, level = fmt.Sprintf("ProvisioningState/failed/%d", x.Command.Exit), "Provisioning failed", armcompute.StatusLevelTypesError
		message = fmt.Sprintf("Enable failed: %s\n[stdout]\n%s\n[stderr]\n%s", x.Command.Message, x.Command.Stdout, x.Command.Stderr)
	case millpond.StateSucceeded:
	default:
		code, display, message = "ProvisioningState/transitioning", "Transitioning", "Execution in progress."
	}
	return &armcompute.VirtualMachineExtensionInstanceView{Name: ptr(x.ID.Name()), Type: ptr(x.Publisher + "." + x.Type), TypeHandlerVersion: ptr(installedVersion(x)),
		Statuses: []*armcompute.InstanceViewStatus{status(code, display, message, level, x.Command.Ended)}}
}

// installedVersion is the version that runs: the catalogue's, if the one that was
// asked for may grow to it.
func installedVersion(x *millpond.VMExtension) string {
	major := func(v string) string { m, _, _ := strings.Cut(v, "."); return m }
	if k, ok := extension.Find(x.Publisher, x.Type); ok && x.AutoUpgradeMinor && major(k.Version) == major(x.Version) {
		return k.Version
	}
	return x.Version
}

func (e *Edge) getExtension(w http.ResponseWriter, r *azwire.Request) error {
	x, err := e.Machines.GetExtension(r.Context(), id(r, millpond.TypeExtension, "vm", "name"))
	if err != nil {
		return err
	}
	out := encodeExtension(x)
	if wantsView(r) {
		out.Properties.InstanceView = extensionView(x)
	}
	azwire.WriteJSON(w, http.StatusOK, out)
	return nil
}

func (e *Edge) listExtensions(w http.ResponseWriter, r *azwire.Request) error {
	list, err := e.Machines.ListExtensions(r.Context(), id(r, millpond.TypeVM, "vm"))
	if err != nil {
		return err
	}
	value := []any{}
	for _, x := range list {
		value = append(value, encodeExtension(x))
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) deleteExtension(w http.ResponseWriter, r *azwire.Request) error {
	at := id(r, millpond.TypeExtension, "vm", "name")
	found, op, err := e.Machines.DeleteExtension(r.Context(), at)
	if err != nil || !found || op == nil {
		return deleted(w, found, err)
	}
	e.accepted(w, r, *op, "Microsoft.Compute", "global")
	return nil
}

// extensionImage is an entry of the catalogue of extensions.
func (e *Edge) extensionImage(r *azwire.Request, k extension.Kind, path, name string) map[string]any {
	return map[string]any{"id": "/Subscriptions/" + r.Param("sub") + "/Providers/Microsoft.Compute/Locations/" + r.Param("loc") + "/Publishers/" + k.Publisher + "/ArtifactTypes/VMExtension/Types/" + path,
		"name": name, "location": r.Param("loc")}
}

func (e *Edge) listExtensionTypes(w http.ResponseWriter, r *azwire.Request) error {
	out := []any{}
	for _, k := range extension.Kinds() {
		if strings.EqualFold(r.Param("publisher"), k.Publisher) {
			out = append(out, e.extensionImage(r, k, k.Type, k.Type))
		}
	}
	azwire.WriteJSON(w, http.StatusOK, out)
	return nil
}

func (e *Edge) listExtensionVersions(w http.ResponseWriter, r *azwire.Request) error {
	k, ok := extension.Find(r.Param("publisher"), r.Param("type"))
	if !ok {
		return noExtension(r)
	}
	azwire.WriteJSON(w, http.StatusOK, []any{e.extensionImage(r, k, k.Type+"/Versions/"+k.Version, k.Version)})
	return nil
}

func noExtension(r *azwire.Request) error {
	return millpond.Errorf(millpond.NotFound, "NotFound", "%s", extension.Unavailable(r.Param("publisher"), r.Param("type")))
}

func (e *Edge) getExtensionImage(w http.ResponseWriter, r *azwire.Request) error {
	k, ok := extension.Find(r.Param("publisher"), r.Param("type"))
	if !ok || r.Param("version") != k.Version {
		return noExtension(r)
	}
	image := e.extensionImage(r, k, k.Type+"/Versions/"+k.Version, k.Version)
	image["properties"] = map[string]any{"operatingSystem": "Linux", "computeRole": "IaaS", "vmScaleSetEnabled": false, "supportsMultipleExtensions": false}
	azwire.WriteJSON(w, http.StatusOK, image)
	return nil
}
