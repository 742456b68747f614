package diskformat

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/vhd"
)

// memory is a file in memory that does not know its holes.
type memory struct{ *bytes.Reader }

func (m memory) Size() int64 { return m.Reader.Size() }

// sample is a disk with data, zeros and holes of many lengths.
func sample(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 5))
	b := make([]byte, size)
	for at := 0; at < size; {
		n := min(512*(1+r.IntN(4000)), size-at)
		switch r.IntN(3) {
		case 0:
			for i := at; i < at+n; i++ {
				b[i] = byte(r.Uint32())
			}
		case 1: // compresses well
			copy(b[at:at+n], bytes.Repeat([]byte("millpond "), n/9+1))
		}
		at += n
	}
	return b
}

func readAll(t *testing.T, d Disk) []byte {
	t.Helper()
	got := make([]byte, d.Size())
	// Reads of odd lengths cross all borders.
	for off := 0; off < len(got); {
		n, err := d.ReadAt(got[off:min(len(got), off+77777)], int64(off))
		if n == 0 {
			t.Fatalf("at %d: %v", off, err)
		}
		off += n
	}
	if n, err := d.ReadAt(make([]byte, 10), d.Size()); n != 0 || err != io.EOF {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	s, ok := d.Source.(image.Sparse)
	if !ok {
		return got
	}
	holes := bytes.Clone(got)
	for off := int64(0); off < d.Size(); {
		start, end, err := s.NextData(off)
		if err != nil || start < off || start < d.Size() && end <= start || end > d.Size() {
			t.Fatalf("NextData(%d) = %d, %d, %v", off, start, end, err)
		}
		clear(holes[min(start, d.Size()):min(end, d.Size())])
		if start >= d.Size() {
			break
		}
		off = end
	}
	if bytes.Count(holes, []byte{0}) != len(holes) {
		t.Error("there is data in what NextData calls a hole")
	}
	return got
}

func open(t *testing.T, path string) (Disk, error) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Open(memory{bytes.NewReader(b)})
}

func TestFilesOfQEMU(t *testing.T) {
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	dir := t.TempDir()
	convert := func(in, out string, args ...string) {
		t.Helper()
		full := append(append([]string{"convert", "-f", "raw"}, args...), in, out)
		if b, err := exec.Command(tool, full...).CombinedOutput(); err != nil {
			if strings.Contains(string(b), "nrecognized") || strings.Contains(string(b), "Invalid parameter") {
				t.Skipf("this qemu-img cannot: %s", b)
			}
			t.Fatalf("qemu-img %v: %v: %s", full, err, b)
		}
	}
	for i, size := range []int{5<<20 + 512, 9 << 20, 1536, 6<<20 + 300} {
		raw := filepath.Join(dir, "raw")
		want := sample(uint64(i), size)
		if err := os.WriteFile(raw, want, 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, make([]byte, (512-size%512)%512)...)
		for name, args := range map[string][]string{
			"raw":                      {"-O", "raw"},
			"fixed VHD":                {"-O", "vpc", "-o", "subformat=fixed,force_size=on"},
			"dynamic VHD":              {"-O", "vpc", "-o", "subformat=dynamic,force_size=on"},
			"dynamic VHD, by geometry": {"-O", "vpc", "-o", "subformat=dynamic"},
			"dynamic VHDX":             {"-O", "vhdx", "-o", "subformat=dynamic"},
			"fixed VHDX":               {"-O", "vhdx", "-o", "subformat=fixed"},
			"VHDX, large blocks":       {"-O", "vhdx", "-o", "block_size=32M"},
			"VHDX, states for zeros":   {"-O", "vhdx", "-o", "block_state_zero=on"},
			"qcow2":                    {"-O", "qcow2"},
			"qcow2 version 2":          {"-O", "qcow2", "-o", "compat=0.10"},
			"qcow2, small clusters":    {"-O", "qcow2", "-o", "cluster_size=512"},
			"qcow2, large clusters":    {"-O", "qcow2", "-o", "cluster_size=2M"},
			"qcow2, allocated":         {"-O", "qcow2", "-S", "0", "-o", "preallocation=metadata"},
			"qcow2, zlib":              {"-O", "qcow2", "-c"},
			"qcow2, zlib, version 2":   {"-O", "qcow2", "-c", "-o", "compat=0.10"},
			"qcow2, zstd":              {"-O", "qcow2", "-c", "-o", "compression_type=zstd"},
			"qcow2, zlib, small":       {"-O", "qcow2", "-c", "-o", "cluster_size=4k"},
			"qcow2, subclusters":       {"-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"},
			"qcow2, subclusters, zlib": {"-O", "qcow2", "-c", "-o", "extended_l2=on,cluster_size=64k"},
			"qcow2, lazy refcounts":    {"-O", "qcow2", "-o", "lazy_refcounts=on"},
		} {
			t.Run(name, func(t *testing.T) {
				out := filepath.Join(dir, "out")
				convert(raw, out, args...)
				d, err := open(t, out)
				if err != nil {
					t.Fatal(err)
				}
				got := readAll(t, d)
				if name == "dynamic VHD, by geometry" { // rounds up to whole cylinders
					if len(got) < len(want) {
						t.Fatalf("%d bytes, want %d", len(got), len(want))
					}
					if n := bytes.Count(got[len(want):], []byte{0}); n != len(got)-len(want) {
						t.Error("bytes behind the disk's end")
					}
					got = got[:len(want)]
				}
				if !bytes.Equal(got, want) {
					t.Errorf("other bytes (%d, want %d)", len(got), len(want))
				}
			})
		}
	}
}

