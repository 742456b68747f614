package vmrun

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/launch"
)

type bits []byte

func (b bits) Size() int64                             { return int64(len(b)) }
func (b bits) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(b).ReadAt(p, off) }

func TestFullCopy(t *testing.T) {
	url := "file://" + t.TempDir()
	st, err := chunkstore.Open(t.Context(), "one", url)
	if err != nil {
		t.Fatal(err)
	}
	// Data, a hole, data that is not whole chunks.
	src := make(bits, 3<<20+512)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 700_000 {
		src[i] = byte(r.Uint32())
	}
	copy(src[3<<20:], "the end")
	c, err := st.Ingest(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, diskFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	empty := launch.Store{Name: "empty", URL: "file://" + t.TempDir()}
	disk := launch.Disk{Content: string(c.ID), FullCopy: true, SizeBytes: 4 << 20, Stores: []launch.Store{empty, {Name: "one", URL: url}}}
	d := &disks{dir: dir, cfg: Config{Spec: launch.Spec{OSDisk: disk}}, made: map[string][]string{}}
	if err := d.osDisk(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, rawName(osDisk)))
	if err != nil || len(got) != 4<<20 || !bytes.Equal(got[:len(src)], src) || bytes.Count(got[len(src):], []byte{0}) != len(got)-len(src) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := d.undo(stepOSDisk)(); err != nil {
		t.Error(err)
	}
	d.cfg.Spec.OSDisk.Stores = []launch.Store{empty}
	if err := d.osDisk(t.Context()); err == nil || !strings.Contains(err.Error(), "copy from the store empty") {
		t.Errorf("err = %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, diskFolder)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// BenchmarkFullCopy: 128 MiB that are half as large packed, in a supervisor's memory.
func BenchmarkFullCopy(b *testing.B) {
	url := "file://" + b.TempDir()
	st, err := chunkstore.Open(b.Context(), "one", url)
	if err != nil {
		b.Fatal(err)
	}
	src := make(bits, 128<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(src); i += 64 {
		for k := range 32 {
			src[i+k] = byte(r.Uint32())
		}
	}
	c, err := st.Ingest(b.Context(), src, nil)
	if err != nil {
		b.Fatal(err)
	}
	size := int64(len(src))
	src = nil
	limit, percent := debug.SetMemoryLimit(memoryLimit), debug.SetGCPercent(50)
	defer func() {
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	}()
	debug.FreeOSMemory()
	disk := launch.Disk{Content: string(c.ID), FullCopy: true, SizeBytes: size, Stores: []launch.Store{{Name: "one", URL: url}}}
	b.SetBytes(size)
	for b.Loop() {
		dir := b.TempDir()
		if err := os.Mkdir(filepath.Join(dir, diskFolder), 0o700); err != nil {
			b.Fatal(err)
		}
		d := &disks{dir: dir, cfg: Config{Spec: launch.Spec{OSDisk: disk}}, made: map[string][]string{}}
		if err := d.osDisk(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
