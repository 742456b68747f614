//go:build e2e

package suites

import (
	"os"
	"os/exec"
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
