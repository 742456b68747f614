//go:build e2e

// Package rules checks the gallery rules of the user's document against a real
// server: each refusal's status, code and advice.
package rules

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// refusal is what a pool's body must be answered with.
type refusal struct {
	name   string
	body   map[string]any
	status int
	code   string
	says   []string // parts of the answer, without regard to case
}

func image(body map[string]any, id string) map[string]any {
	body["virtualMachineConfiguration"].(map[string]any)["imageReference"] = map[string]any{"virtualMachineImageId": id}
	return body
}

func sku(body map[string]any, id string) map[string]any {
	body["virtualMachineConfiguration"].(map[string]any)["nodeAgentSKUId"] = id
	return body
}

func with(body map[string]any, key string, v any) map[string]any {
	body[key] = v
	return body
}

func TestGalleryRules(t *testing.T) {
	file := filepath.Join(t.TempDir(), "millpond.yaml")
	if err := os.WriteFile(file, []byte("tenants:\n- {name: other, domain: other.example}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := lab.Start(t, "--launcher", "fake", "--config", file)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	source := l.Compute() + "/images/labimage"

	// A version in another region only, one of a specialized definition.
	elsewhere := l.Define("elsewhere", "Generalized", "V1")
	east := *l
	east.Region = "eastus"
	disk := east.Upload(s.TinyVHD("ubuntu-16.04"), "eastdisk", "V1")
	l.Put(l.Compute()+"/images/eastimage", map[string]any{"location": "eastus", "properties": map[string]any{"hyperVGeneration": "V1",
		"storageProfile": map[string]any{"osDisk": map[string]any{"osType": "Linux", "osState": "Generalized", "managedDisk": map[string]any{"id": disk}}}}})
	elsewhereVersion := publishIn(l, elsewhere, "1.0.0", l.Compute()+"/images/eastimage", "eastus")
	l.Define("special", "Specialized", "V1")
	l.Put(l.Compute()+"/galleries/labgallery/images/special/versions/1.0.0", map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": l.Region}}},
		"storageProfile":    map[string]any{"osDiskImage": map[string]any{"source": map[string]any{"id": l.Compute() + "/snapshots/ossnap"}}}}})
	special := l.Compute() + "/galleries/labgallery/images/special/versions/1.0.0"

	for _, r := range []refusal{
		{"no replica in the account's region", image(l.PoolBody("a", 1), elsewhereVersion), 400, "", []string{"westus2", "replica"}},
		{"specialized", image(l.PoolBody("b", 1), special), 400, "", []string{"generalized"}},
		{"release does not match", sku(l.PoolBody("c", 1), "batch.node.ubuntu 22.04"), 400, "", []string{"16.04", "22.04"}},
		{"operating system does not match", sku(l.PoolBody("d", 1), "batch.node.windows amd64"), 400, "", []string{"windows", "Ubuntu 16.04"}},
		{"unknown agent", sku(l.PoolBody("e", 1), "batch.node.beos 5"), 400, "", []string{"batch.node.ubuntu 16.04"}},
		{"version that does not exist", image(l.PoolBody("f", 1), strings.Replace(l.Version, "1.0.0", "9.9.9", 1)), 400, "", []string{"9.9.9"}},
		{"definition without versions", image(l.PoolBody("g", 1), l.Define("empty", "Generalized", "V1")), 400, "", []string{"version"}},
		{"version beside an image id", with(l.PoolBody("h", 1), "virtualMachineConfiguration", map[string]any{"nodeAgentSKUId": "batch.node.ubuntu 16.04",
			"imageReference": map[string]any{"virtualMachineImageId": l.Version, "version": "latest"}}), 400, "InvalidPropertyValue", []string{"publisher"}},
		{"resize timeout under five minutes", with(l.PoolBody("i", 1), "resizeTimeout", "PT4M"), 400, "InvalidPropertyValue", []string{"resizeTimeout"}},
		{"unknown size", with(l.PoolBody("j", 1), "vmSize", "Standard_None"), 400, "", []string{"Standard_None"}},
	} {
		t.Run(r.name, func(t *testing.T) {
			check(t, l.Batch(http.MethodPost, "/pools", r.body), r)
			if a := l.Batch(http.MethodGet, "/pools/"+r.body["id"].(string), nil); a.Status != 404 {
				t.Errorf("the refused pool is there: %d", a.Status)
			}
		})
	}

	t.Run("definition id means the latest not excluded", func(t *testing.T) {
		l.Publish("tiny", "2.0.0", source, "westus2")
		l.Put(l.Compute()+"/galleries/labgallery/images/tiny/versions/3.0.0", map[string]any{"location": l.Region, "properties": map[string]any{
			"publishingProfile": map[string]any{"excludeFromLatest": true, "targetRegions": []any{map[string]any{"name": l.Region}}},
			"storageProfile":    map[string]any{"source": map[string]any{"id": source}}}})
		l.AddPool(image(l.PoolBody("latest", 1), strings.Split(l.Version, "/versions/")[0]), time.Minute)
		a := l.Batch(http.MethodGet, "/pools/latest/nodes", nil)
		if !strings.Contains(string(a.Body), "2.0.0") {
			t.Errorf("the node's exact version: %s", a.Body)
		}
	})

	t.Run("principal without rights on the image", func(t *testing.T) {
		p, oid := principal(t, s, "worker")
		assign(t, s, oid, "Azure Batch Account Contributor", l.Group+"/providers/Microsoft.Batch/batchAccounts/"+l.Account)
		a := l.BatchAs(p, http.MethodPost, "/pools", l.PoolBody("k", 1))
		check(t, a, refusal{status: 403, says: []string{"galleries/images/versions/read", "az role assignment create"}})
		assign(t, s, oid, "Compute Gallery Image Reader", l.Version)
		if a := l.BatchAs(p, http.MethodPost, "/pools", l.PoolBody("k", 0)); a.Status != 201 {
			t.Errorf("after the grant: %d %s", a.Status, a.Body)
		}
		check(t, s.Do(p, lab.ARM, http.MethodPost, l.Group+"/providers/Microsoft.Batch/batchAccounts/"+l.Account+"/listKeys?api-version=2024-07-01", nil),
			refusal{status: 200})
		check(t, s.Do(p, lab.ARM, http.MethodDelete, l.Group+"?api-version=2021-04-01", nil), refusal{status: 403, says: []string{"AuthorizationFailed", oid}})
	})

	t.Run("Shared Key", func(t *testing.T) {
		keys := l.Post(l.Group+"/providers/Microsoft.Batch/batchAccounts/"+l.Account+"/listKeys", nil)
		var k struct{ Primary string }
		if err := json.Unmarshal(keys.Body, &k); err != nil {
			t.Fatal(err)
		}
		// The real az with the account's key, as the document's note warns.
		r := s.Run("env", "AZURE_BATCH_ACCOUNT="+l.Account, "AZURE_BATCH_ACCESS_KEY="+k.Primary,
			"AZURE_BATCH_ENDPOINT=https://"+l.Account+"."+l.Region+".batch.azure.com",
			s.AzPath(), "batch", "pool", "create", "--id", "m", "--vm-size", "Standard_A1_v2", "--target-dedicated-nodes", "2",
			"--image", l.Version, "--node-agent-sku-id", "batch.node.ubuntu 16.04")
		if r.Code == 0 || !strings.Contains(r.Stderr, "SharedKey is not allowed when external resources of type Compute are linked") {
			t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		r = s.Run("env", "AZURE_BATCH_ACCOUNT="+l.Account, "AZURE_BATCH_ACCESS_KEY="+k.Primary,
			"AZURE_BATCH_ENDPOINT=https://"+l.Account+"."+l.Region+".batch.azure.com", s.AzPath(), "batch", "pool", "list", "--query", "[].id")
		if r.Code != 0 {
			t.Errorf("listing pools by key: %s", r.Stderr)
		}
	})

	t.Run("image of another subscription", func(t *testing.T) {
		var sub struct {
			Properties struct{ SubscriptionID string }
		}
		a := s.Do(s.Admin(), lab.ARM, http.MethodPut, "/providers/Microsoft.Subscription/aliases/second?api-version=2021-10-01",
			map[string]any{"properties": map[string]any{"displayName": "second", "workload": "DevTest"}})
		if err := a.JSON(&sub); err != nil || sub.Properties.SubscriptionID == "" {
			t.Fatalf("create a subscription: %d %s", a.Status, a.Body)
		}
		other := foreignVersion(l, s.Admin(), "/subscriptions/"+sub.Properties.SubscriptionID, source)
		check(t, l.Batch(http.MethodPost, "/pools", image(l.PoolBody("n", 1), other)),
			refusal{status: 0, says: []string{"az provider register --namespace Microsoft.Batch", sub.Properties.SubscriptionID}})
		s.Do(s.Admin(), lab.ARM, http.MethodPost, "/subscriptions/"+sub.Properties.SubscriptionID+"/providers/Microsoft.Batch/register?api-version=2021-04-01", nil)
		if a := l.Batch(http.MethodPost, "/pools", image(l.PoolBody("n", 0), other)); a.Status != 201 {
			t.Errorf("after the registration: %d %s", a.Status, a.Body)
		}
	})

	t.Run("image of another tenant", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(s.Data, "tenants", "other.json"))
		if err != nil {
			t.Fatal(err)
		}
		var c lab.Credentials
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatal(err)
		}
		group := "/subscriptions/" + c.SubscriptionID
		p := lab.Principal{Tenant: c.TenantID, Client: c.ClientID, Secret: c.ClientSecret}
		s.PutAs(p, group+"/resourceGroups/other", map[string]any{"location": l.Region})
		disk := group + "/resourceGroups/other/providers/Microsoft.Compute/disks/d"
		s.PutAs(p, disk, map[string]any{"location": l.Region, "properties": map[string]any{"osType": "Linux", "hyperVGeneration": "V1",
			"creationData": map[string]any{"createOption": "Empty"}, "diskSizeGB": 1}})
		image1 := group + "/resourceGroups/other/providers/Microsoft.Compute/images/i"
		s.PutAs(p, image1, map[string]any{"location": l.Region, "properties": map[string]any{"hyperVGeneration": "V1",
			"storageProfile": map[string]any{"osDisk": map[string]any{"osType": "Linux", "osState": "Generalized", "managedDisk": map[string]any{"id": disk}}}}})
		check(t, l.Batch(http.MethodPost, "/pools", image(l.PoolBody("o", 1), foreignVersion(l, p, group, image1))),
			refusal{status: 0, says: []string{"tenant"}})
	})

	t.Run("warnings", func(t *testing.T) {
		a := l.Batch(http.MethodPost, "/pools", l.PoolBody("big", 1300))
		if a.Status != 201 || !strings.Contains(strings.Join(a.Header.Values("Warning"), " "), "replica") {
			t.Errorf("add: %d, Warning %q, %s", a.Status, a.Header.Values("Warning"), a.Body)
		}
		get := l.Batch(http.MethodGet, "/pools/big", nil)
		for _, want := range []string{"replica", "resizeTimeout", "millpond:warning"} {
			if !strings.Contains(string(get.Body), want) {
				t.Errorf("the pool does not warn of %s: %s", want, get.Body)
			}
		}
		if r := s.RunBin("status", "--pool", l.Account+"/big"); !strings.Contains(r.Stdout, "warning") {
			t.Errorf("status shows no warning: %s%s", r.Stdout, r.Stderr)
		}
		if !strings.Contains(s.Log(), "replica") {
			t.Error("the log has no warning")
		}
	})
}

