//go:build e2e && suites

package suites

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestPythonSamples runs the programs of Azure-Samples, unmodified but for the
// names and keys in their configuration. No package index has them:
// MILLPOND_SUITES names a folder with clones of batch-python-quickstart and
// azure-batch-samples.
func TestPythonSamples(t *testing.T) {
	root := os.Getenv("MILLPOND_SUITES")
	if root == "" {
		t.Skip("MILLPOND_SUITES names no folder with the clones of Azure-Samples")
	}
	launcher := "fake"
	if v := os.Getenv("MILLPOND_SUITES_LAUNCHER"); v != "" {
		launcher = v
	}
	a := serve(t, "--launcher", launcher, "--blob-service", lab.Azurite(t))
	if launcher == "local" {
		a.furnish(t, "ubuntu-18.04", "ubuntu-20.04")
	}
	store := a.Group + "/providers/Microsoft.Storage/storageAccounts/suitestore"
	a.Put(store, map[string]any{"location": a.Region, "kind": "StorageV2", "sku": map[string]any{"name": "Standard_LRS"}})
	var keys struct {
		Primary string `json:"primary"`
		Keys    []struct {
			Value string `json:"value"`
		} `json:"keys"`
	}
	for _, id := range []string{a.Group + "/providers/Microsoft.Batch/batchAccounts/" + a.Name, store} {
		if err := a.Post(id+"/listKeys", nil).JSON(&keys); err != nil {
			t.Fatal(err)
		}
	}
	settings := map[string]string{
		"BATCH_ACCOUNT_NAME": a.Name, "BATCH_ACCOUNT_KEY": keys.Primary, "BATCH_ACCOUNT_URL": "https://" + a.host(),
		"STORAGE_ACCOUNT_NAME": "suitestore", "STORAGE_ACCOUNT_KEY": keys.Keys[0].Value,
		"batchaccountname": a.Name, "batchaccountkey": keys.Primary, "batchserviceurl": "https://" + a.host(),
		"storageaccounturl": "suitestore.blob.core.windows.net", "storageaccountkey": keys.Keys[0].Value,
	}
	quickstart := Result{Suite: "python-quickstart", Title: "batch-python-quickstart", Version: revision(filepath.Join(root, "batch-python-quickstart")), On: launcher}
	dir := configured(t, filepath.Join(root, "batch-python-quickstart", "src"), settings)
	python := venv(t, "python-quickstart", "azure-batch==11.0.0", "azure-storage-blob==12.8.1")
	quickstart.Cases = append(quickstart.Cases, program(t, a, python, dir, "python_quickstart_client.py", "Success!"))
	report(t, quickstart)

	samples := Result{Suite: "python-samples", Title: "azure-batch-samples, Python", Version: revision(filepath.Join(root, "azure-batch-samples")), On: launcher}
	dir = configured(t, filepath.Join(root, "azure-batch-samples", "Python", "Batch"), settings)
	python = venv(t, "python-samples", "azure-batch==12.0.0", "azure-storage-blob==12.8.1", "cryptography<41")
	for _, p := range []struct{ file, want string }{
		{"sample1_helloworld.py", "Hello world from the Batch Hello world sample!"},
		{"sample1_jobprep_and_release.py", ""},
		{"sample2_pools_and_resourcefiles.py", ""},
		{"sample3_encrypted_resourcefiles.py", ""},
		{"sample4_job_scheduler.py", ""},
	} {
		samples.Cases = append(samples.Cases, program(t, a, python, dir, p.file, p.want))
	}
	report(t, samples)
}

// revision is the commit of a clone, or what a file VERSION in it says.
func revision(dir string) string {
	if out, err := exec.Command("git", "-C", dir, "rev-parse", "--short", "HEAD").Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	text, _ := os.ReadFile(filepath.Join(dir, "VERSION"))
	return strings.TrimSpace(string(text))
}

// configured copies a program's folder to where the test may write, with the
// settings that its user fills in.
func configured(t *testing.T, from string, settings map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.py", "configuration.cfg"} {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for k, v := range settings {
			if strings.HasSuffix(name, ".py") {
				v = "'" + v + "'"
			}
			text = regexp.MustCompile(`(?m)^`+k+` *=.*$`).ReplaceAll(text, []byte(strings.ReplaceAll(k+" = "+v, "$", "$$")))
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// program runs one of them and answers its questions with Enter.
func program(t *testing.T, a account, python, dir, file, want string) Case {
	t.Helper()
	began := time.Now()
	got := a.Run("sh", "-c", fmt.Sprintf("cd '%s' && yes '' | timeout 150 '%s' %s", dir, python, file))
	t.Logf("%s: exit code %d after %s\n%s%s", file, got.Code, time.Since(began).Round(time.Second), got.Stdout, got.Stderr)
	c := Case{Name: file, Status: Passed}
	if got.Code != 0 || !strings.Contains(got.Stdout, want) || strings.Contains(got.Stdout, "Exception encountered") {
		c.Status, c.Said = Failed, fmt.Sprintf("%.400s", tail(got.Stdout+got.Stderr))
	}
	return c
}

func tail(s string) string {
	if len(s) > 400 {
		s = s[len(s)-400:]
	}
	return strings.ReplaceAll(s, "\n", " ")
}
