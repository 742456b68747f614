package baseimage

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

// program builds a static program that can stand in for the agent.
func program(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	src, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "agent")
	if err := os.WriteFile(src, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", out, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return out
}

func TestOptionsAreChecked(t *testing.T) {
	text := filepath.Join(t.TempDir(), "agent.sh")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"no such image":      {Options{Name: "windows"}, "tiny, debian-12"},
		"no such release":    {Options{Name: Tiny, OSRelease: "ubuntu-99"}, "ubuntu-20.04"},
		"debian in disguise": {Options{Name: Debian12, OSRelease: "ubuntu-20.04"}, "--os-release"},
		"package in tiny":    {Options{Name: Tiny, Packages: []string{"podman"}}, "debian-12"},
		"no package":         {Options{Name: Debian12, Packages: []string{"podman,docker.io"}}, "--package"},
		"no output":          {Options{Name: Tiny, WithoutAgent: true}, "output file"},
		"no agent":           {Options{Name: Tiny, Out: dir + "/a", CacheDir: dir}, "go build ./cmd/millpond-agent"},
		"agent is a script":  {Options{Name: Tiny, Out: dir + "/a", CacheDir: dir, AgentPath: text}, "no ELF program"},
	} {
		_, err := Build(context.Background(), tc.o)
		if millpond.KindOf(err) != millpond.Invalid || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMissingToolsAreNamedWithTheirPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	// sbin folders are looked into all the same; mtools lie in /usr/bin.
	b := &build{Options: Options{Name: Tiny}}
	err := b.tools()
	if err == nil || !strings.Contains(err.Error(), "apt-get install") || !strings.Contains(err.Error(), "mtools") {
		t.Errorf("err = %v", err)
	}
}

func TestReleaseFile(t *testing.T) {
	for _, name := range append(ReleaseNames(), "") {
		r, ok := FindRelease(strings.ToUpper(name))
		if !ok || r.Name != name {
			t.Fatalf("FindRelease(%q) = %+v, %v", name, r, ok)
		}
		text := r.File()
		for _, want := range []string{"ID=" + r.ID + "\n", "VERSION_ID=\"" + r.VersionID + "\"\n", "PRETTY_NAME=\"" + r.PrettyName + "\"\n", "VARIANT_ID=millpond\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q:\n%s", name, want, text)
			}
		}
	}
}

