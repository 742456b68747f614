package armapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/deployment"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/template"
)

func (e *Edge) deploymentRoutes() []azwire.Route {
	const sub = "/subscriptions/{sub}"
	const group = sub + "/resourceGroups/{rg}"
	const action = millpond.TypeDeployment
	const whatIf = "Predicting the changes of a deployment is not supported. Check the template with az deployment group validate, and run it without --what-if."
	const managementGroups = "There are no management groups here. Deploy to a subscription or to a resource group."
	const tenants = "Deployments at a tenant are not supported. Deploy to a subscription or to a resource group."
	var out []azwire.Route
	for _, at := range []struct{ scope, suffix string }{{group, ""}, {sub, "AtSubscriptionScope"}} {
		all := at.scope + "/providers/Microsoft.Resources/deployments"
		one := all + "/{name}"
		list := "Deployments_ListByResourceGroup"
		if at.suffix != "" {
			list = "Deployments_ListAtSubscriptionScope"
		}
		route := func(name, method, path, right string, handle func(http.ResponseWriter, *azwire.Request) error) azwire.Route {
			return azwire.Route{Name: "Deployments_" + name + at.suffix, Method: method, Path: path, Action: action + "/" + right, Handle: handle}
		}
		put := route("CreateOrUpdate", "PUT", one, "write", e.putDeployment)
		put.Check = e.checkDeployment
		out = append(out, azwire.Route{Name: list, Method: "GET", Path: all, Action: action + "/read", ByItem: true, Handle: e.listDeployments}, put,
			route("Get", "GET", one, "read", e.getDeployment),
			route("CheckExistence", "HEAD", one, "read", e.headDeployment),
			route("Delete", "DELETE", one, "delete", e.deleteDeployment),
			route("Cancel", "POST", one+"/cancel", "cancel/action", e.cancelDeployment),
			route("Validate", "POST", one+"/validate", "validate/action", e.validateDeployment),
			route("ExportTemplate", "POST", one+"/exportTemplate", "exportTemplate/action", e.exportDeployment),
			route("GetOperationStatus", "GET", one+"/operationStatuses/{op}", "operationStatuses/read", e.deploymentStatus),
			azwire.Route{Name: "Deployments_WhatIf" + at.suffix, Method: "POST", Path: one + "/whatIf", Action: action + "/whatIf/action", Refused: whatIf},
			azwire.Route{Name: "DeploymentOperations_List" + at.suffix, Method: "GET", Path: one + "/operations", Action: action + "/operations/read", ByItem: true, Handle: e.listSteps},
			azwire.Route{Name: "DeploymentOperations_Get" + at.suffix, Method: "GET", Path: one + "/operations/{op}", Action: action + "/operations/read", Handle: e.getStep})
	}
	// The SDKs ask for a group's operations without the provider in the path.
	const short = group + "/deployments/{name}/operations"
	const managed = "/providers/Microsoft.Management/managementGroups/{name}/providers/Microsoft.Resources/deployments/{name2}"
	return append(out,
		azwire.Route{Name: "DeploymentOperations_List", Method: "GET", Path: short, Action: action + "/operations/read", ByItem: true, Handle: e.listSteps},
		azwire.Route{Name: "DeploymentOperations_Get", Method: "GET", Path: short + "/{op}", Action: action + "/operations/read", Handle: e.getStep},
		azwire.Route{Name: "ResourceGroups_ExportTemplate", Method: "POST", Path: group + "/exportTemplate", Action: "Microsoft.Resources/subscriptions/resourceGroups/exportTemplate/action",
			Refused: "Making a template of what is in a group is not supported. The template of one deployment can be had: az deployment group export."},
		azwire.Route{Name: "Deployments_CreateOrUpdateAtManagementGroupScope", Method: "PUT", Path: managed, Action: action + "/write", Refused: managementGroups},
		azwire.Route{Name: "Deployments_ValidateAtManagementGroupScope", Method: "POST", Path: managed + "/validate", Action: action + "/validate/action", Refused: managementGroups},
		azwire.Route{Name: "Deployments_CreateOrUpdateAtTenantScope", Method: "PUT", Path: "/providers/Microsoft.Resources/deployments/{name}", Action: action + "/write", Refused: tenants},
		azwire.Route{Name: "Deployments_ValidateAtTenantScope", Method: "POST", Path: "/providers/Microsoft.Resources/deployments/{name}/validate", Action: action + "/validate/action", Refused: tenants})
}

