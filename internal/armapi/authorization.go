package armapi

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/authz"
	"millpond.dev/millpond/internal/azwire"
)

// authorizationProvider comes last in the path of every request for this
// handler; what stands before it is the scope.
const authorizationProvider = "/providers/microsoft.authorization/"

// AuthorizationHandler serves Microsoft.Authorization at any scope: a
// subscription, a group, a resource at any depth, or "/". The Resource Manager's
// router hands it every authenticated request whose last provider this is.
type AuthorizationHandler struct {
	authz  *authz.Service
	log    *slog.Logger
	routes []azwire.Route
	router *azwire.Router
	// Locks is set once, before the first request.
	Locks Locks
}

// NewAuthorization makes the handler.
func NewAuthorization(az *authz.Service, log *slog.Logger) *AuthorizationHandler {
	a := &AuthorizationHandler{authz: az, log: log}
	const ns = "/providers/Microsoft.Authorization"
	const pim = "Eligible and scheduled roles are not supported. Use az role assignment create; an assignment is in force until it is deleted."
	a.routes = []azwire.Route{
		{Name: "RoleDefinitions_List", Method: "GET", Path: ns + "/roleDefinitions", Action: "Microsoft.Authorization/roleDefinitions/read", Handle: a.listDefinitions},
		{Name: "RoleDefinitions_Get", Method: "GET", Path: ns + "/roleDefinitions/{id}", Action: "Microsoft.Authorization/roleDefinitions/read", Handle: a.getDefinition},
		{Name: "RoleDefinitions_CreateOrUpdate", Method: "PUT", Path: ns + "/roleDefinitions/{id}", Action: "Microsoft.Authorization/roleDefinitions/write", Handle: a.putDefinition},
		{Name: "RoleDefinitions_Delete", Method: "DELETE", Path: ns + "/roleDefinitions/{id}", Action: "Microsoft.Authorization/roleDefinitions/delete", Handle: a.deleteDefinition},
		{Name: "RoleAssignments_List", Method: "GET", Path: ns + "/roleAssignments", Action: "Microsoft.Authorization/roleAssignments/read", Handle: a.listAssignments},
		{Name: "RoleAssignments_Get", Method: "GET", Path: ns + "/roleAssignments/{id}", Action: "Microsoft.Authorization/roleAssignments/read", Handle: a.getAssignment},
		{Name: "RoleAssignments_Create", Method: "PUT", Path: ns + "/roleAssignments/{id}", Action: "Microsoft.Authorization/roleAssignments/write", Handle: a.putAssignment},
		{Name: "RoleAssignments_Delete", Method: "DELETE", Path: ns + "/roleAssignments/{id}", Action: "Microsoft.Authorization/roleAssignments/delete", Handle: a.deleteAssignment},
		{Name: "Permissions_List", Method: "GET", Path: ns + "/permissions", Action: "Microsoft.Authorization/permissions/read", Handle: a.listPermissions},
		{Name: "DenyAssignments_List", Method: "GET", Path: ns + "/denyAssignments", Action: "Microsoft.Authorization/denyAssignments/read", Handle: a.emptyList},
		{Name: "ClassicAdministrators_List", Method: "GET", Path: ns + "/classicAdministrators", Action: "Microsoft.Authorization/classicAdministrators/read", Handle: a.emptyList},
		{Name: "RoleAssignmentScheduleRequests_Create", Method: "PUT", Path: ns + "/roleAssignmentScheduleRequests/{id}", Action: "Microsoft.Authorization/roleAssignments/write", Refused: pim},
		{Name: "RoleEligibilityScheduleRequests_Create", Method: "PUT", Path: ns + "/roleEligibilityScheduleRequests/{id}", Action: "Microsoft.Authorization/roleAssignments/write", Refused: pim},
	}
	a.routes = append(a.routes, a.lockRoutes(ns)...)
	a.router = azwire.NewRouter(a.routes)
	return a
}

// Routes is the table, with the scope "/".
func (a *AuthorizationHandler) Routes() []azwire.Route { return a.routes }

