package proc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzDirectory: the directory that the server names for a task is below the
// root, or refused; removing it takes nothing else of the node with it.
func FuzzDirectory(f *testing.F) {
	for _, d := range []string{"startup", "workitems/j/job-1/t", "workitems", "workitems/", "workitems/..", "workitems/../..", "..", "/", "", ".", "startup/..", "workitems/./x/../../shared", "shared", "volatile/x"} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, rel string) {
		root := t.TempDir()
		keep := []string{"shared", "volatile", "workitems", "fsmounts"}
		for _, d := range keep {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		r := &Runner{cfg: Config{Root: root}}
		dir, err := r.directory(rel)
		if err == nil && dir != filepath.Join(root, "startup") && !strings.HasPrefix(dir, filepath.Join(root, "workitems")+"/") {
			t.Fatalf("%q becomes %q", rel, dir)
		}
		_ = r.Remove(rel)
		for _, d := range keep {
			if _, err := os.Stat(filepath.Join(root, d)); err != nil {
				t.Fatalf("Remove(%q): %v", rel, err)
			}
		}
	})
}
