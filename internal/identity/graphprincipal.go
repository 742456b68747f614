package identity

import (
	"context"
	"net/http"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// principalType is what Graph calls a principal's kind.
func principalType(p millpond.ServicePrincipal) string {
	if p.Managed != "" {
		return "ManagedIdentity"
	}
	return "Application"
}

func wirePrincipal(p millpond.ServicePrincipal, names []string) map[string]any {
	alternative := []string{}
	if p.Managed != "" {
		alternative = []string{"isExplicit=True", p.Managed}
	}
	return map[string]any{
		"id": p.ID, "appId": p.AppID, "displayName": p.DisplayName, "appDisplayName": p.DisplayName, "accountEnabled": p.Enabled,
		"servicePrincipalNames": names, "servicePrincipalType": principalType(p), "appOwnerOrganizationId": p.AppTenant,
		"createdDateTime": graphTime(p.Created), "alternativeNames": alternative, "tags": []string{}, "appRoles": []any{},
		"keyCredentials": []any{}, "passwordCredentials": []any{}, "oauth2PermissionScopes": []any{},
	}
}

// names are what a principal may be looked up by: client id and identifier URIs.
func (g *Graph) names(ctx context.Context, p millpond.ServicePrincipal) ([]string, error) {
	apps, err := g.dir.Applications(ctx, p.AppTenant)
	if err != nil {
		return nil, err
	}
	return namesOf(p, apps), nil
}

func namesOf(p millpond.ServicePrincipal, apps []millpond.Application) []string {
	names := []string{p.AppID}
	if i := slices.IndexFunc(apps, func(a millpond.Application) bool { return a.AppID == p.AppID }); i >= 0 {
		names = append(names, apps[i].IdentifierURIs...)
	}
	return names
}

func (g *Graph) listPrincipals(w http.ResponseWriter, r *azwire.Request) error {
	match, err := parseFilter(r.QueryValue("$filter"), "id", "appId", "displayName", "servicePrincipalNames", "servicePrincipalType", "accountEnabled", "appOwnerOrganizationId")
	if err != nil {
		return err
	}
	all, err := g.dir.ServicePrincipals(r.Context(), r.Caller.Tenant)
	if err != nil {
		return err
	}
	apps, err := g.dir.Applications(r.Context(), r.Caller.Tenant)
	if err != nil {
		return err
	}
	var items []map[string]any
	for _, p := range all {
		names := namesOf(p, apps)
		enabled := "false"
		if p.Enabled {
			enabled = "true"
		}
		if match(map[string][]string{"id": {p.ID}, "appId": {p.AppID}, "displayName": {p.DisplayName}, "servicePrincipalNames": names,
			"servicePrincipalType": {principalType(p)}, "accountEnabled": {enabled}, "appOwnerOrganizationId": {p.AppTenant}}) {
			items = append(items, wirePrincipal(p, names))
		}
	}
	g.writeList(w, r, "servicePrincipals", items)
	return nil
}

func (g *Graph) createPrincipal(w http.ResponseWriter, r *azwire.Request) error {
	var body struct {
		AppID   string `json:"appId"`
		Enabled *bool  `json:"accountEnabled"`
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	p, err := g.dir.CreateServicePrincipal(r.Context(), r.Caller.Tenant, body.AppID, body.Enabled == nil || *body.Enabled)
	if err != nil {
		return err
	}
	return g.writePrincipal(w, r, http.StatusCreated, p)
}

func (g *Graph) getPrincipal(w http.ResponseWriter, r *azwire.Request) error {
	p, err := g.dir.ServicePrincipal(r.Context(), r.Caller.Tenant, r.Param("id"))
	if err != nil {
		return err
	}
	return g.writePrincipal(w, r, http.StatusOK, p)
}

func (g *Graph) writePrincipal(w http.ResponseWriter, r *azwire.Request, status int, p millpond.ServicePrincipal) error {
	names, err := g.names(r.Context(), p)
	if err != nil {
		return err
	}
	g.writeObject(w, r, status, "servicePrincipals", wirePrincipal(p, names))
	return nil
}

func (g *Graph) updatePrincipal(w http.ResponseWriter, r *azwire.Request) error {
	var body map[string]any
	if err := decode(w, r, &body); err != nil {
		return err
	}
	enabled, ok := body["accountEnabled"].(bool)
	if !ok || len(body) != 1 {
		return millpond.Errorf(millpond.Unsupported, "Request_BadRequest", "Of a service principal only accountEnabled can be changed; its name is its application's.")
	}
	if err := g.dir.SetEnabled(r.Context(), r.Caller.Tenant, r.Param("id"), enabled); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Graph) deletePrincipal(w http.ResponseWriter, r *azwire.Request) error {
	if err := g.dir.DeleteServicePrincipal(r.Context(), r.Caller.Tenant, r.Param("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxIDs is Graph's own limit of getByIds.
const maxIDs = 1000

// getByIDs finds objects of any kind. Each item must say its type: az indexes
// @odata.type without asking whether it is there.
func (g *Graph) getByIDs(w http.ResponseWriter, r *azwire.Request) error {
	var body struct {
		IDs   []string `json:"ids"`
		Types []string `json:"types"`
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	if len(body.IDs) == 0 || len(body.IDs) > maxIDs {
		return millpond.Errorf(millpond.Invalid, "Request_BadRequest", "ids must have 1 to %d elements.", maxIDs)
	}
	want := func(kind string) bool {
		return len(body.Types) == 0 || slices.ContainsFunc(body.Types, func(t string) bool {
			return strings.EqualFold(t, kind) || strings.EqualFold(t, "directoryObject")
		})
	}
	principals, err := g.dir.ServicePrincipals(r.Context(), r.Caller.Tenant)
	if err != nil {
		return err
	}
	apps, err := g.dir.Applications(r.Context(), r.Caller.Tenant)
	if err != nil {
		return err
	}
	asked := func(id string) bool {
		return slices.ContainsFunc(body.IDs, func(s string) bool { return strings.EqualFold(s, id) })
	}
	var items []map[string]any
	for _, p := range principals {
		if want("servicePrincipal") && asked(p.ID) {
			item := wirePrincipal(p, namesOf(p, apps))
			item["@odata.type"] = "#microsoft.graph.servicePrincipal"
			items = append(items, item)
		}
	}
	for _, a := range apps {
		if want("application") && asked(a.ID) {
			item, err := g.applicationItem(r, a)
			if err != nil {
				return err
			}
			item["@odata.type"] = "#microsoft.graph.application"
			items = append(items, item)
		}
	}
	g.writeList(w, r, "directoryObjects", items)
	return nil
}
