//go:build e2e && suites

package suites

import (
	"os"
	"path/filepath"
	"testing"
)

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
