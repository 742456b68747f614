package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/authz"
	"millpond.dev/millpond/internal/azwire"
)

// forEverybody are the lists that are the same for all subscriptions, of which nothing
// is a secret.
func forEverybody(operation string) bool {
	for _, prefix := range []string{"VirtualMachineImages_", "VirtualMachineExtensionImages_", "VirtualMachineSizes_", "ResourceSkus_", "Location_ListSupported"} {
		if strings.HasPrefix(operation, prefix) {
			return true
		}
	}
	return operation == "VirtualMachineRunCommands_List"
}

// TestARoleOpensNothingElse: who has a role in a group that grants nothing of the
// Resource Manager reads nothing there: each GET is refused, or is a list in which
// nothing is. To see that there is a group is no right on what lies in it.
func TestARoleOpensNothingElse(t *testing.T) {
	d := newDoor(t)
	group := armName + d.scope() + "/resourceGroups/g"
	admin := bearer(d.token(d.admin, armName))
	var who struct{ Value []struct{ ID string } }
	check(t, json.Unmarshal(d.send("GET", graphName+"/v1.0/servicePrincipals?$filter="+url.QueryEscape("appId eq '"+d.nobody.ClientID+"'"), bearer(d.token(d.admin, graphName)), "").Body.Bytes(), &who))
	if len(who.Value) != 1 {
		t.Fatalf("%+v", who)
	}
	a := d.send("PUT", group+"/providers/Microsoft.Authorization/roleAssignments/"+noGUID+"?api-version=2022-04-01", admin,
		`{"properties":{"roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/`+authz.BlobDataReader+`","principalId":"`+who.Value[0].ID+`","principalType":"ServicePrincipal"}}`)
	a.is(t, 201, "")
	d.send("PATCH", group+"?api-version=2021-04-01", admin, `{"tags":{"project":"secret"}}`).is(t, 200, "")
	values := map[string]string{"sub": d.admin.SubscriptionID, "rg": "g", "name": "disk", "loc": region, "op": d.operation, "ns": "Microsoft.Other", "rest": "things/x",
		"type": "things", "type2": "parts", "name2": "p", "type3": "bolts", "name3": "b", "alias": "taken", "gallery": "gallery", "image": "image", "version": "1.0.0",
		"vm": "vm", "publisher": "debian", "offer": "debian-12", "sku": "12", "pool": "pool", "detector": "poolsAndNodes", "kind": "images", "app": "app", "cert": "sha1-00", "id": noGUID}
	narrow := bearer(d.token(d.nobody, armName))
	path := func(t *testing.T, r azwire.Route) string { return fill(t, r.Path, values) }
	each(t, d.s.edges.arm.Routes(), []string{armName}, path, func(t *testing.T, r azwire.Route, target string) {
		if r.Method != http.MethodGet || signedIn(d)[r.Name] != nil || r.Refused != "" {
			return
		}
		a := d.send(r.Method, target+"?api-version=2024-03-02", narrow, "")
		switch {
		case a.Code == http.StatusForbidden:
			return
		case !r.ByItem:
			t.Errorf("answered %d %s", a.Code, a.Body)
			return
		case a.Code == http.StatusNotFound || forEverybody(r.Name):
			return
		}
		var list struct{ Value []any }
		if err := json.Unmarshal(a.Body.Bytes(), &list); err != nil || a.Code != 200 || len(list.Value) > 0 {
			t.Errorf("answered %d %s", a.Code, a.Body)
		}
	})
	if a := d.send("GET", armName+d.scope()+"/tagNames?api-version=2021-04-01", admin, ""); !strings.Contains(a.Body.String(), "secret") {
		t.Errorf("the administrator sees no tags: %s", a.Body)
	}
}
