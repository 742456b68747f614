package vmrun

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
)

// encryptedVM is the disks of a VM that encrypts all of them.
func encryptedVM(t *testing.T) *disks {
	t.Helper()
	dir := t.TempDir()
	base := filepath.Join(dir, "base.raw")
	if err := os.WriteFile(base, bytes.Repeat([]byte("millpond"), 1<<17), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{HostKey: filepath.Join(dir, "host", "disks.key"), CacheDir: filepath.Join(dir, "cache"), Accel: qemu.TCG, VCPUs: 1, MemoryMiB: 64,
		Spec: launch.Spec{Node: "n", Firmware: launch.BIOS, OSDisk: launch.Disk{Backing: base, SizeBytes: 64 << 20, Encrypted: true},
			DataDisks: []launch.Disk{{LUN: 3, SizeBytes: 1 << 30, Encrypted: true}}}}
	if err := EnsureHostKey(cfg.HostKey); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, diskFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	return &disks{dir: dir, cfg: cfg, made: map[string][]string{}}
}

func (d *disks) makeAll(t *testing.T) error {
	t.Helper()
	if err := d.osDisk(t.Context()); err != nil {
		return err
	}
	return d.dataDisks(t.Context())
}

// TestEncryptedDisks has QEMU's own tools open the disks with the options that a
// machine gets: what is written is not in the file, and what the base has is read.
func TestEncryptedDisks(t *testing.T) {
	needs(t, "qemu-io")
	d := encryptedVM(t)
	if err := d.makeAll(t); err != nil {
		t.Fatal(err)
	}
	args, err := d.machine(3, 4, 5).Args()
	if err != nil {
		t.Fatal(err)
	}
	var objects, images []string
	for i, a := range args {
		switch {
		case a == "-object" && strings.HasPrefix(args[i+1], "secret,"):
			objects = append(objects, "--object", args[i+1])
		case a == "-blockdev" && strings.Contains(args[i+1], `"encrypt"`):
			images = append(images, args[i+1])
		}
	}
	if len(objects) != 4 || len(images) != 2 {
		t.Fatalf("%d words of secrets, %d encrypted disks in %v", len(objects), len(images), args)
	}
	// The tools take JSON as a name; node names are not for them.
	nameless := strings.NewReplacer(`"node-name":"os",`, "", `"node-name":"data-3",`, "")
	run := func(image string, commands ...string) string {
		t.Helper()
		words := append([]string(nil), objects...)
		for _, c := range commands {
			words = append(words, "-c", c)
		}
		cmd := exec.Command("qemu-io", append(words, "json:"+nameless.Replace(image))...)
		cmd.Dir = d.dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	for _, image := range images {
		if out := run(image, "write -P 0x5a 2M 256k", "read -P 0x5a 2M 256k", "write -P 0x5a 70k 5k", "read -P 0x5a 70k 5k"); strings.Contains(out, "failed") {
			t.Error(out)
		}
	}
	if out := run(images[0], "read -v 0 16"); !strings.Contains(out, "millpond") {
		t.Errorf("the base is not read: %s", out)
	}
	for i, name := range []string{osDisk, dataDisk(3)} {
		b, err := os.ReadFile(d.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, bytes.Repeat([]byte{0x5a}, 64)) {
			t.Errorf("%s has what was written", name)
		}
		cmd := exec.Command("qemu-img", append(append([]string{"check"}, objects...), "json:"+nameless.Replace(images[i]))...)
		cmd.Dir = d.dir
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors") {
			t.Errorf("%v: %s", err, out)
		}
	}
	if st, err := os.Stat(d.path(diskKey)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode: %v %v", st, err)
	}
	if st, err := os.Stat(d.cfg.HostKey); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the host's key's mode: %v %v", st, err)
	}
	host, _ := readHostKey(d.cfg.HostKey)
	if p, _ := d.passphrase(stepOSDisk); strings.Contains(strings.Join(args, " "), p) || strings.Contains(strings.Join(args, " "), string(host)) {
		t.Error("a key is on the command line")
	}
}

func TestEncryptedDisksOfOthersKeys(t *testing.T) {
	d := encryptedVM(t)
	if err := d.makeAll(t); err != nil {
		t.Fatal(err)
	}
	one, err := d.passphrase(stepOSDisk)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.passphrase(stepOSDisk); err != nil || again != one {
		t.Errorf("another one the second time: %v", err)
	}
	other := encryptedVM(t)
	if p, err := other.passphrase(stepOSDisk); err != nil || p == one {
		t.Errorf("two VMs have one passphrase: %v", err)
	}
	other.dir = d.dir
	if _, err := other.passphrase(stepOSDisk); err == nil || !strings.Contains(err.Error(), "another key of this host") {
		t.Error(err)
	}
	if err := os.Remove(d.cfg.HostKey); err != nil {
		t.Fatal(err)
	}
	if _, err := d.passphrase(stepOSDisk); err == nil || !strings.Contains(err.Error(), "host's key") {
		t.Error(err)
	}
	if err := d.undo(stepOSDisk)(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(d.path(diskFolder + "/*")); len(left) != 1 {
		t.Errorf("left after undo of the first step: %v", left)
	}
}

// TestTemplatesArePlain: a template has nothing of any user's, and its disks are the
// base of all its clones' ones.
func TestTemplatesArePlain(t *testing.T) {
	d := encryptedVM(t)
	d.cfg.Freeze = true
	if err := d.makeAll(t); err != nil {
		t.Fatal(err)
	}
	if m := d.machine(3, 4, 5); m.DiskKey != nil || m.Drives[0].Encrypted {
		t.Errorf("%+v", m)
	}
	plain := d.cfg
	plain.Spec.OSDisk.Encrypted, plain.Spec.DataDisks = false, []launch.Disk{{LUN: 3, SizeBytes: 1 << 30}}
	a, errA := TemplateKey(d.cfg)
	b, errB := TemplateKey(plain)
	if errA != nil || errB != nil || a == b {
		t.Errorf("kinds %s %v and %s %v: a spare of the one must not become a node of the other", a, errA, b, errB)
	}
}

func TestEnsureHostKeyKeeps(t *testing.T) {
	name := filepath.Join(t.TempDir(), "k")
	if err := EnsureHostKey(name); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(name)
	if err := EnsureHostKey(name); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(name); !bytes.Equal(before, after) {
		t.Error("it was made anew")
	}
	if err := os.WriteFile(name, []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if EnsureHostKey(name) == nil {
		t.Error("a damaged key is taken")
	}
}
