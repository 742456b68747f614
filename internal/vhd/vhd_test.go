package vhd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/image/imagetest"
	"millpond.dev/millpond/internal/vhd"
)

const id = "6f0e3c1e-6a4c-4d0c-9f6e-2d7c2a3b4c5d"

var created = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

func TestFooterComesBack(t *testing.T) {
	for _, size := range []int64{1 << 20, 30 << 30, 32 << 40} {
		b := vhd.NewFooter(size, id, created)
		f, err := vhd.ParseFooter(b)
		if err != nil {
			t.Fatal(err)
		}
		if f.CurrentSize != size || f.OriginalSize != size || !f.Created.Equal(created) || f.UniqueID.String() != id || f.Creator != "mlpd" {
			t.Errorf("got %+v", f)
		}
	}
}

// fix recomputes the checksum of a footer that a test has changed.
func fix(b []byte) {
	var sum uint32
	for i, c := range b {
		if i < 64 || i >= 68 {
			sum += uint32(c)
		}
	}
	binary.BigEndian.PutUint32(b[64:], ^sum)
}

func TestParseFooterRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(b []byte)
		want   string
	}{
		"no cookie":    {func(b []byte) { b[0] = 'x' }, "conectix"},
		"bit flipped":  {func(b []byte) { b[50] ^= 1 }, "checksum"},
		"version":      {func(b []byte) { b[13] = 2; fix(b) }, "version"},
		"dynamic":      {func(b []byte) { b[63] = 3; fix(b) }, "dynamic"},
		"differencing": {func(b []byte) { b[63] = 4; fix(b) }, "differencing"},
		"other type":   {func(b []byte) { b[63] = 9; fix(b) }, "disk type 9"},
		"no size":      {func(b []byte) { clear(b[48:56]); fix(b) }, "0 bytes"},
		"odd size":     {func(b []byte) { b[55] = 1; fix(b) }, "bytes"},
		"huge size":    {func(b []byte) { b[48] = 0xff; fix(b) }, "bytes"},
	} {
		b := vhd.NewFooter(1<<20, id, created)
		tc.change(b)
		if _, err := vhd.ParseFooter(b); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want something about %q", name, err, tc.want)
		}
	}
}

func TestDetect(t *testing.T) {
	disk := imagetest.Random(1, 2<<20)
	behind := func(head string) []byte { return append([]byte(head), make([]byte, 4096)...) }
	for want, file := range map[vhd.Format][]byte{
		vhd.Fixed:   append(bytes.Clone(disk), vhd.NewFooter(2<<20, id, created)...),
		vhd.Raw:     disk,
		vhd.Dynamic: behind("conectix"),
		vhd.VHDX:    behind("vhdxfile"),
		vhd.QCOW2:   behind("QFI\xfb"),
		vhd.VMDK:    behind("KDMV"),
	} {
		if got, err := vhd.Detect(bytes.NewReader(file), int64(len(file))); got != want || err != nil {
			t.Errorf("%s: %s, %v", want, got, err)
		}
	}
	if got, err := vhd.Detect(bytes.NewReader(nil), 0); got != vhd.Raw || err != nil {
		t.Errorf("nothing: %s, %v", got, err)
	}
}

func TestExport(t *testing.T) {
	ctx := context.Background()
	src := imagetest.Random(3, 5<<20-512)
	path := filepath.Join(t.TempDir(), "out.vhd")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := vhd.Export(ctx, f, src, id, created, nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := append(append(bytes.Clone(src), make([]byte, 512)...), vhd.NewFooter(5<<20, id, created)...)
	if !bytes.Equal(got, want) {
		t.Fatal("the exported file has other bytes")
	}
	if format, err := vhd.Detect(bytes.NewReader(got), int64(len(got))); format != vhd.Fixed || err != nil {
		t.Fatalf("Detect = %v, %v", format, err)
	}
	foot, err := vhd.ParseFooter(got[5<<20:])
	if err != nil {
		t.Fatal(err)
	}
	p := vhd.Payload(imagetest.Bytes(got), foot)
	back, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size()))
	if err != nil || !bytes.Equal(back, want[:5<<20]) {
		t.Errorf("the payload has other bytes (%v)", err)
	}
	qemuAgrees(t, path, 5<<20)
}

// qemuAgrees asks qemu-img, where there is one, what it makes of the file.
func qemuAgrees(t *testing.T, path string, size int64) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Log("qemu-img is not installed; its opinion is not asked")
		return
	}
	raw := path + ".raw"
	if out, err := exec.Command("qemu-img", "convert", "-f", "vpc", "-O", "raw", path, raw).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	st, err := os.Stat(raw)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() != size {
		t.Errorf("qemu-img sees a disk of %d bytes, want %d", st.Size(), size)
	}
}

func FuzzParseFooter(f *testing.F) {
	f.Add(vhd.NewFooter(1<<20, id, created))
	f.Add(make([]byte, 512))
	f.Add([]byte("conectix"))
	f.Fuzz(func(t *testing.T, b []byte) {
		foot, err := vhd.ParseFooter(b)
		if err == nil && (foot.CurrentSize <= 0 || foot.CurrentSize%512 != 0) {
			t.Errorf("accepted a size of %d", foot.CurrentSize)
		}
		// Must not panic or read outside, whatever the bytes.
		_, _ = vhd.Detect(bytes.NewReader(b), int64(len(b)))
	})
}
