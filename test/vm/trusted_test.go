//go:build e2e

package vm

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// signedVHD is the tiny image with Debian's signed boot loaders in the place of its own;
// the kernel is Debian's, and signed.
func signedVHD(t *testing.T, s *lab.Server) string {
	t.Helper()
	signed := filepath.Join(s.Root, ".cache", "signed")
	if _, err := os.Stat(filepath.Join(signed, "grubx64.efi")); err != nil {
		t.Skipf("scripts/install signed has not been run: %v", err)
	}
	vhd := filepath.Join(t.TempDir(), "signed.vhd")
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v %s", name, args, err, out)
		}
		return string(out)
	}
	run("cp", "--sparse=always", s.TinyVHD("ubuntu-16.04"), vhd)
	start := regexp.MustCompile(`start= *(\d+).*type=C12A7328`).FindStringSubmatch(run("sfdisk", "-d", vhd))
	if start == nil {
		t.Fatal("the image has no EFI system partition")
	}
	esp := vhd + "@@" + start[1] + "S"
	options := regexp.MustCompile(`(?m)^options (.*)$`).FindStringSubmatch(run("mtype", "-i", esp, "::loader/entries/linux.conf"))
	config := filepath.Join(t.TempDir(), "grub.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, "search --file --set=root /vmlinuz\nlinux /vmlinuz %s\ninitrd /initrd\nboot\n", options[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	run("mmd", "-i", esp, "::EFI/debian")
	run("mcopy", "-o", "-i", esp, filepath.Join(signed, "shimx64.efi"), "::EFI/BOOT/BOOTX64.EFI")
	run("mcopy", "-i", esp, filepath.Join(signed, "grubx64.efi"), "::EFI/BOOT/grubx64.efi")
	run("mcopy", "-i", esp, config, "::EFI/debian/grub.cfg")
	return vhd
}

func trustedPool(l *lab.Lab, id string) map[string]any {
	body := l.PoolBody(id, 1)
	body["vmSize"] = "STANDARD_D2S_V3"
	body["virtualMachineConfiguration"].(map[string]any)["securityProfile"] = map[string]any{"securityType": "trustedLaunch", "encryptionAtHost": true,
		"uefiSettings": map[string]any{"secureBootEnabled": true, "vTpmEnabled": true}}
	return body
}

// TestTrustedLaunch boots a node whose boot loaders are signed by secure boot, with a
// TPM that keeps what it has through a reboot and ends with its machine; one whose
// boot loader is not signed says what its image lacks.
func TestTrustedLaunch(t *testing.T) {
	t.Run("signed", func(t *testing.T) {
		s := lab.Start(t)
		l := s.Furnish(signedVHD(t, s), "V2")
		l.AddPool(trustedPool(l, "p"), 5*time.Minute)
		n := l.Nodes("p")[0]
		t.Logf("%v %s", n.Phases, n.Reason)
		if n.Kind != "boot" || !strings.Contains(n.Reason, "trusted launch") {
			t.Errorf("the node is a %s: %s", n.Kind, n.Reason)
		}
		if a := l.Batch(http.MethodGet, "/pools/p", nil); !strings.Contains(string(a.Body), `"securityProfile":{"encryptionAtHost":true,"securityType":"trustedLaunch","uefiSettings":{"secureBootEnabled":true,"vTpmEnabled":true}}`) {
			t.Errorf("the pool says %s", a.Body)
		}
		// What the kernel has found, the TPM's version and a bank of its log.
		l.AddJob("look", "p", with(shell("t", "dmesg | grep -c \"Secure boot enabled\"; cat /sys/class/tpm/tpm0/tpm_version_major; cat /sys/class/tpm/tpm0/pcr-sha256/7"), "userIdentity", admin))
		v := l.WaitTasks("look", 2*time.Minute)["t"]
		out := strings.Fields(l.Stdout("look", "t"))
		t.Logf("%+v: %v", v.Info, out)
		if len(out) != 3 || out[0] != "1" || out[1] != "2" || strings.Trim(out[2], "0") == "" {
			t.Errorf("secure boot, TPM and its register 7: %v", out)
		}
		if a := l.Batch(http.MethodPost, "/pools/p/nodes/"+n.ID+"/reboot", map[string]any{}); a.Status != http.StatusAccepted {
			t.Fatalf("reboot: %d %s", a.Status, a.Body)
		}
		l.AddJob("again", "p", with(shell("t", "cat /sys/class/tpm/tpm0/pcr-sha256/7"), "userIdentity", admin))
		l.WaitTasks("again", 3*time.Minute)
		if again := strings.TrimSpace(l.Stdout("again", "t")); len(out) == 3 && again != out[2] {
			t.Errorf("register 7 was %s and is %s after a reboot of the same machine", out[2], again)
		}
		l.Resize("p", 0)
		lab.Wait(t, time.Minute, "the machine and its TPM are gone", func() (bool, string) {
			left := append(s.Descendants("qemu"), s.Descendants("swtpm")...)
			return len(left) == 0, fmt.Sprint(left)
		})
	})
	t.Run("unsigned", func(t *testing.T) {
		s := lab.Start(t)
		l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V2")
		if a := l.Batch(http.MethodPost, "/pools", trustedPool(l, "p")); a.Status != http.StatusCreated {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		lab.Wait(t, 3*time.Minute, "the node says why it did not boot", func() (bool, string) {
			a := l.Batch(http.MethodGet, "/pools/p/nodes", nil)
			return strings.Contains(string(a.Body), "SecureBootViolation") && strings.Contains(string(a.Body), "shim"), string(a.Body)
		})
	})
}
