//go:build e2e && suites

package suites

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestPythonSamples runs the programs of Azure-Samples, unmodified but for the
// names and keys in their configuration, on real machines with the Ubuntu that
// they ask for, or Debian in its place; MILLPOND_SUITES_LAUNCHER=fake acts the machines
// out. No package index has the programs: MILLPOND_SUITES names a folder with clones of
// batch-python-quickstart and azure-batch-samples, MILLPOND_UBUNTU the archive that Ubuntu
// is installed from.
func TestPythonSamples(t *testing.T) {
	root := os.Getenv("MILLPOND_SUITES")
	if root == "" {
		t.Skip("MILLPOND_SUITES names no folder with the clones of Azure-Samples")
	}
	launcher := "local"
	if v := os.Getenv("MILLPOND_SUITES_LAUNCHER"); v != "" {
		launcher = v
	}
	on := launcher
	if launcher == "local" && archive() == "" {
		on = "local, Debian"
	}
	a := serve(t, "--launcher", launcher, "--blob-service", lab.Azurite(t))
	if launcher == "local" {
		ubuntu{"18.04", "bionic", []string{"python-minimal"}}.install(t, a)
		// The sample with encrypted files installs these by itself, which takes
		// minutes in an emulated machine.
		ubuntu{"20.04", "focal", []string{"build-essential", "libssl-dev", "libffi-dev", "libpython3-dev", "python3-dev", "python3-pip"}}.install(t, a)
	}
	settings := a.settings(t)

	quickstart := filepath.Join(root, "batch-python-quickstart")
	programs(t, a, Result{Suite: "python-quickstart", Title: "batch-python-quickstart", Version: revision(quickstart), On: on},
		venv(t, "python-quickstart", "azure-batch==11.0.0", "azure-storage-blob==12.8.1"), configured(t, filepath.Join(quickstart, "src"), settings), nil, []sample{
			{"python_quickstart_client.py", "Success!", 10 * time.Minute},
		})
	samples := filepath.Join(root, "azure-batch-samples")
	// blobxfer needs a library of an earlier generation than the samples do.
	tools := []string{filepath.Dir(venv(t, "blobxfer", "blobxfer==1.11.0"))}
	programs(t, a, Result{Suite: "python-samples", Title: "azure-batch-samples, Python", Version: revision(samples), On: on},
		venv(t, "python-samples", "azure-batch==12.0.0", "azure-storage-blob==12.8.1", "cryptography<41"), configured(t, filepath.Join(samples, "Python", "Batch"), settings), tools, []sample{
			{"sample3_encrypted_resourcefiles.py", "Attack at dawn!", 60 * time.Minute},
			{"sample1_helloworld.py", "Hello world from the Batch Hello world sample!", 10 * time.Minute},
			{"sample1_jobprep_and_release.py", "Hello world from the Batch Job prep and release sample!", 10 * time.Minute},
			{"sample2_pools_and_resourcefiles.py", "simpletask.py listing files:", 10 * time.Minute},
			{"sample4_job_scheduler.py", "simpletask.py listing files:", 10 * time.Minute},
			{"article_samples/mpi/linux_mpi_task_demo.py", "Success!", 10 * time.Minute},
		})
}

// settings are what a user fills in: the names and keys of the account and of a
// storage account, which it makes.
func (a account) settings(t *testing.T) map[string]string {
	t.Helper()
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
	return map[string]string{
		"BATCH_ACCOUNT_NAME": a.Name, "BATCH_ACCOUNT_KEY": keys.Primary, "BATCH_ACCOUNT_URL": "https://" + a.host(),
		"STORAGE_ACCOUNT_NAME": "suitestore", "STORAGE_ACCOUNT_KEY": keys.Keys[0].Value,
		"batchaccountname": a.Name, "batchaccountkey": keys.Primary, "batchserviceurl": "https://" + a.host(),
		"storageaccounturl": "suitestore.blob.core.windows.net", "storageaccountkey": keys.Keys[0].Value,
	}
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

// sample is a program, what it prints when it does what it is for, and how long
// that may take.
type sample struct {
	file, prints string
	limit        time.Duration
}

// programs runs all of them, each as a subtest; only of all of them together
// something is said.
func programs(t *testing.T, a account, r Result, python, dir string, tools []string, all []sample) {
	t.Helper()
	for _, p := range all {
		t.Run(p.file, func(t *testing.T) { r.Cases = append(r.Cases, program(t, a, python, dir, p, tools)) })
	}
	if len(r.Cases) == len(all) {
		report(t, r)
	}
}

// program runs one, with the folders of tools before those of PATH, and answers
// its questions with Enter.
func program(t *testing.T, a account, python, dir string, p sample, tools []string) Case {
	t.Helper()
	path := strings.Join(append(slices.Clone(tools), os.Getenv("PATH")), ":")
	began := time.Now()
	got := a.RunLong(p.limit+time.Minute, "sh", "-c", fmt.Sprintf("cd '%s' && export PYTHONPATH=. PATH='%s' && yes '' | timeout %.0f '%s' %s", dir, path, p.limit.Seconds(), python, p.file))
	t.Logf("%s: exit code %d after %s\n%s%s", p.file, got.Code, time.Since(began).Round(time.Second), got.Stdout, got.Stderr)
	c := Case{Name: p.file, Status: Passed}
	if got.Code != 0 || !strings.Contains(got.Stdout, p.prints) || strings.Contains(got.Stdout, "Exception encountered") {
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
