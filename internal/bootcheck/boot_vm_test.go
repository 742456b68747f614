//go:build vm

package bootcheck

import (
	"bytes"
	"os"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
	"millpond.dev/millpond/internal/vmrun"
)

// TestRealBoots boots the image that MILLPOND_TEST_IMAGE names (raw, with an
// agent, by BIOS) whole, without its boot sector, and without its kernel.
func TestRealBoots(t *testing.T) {
	image := os.Getenv("MILLPOND_TEST_IMAGE")
	if image == "" {
		t.Skip("MILLPOND_TEST_IMAGE names no image")
	}
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	// A copy is damaged, never the image.
	damaged := func(damage func(b []byte)) Disk {
		b := bytes.Clone(whole)
		damage(b)
		return Disk{Source: script(b)}
	}
	for _, c := range []struct {
		name  string
		os    Disk
		stage Stage
		code  string
	}{
		{"whole", Disk{Raw: image}, Agent, ""},
		{"no boot sector", damaged(func(b []byte) { clear(b[:512]) }), Firmware, vmrun.CodeBootFailed},
		{"no kernel", damaged(func(b []byte) {
			// Each copy of the kernel loses the boot flag that lies before its header.
			for at := 0; ; {
				i := bytes.Index(b[at:], []byte("HdrS"))
				if i < 0 {
					return
				}
				if at += i; at%512 == 2 {
					clear(b[at-4 : at+4])
				}
				at += 4
			}
		}), BootLoader, vmrun.CodeKernelNotLoaded},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Run(t.Context(), Options{Scratch: t.TempDir(), Firmware: launch.BIOS, OS: c.os, Accel: qemu.TCG, VCPUs: 2, MemoryMiB: 512,
				Tools: vmrun.Tools{QEMU: "qemu-system-x86_64", MkE2fs: "mke2fs"}, Limit: 2 * time.Minute, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s after %s", r.Stage, r.Took.Round(time.Millisecond))
			if r.Stage != c.stage || (r.Failure == nil) != (c.code == "") || r.Failure != nil && r.Failure.Code != c.code {
				t.Errorf("%+v\n%s", r.Failure, r.Console)
			}
		})
	}
}
