//go:build e2e && suites

package suites

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// standInPackages is what the samples want of Ubuntu beside its base: those that
// ubuntu.packages name, as Debian calls them.
var standInPackages = [...]string{"build-essential", "libffi-dev", "libpython3-dev", "libssl-dev", "python-is-python3", "python3-dev", "python3-pip"}

// standIn puts a real Debian 12 into the server's Marketplace in a release's place:
// its os-release says that it is Ubuntu's, pip may install into the system as it may
// there, and it trusts whom this machine trusts, as its package indexes may lie
// behind a proxy with a CA of its own.
func (u ubuntu) standIn(t *testing.T, a account) {
	t.Helper()
	shelf, dir := filepath.Join(a.Data, "base-images"), t.TempDir()
	if err := os.MkdirAll(shelf, 0o700); err != nil {
		t.Fatal(err)
	}
	name := "ubuntu-" + u.version
	disk := filepath.Join(shelf, name+".raw")
	args := []string{"image", "build", "debian-12", "--cache", filepath.Join(a.Root, ".cache", "images"), "--out", disk}
	for _, p := range standInPackages {
		args = append(args, "--package", p)
	}
	if r := a.RunBin(args...); r.Code != 0 {
		t.Fatalf("image build: %s%s", r.Stdout, r.Stderr)
	}
	release := filepath.Join(dir, "os-release")
	write(t, release, fmt.Sprintf("PRETTY_NAME=\"Debian 12 in the place of Ubuntu %s\"\nNAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"%s\"\n", u.version, u.version))
	var script strings.Builder
	for _, f := range []struct{ to, from string }{
		{"/usr/lib/os-release", release}, {"/usr/lib/python3.11/EXTERNALLY-MANAGED", ""}, {"/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt"},
	} {
		fmt.Fprintf(&script, "rm %s\n", f.to)
		if f.from != "" {
			fmt.Fprintf(&script, "write %s %s\nsif %s mode 0100644\n", f.from, f.to, f.to)
		}
	}
	write(t, filepath.Join(dir, "debugfs"), script.String())
	command(t, "", nil, "/sbin/debugfs", "-w", "-f", filepath.Join(dir, "debugfs"), fmt.Sprintf("%s?offset=%d", disk, partitions(t, disk)[1].Start*512))
	write(t, disk+".json", strings.Replace(read(t, disk+".json"), `"debian-12"`, `"`+name+`"`, 1))
}