// ServeHTTP serves an authenticated request.
func (a *AuthorizationHandler) ServeHTTP(w http.ResponseWriter, r *azwire.Request) {
	if err := a.serve(w, r); err != nil {
		if millpond.KindOf(err) == millpond.Internal {
			a.log.Error("authorization request failed", "request", r.ID, "error", err)
		}
		azwire.WriteARMError(w, r.Request, err)
	}
}

func (a *AuthorizationHandler) serve(w http.ResponseWriter, r *azwire.Request) error {
	raw := r.URL.EscapedPath()
	i := strings.LastIndex(strings.ToLower(raw), authorizationProvider)
	if i < 0 {
		return millpond.Errorf(millpond.NotFound, "InvalidResourceType", "The path has no Microsoft.Authorization provider.")
	}
	scope, err := url.PathUnescape(raw[:i])
	if err != nil {
		return millpond.Errorf(millpond.Invalid, "InvalidScope", "The scope is not properly encoded.")
	}
	scope = "/" + strings.Trim(scope, "/")
	route, params, allowed := a.router.Match(r.Method, raw[i:])
	switch {
	case route == nil && len(allowed) > 0:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return millpond.Errorf(millpond.MethodNotAllowed, "MethodNotAllowed", "%s is not possible here; use %s.", r.Method, strings.Join(allowed, ", "))
	case route == nil:
		return millpond.Errorf(millpond.NotFound, "InvalidResourceType", "The resource type could not be found in the namespace 'Microsoft.Authorization': '%s'.", r.URL.Path)
	}
	r.Route = route
	for k, v := range params {
		r.SetParam(k, v)
	}
	r.SetParam("scope", scope)
	if err := a.authz.Authorize(r.Context(), r.Caller, route.Action, scope); err != nil {
		return err
	}
	if route.Refused != "" {
		return millpond.Errorf(millpond.Unsupported, "OperationNotSupported", "%s: %s", route.Name, route.Refused)
	}
	return route.Handle(w, r)
}

// roleID is the full id of a role as seen from a scope. The service prefixes it
// with the subscription of the question, and az compares the texts.
func roleID(scope, id string) string {
	parts := strings.Split(strings.Trim(scope, "/"), "/")
	prefix := ""
	if len(parts) >= 2 && strings.EqualFold(parts[0], "subscriptions") {
		prefix = "/subscriptions/" + parts[1]
	}
	return prefix + "/providers/Microsoft.Authorization/roleDefinitions/" + id
}

func assignmentID(a millpond.RoleAssignment) string {
	return strings.TrimSuffix(a.Scope, "/") + "/providers/Microsoft.Authorization/roleAssignments/" + a.ID
}

type wireDefinition struct {
	ID         string                   `json:"id"`
	Name       string                   `json:"name"`
	Type       string                   `json:"type"`
	Properties wireDefinitionProperties `json:"properties"`
}

type wireDefinitionProperties struct {
	RoleName         string                `json:"roleName"`
	Type             string                `json:"type"`
	Description      string                `json:"description"`
	AssignableScopes []string              `json:"assignableScopes"`
	Permissions      []millpond.Permission `json:"permissions"`
	CreatedOn        *time.Time            `json:"createdOn,omitempty"`
	UpdatedOn        *time.Time            `json:"updatedOn,omitempty"`
	CreatedBy        *string               `json:"createdBy"`
	UpdatedBy        *string               `json:"updatedBy"`
}

const customRole, builtInRole = "CustomRole", "BuiltInRole"

func roleType(d millpond.RoleDefinition) string {
	if d.BuiltIn {
		return builtInRole
	}
	return customRole
}

func toWireDefinition(scope string, d millpond.RoleDefinition) wireDefinition {
	w := wireDefinition{ID: roleID(scope, d.ID), Name: d.ID, Type: "Microsoft.Authorization/roleDefinitions", Properties: wireDefinitionProperties{
		RoleName: d.Name, Type: roleType(d), Description: d.Description, AssignableScopes: d.AssignableScopes}}
	for _, p := range d.Permissions {
		w.Properties.Permissions = append(w.Properties.Permissions, fullPermission(p))
	}
	if !d.Created.IsZero() {
		w.Properties.CreatedOn, w.Properties.UpdatedOn = &d.Created, &d.Updated
	}
	return w
}

