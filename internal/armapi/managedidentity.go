package armapi

import (
	"net/http"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/managedidentity"
	"millpond.dev/millpond/internal/resource"
)

// IdentityMembers tells the resource verbs how managed identities are deleted with
// their group.
func IdentityMembers(res *resource.Service, m *managedidentity.Service) {
	res.Member(millpond.TypeManagedIdentity, plainRemove(m.Delete))
}

func (e *Edge) identityRoutes() []azwire.Route {
	const typ = millpond.TypeManagedIdentity
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/" + typ
	return []azwire.Route{
		{Name: "UserAssignedIdentities_ListBySubscription", Method: "GET", Path: "/subscriptions/{sub}/providers/" + typ, Action: typ + "/read", ByItem: true, Handle: e.listIdentities},
		{Name: "UserAssignedIdentities_ListByResourceGroup", Method: "GET", Path: at, Action: typ + "/read", ByItem: true, Handle: e.listIdentities},
		{Name: "UserAssignedIdentities_CreateOrUpdate", Method: "PUT", Path: at + "/{name}", Action: typ + "/write", Handle: e.putIdentity},
		{Name: "UserAssignedIdentities_Update", Method: "PATCH", Path: at + "/{name}", Action: typ + "/write", Handle: e.patchIdentity},
		{Name: "UserAssignedIdentities_Get", Method: "GET", Path: at + "/{name}", Action: typ + "/read", Handle: e.getIdentity},
		{Name: "UserAssignedIdentities_Delete", Method: "DELETE", Path: at + "/{name}", Action: typ + "/delete", Handle: e.deleteIdentity},
		{Name: "FederatedIdentityCredentials_List", Method: "GET", Path: at + "/{name}/federatedIdentityCredentials", Action: typ + "/federatedIdentityCredentials/read", Handle: e.listFederated},
		{Name: "FederatedIdentityCredentials_CreateOrUpdate", Method: "PUT", Path: at + "/{name}/federatedIdentityCredentials/{name2}", Action: typ + "/federatedIdentityCredentials/write",
			Refused: "Federated credentials are not supported: Millpond trusts no other issuer. Assign the identity to a pool, whose nodes get its tokens."},
	}
}

type identityBody struct {
	Location string             `json:"location"`
	Tags     map[string]*string `json:"tags"`
}

func (e *Edge) putIdentity(w http.ResponseWriter, r *azwire.Request) error {
	var body identityBody
	if err := decode(r, &body); err != nil {
		return err
	}
	tags := tagsIn(body.Tags)
	if err := resource.CheckTags(tags); err != nil {
		return err
	}
	m, created, err := e.Identities.Put(r.Context(), managedidentity.Change{ID: id(r, millpond.TypeManagedIdentity, "name"), Location: body.Location, Tags: tags})
	if err == nil {
		made(w, created, encodeIdentity(m))
	}
	return err
}

func (e *Edge) patchIdentity(w http.ResponseWriter, r *azwire.Request) error {
	var body identityBody
	if err := decode(r, &body); err != nil {
		return err
	}
	c := managedidentity.Change{ID: id(r, millpond.TypeManagedIdentity, "name"), Patch: true}
	if body.Tags != nil {
		c.Tags = tagsIn(body.Tags)
		if err := resource.CheckTags(c.Tags); err != nil {
			return err
		}
	}
	m, _, err := e.Identities.Put(r.Context(), c)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeIdentity(m))
	}
	return err
}

func encodeIdentity(m *millpond.ManagedIdentity) map[string]any {
	tags := m.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	return map[string]any{"id": m.ID.String(), "name": m.ID.Name(), "type": millpond.TypeManagedIdentity, "location": m.Location, "tags": tags,
		"properties": map[string]any{"tenantId": m.Tenant, "clientId": m.ClientID, "principalId": m.PrincipalID}}
}

func (e *Edge) listIdentities(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeManagedIdentity)
	if err != nil {
		return err
	}
	all, err := e.Identities.List(r.Context(), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, all, resourceKey[*millpond.ManagedIdentity], func(m *millpond.ManagedIdentity) any { return encodeIdentity(m) })
}

func (e *Edge) getIdentity(w http.ResponseWriter, r *azwire.Request) error {
	m, err := e.Identities.Get(r.Context(), id(r, millpond.TypeManagedIdentity, "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeIdentity(m))
	}
	return err
}

func (e *Edge) deleteIdentity(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Identities.Delete(r.Context(), id(r, millpond.TypeManagedIdentity, "name"))
	return deleted(w, found, err)
}

// listFederated lists no credentials: clients look before they go on.
func (e *Edge) listFederated(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Identities.Get(r.Context(), id(r, millpond.TypeManagedIdentity, "name")); err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{}})
	return nil
}