// publishIn publishes with the version's own location elsewhere.
func publishIn(l *lab.Lab, definition, version, source, region string) string {
	id := definition + "/versions/" + version
	l.Put(id, map[string]any{"location": region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": region, "regionalReplicaCount": 1}}},
		"storageProfile":    map[string]any{"source": map[string]any{"id": source}}}})
	return id
}

// foreignVersion makes a gallery with a version in another subscription.
func foreignVersion(l *lab.Lab, p lab.Principal, subscription, source string) string {
	group := subscription + "/resourceGroups/other"
	l.PutAs(p, group, map[string]any{"location": l.Region})
	gallery := group + "/providers/Microsoft.Compute/galleries/othergallery"
	l.PutAs(p, gallery, map[string]any{"location": l.Region})
	l.PutAs(p, gallery+"/images/tiny", map[string]any{"location": l.Region, "properties": map[string]any{"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V1",
		"identifier": map[string]any{"publisher": "o", "offer": "o", "sku": "o"}}})
	l.PutAs(p, gallery+"/images/tiny/versions/1.0.0", map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": l.Region}}},
		"storageProfile":    map[string]any{"source": map[string]any{"id": source}}}})
	return gallery + "/images/tiny/versions/1.0.0"
}

func check(t *testing.T, a lab.Answer, r refusal) {
	t.Helper()
	if r.status != 0 && a.Status != r.status || r.status == 0 && (a.Status < 400 || a.Status >= 500) {
		t.Errorf("status %d, want %d: %s", a.Status, r.status, a.Body)
	}
	text := string(a.Body)
	if r.code != "" && !strings.Contains(text, `"code":"`+r.code+`"`) {
		t.Errorf("code is not %s: %s", r.code, text)
	}
	for _, s := range r.says {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
			t.Errorf("the answer does not say %q: %s", s, text)
		}
	}
}