// fullPermission has lists where there is nothing: clients iterate over them.
func fullPermission(p millpond.Permission) millpond.Permission {
	for _, l := range []*[]string{&p.Actions, &p.NotActions, &p.DataActions, &p.NotDataActions} {
		if *l == nil {
			*l = []string{}
		}
	}
	return p
}

type wireAssignment struct {
	ID         string                   `json:"id"`
	Name       string                   `json:"name"`
	Type       string                   `json:"type"`
	Properties wireAssignmentProperties `json:"properties"`
}

type wireAssignmentProperties struct {
	RoleDefinitionID string    `json:"roleDefinitionId"`
	PrincipalID      string    `json:"principalId"`
	PrincipalType    string    `json:"principalType"`
	Scope            string    `json:"scope"`
	Description      *string   `json:"description"`
	Condition        *string   `json:"condition"`
	ConditionVersion *string   `json:"conditionVersion"`
	CreatedOn        time.Time `json:"createdOn"`
	UpdatedOn        time.Time `json:"updatedOn"`
	CreatedBy        string    `json:"createdBy"`
	UpdatedBy        string    `json:"updatedBy"`
}

func toWireAssignment(scope string, a millpond.RoleAssignment) wireAssignment {
	p := wireAssignmentProperties{RoleDefinitionID: roleID(scope, a.Role), PrincipalID: a.Principal, PrincipalType: a.PrincipalType, Scope: a.Scope,
		CreatedOn: a.Created, UpdatedOn: a.Updated, CreatedBy: a.CreatedBy, UpdatedBy: a.CreatedBy}
	if a.Description != "" {
		p.Description = &a.Description
	}
	return wireAssignment{ID: assignmentID(a), Name: a.ID, Type: "Microsoft.Authorization/roleAssignments", Properties: p}
}

func writeValues[T any](w http.ResponseWriter, items []T) error {
	if items == nil {
		items = []T{}
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": items})
	return nil
}

func (a *AuthorizationHandler) emptyList(w http.ResponseWriter, _ *azwire.Request) error {
	return writeValues[any](w, nil)
}

func (a *AuthorizationHandler) listDefinitions(w http.ResponseWriter, r *azwire.Request) error {
	f, err := parseRoleFilter(r.QueryValue("$filter"))
	if err != nil {
		return err
	}
	scope := r.Param("scope")
	var items []wireDefinition
	for _, d := range a.authz.Definitions(r.Context(), r.Caller.Tenant, scope) {
		if (f.roleName == "" || strings.EqualFold(f.roleName, d.Name)) && (f.roleType == "" || strings.EqualFold(f.roleType, roleType(d))) {
			items = append(items, toWireDefinition(scope, d))
		}
	}
	return writeValues(w, items)
}

func (a *AuthorizationHandler) getDefinition(w http.ResponseWriter, r *azwire.Request) error {
	d, err := a.authz.Definition(r.Context(), r.Caller.Tenant, r.Param("id"))
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, toWireDefinition(r.Param("scope"), d))
	return nil
}

func (a *AuthorizationHandler) putDefinition(w http.ResponseWriter, r *azwire.Request) error {
	var body struct {
		Properties wireDefinitionProperties `json:"properties"`
	}
	if err := decode(r, &body); err != nil {
		return err
	}
	p := body.Properties
	// The right was checked at the scope of the path; the role would be usable at
	// each of these as well.
	for _, s := range p.AssignableScopes {
		if !strings.HasPrefix(s, "/") {
			return errBody("the assignable scope '%s' does not begin with '/'.", s)
		}
		if err := a.authz.Authorize(r.Context(), r.Caller, r.Route.Action, s); err != nil {
			return err
		}
	}
	d, err := a.authz.PutDefinition(r.Context(), r.Caller.Tenant, millpond.RoleDefinition{ID: r.Param("id"), Name: p.RoleName, Description: p.Description,
		AssignableScopes: p.AssignableScopes, Permissions: p.Permissions})
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusCreated, toWireDefinition(r.Param("scope"), d))
	return nil
}