type deploymentBody struct {
	Location   string             `json:"location"`
	Tags       map[string]*string `json:"tags"`
	Properties struct {
		Mode           string          `json:"mode"`
		Template       json.RawMessage `json:"template"`
		TemplateLink   given           `json:"templateLink"`
		Parameters     json.RawMessage `json:"parameters"`
		ParametersLink given           `json:"parametersLink"`
		OnError        given           `json:"onErrorDeployment"`
	} `json:"properties"`
}

func deploymentScope(r *azwire.Request) string {
	if r.Param("rg") == "" {
		return ""
	}
	return groupScope(r)
}

func deploymentKey(r *azwire.Request) string {
	scope := deploymentScope(r)
	if scope == "" {
		scope = "/subscriptions/" + r.Param("sub")
	}
	return strings.ToLower(scope + "/providers/" + millpond.TypeDeployment + "/" + r.Param("name"))
}

func (e *Edge) decodeDeployment(r *azwire.Request) (deployment.Request, error) {
	var body deploymentBody
	out := deployment.Request{Caller: r.Caller, Subscription: r.Param("sub"), Group: deploymentScope(r), Name: r.Param("name")}
	if err := decodeBy(r, &body, template.Lenient); err != nil {
		return out, err
	}
	p := body.Properties
	switch {
	case bool(p.TemplateLink):
		return out, unsupported("properties.templateLink", "Templates are not fetched from an address. Download it and send it: az deployment group create --template-file FILE")
	case bool(p.ParametersLink):
		return out, unsupported("properties.parametersLink", "Parameters are not fetched from an address. Download them and send them: --parameters @FILE")
	case bool(p.OnError):
		return out, unsupported("properties.onErrorDeployment", "Going back to an earlier deployment after a failure is not supported. Leave onErrorDeployment out.")
	}
	if out.Group != "" {
		g, err := e.Resources.Group(r.Context(), out.Group)
		if err != nil {
			return out, err
		}
		if g.State == millpond.StateDeleting {
			return out, millpond.Errorf(millpond.Conflict, "ResourceGroupBeingDeleted", "The resource group '%s' is being deleted. Wait until it has gone and try again.", g.Name)
		}
		out.Group = g.Scope()
	}
	out.Location, out.Tags, out.Mode = body.Location, tagsIn(body.Tags), p.Mode
	if err := resource.CheckTags(out.Tags); err != nil {
		return out, err
	}
	if s := bytes.TrimSpace(p.Template); len(s) > 0 && string(s) != "null" {
		out.Template = p.Template
	}
	if len(p.Parameters) > 0 {
		v, err := template.DecodeJSON(p.Parameters)
		if err != nil {
			return out, errBody("the parameters are not valid JSON: %v.", err)
		}
		m, ok := v.(map[string]any)
		if v != nil && !ok {
			return out, millpond.Errorf(millpond.Invalid, "InvalidRequestContent", "The parameters must be an object: {\"name\": {\"value\": …}}.")
		}
		// A file of parameters wraps them once more.
		if inner, ok := m["parameters"].(map[string]any); ok && m["$schema"] != nil {
			m = inner
		}
		out.Parameters = m
	}
	return out, nil
}

func (e *Edge) checkDeployment(r *azwire.Request) error {
	req, err := e.decodeDeployment(r)
	if err != nil {
		return err
	}
	_, err = e.Deployments.Validate(r.Context(), req)
	return err
}

func (e *Edge) putDeployment(w http.ResponseWriter, r *azwire.Request) error {
	req, err := e.decodeDeployment(r)
	if err != nil {
		return err
	}
	p, created, err := e.Deployments.Put(r.Context(), req)
	if err != nil {
		return err
	}
	w.Header().Set("Azure-AsyncOperation", r.BaseURL+p.Deployment.ID+"/operationStatuses/"+p.Deployment.Operation+"?api-version="+r.APIVersion)
	w.Header().Set("Retry-After", "1")
	made(w, created, encodeDeployment(p.Deployment, p.Steps))
	return nil
}

func (e *Edge) validateDeployment(w http.ResponseWriter, r *azwire.Request) error {
	req, err := e.decodeDeployment(r)
	if err != nil {
		return err
	}
	p, err := e.Deployments.Validate(r.Context(), req)
	if err != nil {
		return err
	}
	p.Deployment.State, p.Deployment.Ended = millpond.DeploymentSucceeded, p.Deployment.Started
	out := encodeDeployment(p.Deployment, p.Steps)
	properties := out["properties"].(map[string]any)
	delete(properties, "outputs")
	delete(properties, "outputResources")
	validated := []any{}
	for _, st := range p.Steps {
		if st.State != millpond.StepSkipped {
			validated = append(validated, map[string]any{"id": st.Target})
		}
	}
	properties["validatedResources"] = validated
	azwire.WriteJSON(w, http.StatusOK, out)
	return nil
}

