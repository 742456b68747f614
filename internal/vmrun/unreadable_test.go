package vmrun

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/nbd"
)

// constant is a read-only disk of one byte.
type constant struct {
	nbd.Device
	value byte
	size  int64
}

func (c constant) Size() int64    { return c.size }
func (c constant) ReadOnly() bool { return true }
func (c constant) Flush() error   { return nil }
func (c constant) ReadAt(p []byte, _ int64) (int, error) {
	return copy(p, bytes.Repeat([]byte{c.value}, len(p))), nil
}

type oneExport struct {
	name string
	dev  nbd.Device
}

func (o oneExport) Names() []string { return []string{o.name} }
func (o oneExport) Open(_ context.Context, name string) (nbd.Device, func(), error) {
	if name != o.name {
		return nil, nil, nbd.Unknown("no such export")
	}
	return o.dev, func() {}, nil
}

// An overlay on a content reads through the socket of the image host, however
// long the name of the data folder is.
func TestOverlayOnAContent(t *testing.T) {
	needs(t, "qemu-io")
	content := strings.Repeat("ab", 32)
	data := filepath.Join(t.TempDir(), strings.Repeat("a-long-name-", 10))
	host, dir := filepath.Join(data, "image-host"), filepath.Join(data, "vms", "node-1")
	for _, d := range []string{host, dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	short, release, err := shortPath(host, "nbd.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	l, err := net.Listen("unix", short)
	if err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- nbd.NewServer(nbd.Config{Exports: oneExport{content, constant{value: 0x5a, size: size}}, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
	}()
	defer func() { cancel(); <-done }()

	base, err := contentBase(dir, filepath.Join(host, "nbd.sock"), content)
	if err != nil {
		t.Fatal(err)
	}
	if len(base) > maxBackingName {
		t.Fatalf("the name of the base has %d bytes", len(base))
	}
	if err := writeOverlay(filepath.Join(dir, "os.qcow2"), base, 2*size); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 0 4M", "-c", "read -P 0 4M 4M", "-c", "write -P 1 0 512", "-c", "read -P 1 0 512", "-c", "read -P 0x5a 512 512", "os.qcow2")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "failed") {
		t.Fatalf("%v\n%s", err, out)
	}

	if _, err := contentBase(dir, "", content); err == nil {
		t.Error("a content without an image host was accepted")
	}
	if _, err := contentBase("/"+strings.Repeat("x/", 30)+"d", "/"+strings.Repeat("y", 120)+"/nbd.sock", content); err == nil {
		t.Error("a socket's name that is too long was accepted")
	}
}