func TestRefusals(t *testing.T) {
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(tool, args...)
		cmd.Dir = dir
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %v: %v: %s", args, err, b)
		}
		return filepath.Join(dir, args[len(args)-2])
	}
	run("create", "-f", "qcow2", "base", "8M")
	for name, path := range map[string]string{
		"a backing file": run("create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "over", "8M"),
		"another file":   run("create", "-f", "qcow2", "-o", "data_file=data,data_file_raw=on", "outside", "8M"),
		"vmdk":           run("create", "-f", "vmdk", "vm", "8M"),
	} {
		if _, err := open(t, path); millpond.KindOf(err) != millpond.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Encryption: qemu-img would measure the processor for it, which fails on a busy one.
	q, err := os.ReadFile(run("create", "-f", "qcow2", "plain", "8M"))
	if err != nil {
		t.Fatal(err)
	}
	q[35] = 2
	if _, err := Open(memory{bytes.NewReader(q)}); err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("encryption: %v", err)
	}
	// A VHDX whose log is in use.
	b, err := os.ReadFile(run("create", "-f", "vhdx", "x", "8M"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1024, 100 << 10, 1 << 20} {
		if _, err := Open(memory{bytes.NewReader(b[:n])}); millpond.KindOf(err) != millpond.Invalid {
			t.Errorf("cut off after %d bytes: %v", n, err)
		}
	}
	b[64<<10+48], b[128<<10+48] = 1, 1
	sumVHDX(b)
	if _, err := Open(memory{bytes.NewReader(b)}); err == nil || !strings.Contains(err.Error(), "log") {
		t.Errorf("a log in use: %v", err)
	}
}

// sumVHDX makes the checksums of a changed VHDX right again.
func sumVHDX(b []byte) {
	for at, n := range map[int]int{64 << 10: 4096, 128 << 10: 4096, 192 << 10: 64 << 10, 256 << 10: 64 << 10} {
		h := b[at : at+n]
		clear(h[4:8])
		binary.LittleEndian.PutUint32(h[4:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
	}
}

func TestPadded(t *testing.T) {
	b := sample(3, 5000)
	d, err := Open(memory{bytes.NewReader(b)})
	if err != nil || d.Size() != 5120 || d.Format != vhd.Raw {
		t.Fatalf("%+v, %v", d, err)
	}
	if got := readAll(t, Disk{Source: Padded(d, 1<<20)}); !bytes.Equal(got, append(b, make([]byte, 1<<20-5000)...)) {
		t.Error("other bytes")
	}
}

// made is a small disk in a format, made by qemu-img; nil without it.
func made(f *testing.F, args ...string) []byte {
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		return nil
	}
	dir := f.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "out")
	if err := os.WriteFile(raw, sample(2, 32<<10), 0o600); err != nil {
		f.Fatal(err)
	}
	if b, err := exec.Command(tool, append(append([]string{"convert", "-f", "raw"}, args...), raw, out)...).CombinedOutput(); err != nil {
		f.Fatalf("%v: %s", args, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// Whatever the bytes, opening and reading ends, in an error or in as many bytes
// as were said.
func tryAll(t *testing.T, b []byte) {
	d, err := Open(memory{bytes.NewReader(b)})
	if err != nil {
		return
	}
	if d.Size() <= 0 || d.Size()%512 != 0 {
		t.Fatalf("a disk of %d bytes", d.Size())
	}
	buf := make([]byte, 4096)
	for _, off := range []int64{0, 511, d.Size() / 2, d.Size() - 1, d.Size()} {
		if n, err := d.ReadAt(buf, off); err == nil && n < len(buf) {
			t.Fatalf("%d of %d bytes without an error", n, len(buf))
		}
	}
	s, ok := d.Source.(image.Sparse)
	for off, i := int64(0), 0; ok && off < d.Size() && i < 100; i++ {
		start, end, err := s.NextData(off)
		if err != nil || start >= d.Size() {
			break
		}
		if start < off || end <= start {
			t.Fatalf("NextData(%d) = %d, %d", off, start, end)
		}
		off = end
	}
}

func FuzzVHD(f *testing.F) {
	f.Add(made(f, "-O", "vpc", "-o", "subformat=fixed,force_size=on"))
	f.Fuzz(tryAll)
}

// fuzzPatched changes a file, which is megabytes with checksums, in two places
// and makes the checksums right.
func fuzzPatched(f *testing.F, whole []byte, sum func([]byte)) {
	if whole == nil {
		f.Skip("qemu-img is not installed")
	}
	b := make([]byte, len(whole))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, at2 uint32, patch2 []byte) {
		copy(b, whole)
		copy(b[int(at)%len(b):], patch)
		copy(b[int(at2)%len(b):], patch2)
		sum(b)
		tryAll(t, b)
	})
}

func FuzzDynamicVHD(f *testing.F) {
	f.Add(uint32(512+16), []byte{0, 0, 0, 1}, uint32(512+28), []byte{0, 1})
	f.Add(uint32(1536), []byte{0, 0, 0, 4}, uint32(512+32), []byte{0, 0, 16})
	f.Add(uint32(0), []byte("conectix"), uint32(16), []byte{1})
	fuzzPatched(f, made(f, "-O", "vpc", "-o", "subformat=dynamic,force_size=on"), func(b []byte) {
		sumBytes(b[:512], 64)
		copy(b[len(b)-512:], b[:512])
		sumBytes(b[512:1536], 36)
	})
}

// sumBytes puts the complement of the sum of all bytes at an offset of them.
func sumBytes(b []byte, at int) {
	var sum uint32
	clear(b[at : at+4])
	for _, c := range b {
		sum += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^sum)
}

func FuzzQCOW2(f *testing.F) {
	f.Add(made(f, "-O", "qcow2", "-o", "cluster_size=512"))
	f.Add(made(f, "-O", "qcow2", "-c", "-o", "cluster_size=4k"))
	f.Add(made(f, "-O", "qcow2", "-o", "extended_l2=on,cluster_size=16k"))
	f.Fuzz(tryAll)
}

func FuzzVHDX(f *testing.F) {
	f.Add(uint32(192<<10), []byte("regi"), uint32(2<<20), []byte("metadata"))
	f.Add(uint32(2<<20+64<<10), []byte{0, 0, 16, 0}, uint32(3<<20), []byte{6, 0, 0, 0})
	f.Add(uint32(64<<10), []byte("head"), uint32(2<<20+40), []byte{255})
	fuzzPatched(f, made(f, "-O", "vhdx", "-o", "block_size=1M,log_size=1M"), sumVHDX)
}
