//go:build e2e

package az

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// TestStorageAccounts makes storage accounts, containers and links with both
// generations of az, before a real blob service.
func TestStorageAccounts(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake", "--blob-service", lab.Azurite(t))
	s.Az("group", "create", "--name", "g", "--location", "westus2")
	file := filepath.Join(t.TempDir(), "f.txt")
	if err := os.WriteFile(file, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		az   func(args ...string) string
	}{{"current", s.Az}, {"old", s.OldAz}} {
		az := func(args ...string) string {
			t.Helper()
			return strings.TrimSpace(c.az(args...))
		}
		name := "store" + c.name
		az("storage", "account", "create", "--name", name, "--resource-group", "g", "--location", "westus2", "--sku", "Standard_LRS")
		if got := az("storage", "account", "show", "--name", name, "--query", "primaryEndpoints.blob", "--output", "tsv"); got != "https://"+name+".blob.core.windows.net/" {
			t.Errorf("the endpoint is %s", got)
		}
		connection := az("storage", "account", "show-connection-string", "--name", name, "--resource-group", "g", "--output", "tsv")
		az("storage", "container", "create", "--name", "c", "--connection-string", connection)
		az("storage", "blob", "upload", "--container-name", "c", "--name", "dir/f.txt", "--file", file, "--connection-string", connection)
		link := az("storage", "container", "generate-sas", "--name", "c", "--permissions", "rl", "--expiry", "2099-01-01T00:00Z", "--connection-string", connection, "--output", "tsv")
		if got := az("storage", "blob", "list", "--container-name", "c", "--account-name", name, "--sas-token", link, "--query", "[].name", "--output", "tsv"); got != "dir/f.txt" {
			t.Errorf("listed %q", got)
		}
		out := file + ".out"
		az("storage", "blob", "download", "--container-name", "c", "--name", "dir/f.txt", "--file", out, "--account-name", name, "--sas-token", link)
		if text, err := os.ReadFile(out); err != nil || string(text) != "hello\n" {
			t.Errorf("%q %v", text, err)
		}
		os.Remove(out)
		if got := az("batch", "account", "create", "--name", "batch"+c.name, "--resource-group", "g", "--location", "westus2", "--storage-account", name, "--query", "autoStorage.storageAccountId", "--output", "tsv"); !strings.HasSuffix(got, "/"+name) {
			t.Errorf("linked %s", got)
		}
		az("batch", "account", "autostorage-keys", "sync", "--name", "batch"+c.name, "--resource-group", "g")
	}
	// A VHD in a storage account becomes a disk and an image, without a signature.
	raw, disk := filepath.Join(t.TempDir(), "disk.raw"), filepath.Join(t.TempDir(), "disk.vhd")
	if err := os.WriteFile(raw, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.RunBin("image", "export", raw, "--vhd", disk); r.Code != 0 {
		t.Fatalf("%s%s", r.Stdout, r.Stderr)
	}
	key := strings.TrimSpace(s.Az("storage", "account", "keys", "list", "--account-name", "storecurrent", "--query", "[0].value", "--output", "tsv"))
	s.Az("storage", "blob", "upload", "--container-name", "c", "--name", "disk.vhd", "--file", disk, "--type", "page", "--account-name", "storecurrent", "--account-key", key)
	const blob = "https://storecurrent.blob.core.windows.net/c/disk.vhd"
	if got := strings.TrimSpace(s.Az("disk", "create", "--name", "fromblob", "--resource-group", "g", "--source", blob, "--query", "[provisioningState, creationData.sourceUri]", "--output", "tsv")); got != "Succeeded\n"+blob {
		t.Errorf("a disk of a blob: %q", got)
	}
	if got := strings.TrimSpace(s.Az("image", "create", "--name", "fromblob", "--resource-group", "g", "--source", blob, "--os-type", "Linux", "--query", "provisioningState", "--output", "tsv")); got != "Succeeded" {
		t.Errorf("an image of a blob: %q", got)
	}
	// By a token: a data role is needed, whoever one is.
	list := []string{"storage", "blob", "list", "--container-name", "c", "--account-name", "storecurrent", "--auth-mode", "login", "--query", "[].name", "--output", "tsv"}
	if text := s.AzRefused(list...); !strings.Contains(text, "permissions") {
		t.Errorf("an owner without a data role: %s", text)
	}
	me := strings.TrimSpace(s.Az("ad", "sp", "show", "--id", s.Creds.ClientID, "--query", "id", "--output", "tsv"))
	s.Az("role", "assignment", "create", "--assignee-object-id", me, "--assignee-principal-type", "ServicePrincipal", "--role", "Storage Blob Data Reader", "--scope", "/subscriptions/"+s.Creds.SubscriptionID)
	if got := strings.TrimSpace(s.Az(list...)); got != "dir/f.txt\ndisk.vhd" {
		t.Errorf("by token: %q", got)
	}
}
