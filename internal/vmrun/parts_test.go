package vmrun

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
)

func TestOverlayIsWhatQEMUReads(t *testing.T) {
	needs(t, "qemu-img")
	dir := t.TempDir()
	base := filepath.Join(dir, "base, with a comma.raw")
	content := bytes.Repeat([]byte("millpond"), 1<<17)
	if err := os.WriteFile(base, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, base string
		size       int64
	}{
		{"same", base, 1 << 20}, {"grown", base, 30 << 30}, {"odd", base, 1<<20 + 512},
		{"blank", "", 1 << 30}, {"huge", "", maxDisk}, {"exact", "", l1Span}, {"over", "", l1Span + 512},
	} {
		p := filepath.Join(dir, c.name+".qcow2")
		if err := writeOverlay(p, c.base, c.size); err != nil {
			t.Fatal(c.name, err)
		}
		if out, err := exec.Command("qemu-img", "check", "-f", "qcow2", p).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors") {
			t.Errorf("%s: %v %s", c.name, err, out)
		}
		out, err := exec.Command("qemu-img", "info", "--output=json", "-f", "qcow2", p).Output()
		if err != nil {
			t.Fatal(err)
		}
		var info struct {
			Size    int64  `json:"virtual-size"`
			Backing string `json:"backing-filename"`
			Format  string `json:"backing-filename-format"`
			Cluster int    `json:"cluster-size"`
		}
		if err := json.Unmarshal(out, &info); err != nil || info.Size != c.size || info.Backing != c.base || info.Cluster != cluster || (c.base != "" && info.Format != "raw") {
			t.Errorf("%s: %+v %v", c.name, info, err)
		}
	}
	flat := filepath.Join(dir, "flat.raw")
	if out, err := exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", filepath.Join(dir, "same.qcow2"), flat).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if got, err := os.ReadFile(flat); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the overlay does not read as its base: %v", err)
	}
	if left := hidden(t, dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestOverlayRefusals(t *testing.T) {
	p := filepath.Join(t.TempDir(), "x")
	for _, size := range []int64{0, -512, 511, maxDisk + 512} {
		if writeOverlay(p, "", size) == nil {
			t.Errorf("size %d accepted", size)
		}
	}
	if writeOverlay(p, strings.Repeat("a", 1024), 512) == nil {
		t.Error("long name accepted")
	}
	if _, err := os.Stat(p); err == nil {
		t.Error("a refused overlay left a file")
	}
}

func TestFindSign(t *testing.T) {
	for _, c := range []struct{ text, code string }{
		{"SeaBIOS\r\nBooting from Hard Disk...\r\n", ""},
		{"No bootable device", ""}, // its line is not complete
		{"Boot failed: not a bootable disk\r\n\r\nNo bootable device.\r\n", CodeBootFailed},
		{"BdsDxe: No bootable option or device was found.\r\n", CodeBootFailed},
		{"BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0): Access Denied\r\nBdsDxe: No bootable option or device was found.\r\n", CodeSecureBoot},
		{"cloud-init: s3://x: Access Denied\r\n\x1b[2JBdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0): Access Denied\r\n", CodeSecureBoot},
		{"BdsDxe: loading Boot0001\r\ncloud-init: s3://x: Access Denied\r\nSecurity Violation\r\n", ""},
		{"error: unknown filesystem.\r\ngrub rescue> ", CodeBootFailed},
		{"[1.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n", CodeRootNotFound},
		{"[1.0] VFS: Unable to mount root fs on x\n[1.1] Kernel panic - not syncing: VFS\n", CodeRootNotFound},
		{"[1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x100\n", CodeKernelPanic},
		{"[0.0] Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug and send a report.\n", CodeStarved},
		{"Gave up waiting for root file system device.\n", CodeRootNotFound},
		{"You are in emergency mode. After logging in\n", CodeEmergency},
		{"login: ", ""},
	} {
		f := findSign(c.text)
		switch {
		case f == nil && c.code != "":
			t.Errorf("%q: nothing found", c.text)
		case f != nil && (f.Code != c.code || f.Host != (c.code == CodeStarved) || f.Message == "" || f.Suggestion == ""):
			t.Errorf("%q: %+v", c.text, f)
		}
	}
}

func TestExplain(t *testing.T) {
	found := &launch.Failure{Code: CodeBootFailed}
	for _, c := range []struct {
		name  string
		e     ending
		phase launch.Phase
		code  string
		host  bool
	}{
		{"stopped as asked", ending{asked: true, greeted: true}, launch.Stopped, "", false},
		{"killed as asked", ending{asked: true, greeted: true, signal: unix.SIGKILL}, launch.Stopped, "", false},
		{"guest's power-off", ending{powerOff: true, greeted: true}, launch.Stopped, "", false},
		{"boot failed, then killed by us", ending{found: found, greeted: true, signal: unix.SIGKILL}, launch.Failed, CodeBootFailed, false},
		{"refused", ending{code: 1}, launch.Failed, CodeQEMURejected, true},
		{"refused under KVM", ending{signal: unix.SIGABRT, accel: qemu.KVM}, launch.Failed, CodeQEMURejected, true},
		{"killed", ending{greeted: true, signal: unix.SIGKILL}, launch.Failed, CodeQEMUKilled, true},
		{"terminated", ending{greeted: true, signal: unix.SIGTERM}, launch.Failed, CodeQEMUKilled, true},
		{"aborted", ending{greeted: true, signal: unix.SIGABRT}, launch.Failed, CodeQEMUCrashed, true},
		{"seccomp", ending{greeted: true, signal: unix.SIGSYS}, launch.Failed, CodeQEMUCrashed, true},
		{"exit code", ending{greeted: true, code: 1}, launch.Failed, CodeQEMUCrashed, true},
	} {
		phase, f := explain(c.e)
		if phase != c.phase || (f == nil) != (c.code == "") {
			t.Errorf("%s: %s %+v", c.name, phase, f)
		}
		if f != nil && (f.Code != c.code || f.Host != c.host) {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := printable([]byte("\x1b[2J\x1b[0mSea\x00BIOS\r\n\x1bcok\xff\x1b[")); got != "SeaBIOS\nok?" {
		t.Errorf("%q", got)
	}
}

func TestIdentityIsStable(t *testing.T) {
	a, b := Config{Spec: launch.Spec{Node: "Node-1"}}, Config{Spec: launch.Spec{Node: "node-1", Generation: 9}}
	if a.uuid() != b.uuid() || a.mac() != b.mac() {
		t.Error("identity depends on more than the node")
	}
	if c := (Config{Spec: launch.Spec{Node: "node-2"}}); c.uuid() == a.uuid() || c.mac() == a.mac() {
		t.Error("two nodes share an identity")
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("{\"op\":\"stop\",\"grace\":5}\n"))
	f.Add([]byte("{\"op\":\"stop\",\"grace\":-5}\n"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := readRequest(bytes.NewReader(b)); err == nil && req.Grace < 0 {
			t.Errorf("negative grace from %q", b)
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add([]byte("\x1b[2J"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []byte(printable(b)) {
			if c != '\n' && c != '\t' && (c < 0x20 || c > 0x7e) {
				t.Fatalf("%q has byte %x", b, c)
			}
		}
		findSign(string(b))
	})
}
