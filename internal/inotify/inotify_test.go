package inotify

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFileIsSeenToBeReplacedAndWritten(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "endpoint")
	w, err := Watch(name)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	seen := func(what string) {
		t.Helper()
		select {
		case <-w.Changed():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nothing was told", what)
		}
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, name); err != nil {
		t.Fatal(err)
	}
	seen("a file in its place")
	// The other file's own write came first, so that it would have been told by now.
	select {
	case <-w.Changed():
		t.Error("another file was told of")
	default:
	}
	if err := os.WriteFile(name, []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	seen("a file that is written")
}

// TestWrites: a file that is open is watched for writes, whatever becomes of its name.
func TestWrites(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	w, err := WatchWrites(r)
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := os.Rename(name, name+"2"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := f.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.Changed():
		case <-time.After(10 * time.Second):
			t.Fatal("a write was not told")
		}
	}
}

func TestWatchNeedsTheFolder(t *testing.T) {
	if w, err := Watch(filepath.Join(t.TempDir(), "none", "endpoint")); err == nil {
		w.Close()
		t.Error("a folder that is not there is watched")
	}
}

func TestLostEvents(t *testing.T) {
	if !(Event{Mask: unix.IN_Q_OVERFLOW}).Lost() || (Event{Mask: unix.IN_MOVED_TO}).Lost() {
		t.Error("lost events are not told from others")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 'a', 'b', 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range Parse(b) {
			if len(e.Name) > len(b) {
				t.Errorf("a name of %d bytes of %d", len(e.Name), len(b))
			}
		}
	})
}
