//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/rawfile"
)

// twoPackages are what a second version of the image has more than the first;
// their dependencies come along.
var twoPackages = []string{"nginx-light", "jq"}

// installed copies a debian-12 image and installs twoPackages in the copy, as
// `apt-get install` does in a VM: the file system is mounted and written to by the
// kernel, dpkg unpacks and runs the packages' scripts, and what is free is
// trimmed at the end. Only the download lies outside of the image. It needs root
// and a Debian 12 around it, and skips the benchmark without.
func installed(b *testing.B, from, dir string) string {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("installing packages in a copy of the image needs root")
	}
	if text, err := os.ReadFile("/etc/os-release"); err != nil || !strings.Contains(string(text), "VERSION_CODENAME=bookworm") {
		b.Skip("installing packages in a copy of the image needs apt of Debian 12")
	}
	for _, tool := range []string{"apt-get", "sfdisk", "mount", "umount", "chroot", "fstrim", "cp"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skip("installing packages in a copy of the image needs ", tool)
		}
	}
	disk, root, debs := filepath.Join(dir, "v2.raw"), filepath.Join(dir, "root"), filepath.Join(dir, "debs")
	for _, d := range []string{root, filepath.Join(debs, "partial")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	run(b, "cp", "--sparse=always", "--reflink=never", from, disk)
	if out, err := exec.Command("mount", "-o", "loop,"+rootPartition(b, disk), disk, root).CombinedOutput(); err != nil {
		b.Skipf("the image cannot be mounted here: %v: %s", err, out)
	}
	mounted := []string{root}
	unmount := func() {
		for len(mounted) > 0 {
			last := mounted[len(mounted)-1]
			mounted = mounted[:len(mounted)-1]
			run(b, "umount", last)
		}
	}
	// Also when something fails below: the temporary folder is removed after that.
	b.Cleanup(unmount)
	get := exec.Command("apt-get", append([]string{"-qq", "-y", "--download-only", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "-o", "APT::Install-Recommends=0",
		"-o", "Dir::State::status=" + filepath.Join(root, "var/lib/dpkg/status"), "-o", "Dir::Cache::archives=" + debs, "install"}, twoPackages...)...)
	if out, err := get.CombinedOutput(); err != nil {
		b.Skipf("apt-get has no packages to install (apt-get update?): %v: %s", err, out)
	}
	inside := filepath.Join(root, "mnt")
	run(b, "mount", "--bind", debs, inside)
	mounted = append(mounted, inside)
	// Nothing is to be started in here.
	policy := filepath.Join(root, "usr/sbin/policy-rc.d")
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		b.Fatal(err)
	}
	run(b, "chroot", root, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", "dpkg -i /mnt/*.deb")
	if err := os.Remove(policy); err != nil {
		b.Fatal(err)
	}
	run(b, "umount", inside)
	mounted = mounted[:1]
	run(b, "fstrim", root)
	unmount()
	return disk
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
