//go:build e2e

package rules

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// TestExport writes every kind of disk on the server to a file, compares the
// bytes with what was uploaded, and sees that nothing is left behind.
func TestExport(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	vhd := s.TinyVHD("ubuntu-20.04")
	l := s.Furnish(vhd, "V1")
	want, err := os.ReadFile(vhd)
	if err != nil {
		t.Fatal(err)
	}
	want = want[:len(want)-512]
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	export := func(id string, flags ...string) {
		t.Helper()
		r := l.RunBin(append([]string{"image", "export", "--data", l.Data, id, "--quiet"}, flags...)...)
		if r.Code != 0 {
			t.Fatalf("export %s: %s%s", id, r.Stdout, r.Stderr)
		}
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		tail := 0
		if flags[0] == "--vhd" {
			tail = 512
		}
		if len(got) != len(want)+tail || !bytes.Equal(got[:len(want)], want) {
			t.Errorf("%s: other bytes (%d, want %d)", id, len(got), len(want)+tail)
		}
		if tail > 0 && string(got[len(want):len(want)+8]) != "conectix" {
			t.Errorf("%s: no footer", id)
		}
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
	}
	export(l.Compute()+"/disks/osdisk", "--vhd", out)
	export(l.Compute()+"/snapshots/ossnap", "--raw", out)
	export(l.Compute()+"/snapshots/ossnap", "--vhd", out, "--resume")
	export(l.Compute()+"/images/labimage", "--vhd", out)
	export(l.Version, "--raw", out)
	if r := l.RunBin("image", "export", "--data", l.Data, l.Compute()+"/disks/osdisk", "--vhd", out, "--resume"); r.Code == 0 || !strings.Contains(r.Stderr, "take a snapshot") {
		t.Errorf("a disk that may change: %s%s", r.Stdout, r.Stderr)
	}
	for _, kind := range []string{"disks", "snapshots"} {
		if a := l.Do(l.Admin(), lab.ARM, "GET", l.Compute()+"/"+kind+"?api-version=2024-03-02", nil); strings.Contains(string(a.Body), "millpond-export") {
			t.Errorf("left: %s", a.Body)
		}
	}
	if all, _ := os.ReadDir(dir); len(all) > 0 {
		t.Errorf("left: %v", all)
	}
}
