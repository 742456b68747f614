package vmrun

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
)

// The OS disk gets its map if it lies on the content itself; else the lease is let go.
func TestTakeMap(t *testing.T) {
	dir := t.TempDir()
	socket, content := filepath.Join(dir, "nbd.sock"), "3804678c19fd128a668bf3e99cfb9523293dbc23748cd44849e542b75945e77b"
	cfg := Config{Spec: launch.Spec{OSDisk: launch.Disk{Content: content, SizeBytes: 1 << 30}}, ImageSocket: socket}
	if err := cfg.Save(dir); err != nil {
		t.Fatal(err)
	}
	base, err := contentBase(dir, socket, content)
	if err != nil {
		t.Fatal(err)
	}
	free := func(name string) bool {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	}
	for _, c := range []struct {
		name, base string
		mapped     bool
	}{{"content", base, true}, {"template", "/templates/t/os.qcow2", false}} {
		t.Run(c.name, func(t *testing.T) {
			if err := writeOverlay(filepath.Join(dir, osDisk), c.base, 1<<30); err != nil {
				t.Fatal(err)
			}
			lease := filepath.Join(t.TempDir(), "0")
			if err := os.WriteFile(lease, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			s := &supervisor{dir: dir, cfg: cfg, log: slog.New(slog.DiscardHandler), disks: &disks{dir: dir, cfg: cfg}}
			m := &mapping{done: make(chan struct{}), at: cache.Mapping{File: "slab", Offset: 8 << 20, Lease: lease, Chunks: 3}}
			if m.lease, m.err = lockLease(lease); m.err != nil {
				t.Fatal(m.err)
			}
			close(m.done)
			s.mapping = m
			drives := []qemu.Drive{{ID: "os", Boot: true, Format: qemu.QCOW2}, {ID: "seed"}}
			got := s.takeMap(context.Background(), drives)
			if (got != nil) != c.mapped || (drives[0].Map != nil) != c.mapped || drives[1].Map != nil {
				t.Fatalf("lease %v, drives %+v", got, drives)
			}
			if c.mapped {
				if at := drives[0].Map; at.File != "slab" || at.Offset != 8<<20 || at.Export.Export != content {
					t.Errorf("%+v", at)
				}
				if free(lease) {
					t.Error("the lease is not locked")
				}
				got.Close()
			}
			if !free(lease) {
				t.Error("the lease is locked by nobody")
			}
		})
	}
}

// A lease whose name has gone is worth nothing.
func TestLeaseThatEnded(t *testing.T) {
	name := filepath.Join(t.TempDir(), "0")
	if _, err := lockLease(name); err == nil {
		t.Error("a lease that is not there was locked")
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := lockLease(name); err == nil {
		t.Error("a lease that is being ended was locked")
	}
}
