package layer

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
)

// smallFolder is a folder on a disk that has no room for maps while it is full.
type smallFolder struct {
	*memFolder
	full bool
}

type smallFile struct {
	file
	dir *smallFolder
}

func (d *smallFolder) Open(name string, write bool) (file, error) {
	f, err := d.memFolder.Open(name, write)
	if err != nil || name != mapName(1) {
		return f, err
	}
	return &smallFile{f, d}, nil
}

func (f *smallFile) WriteAt(p []byte, off int64) (int, error) {
	if f.dir.full {
		return 0, fmt.Errorf("write: %w", syscall.ENOSPC)
	}
	return f.file.WriteAt(p, off)
}

// TestFullHostDisk: a sync that finds no room for the map says so and loses nothing;
// the next one that finds room makes everything durable.
func TestFullHostDisk(t *testing.T) {
	const size = 8 * BlockSize
	contents := memContents{}
	ref := contents.add(make([]byte, size))
	dir := &smallFolder{memFolder: newMemFolder()}
	st := state{Version: 1, Size: size, Base: &ref, Layers: []layerState{{N: 1, Size: size}}}
	l, err := createLayer(dir, st.Layers[0], "boot")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.release(), st.write(dir)); err != nil {
		t.Fatal(err)
	}
	v, err := openVolume(dir, contents.bases, "boot")
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	for b := range int64(2) {
		dir.full = true
		part := bytes.Repeat([]byte{byte(b + 1)}, BlockSize)
		copy(want[b*BlockSize:], part)
		if _, err := v.writeAt(part, b*BlockSize); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := v.sync(); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("on a full disk: %v", err)
			}
		}
		dir.full = false
		if err := v.sync(); err != nil {
			t.Fatalf("with room again: %v", err)
		}
	}
	after := dir.crash(rand.New(rand.NewPCG(1, 1)))
	again, err := openVolume(after, contents.bases, "another boot")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := again.readAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after a loss of power other bytes are there: %v", err)
	}
}
