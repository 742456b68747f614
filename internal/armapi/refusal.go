package armapi

import (
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// refusal names the operation and says why it is not served.
func refusal(r *azwire.Request) error {
	why := strings.NewReplacer("{ns}", r.Param("ns"), "{type}", typeOf(r.Param("rest"))).Replace(r.Route.Refused)
	return millpond.Errorf(millpond.Unsupported, "NotImplemented", "%s: %s", r.Route.Name, why)
}

// refuse answers a refused operation. A prediction of changes is refused in the
// body of a success, as Azure tells its failures there: az ends with a traceback
// on anything else.
func refuse(w http.ResponseWriter, r *azwire.Request) error {
	err := refusal(r)
	if !strings.HasPrefix(r.Route.Name, "Deployments_WhatIf") {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"status": "Failed", "error": millpond.BodyOf(millpond.AsError(err))})
	return nil
}

// refusedRoutes are operations of Azure that clients of batch work might call
// and that are not served. The last ones catch every other provider.
func (e *Edge) refusedRoutes() []azwire.Route {
	const mc = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute"
	no := func(name, method, path, action, why string) azwire.Route {
		return azwire.Route{Name: name, Method: method, Path: path, Action: action, Refused: why}
	}
	out := []azwire.Route{
		no("VirtualMachineScaleSets_CreateOrUpdate", "PUT", mc+"/virtualMachineScaleSets/{name}", "Microsoft.Compute/virtualMachineScaleSets/write", "Virtual machine scale sets are not supported. Use a Batch pool."),
	}
	const other = "Resources of type {ns}/{type} are not supported yet. docs/wire/resource-manager.md lists what is."
	const any = "/subscriptions/{sub}/resourceGroups/{rg}/providers/{ns}/{rest...}"
	out = append(out, azwire.Route{Name: "Resources_GetById", Method: "GET", Path: any, Action: "{ns}/{type}/read", Handle: e.getUnknown})
	for _, m := range []string{"PUT", "PATCH", "POST", "DELETE"} {
		verb := map[string]string{"PUT": "write", "PATCH": "write", "POST": "action", "DELETE": "delete"}[m]
		out = append(out, no("Resources_Any"+m, m, any, "{ns}/{type}/"+verb, other))
	}
	return append(out, azwire.Route{Name: "Resources_AnyList", Method: "GET", Path: "/subscriptions/{sub}/providers/{ns}/{rest...}", Action: "{ns}/{type}/read", Handle: e.listUnknown})
}

// getUnknown answers a GET of a type that is not served. Clients probe for
// virtual machines by name and need a 404 to go on.
func (e *Edge) getUnknown(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Resources.Group(r.Context(), groupScope(r)); err != nil {
		return err
	}
	rest := strings.Split(r.Param("rest"), "/")
	if len(rest)%2 != 0 {
		return e.listUnknown(w, r)
	}
	return millpond.Errorf(millpond.NotFound, "ResourceNotFound", "The Resource '%s/%s/%s' under resource group '%s' was not found.", r.Param("ns"), typeOf(r.Param("rest")), rest[len(rest)-1], r.Param("rg"))
}