// principal makes an application with a service principal and a secret by the
// Graph calls that az makes.
func principal(t *testing.T, s *lab.Server, name string) (lab.Principal, string) {
	t.Helper()
	graph := func(path string, body any, into any) {
		t.Helper()
		a := s.Do(s.Admin(), lab.Graph, http.MethodPost, "/v1.0/"+path, body)
		if a.Status >= 300 {
			t.Fatalf("%s: %d %s", path, a.Status, a.Body)
		}
		if err := a.JSON(into); err != nil {
			t.Fatal(err)
		}
	}
	var app struct{ ID, AppID string }
	graph("applications", map[string]any{"displayName": name}, &app)
	var secret struct{ SecretText string }
	graph("applications/"+app.ID+"/addPassword", map[string]any{"passwordCredential": map[string]any{"displayName": "test"}}, &secret)
	var sp struct{ ID string }
	graph("servicePrincipals", map[string]any{"appId": app.AppID, "accountEnabled": true}, &sp)
	return lab.Principal{Tenant: s.Creds.TenantID, Client: app.AppID, Secret: secret.SecretText}, sp.ID
}

// assign grants a role with the real az.
func assign(t *testing.T, s *lab.Server, oid, role, scope string) {
	t.Helper()
	s.Az("role", "assignment", "create", "--assignee-object-id", oid, "--assignee-principal-type", "ServicePrincipal", "--role", role, "--scope", scope)
}
