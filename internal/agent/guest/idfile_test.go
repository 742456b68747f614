package guest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestKeepID: a file of its own is written, a link to another and none are left alone.
func TestKeepID(t *testing.T) {
	dir := t.TempDir()
	file, link, none := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "none")
	write(t, "old\n", dir, "file")
	write(t, "other\n", dir, "target")
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, link, none} {
		if err := keepID(name, "new"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := firstLine(file); got != "new" {
		t.Errorf("the file has %q", got)
	}
	if got := firstLine(link); got != "other" {
		t.Errorf("the link leads to %q", got)
	}
	if _, err := os.Lstat(none); !os.IsNotExist(err) {
		t.Errorf("a file was made: %v", err)
	}
}

// TestNothingRunsOnHalfAMachine: however long a clone takes to become its own,
// nothing of its user's runs before.
func TestNothingRunsOnHalfAMachine(t *testing.T) {
	m := &Machine{whole: make(chan struct{})}
	r := &at{}
	o := &online{Runner: r, whole: m.awaitWhole, until: time.Now(), up: func() bool { return true }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.wait(t.Context())
		o.Runner.Run(t.Context(), nil, nil)
	}()
	select {
	case <-done:
		t.Fatal("it did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	close(m.whole)
	<-done
	if r.ran.IsZero() {
		t.Error("it did not run")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	(&Machine{whole: make(chan struct{})}).awaitWhole(ctx)
	(&Machine{}).awaitWhole(t.Context())
}