func (a *AuthorizationHandler) deleteDefinition(w http.ResponseWriter, r *azwire.Request) error {
	d, ok, err := a.authz.DeleteDefinition(r.Context(), r.Caller.Tenant, r.Param("id"))
	if err != nil {
		return err
	}
	if !ok {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	azwire.WriteJSON(w, http.StatusOK, toWireDefinition(r.Param("scope"), d))
	return nil
}

func (a *AuthorizationHandler) listAssignments(w http.ResponseWriter, r *azwire.Request) error {
	f, err := parseRoleFilter(r.QueryValue("$filter"))
	if err != nil {
		return err
	}
	scope := r.Param("scope")
	var items []wireAssignment
	for _, x := range a.authz.Assignments(r.Context(), r.Caller.Tenant, scope, authz.Filter{AtScope: f.atScope, ExactScope: f.exactScope, Principal: f.principal, Role: f.role}) {
		items = append(items, toWireAssignment(scope, x))
	}
	return writeValues(w, items)
}

func (a *AuthorizationHandler) getAssignment(w http.ResponseWriter, r *azwire.Request) error {
	x, err := a.authz.Assignment(r.Context(), r.Caller.Tenant, r.Param("scope"), r.Param("id"))
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, toWireAssignment(r.Param("scope"), x))
	return nil
}

// putAssignment answers 201 always, also to a repetition: clients take nothing else.
func (a *AuthorizationHandler) putAssignment(w http.ResponseWriter, r *azwire.Request) error {
	type properties struct {
		RoleDefinitionID string  `json:"roleDefinitionId"`
		PrincipalID      string  `json:"principalId"`
		PrincipalType    string  `json:"principalType"`
		Description      string  `json:"description"`
		Condition        *string `json:"condition"`
	}
	// Old clients put the properties at the top.
	var body struct {
		properties
		Properties *properties `json:"properties"`
	}
	if err := decode(r, &body); err != nil {
		return err
	}
	p := body.properties
	if body.Properties != nil {
		p = *body.Properties
	}
	if p.Condition != nil && *p.Condition != "" {
		return millpond.Errorf(millpond.Unsupported, "ConditionNotSupported", "Conditions on role assignments are not supported. Leave properties.condition out.")
	}
	x, err := a.authz.Assign(r.Context(), r.Caller, authz.Assignment{ID: r.Param("id"), Scope: r.Param("scope"), Role: p.RoleDefinitionID,
		Principal: p.PrincipalID, PrincipalType: p.PrincipalType, Description: p.Description})
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusCreated, toWireAssignment(r.Param("scope"), x))
	return nil
}

func (a *AuthorizationHandler) deleteAssignment(w http.ResponseWriter, r *azwire.Request) error {
	x, ok, err := a.authz.Unassign(r.Context(), r.Caller.Tenant, r.Param("scope"), r.Param("id"))
	if err != nil {
		return err
	}
	if !ok {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	azwire.WriteJSON(w, http.StatusOK, toWireAssignment(r.Param("scope"), x))
	return nil
}

// listPermissions tells what the caller itself may do at the scope.
func (a *AuthorizationHandler) listPermissions(w http.ResponseWriter, r *azwire.Request) error {
	var items []millpond.Permission
	for _, x := range a.authz.Assignments(r.Context(), r.Caller.Tenant, r.Param("scope"), authz.Filter{AtScope: true, Principal: r.Caller.Object}) {
		d, err := a.authz.Definition(r.Context(), r.Caller.Tenant, x.Role)
		if err != nil {
			return err
		}
		for _, p := range d.Permissions {
			items = append(items, fullPermission(p))
		}
	}
	return writeValues(w, items)
}
