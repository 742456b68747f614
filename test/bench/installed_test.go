//go:build bench

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/rawfile"
	"millpond.dev/millpond/internal/qemu"
	"millpond.dev/millpond/internal/seed"
)

// twoPackages are what a second version of the image has more than the first;
// their dependencies come along.
var twoPackages = []string{"nginx-light", "jq"}

// installLimit bounds the VM that installs them; under emulation it takes two
// minutes.
const installLimit = 15 * time.Minute

// install is what the VM runs as its custom data: what a person would do by hand
// before a capture. Generalizing waits for cloud-init to end, which runs this, and
// is therefore left to a unit of its own.
const install = `#!/bin/sh
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /run/debs
mount -o ro /dev/disk/by-label/DEBS /run/debs && dpkg -i /run/debs/*.deb && umount /run/debs || exec poweroff
exec systemd-run --no-block sh -c 'waagent -deprovision+user -force && fstrim -a && echo MILLPOND-INSTALLED > /dev/ttyS0; poweroff'
`

// installed boots a VM from a debian-12 image, with an overlay as all have, installs
// twoPackages in it, generalizes and trims it, and returns its disk as a raw file.
// The packages come on a disk: only the download lies outside of the VM. It needs
// root and a Debian 12 around it, and skips the benchmark without.
func installed(b *testing.B, from, dir string) string {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("looking into the image for what its packages need takes root")
	}
	if text, err := os.ReadFile("/etc/os-release"); err != nil || !strings.Contains(string(text), "VERSION_CODENAME=bookworm") {
		b.Skip("finding packages for the image needs apt of Debian 12")
	}
	for _, tool := range []string{"apt-get", "sfdisk", "mount", "umount", "mke2fs", "qemu-img", "qemu-system-x86_64"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skip("installing packages in a VM needs ", tool)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	debs := at("debs")
	download(b, from, at("root"), debs)
	run(b, "mke2fs", "-q", "-t", "ext4", "-L", "DEBS", "-d", debs, at("debs.img"), "64M")
	run(b, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", from, at("v2.qcow2"))
	f, err := os.Create(at("seed.iso"))
	if err != nil {
		b.Fatal(err)
	}
	err = seed.Write(f, seed.Instance{ID: "bench-v2", Hostname: "bench-v2", User: &seed.User{Admin: "bench", CustomData: []byte(install)}})
	if err := errors.Join(err, f.Close()); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), installLimit)
	defer cancel()
	began := time.Now()
	args := append(qemu.TCG.Args(), "-nodefaults", "-display", "none", "-m", "1024", "-no-reboot", "-serial", "file:"+at("console"),
		"-drive", "file="+at("v2.qcow2")+",if=virtio,discard=unmap,detect-zeroes=unmap,cache=unsafe",
		"-drive", "file="+at("seed.iso")+",if=virtio,format=raw,readonly=on", "-drive", "file="+at("debs.img")+",if=virtio,format=raw,readonly=on")
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
	console, _ := os.ReadFile(at("console"))
	if err != nil || !strings.Contains(string(console), "MILLPOND-INSTALLED") {
		b.Fatalf("the VM did not install the packages: %v: %s\nits console ends with\n%s", err, out, console[max(0, len(console)-2000):])
	}
	b.Logf("a VM installed %s and was generalized in %s", strings.Join(twoPackages, " and "), time.Since(began).Round(time.Second))
	run(b, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", at("v2.qcow2"), at("v2.raw"))
	return at("v2.raw")
}

// download gets twoPackages and what they need that the image does not have.
func download(b *testing.B, from, root, debs string) {
	b.Helper()
	for _, d := range []string{root, filepath.Join(debs, "partial")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if out, err := exec.Command("mount", "-o", "ro,noload,loop,"+rootPartition(b, from), from, root).CombinedOutput(); err != nil {
		b.Skipf("the image cannot be mounted here: %v: %s", err, out)
	}
	defer run(b, "umount", root)
	get := exec.Command("apt-get", append([]string{"-qq", "-y", "--download-only", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "-o", "APT::Install-Recommends=0",
		"-o", "Dir::State::status=" + filepath.Join(root, "var/lib/dpkg/status"), "-o", "Dir::Cache::archives=" + debs, "install"}, twoPackages...)...)
	if out, err := get.CombinedOutput(); err != nil {
		b.Skipf("apt-get has no packages to install (apt-get update?): %v: %s", err, out)
	}
	if err := os.Remove(filepath.Join(debs, "partial")); err != nil {
		b.Fatal(err)
	}
}

// run runs a program that has to succeed.
func run(b *testing.B, name string, args ...string) {
	b.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		b.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// rootPartition are mount's options for the partition that is named root.
func rootPartition(b *testing.B, disk string) string {
	b.Helper()
	out, err := exec.Command("sfdisk", "-J", disk).Output()
	if err != nil {
		b.Fatal(err)
	}
	var t struct {
		Table struct {
			Partitions []struct {
				Start, Size json.Number
				Name        string
			}
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &t); err != nil {
		b.Fatal(err)
	}
	for _, p := range t.Table.Partitions {
		if p.Name == "root" {
			start, _ := p.Start.Int64()
			size, _ := p.Size.Int64()
			return fmt.Sprintf("offset=%d,sizelimit=%d", start*512, size*512)
		}
	}
	b.Fatalf("%s has no partition named root", disk)
	return ""
}

// eachChange calls do for each range of 64 KiB that differs between two raw files
// of the same size, with the bytes of the second.
func eachChange(b *testing.B, old, now string, do func(p []byte, off int64) error) {
	b.Helper()
	const block = 64 << 10
	a, err := rawfile.Open(old)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	z, err := rawfile.Open(now)
	if err != nil {
		b.Fatal(err)
	}
	defer z.Close()
	if a.Size() != z.Size() || z.Size()%block != 0 {
		b.Fatalf("%d and %d bytes cannot be compared", a.Size(), z.Size())
	}
	p, q := make([]byte, block), make([]byte, block)
	for off := int64(0); off < z.Size(); {
		// What is a hole in both is the same.
		next := z.Size()
		for _, f := range []image.Sparse{a, z} {
			start, _, err := f.NextData(off)
			if err != nil {
				b.Fatal(err)
			}
			next = min(next, start/block*block)
		}
		if off = max(off, next); off == z.Size() {
			return
		}
		if _, err := a.ReadAt(p, off); err != nil {
			b.Fatal(err)
		}
		if _, err := z.ReadAt(q, off); err != nil {
			b.Fatal(err)
		}
		if string(p) != string(q) {
			if err := do(q, off); err != nil {
				b.Fatal(err)
			}
		}
		off += block
	}
}
