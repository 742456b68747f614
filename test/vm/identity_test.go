//go:build e2e

package vm

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	"millpond.dev/millpond/test/lab"
)

// TestIdentitiesOfMachines: on a real machine resource and output files go by the
// pool's managed identity, whose right a role gives, and a task's program gets a token
// where Azure's metadata service is. The token opens the Resource Manager.
func TestIdentitiesOfMachines(t *testing.T) {
	s := lab.Start(t, "--blob-service", lab.Azurite(t))
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	var who struct {
		ID         string
		Properties struct{ ClientID, PrincipalID string }
	}
	decode := func(v map[string]any) {
		b, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(b, &who)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	decode(s.Put(l.Group+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/worker", map[string]any{"location": "westus2"}))
	store := l.Group + "/providers/Microsoft.Storage/storageAccounts/identitystore"
	s.Put(store, map[string]any{"location": "westus2", "kind": "StorageV2", "sku": map[string]any{"name": "Standard_LRS"}})
	assign := func(name, scope, role string) {
		s.Put(scope+"/providers/Microsoft.Authorization/roleAssignments/"+name, map[string]any{"properties": map[string]any{"principalId": who.Properties.PrincipalID,
			"roleDefinitionId": "/subscriptions/" + s.Creds.SubscriptionID + "/providers/Microsoft.Authorization/roleDefinitions/" + role}})
	}
	var keys struct{ Keys []struct{ Value string } }
	if err := s.Post(store+"/listKeys", nil).JSON(&keys); err != nil {
		t.Fatal(err)
	}
	cred, err := service.NewSharedKeyCredential("identitystore", keys.Keys[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := service.NewClientWithSharedKeyCredential("https://"+s.Addr+"/identitystore/", cred, &service.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: s.HTTPClient()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blobs.CreateContainer(context.Background(), "c", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := blobs.NewContainerClient("c").NewBlockBlobClient("in.txt").UploadBuffer(context.Background(), []byte("from the container"), nil); err != nil {
		t.Fatal(err)
	}

	body := l.PoolBody("p", 1)
	body["identity"] = map[string]any{"type": "UserAssigned", "userAssignedIdentities": []any{map[string]any{"resourceId": who.ID}}}
	l.AddPool(body, 3*time.Minute)
	const base = "https://identitystore.blob.core.windows.net/c"
	ref := map[string]any{"resourceId": who.ID}
	file := func(id, command string) map[string]any {
		x := shell(id, command)
		x["resourceFiles"] = []any{map[string]any{"httpUrl": base + "/in.txt", "filePath": "in.txt", "identityReference": ref}}
		return x
	}
	l.AddJob("j", "p", file("early", "true"))
	if f := l.WaitTasks("j", 2*time.Minute)["early"].Info.FailureInfo; f == nil || f.Code != "BlobAccessDenied" {
		t.Errorf("without a role: %+v", f)
	}
	// Storage Blob Data Contributor, and Reader.
	assign("00000000-0000-4000-8000-000000000001", store, "ba92f5b4-2d11-453d-a403-e96b0029c9fe")
	assign("00000000-0000-4000-8000-000000000002", l.Group, "acdd72a7-3385-48ef-bd42-f606fba81ae7")
	moved := file("moved", "cat in.txt")
	moved["outputFiles"] = []any{map[string]any{"filePattern": "../stdout.txt", "uploadOptions": map[string]any{"uploadCondition": "taskcompletion"},
		"destination": map[string]any{"container": map[string]any{"containerUrl": base, "path": "out.txt", "identityReference": ref}}}}
	// The image has no client that sends headers.
	ask := map[string]any{"id": "token", "commandLine": `/bin/bash -c 'exec 3<>/dev/tcp/169.254.169.254/80; printf "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/ HTTP/1.0\r\nMetadata: true\r\n\r\n" >&3; tail -n 1 <&3'`}
	l.AddJob("k", "p", moved, ask)
	for id, x := range l.WaitTasks("k", 2*time.Minute) {
		if x.Info.FailureInfo != nil {
			t.Fatalf("%s: %+v %s", id, x.Info.FailureInfo, l.Batch(http.MethodGet, "/jobs/k/tasks/"+id+"/files/stderr.txt", nil).Body)
		}
	}
	out, err := blobs.NewContainerClient("c").NewBlobClient("out.txt").DownloadStream(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(out.Body)
	out.Body.Close()
	if err != nil || string(text) != "from the container" {
		t.Errorf("%q %v", text, err)
	}
	var token struct {
		Access string `json:"access_token"`
		Client string `json:"client_id"`
	}
	if err := json.Unmarshal([]byte(l.Stdout("k", "token")), &token); err != nil || token.Client != who.Properties.ClientID {
		t.Fatalf("%s %v", l.Stdout("k", "token"), err)
	}
	q, err := http.NewRequest(http.MethodGet, "https://"+s.Addr+store+"?api-version=2023-05-01", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+token.Access)
	resp, err := s.HTTPClient().Do(q)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the identity, a reader of the group, is answered %d", resp.StatusCode)
	}
}