func TestParseURIs(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	debs, err := parseURIs("'http://m/libc6_2.36-9%2bdeb12u14_amd64.deb' libc6_2.36-9+deb12u14_amd64.deb 2759320 SHA256:" + sum +
		"\n'http://m/busybox-static_1.35.0_amd64.deb' busybox-static_1%3a1.35.0-4_amd64.deb 928188 SHA256:" + sum + "\n")
	if err != nil || len(debs) != 2 {
		t.Fatalf("%v, %v", debs, err)
	}
	if debs[0].name() != "busybox-static" || debs[0].spec() != "busybox-static=1:1.35.0-4" || debs[1].spec() != "libc6=2.36-9+deb12u14" {
		t.Errorf("%+v: %s, %s", debs, debs[0].spec(), debs[1].spec())
	}
	for _, bad := range []string{"", "E: nothing", "'u' a.deb 12 MD5Sum:aa", "'u' ../../etc/passwd 1 SHA256:" + sum} {
		if _, err := parseURIs(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// koFile is a minimal ELF file with a .modinfo section.
func koFile(info string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	data := append([]byte(info), names...)
	le := binary.LittleEndian
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	le.PutUint16(h[16:], 1)  // relocatable
	le.PutUint16(h[18:], 62) // x86-64
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[40:], uint64(64+len(data)))
	le.PutUint16(h[52:], 64)
	le.PutUint16(h[58:], 64)
	le.PutUint16(h[60:], 3)
	le.PutUint16(h[62:], 2)
	section := func(name, typ uint32, off, size int) []byte {
		s := make([]byte, 64)
		le.PutUint32(s, name)
		le.PutUint32(s[4:], typ)
		le.PutUint64(s[24:], uint64(off))
		le.PutUint64(s[32:], uint64(size))
		return s
	}
	out := append(h, data...)
	out = append(out, make([]byte, 64)...)
	out = append(out, section(1, 1, 64, len(info))...)
	return append(out, section(10, 3, 64+len(info), len(names))...)
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	mod := func(name, deps string) module {
		return module{path: "kernel/" + name + ".ko", data: koFile("license=GPL\x00depends=" + deps + "\x00name=x\x00")}
	}
	k := kernel{modules: map[string]module{
		"virtio": mod("virtio", ""), "virtio_ring": mod("virtio_ring", "virtio"),
		"virtio_pci": mod("virtio-pci", "virtio-ring,virtio"), "net": mod("net", "virtio_pci,built_in"),
		"a": mod("a", "b"), "b": mod("b", "a"),
	}}
	got, err := k.closure("net", "virtio")
	if err != nil || strings.Join(got, " ") != "virtio virtio_ring virtio_pci net" {
		t.Errorf("closure = %v, %v", got, err)
	}
	dep, err := k.depFile([]string{"virtio", "net"})
	if want := "kernel/virtio.ko:\nkernel/net.ko: kernel/virtio-pci.ko kernel/virtio_ring.ko kernel/virtio.ko\n"; err != nil || dep != want {
		t.Errorf("depFile = %q, %v", dep, err)
	}
	if _, err := k.closure("a"); err == nil {
		t.Error("a circle was not noticed")
	}
	if got, err := k.closure("built_in"); err != nil || len(got) != 0 {
		t.Errorf("a built-in module: %v, %v", got, err)
	}
}

func TestArchive(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	a := newArchive()
	a.file("lib/deep/er/x.ko", 0o644, []byte("module"))
	a.file("init", 0o755, []byte("#!/bin/sh\n"))
	a.symlink("bin/sh", "busybox")
	b := a.bytes()
	if len(b)%512 != 0 {
		t.Errorf("the archive has %d bytes", len(b))
	}
	cmd := exec.Command("cpio", "-tv", "--quiet")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"lib/deep/er\n", "lib/deep/er/x.ko\n", "init\n", "bin/sh -> busybox\n", "-rwxr-xr-x"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio lists no %q:\n%s", want, out)
		}
	}
}

func TestUUIDsAreStable(t *testing.T) {
	a, b := &build{seed: "one"}, &build{seed: "two"}
	same := &build{seed: "one"}
	if a.uuid("root") != same.uuid("root") || a.uuid("root") == a.uuid("esp") || a.uuid("root") == b.uuid("root") {
		t.Error("UUIDs do not follow the inputs")
	}
	if u := a.uuid("root"); len(u) != 36 || u[14] != '4' {
		t.Errorf("%q is no UUID of version 4", u)
	}
}

func TestAgentMustBeStatic(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs programs of Linux")
	}
	if err := checkStatic(program(t, "package main\nfunc main() {}\n")); err != nil {
		t.Errorf("a static program: %v", err)
	}
	sh, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkStatic(sh); err == nil || !strings.Contains(err.Error(), "dynamically") {
		t.Errorf("%s: %v", sh, err)
	}
}

func FuzzParseURIs(f *testing.F) {
	f.Add("'u' a_1_amd64.deb 1 SHA256:" + strings.Repeat("0", 64))
	f.Fuzz(func(t *testing.T, s string) {
		debs, err := parseURIs(s)
		for _, d := range debs {
			if err == nil && strings.ContainsAny(d.File, " \n") {
				t.Errorf("%q", d.File)
			}
		}
	})
}

func FuzzModuleDepends(f *testing.F) {
	f.Add(koFile("depends=a,b\x00"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = moduleDepends(b) })
}
