package armapi

import (
	"net/http"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

func (e *Edge) subscriptionRoutes() []azwire.Route {
	return []azwire.Route{
		{Name: "Tenants_List", Method: "GET", Path: "/tenants", Action: SignedIn, Handle: e.listTenants},
		{Name: "Subscriptions_List", Method: "GET", Path: "/subscriptions", Action: SignedIn, Handle: e.listSubscriptions},
		{Name: "Subscriptions_Get", Method: "GET", Path: "/subscriptions/{sub}", Action: SignedIn, Handle: e.getSubscription},
		{Name: "Subscriptions_ListLocations", Method: "GET", Path: "/subscriptions/{sub}/locations", Action: SignedIn, Handle: e.listLocations},
		{Name: "Alias_Create", Method: "PUT", Path: "/providers/Microsoft.Subscription/aliases/{alias}", Action: "Microsoft.Subscription/aliases/write", Handle: e.putAlias},
		{Name: "Alias_Get", Method: "GET", Path: "/providers/Microsoft.Subscription/aliases/{alias}", Action: "Microsoft.Subscription/aliases/read", Handle: e.getAlias},
	}
}

func (e *Edge) encodeSubscription(s millpond.Subscription) any {
	return map[string]any{
		"id": s.Scope(), "authorizationSource": "RoleBased", "managedByTenants": []any{}, "subscriptionId": s.ID, "tenantId": s.Tenant, "homeTenantId": s.Tenant,
		"displayName": s.Name, "state": "Enabled", "tags": map[string]string{},
		"subscriptionPolicies": map[string]string{"locationPlacementId": "Public_2014-09-01", "quotaId": "Internal_2014-09-01", "spendingLimit": "Off"},
	}
}

func (e *Edge) listTenants(w http.ResponseWriter, r *azwire.Request) error {
	t := map[string]any{"id": "/tenants/" + r.Caller.Tenant, "tenantId": r.Caller.Tenant, "tenantCategory": "Home", "countryCode": "US"}
	if e.TenantName != nil {
		t["displayName"] = e.TenantName(r.Context(), r.Caller.Tenant)
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{t}})
	return nil
}

func (e *Edge) listSubscriptions(w http.ResponseWriter, r *azwire.Request) error {
	subs, err := e.Resources.Subscriptions(r.Context(), r.Caller.Tenant)
	if err != nil {
		return err
	}
	value := []any{}
	for _, s := range subs {
		if e.Auth.Sees(r.Context(), r.Caller, s.Scope()) {
			value = append(value, e.encodeSubscription(s))
		}
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value, "count": map[string]any{"type": "Total", "value": len(value)}})
	return nil
}

// visible refuses a subscription in which the caller has no role at all.
func (e *Edge) visible(r *azwire.Request, action string) (millpond.Subscription, error) {
	s, err := e.Resources.SubscriptionFor(r.Context(), r.Caller, r.Param("sub"))
	if err != nil || e.Auth.Sees(r.Context(), r.Caller, s.Scope()) {
		return s, err
	}
	return s, e.Auth.Authorize(r.Context(), r.Caller, action, s.Scope())
}

func (e *Edge) getSubscription(w http.ResponseWriter, r *azwire.Request) error {
	s, err := e.visible(r, "Microsoft.Resources/subscriptions/read")
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeSubscription(s))
	}
	return err
}

func (e *Edge) listLocations(w http.ResponseWriter, r *azwire.Request) error {
	s, err := e.visible(r, "Microsoft.Resources/subscriptions/locations/read")
	if err != nil {
		return err
	}
	value := []any{}
	for _, l := range e.Resources.Regions() {
		value = append(value, map[string]any{
			"id": s.Scope() + "/locations/" + l.Name, "name": l.Name, "type": "Region", "displayName": l.DisplayName, "regionalDisplayName": "(" + l.Geography + ") " + l.DisplayName,
			"metadata": map[string]any{"regionType": "Physical", "regionCategory": "Recommended", "geography": l.Geography, "geographyGroup": l.Geography, "longitude": "0", "latitude": "0", "physicalLocation": "", "pairedRegion": []any{}},
		})
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) encodeAlias(name string, s millpond.Subscription) any {
	return map[string]any{"id": "/providers/Microsoft.Subscription/aliases/" + name, "name": name, "type": "Microsoft.Subscription/aliases",
		"properties": map[string]any{"subscriptionId": s.ID, "displayName": s.Name, "provisioningState": "Succeeded", "createdTime": s.Created}}
}

func (e *Edge) putAlias(w http.ResponseWriter, r *azwire.Request) error {
	var body struct {
		Properties struct {
			DisplayName          string `json:"displayName"`
			SubscriptionID       string `json:"subscriptionId"`
			AdditionalProperties struct {
				SubscriptionTenantID string `json:"subscriptionTenantId"`
			} `json:"additionalProperties"`
		} `json:"properties"`
	}
	if err := decode(r, &body); err != nil {
		return err
	}
	if body.Properties.SubscriptionID != "" {
		return unsupported("properties.subscriptionId", "An alias for a subscription that exists already is not supported. Leave subscriptionId out.")
	}
	if t := body.Properties.AdditionalProperties.SubscriptionTenantID; t != "" && t != r.Caller.Tenant {
		return unsupported("properties.additionalProperties.subscriptionTenantId", "A subscription is made in the tenant of its creator. Log in to tenant %s to make one there.", t)
	}
	s, err := e.Resources.Alias(r.Context(), r.Caller, r.Param("alias"), body.Properties.DisplayName, "")
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeAlias(r.Param("alias"), s))
	}
	return err
}

func (e *Edge) getAlias(w http.ResponseWriter, r *azwire.Request) error {
	s, err := e.Resources.FindAlias(r.Context(), r.Caller, r.Param("alias"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeAlias(r.Param("alias"), s))
	}
	return err
}
