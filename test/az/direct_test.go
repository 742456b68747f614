//go:build e2e

package az

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// TestCloudRegister uses the service's own address without millpond exec, as
// docs/guide/clients.md tells: both take the file that millpond cloud-config
// prints.
func TestCloudRegister(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	for _, c := range []struct {
		name, az string
	}{
		{name: "current", az: s.AzPath()},
		{name: "old", az: "/usr/bin/az"},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			bundle := filepath.Join(home, "bundle.pem")
			system, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
			if err != nil {
				t.Fatal(err)
			}
			own, err := os.ReadFile(filepath.Join(s.Data, "ca.pem"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(bundle, append(system, own...), 0o600); err != nil {
				t.Fatal(err)
			}
			az := func(args ...string) string {
				t.Helper()
				cmd := exec.Command(c.az, args...)
				cmd.Env = append(os.Environ(), "AZURE_CONFIG_DIR="+home, "REQUESTS_CA_BUNDLE="+bundle, "AZURE_CORE_COLLECT_TELEMETRY=no",
					"HTTPS_PROXY=", "https_proxy=", "no_proxy=127.0.0.1")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("az %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return string(out)
			}
			r := s.RunBin("cloud-config", "--data", s.Data)
			if r.Code != 0 {
				t.Fatalf("cloud-config: %s", r.Stderr)
			}
			file := filepath.Join(home, "cloud.json")
			if err := os.WriteFile(file, []byte(r.Stdout), 0o600); err != nil {
				t.Fatal(err)
			}
			az("cloud", "register", "--name", "Millpond", "--cloud-config", "@"+file)
			az("cloud", "set", "--name", "Millpond")
			az("login", "--service-principal", "--username", s.Creds.ClientID, "--password", s.Creds.ClientSecret, "--tenant", s.Creds.TenantID)
			group := "direct" + c.name
			az("group", "create", "--name", group, "--location", "westus2")
			az("batch", "account", "create", "--name", "direct"+c.name, "--resource-group", group, "--location", "westus2")
			az("batch", "account", "login", "--name", "direct"+c.name, "--resource-group", group)
			if out := az("batch", "pool", "list", "--output", "json"); strings.TrimSpace(out) != "[]" {
				t.Errorf("pool list: %s", out)
			}
			az("batch", "account", "login", "--name", "direct"+c.name, "--resource-group", group, "--shared-key-auth")
			if out := az("batch", "job", "list", "--output", "json"); strings.TrimSpace(out) != "[]" {
				t.Errorf("job list by shared key: %s", out)
			}
		})
	}
}
