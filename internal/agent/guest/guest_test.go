package guest

import (
	"os"
	"path/filepath"
	"testing"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func write(t *testing.T, data string, path ...string) string {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFindPort(t *testing.T) {
	class, dev := t.TempDir(), t.TempDir()
	if p := findPort(class, dev); p != "" {
		t.Fatal(p)
	}
	write(t, "org.qemu.guest_agent.0\n", class, "vport0p1", "name")
	write(t, "org.millpond.agent.0\n", class, "vport1p1", "name")
	if p := findPort(class, dev); p != "" {
		t.Fatal("found a port without a device:", p)
	}
	write(t, "", dev, "vport0p1")
	want := write(t, "", dev, "vport1p1")
	if p := findPort(class, dev); p != want {
		t.Fatalf("found %q, want %q", p, want)
	}
}

// superblock is the first 2 KiB of an ext file system with a label.
func superblock(label string) string {
	b := make([]byte, 2048)
	b[1024+56], b[1024+57] = 0x53, 0xEF
	copy(b[1024+120:1024+136], label)
	return string(b)
}

func TestFindLabel(t *testing.T) {
	class, dev := t.TempDir(), t.TempDir()
	for name, data := range map[string]string{
		"vda": superblock("root"), "vda1": "short", "vdb": superblock(launch.TempDiskLabel), "loop0": superblock(launch.TempDiskLabel), "vdc": string(make([]byte, 4096)),
	} {
		write(t, data, dev, name)
		write(t, "", class, name, "size")
	}
	write(t, "", class, "vdd", "size") // without a device
	got, err := findLabel(class, dev, launch.TempDiskLabel)
	if err != nil || got != filepath.Join(dev, "vdb") {
		t.Fatal(got, err)
	}
	if got, err := findLabel(class, dev, "other"); err != nil || got != "" {
		t.Fatal(got, err)
	}
	if l, ok := extLabel(write(t, superblock("sixteen-bytes-ab"), t.TempDir(), "x")); !ok || l != "sixteen-bytes-ab" {
		t.Fatal(l, ok)
	}
}

func FuzzExtLabel(f *testing.F) {
	f.Add([]byte(superblock("x")))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := filepath.Join(t.TempDir(), "d")
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, ok := extLabel(p); ok && len(l) > 16 || !ok && l != "" {
			t.Fatal(l, ok)
		}
	})
}

func TestHostsFileKeepsWhatIsThereAndReplacesItsOwnLines(t *testing.T) {
	h := hostsFile{path: write(t, "127.0.0.1 localhost\n127.0.1.1\told", t.TempDir(), "hosts")}
	is := func(want string) {
		t.Helper()
		if got := readFile(h.path); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.own(ownHosts{name: "node1", host: "10.77.0.1"}))
	is("127.0.0.1 localhost\n127.0.1.1\tnode1\n10.77.0.1\thost.millpond.internal\n")
	must(h.peers([]*nodev1.Host{{Name: "node1", Address: "10.80.0.4"}, {Name: "node2", Address: "10.80.0.5"}, {Name: "x\n::1 localhost", Address: "10.80.0.6"}, {Name: "y", Address: "::1 z"}}))
	is("127.0.0.1 localhost\n127.0.1.1\tnode1\n10.77.0.1\thost.millpond.internal\n10.80.0.4\tnode1\t# millpond task\n10.80.0.5\tnode2\t# millpond task\n")
	must(h.own(ownHosts{name: "node1", address: "10.80.0.4", domain: "example.net"}))
	is("127.0.0.1 localhost\n10.80.0.4\tnode1\t# millpond task\n10.80.0.5\tnode2\t# millpond task\n10.80.0.4\tnode1.example.net\tnode1\t# millpond\n")
	must(h.peers([]*nodev1.Host{{Name: "node3", Address: "10.80.0.6"}}))
	must(h.own(ownHosts{name: "node2"}))
	is("127.0.0.1 localhost\n10.80.0.6\tnode3\t# millpond task\n127.0.1.1\tnode2\n")
}
