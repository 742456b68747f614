//go:build e2e

package suites

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// account is the Batch account that suites use, which New-TestResources or its
// like would have made in Azure.
type account struct {
	*lab.Server
	Group, Name, Region string
}

// serve starts a server and makes an account in it.
func serve(t *testing.T, args ...string) account {
	t.Helper()
	a := account{Server: lab.Start(t, args...), Name: "suite", Region: "westus2"}
	a.Group = "/subscriptions/" + a.Creds.SubscriptionID + "/resourceGroups/suites"
	a.Put(a.Group, map[string]any{"location": a.Region})
	a.Put(a.Group+"/providers/Microsoft.Batch/batchAccounts/"+a.Name, map[string]any{"location": a.Region})
	return a
}

// slow makes nodes that are acted out take their time to boot, as in Azure:
// the suites look at tasks that wait for a node.
func slow(t *testing.T) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millpond.yaml")
	if err := os.WriteFile(file, []byte("fake: {bootDelay: 15s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--launcher", "fake", "--config", file}
}

// furnish builds images of the tiny kind that say that they are those releases,
// so that the Marketplace has them.
func (a account) furnish(t *testing.T, releases ...string) {
	t.Helper()
	for _, release := range releases {
		if r := a.RunBin("image", "build", "tiny", "--data", a.Data, "--os-release", release, "--out", filepath.Join(a.Data, "base-images", release+".raw"),
			"--cache", filepath.Join(a.Root, ".cache", "images")); r.Code != 0 {
			t.Fatalf("image build: %s%s", r.Stdout, r.Stderr)
		}
	}
}

// host is the account's endpoint without scheme.
func (a account) host() string { return a.Name + "." + a.Region + ".batch.azure.com" }

// report judges a result; with MILLPOND_SUITES_SAVE it is kept for the
// scoreboard too.
func report(t *testing.T, r Result) {
	t.Helper()
	t.Logf("%s %s: %d passed, %d failed, %d skipped", r.Title, r.Version, r.count(Passed), r.count(Failed), r.count(Skipped))
	for _, c := range r.Cases {
		if c.Status != Passed {
			t.Logf("%s %s: %s", c.Name, c.Status, c.Said)
		}
	}
	for _, line := range Judge(r) {
		t.Error(line)
	}
	for _, line := range Stale(r) {
		t.Log(line)
	}
	if os.Getenv("MILLPOND_SUITES_SAVE") != "" {
		if err := Save("results", r); err != nil {
			t.Error(err)
		}
	}
}

// command runs a program of an ecosystem, such as go or pip; it must succeed.
func command(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