// encodeDeployment is a deployment without its template and its secrets.
func encodeDeployment(d *millpond.Deployment, steps []*millpond.DeploymentStep) map[string]any {
	end := d.Ended
	if end.IsZero() {
		end = d.Started
	}
	timestamp := d.Started
	if !d.Ended.IsZero() {
		timestamp = d.Ended
	}
	p := map[string]any{"provisioningState": string(d.State), "mode": "Incremental", "correlationId": d.Correlation, "timestamp": timestamp.Format(time.RFC3339Nano), "duration": azwire.FormatDuration(end.Sub(d.Started)),
		"templateHash": d.Hash, "providers": deploymentProviders(steps), "dependencies": dependencies(steps)}
	if len(d.Shown) > 0 {
		p["parameters"] = d.Shown
	}
	if len(d.Outputs) > 0 {
		p["outputs"] = d.Outputs
	}
	if d.State != millpond.DeploymentRunning {
		made := []any{}
		for _, st := range steps {
			if st.State == millpond.StepSucceeded {
				made = append(made, map[string]any{"id": st.Target})
			}
		}
		p["outputResources"] = made
	}
	if d.Failure != nil {
		p["error"] = d.Failure
	}
	out := map[string]any{"id": d.ID, "name": d.Name, "type": millpond.TypeDeployment, "properties": p}
	if d.Location != "" {
		out["location"] = d.Location
	}
	if len(d.Tags) > 0 {
		out["tags"] = d.Tags
	}
	return out
}

// deploymentProviders lists the types of a deployment by provider.
func deploymentProviders(steps []*millpond.DeploymentStep) []any {
	out := []any{}
	at, seen := map[string]map[string]any{}, map[string]bool{}
	for _, st := range steps {
		ns, typ, _ := strings.Cut(st.Type, "/")
		p := at[strings.ToLower(ns)]
		if p == nil {
			p = map[string]any{"namespace": ns, "resourceTypes": []any{}}
			at[strings.ToLower(ns)] = p
			out = append(out, p)
		}
		if k := strings.ToLower(st.Type); !seen[k] {
			seen[k] = true
			p["resourceTypes"] = append(p["resourceTypes"].([]any), map[string]any{"resourceType": typ, "locations": []any{nil}})
		}
	}
	return out
}

func dependencies(steps []*millpond.DeploymentStep) []any {
	out := []any{}
	ref := func(st *millpond.DeploymentStep) map[string]any {
		return map[string]any{"id": st.Target, "resourceType": st.Type, "resourceName": st.Name}
	}
	for _, st := range steps {
		on := []any{}
		for _, d := range st.DependsOn {
			on = append(on, ref(steps[d]))
		}
		if len(on) > 0 {
			one := ref(st)
			one["dependsOn"] = on
			out = append(out, one)
		}
	}
	return out
}

