package datadir

import (
	"errors"
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
