package agent

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/agent/proc"
)

// FuzzRootFiles: whatever path comes and wherever a link in the root leads,
// nothing outside of the root and nothing of the hidden area is read, told of
// or deleted.
func FuzzRootFiles(f *testing.F) {
	for _, p := range []string{"workitems/j/job-1/t/wd/out", "..", "../secret", "/etc/passwd", "link", "link/secret", "link/../secret", "volatile/secret", "./volatile//secret", "link/x/../../secret", "startup/", "a\x00b", "workitems/j/job-1/t/certs/sha1-0.pfx", "link/sha1-0.pfx"} {
		for _, to := range []string{"..", "../secret", "/", "volatile", "workitems", ".", "link", "volatile/../volatile", "workitems/j/job-1/t", "workitems/j/job-1/t/certs"} {
			f.Add(p, to)
		}
	}
	const secret = "nobody may see this"
	f.Fuzz(func(t *testing.T, name, target string) {
		top := t.TempDir()
		root := filepath.Join(top, "root")
		inside := filepath.Join(root, "workitems", "j", "job-1", "t", "wd")
		hidden := []string{filepath.Join(top, "secret"), filepath.Join(root, proc.Volatile, "secret")}
		for _, dir := range []string{inside, filepath.Join(root, proc.Volatile), filepath.Join(root, "startup")} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		keys := filepath.Join(root, "workitems", "j", "job-1", "t", "certs")
		if err := os.Mkdir(keys, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, p := range append(hidden, filepath.Join(keys, "sha1-0.pfx"), filepath.Join(inside, "out")) {
			text := secret
			if strings.HasSuffix(p, "out") {
				text = "seen"
			}
			if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// A task may make any link that it likes below its own directory and, on
		// images that let it, in the root.
		_ = os.Symlink(target, filepath.Join(root, "link"))
		_ = os.Symlink(target, filepath.Join(inside, "link"))
		files, err := NewRootFiles(root, []string{"startup"})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{name, "link", "link/" + name, "workitems/j/job-1/t/wd/link/" + name} {
			if h, err := files.Open(name); err == nil {
				text, err := io.ReadAll(io.NewSectionReader(h, 0, h.Size()))
				h.Close()
				if err == nil && string(text) == secret {
					t.Fatalf("Open(%q) with a link to %q reads what is hidden", name, target)
				}
			}
			if info, err := files.Stat(name); err == nil && !info.GetIsDirectory() && info.GetSize() == int64(len(secret)) {
				t.Fatalf("Stat(%q) with a link to %q tells of what is hidden", name, target)
			}
			list, _ := files.List(name, true)
			for _, i := range list {
				if i.GetSize() == int64(len(secret)) && !i.GetIsDirectory() {
					t.Fatalf("List(%q) with a link to %q tells of %q", name, target, i.GetPath())
				}
			}
			for _, recursive := range []bool{false, true} {
				_ = files.Delete(name, recursive)
			}
			for _, p := range append(hidden, filepath.Join(root, "startup")) {
				if _, err := os.Stat(p); err != nil {
					t.Fatalf("Delete(%q) with a link to %q: %v", name, target, err)
				}
			}
		}
	})
}