func (e *Edge) getDeployment(w http.ResponseWriter, r *azwire.Request) error {
	d, steps, err := e.Deployments.Get(r.Context(), deploymentKey(r), r.Param("name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeDeployment(d, steps))
	}
	return err
}

func (e *Edge) headDeployment(w http.ResponseWriter, r *azwire.Request) error {
	if _, _, err := e.Deployments.Get(r.Context(), deploymentKey(r), r.Param("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (e *Edge) listDeployments(w http.ResponseWriter, r *azwire.Request) error {
	after, limit, err := e.page(r)
	if err != nil {
		return err
	}
	state, err := deploymentFilter(r.QueryValue("$filter"))
	if err != nil {
		return err
	}
	if state != "" {
		limit = 0 // the filter comes after the page is cut
	}
	ds, err := e.Deployments.List(r.Context(), r.Param("sub"), deploymentScope(r), after, limit)
	if err != nil {
		return err
	}
	if state != "" {
		kept := ds[:0]
		for _, d := range ds {
			if strings.EqualFold(string(d.State), state) {
				kept = append(kept, d)
			}
		}
		ds = kept
	}
	return writeList(e, w, r, ds, func(d *millpond.Deployment) (string, string, string) {
		return d.Key(), d.ID, millpond.TypeDeployment + "/read"
	}, func(d *millpond.Deployment) any { return encodeDeployment(d, nil) })
}

// deploymentFilter reads the one filter that Azure has here.
func deploymentFilter(text string) (string, error) {
	if text = strings.TrimSpace(text); text == "" {
		return "", nil
	}
	words := strings.Fields(text)
	if len(words) != 3 || !strings.EqualFold(words[0], "provisioningState") || !strings.EqualFold(words[1], "eq") {
		return "", millpond.Errorf(millpond.Invalid, "InvalidFilterInQueryString", "The $filter '%s' is not supported. Use provisioningState eq 'STATE'.", text)
	}
	return strings.Trim(words[2], "'"), nil
}

func (e *Edge) deleteDeployment(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Deployments.Delete(r.Context(), deploymentKey(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (e *Edge) cancelDeployment(w http.ResponseWriter, r *azwire.Request) error {
	if err := e.Deployments.Cancel(r.Context(), deploymentKey(r), r.Param("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (e *Edge) exportDeployment(w http.ResponseWriter, r *azwire.Request) error {
	d, _, err := e.Deployments.Get(r.Context(), deploymentKey(r), r.Param("name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, map[string]any{"template": d.Template})
	}
	return err
}

// deploymentStatus is what clients poll. Unlike the status of other operations
// it has the causes of a failure.
func (e *Edge) deploymentStatus(w http.ResponseWriter, r *azwire.Request) error {
	d, _, err := e.Deployments.Get(r.Context(), deploymentKey(r), r.Param("name"))
	if err != nil {
		return err
	}
	if !strings.EqualFold(d.Operation, r.Param("op")) {
		return millpond.Errorf(millpond.NotFound, "OperationNotFound", "There is no operation %s of deployment '%s'; it was replaced by a later one.", r.Param("op"), d.Name)
	}
	w.Header().Set("Retry-After", "1")
	body := map[string]any{"status": string(d.State), "name": d.Operation, "startTime": d.Started.Format(time.RFC3339Nano)}
	if !d.Ended.IsZero() {
		body["endTime"] = d.Ended.Format(time.RFC3339Nano)
	}
	if d.Failure != nil {
		body["error"] = d.Failure
	}
	azwire.WriteJSON(w, http.StatusOK, body)
	return nil
}

// encodeStep is one operation of a deployment.
func encodeStep(d *millpond.Deployment, st *millpond.DeploymentStep) any {
	p := map[string]any{"provisioningOperation": "Create", "provisioningState": string(st.State), "timestamp": st.Started.Format(time.RFC3339Nano), "duration": "PT0S", "trackingId": d.Correlation,
		"targetResource": map[string]any{"id": st.Target, "resourceType": st.Type, "resourceName": st.Name}}
	if !st.Ended.IsZero() && !st.Started.IsZero() {
		p["timestamp"], p["duration"] = st.Ended.Format(time.RFC3339Nano), azwire.FormatDuration(st.Ended.Sub(st.Started))
	}
	switch {
	case st.Failure != nil:
		code := "Conflict"
		p["statusCode"], p["statusMessage"] = code, map[string]any{"error": st.Failure}
	case st.State == millpond.StepSucceeded && st.Status == http.StatusCreated:
		p["statusCode"] = "Created"
	case st.State == millpond.StepSucceeded:
		p["statusCode"] = "OK"
	case st.State == millpond.StepRunning:
		p["statusCode"] = "Accepted"
	}
	return map[string]any{"id": d.ID + "/operations/" + st.ID, "operationId": st.ID, "properties": p}
}

func (e *Edge) listSteps(w http.ResponseWriter, r *azwire.Request) error {
	d, steps, err := e.Deployments.Get(r.Context(), deploymentKey(r), r.Param("name"))
	if err != nil {
		return err
	}
	var items []nested
	for _, st := range steps {
		// What has not begun is no operation yet.
		if !st.Started.IsZero() {
			items = append(items, nested{d.ID, millpond.TypeDeployment + "/operations/read", encodeStep(d, st)})
		}
	}
	return e.writeNested(w, r, items)
}

func (e *Edge) getStep(w http.ResponseWriter, r *azwire.Request) error {
	d, steps, err := e.Deployments.Get(r.Context(), deploymentKey(r), r.Param("name"))
	if err != nil {
		return err
	}
	for _, st := range steps {
		if strings.EqualFold(st.ID, r.Param("op")) {
			azwire.WriteJSON(w, http.StatusOK, encodeStep(d, st))
			return nil
		}
	}
	return millpond.Errorf(millpond.NotFound, "DeploymentOperationNotFound", "The deployment '%s' has no operation %s.", d.Name, r.Param("op"))
}

var _ deployment.Manager = Local{}
