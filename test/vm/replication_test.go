//go:build e2e

package vm

import (
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// TestReplicationWatched follows a version to a second region.
func TestReplicationWatched(t *testing.T) {
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
}
