//go:build e2e

package vm

import (
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestBootCheckOfAVersion boots a gallery version from the server's stores, and
// follows its replication to a second region.
func TestBootCheckOfAVersion(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	l.Define("checked", "Generalized", "V1")
	version := l.Compute() + "/galleries/labgallery/images/checked/versions/1.0.0"
	l.Put(version, map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": l.Region}, map[string]any{"name": "eastus"}}},
		"storageProfile":    map[string]any{"osDiskImage": map[string]any{"source": map[string]any{"id": l.Compute() + "/snapshots/ossnap"}}}}})
	r := s.RunBin("image", "replication", "--data", s.Data, version, "--watch")
	if r.Code != 0 || !strings.Contains(r.Stdout, "replication Completed") || !strings.Contains(r.Stdout, "MiB") {
		t.Errorf("replication: %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Log(r.Stdout)
	began := time.Now()
	r = s.RunBin("image", "check", "--boot", "--data", s.Data, version)
	if r.Code != 0 || !strings.Contains(r.Stdout, "stage reached: agent heard") {
		t.Errorf("check --boot: %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Logf("%s\n%s", time.Since(began), r.Stdout)
}
