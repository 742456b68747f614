package nbd

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The real client: QEMU's own tools copy from and to an export, write, discard
// and flush, and learn of errors.
func TestQEMUTools(t *testing.T) {
	for _, tool := range []string{"qemu-img", "qemu-io"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (Debian: apt install qemu-utils)", tool)
		}
	}
	const size = 8 << 20
	data := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(data[1<<20 : 3<<20])
	_, _ = rnd.Read(data[size-70000:])
	dev := &memory{data: bytes.Clone(data)}
	fixed := &memory{data: bytes.Clone(data), readOnly: true}
	socket := serve(t, newTestServer(&shelf{devices: map[string]Device{"disk": dev, "ro": fixed}}))
	url := "nbd+unix:///disk?socket=" + socket
	run := func(ok bool, name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if (err == nil) != ok {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	if out := run(true, "qemu-img", "info", "--output=json", url); !strings.Contains(out, `"virtual-size": 8388608`) {
		t.Errorf("info: %s", out)
	}
	copied := filepath.Join(t.TempDir(), "copy.raw")
	run(true, "qemu-img", "convert", "-f", "raw", "-O", "raw", "nbd+unix:///ro?socket="+socket, copied)
	if got, _ := os.ReadFile(copied); !bytes.Equal(got, data) {
		t.Error("the copy differs")
	}
	_ = dev.Clear(0, size, false)
	run(true, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-m", "16", "-W", copied, url)
	if !bytes.Equal(dev.now(), data) {
		t.Error("the copy back differs")
	}
	run(true, "qemu-io", "-f", "raw", "-c", "write -P 0x5a 1000448 3000320", "-c", "write -f -P 7 0 512", "-c", "discard 2M 1M", "-c", "write -z 3M 4096", "-c", "write -z -u 7340032 65536",
		"-c", "flush", "-c", "read -P 0x5a 1000448 1000", "-c", "read -P 0 2M 1M", "-c", "read -P 0 3M 4096", "-c", "aio_read 0 4M", "-c", "aio_read 4M 4M", "-c", "aio_flush", url)
	if now := dev.now(); now[0] != 7 || now[1000448] != 0x5a || dev.flushes == 0 || dev.punches == 0 {
		t.Error("the device was not written as told")
	}
	if out := run(false, "qemu-io", "-f", "raw", "-c", "write 0 512", "nbd+unix:///ro?socket="+socket); !strings.Contains(out, "Permission denied") && !strings.Contains(out, "read-only") {
		t.Errorf("a write to the read-only export: %s", out)
	}
	if out := run(false, "qemu-img", "info", "nbd+unix:///missing?socket="+socket); !strings.Contains(out, "there is no such export") {
		t.Errorf("a missing export: %s", out)
	}
	fixed.setFail(EIO)
	if out := run(false, "qemu-io", "-r", "-f", "raw", "-c", "read 0 512", "nbd+unix:///ro?socket="+socket); !strings.Contains(out, "Input/output error") {
		t.Errorf("a failing device: %s", out)
	}
}
