package armapi

import (
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/resource"
)

func (e *Edge) providerRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/providers"
	return []azwire.Route{
		{Name: "Operations_List", Method: "GET", Path: "/providers/{ns}/operations", Action: SignedIn, Handle: e.listOperations},
		{Name: "Providers_List", Method: "GET", Path: at, Action: SignedIn, Handle: e.listProviders},
		{Name: "Providers_Get", Method: "GET", Path: at + "/{ns}", Action: SignedIn, Handle: e.getProvider},
		{Name: "Providers_Register", Method: "POST", Path: at + "/{ns}/register", Action: "{ns}/register/action", Handle: func(w http.ResponseWriter, r *azwire.Request) error { return e.register(w, r, true) }},
		{Name: "Providers_Unregister", Method: "POST", Path: at + "/{ns}/unregister", Action: "{ns}/unregister/action", Handle: func(w http.ResponseWriter, r *azwire.Request) error { return e.register(w, r, false) }},
	}
}

// listOperations lists the actions of a provider that this server knows, which
// are those that a role can allow.
func (e *Edge) listOperations(w http.ResponseWriter, r *azwire.Request) error {
	var ns string
	for _, p := range resource.Providers() {
		if strings.EqualFold(p.Namespace, r.Param("ns")) {
			ns = p.Namespace
		}
	}
	if ns == "" {
		return millpond.Errorf(millpond.NotFound, "InvalidResourceNamespace", "The resource namespace '%s' is invalid.", r.Param("ns"))
	}
	value, seen := []any{}, map[string]bool{}
	for _, route := range e.Routes() {
		typ, ok := strings.CutPrefix(route.Action, ns+"/")
		if !ok || route.Refused != "" || seen[route.Action] {
			continue
		}
		seen[route.Action] = true
		parts := strings.Split(typ, "/")
		value = append(value, map[string]any{"name": route.Action, "isDataAction": false, "origin": "user,system",
			"display": map[string]any{"provider": strings.Replace(ns, ".", " ", 1), "resource": strings.Join(parts[:len(parts)-1], "/"), "operation": route.Name, "description": route.Name}})
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) encodeProvider(sub string, p resource.Provider) any {
	state := "NotRegistered"
	if p.Registered {
		state = "Registered"
	}
	var places []string
	for _, l := range e.Resources.Regions() {
		places = append(places, l.DisplayName)
	}
	types := []any{}
	for _, t := range p.Types {
		at, capabilities := []string{}, "None"
		if t.Located {
			at, capabilities = places, "CrossResourceGroupResourceMove, SupportsTags, SupportsLocation"
		}
		types = append(types, map[string]any{"resourceType": t.Name, "locations": at, "apiVersions": t.APIVersions, "defaultApiVersion": t.APIVersions[0], "capabilities": capabilities})
	}
	return map[string]any{"id": "/subscriptions/" + sub + "/providers/" + p.Namespace, "namespace": p.Namespace, "registrationState": state, "registrationPolicy": "RegistrationRequired", "resourceTypes": types}
}

func (e *Edge) listProviders(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.visible(r, "Microsoft.Resources/subscriptions/providers/read"); err != nil {
		return err
	}
	ps, err := e.Resources.ListProviders(r.Context(), r.Param("sub"))
	if err != nil {
		return err
	}
	value := []any{}
	for _, p := range ps {
		value = append(value, e.encodeProvider(r.Param("sub"), p))
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) getProvider(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.visible(r, "Microsoft.Resources/subscriptions/providers/read"); err != nil {
		return err
	}
	p, err := e.Resources.Provider(r.Context(), r.Param("sub"), r.Param("ns"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeProvider(r.Param("sub"), p))
	}
	return err
}

func (e *Edge) register(w http.ResponseWriter, r *azwire.Request, on bool) error {
	p, err := e.Resources.SetRegistered(r.Context(), r.Param("sub"), r.Param("ns"), on)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeProvider(r.Param("sub"), p))
	}
	return err
}
