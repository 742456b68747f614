package armapi

import (
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

func (e *Edge) groupRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/resourceGroups"
	const action = "Microsoft.Resources/subscriptions/resourceGroups/"
	return []azwire.Route{
		{Name: "ResourceGroups_List", Method: "GET", Path: at, Action: action + "read", ByItem: true, Handle: e.listGroups},
		{Name: "ResourceGroups_CreateOrUpdate", Method: "PUT", Path: at + "/{rg}", Action: action + "write", Handle: e.putGroup},
		{Name: "ResourceGroups_Update", Method: "PATCH", Path: at + "/{rg}", Action: action + "write", Handle: e.patchGroup},
		{Name: "ResourceGroups_Get", Method: "GET", Path: at + "/{rg}", Action: action + "read", Handle: e.getGroup},
		{Name: "ResourceGroups_CheckExistence", Method: "HEAD", Path: at + "/{rg}", Action: action + "read", Handle: e.headGroup},
		{Name: "ResourceGroups_Delete", Method: "DELETE", Path: at + "/{rg}", Action: action + "delete", Handle: e.deleteGroup},
	}
}

func groupScope(r *azwire.Request) string {
	return "/subscriptions/" + r.Param("sub") + "/resourceGroups/" + r.Param("rg")
}

func encodeGroup(g millpond.Group) any {
	tags := g.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	return map[string]any{"id": g.Scope(), "name": g.Name, "type": "Microsoft.Resources/resourceGroups", "location": g.Location, "tags": tags,
		"properties": map[string]any{"provisioningState": string(g.State)}}
}

func (e *Edge) listGroups(w http.ResponseWriter, r *azwire.Request) error {
	after, limit, err := e.page(r)
	if err != nil {
		return err
	}
	terms, err := filterTerms(r, "tagName", "tagValue")
	if err != nil {
		return err
	}
	gs, err := e.Resources.Groups(r.Context(), r.Param("sub"), after, limit, tagOf(terms))
	if err != nil {
		return err
	}
	return writeList(e, w, r, gs, func(g millpond.Group) (string, string, string) {
		return strings.ToLower(g.Scope()), g.Scope(), r.Route.Action
	}, func(g millpond.Group) any { return encodeGroup(g) })
}

type groupBody struct {
	Location  string             `json:"location"`
	Tags      map[string]*string `json:"tags"`
	ManagedBy *string            `json:"managedBy"`
}

func (e *Edge) putGroup(w http.ResponseWriter, r *azwire.Request) error {
	var body groupBody
	if err := decode(r, &body); err != nil {
		return err
	}
	g, created, err := e.Resources.PutGroup(r.Context(), millpond.Group{Subscription: r.Param("sub"), Name: r.Param("rg"), Location: body.Location, Tags: tagsIn(body.Tags)})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	azwire.WriteJSON(w, status, encodeGroup(g))
	return nil
}

func (e *Edge) patchGroup(w http.ResponseWriter, r *azwire.Request) error {
	var body groupBody
	if err := decode(r, &body); err != nil {
		return err
	}
	g, err := e.Resources.PatchGroup(r.Context(), groupScope(r), tagsIn(body.Tags))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeGroup(g))
	}
	return err
}

func (e *Edge) getGroup(w http.ResponseWriter, r *azwire.Request) error {
	g, err := e.Resources.Group(r.Context(), groupScope(r))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeGroup(g))
	}
	return err
}

func (e *Edge) headGroup(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Resources.Group(r.Context(), groupScope(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (e *Edge) deleteGroup(w http.ResponseWriter, r *azwire.Request) error {
	op, err := e.Resources.DeleteGroup(r.Context(), groupScope(r))
	if err != nil {
		return err
	}
	e.accepted(w, r, op, "Microsoft.Resources", "global")
	return nil
}
