package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecondLockIsRefusedAndSaysByWhom(t *testing.T) {
	d := Dir(t.TempDir())
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "--data") {
		t.Fatalf("second lock: %v", err)
	}
	release()
	again, err := d.Lock()
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again()
}

func TestDefaultFollowsTheEnvironment(t *testing.T) {
	t.Setenv("MILLPOND_DATA", "/somewhere")
	if d, err := Default(); err != nil || d != "/somewhere" {
		t.Fatalf("got %q, %v", d, err)
	}
}

func TestUnusableFoldersSayWhatToDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Dir{Dir(file), Dir(filepath.Join(file, "below"))} {
		if _, err := d.Lock(); err == nil || !strings.Contains(err.Error(), "--data") {
			t.Errorf("lock %s: %v", d, err)
		}
		if err := d.Check(); err == nil || !strings.Contains(err.Error(), "--data") {
			t.Errorf("check %s: %v", d, err)
		}
	}
	none := Dir(filepath.Join(filepath.Dir(file), "none"))
	if err := none.Check(); err == nil || !strings.Contains(err.Error(), "millpond serve --data "+string(none)) {
		t.Errorf("check: %v", err)
	}
	if _, err := os.Stat(string(none)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a check has made the folder: %v", err)
	}
	if err := Dir(filepath.Dir(file)).Check(); err != nil {
		t.Error(err)
	}
}
