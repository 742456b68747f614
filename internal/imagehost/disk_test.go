package imagehost

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/process"
)

// qemuIO writes to an export as a machine would.
func qemuIO(t *testing.T, socket, export string, commands ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Skip("qemu-io is not installed (Debian: apt install qemu-utils)")
	}
	args := []string{"-f", "raw", "-d", "unmap"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	if out, err := exec.Command("qemu-io", append(args, "nbd+unix:///"+export+"?socket="+socket)...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io: %v: %s", err, out)
	}
}

// A machine writes to a disk over a content; the image host is killed; the disk
// is frozen under the machine, taken in by the server, and put on what came out.
func TestManagedDisk(t *testing.T) {
	ctx := context.Background()
	data := disk(4 << 20)
	a, id := stored(t, "a", data)
	store, err := chunkstore.Open(ctx, a.Name, a.URL)
	if err != nil {
		t.Fatal(err)
	}
	bases := func(layer.Ref) (layer.Contents, error) { return store, nil }
	folder := t.TempDir()
	disks, err := layer.OpenDisks(folder, bases)
	if err != nil {
		t.Fatal(err)
	}
	if err := disks.CreateOn("d", layer.Ref{Store: a.Name, Content: id, Size: 4 << 20}, 8<<20); err != nil {
		t.Fatal(err)
	}
	want := append(bytes.Clone(data), make([]byte, 4<<20)...)
	same := func(what string, src image.Source, want []byte) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := src.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: other bytes (%v)", what, err)
		}
	}
	r := newRunner(t, t.TempDir(), "1")
	export := Export{Name: "d", Kind: Disk, Folder: folder, Stores: []Place{a}}
	if err := r.Provide(ctx, []Export{export}); err != nil {
		t.Fatal(err)
	}
	if _, err := disks.Open("d"); millpond.KindOf(err) != millpond.Conflict {
		t.Fatalf("the server opens a machine's disk: %v", err)
	}
	// No flush: what was answered has to be there after a kill all the same.
	qemuIO(t, r.Socket(), "d", "write -P 7 1000k 100k", "write -P 8 6M 512", "discard 64k 128k", "write -z 2M 4k")
	for i, c := range [][2]int{{1000 << 10, 100 << 10}, {6 << 20, 512}} {
		copy(want[c[0]:], bytes.Repeat([]byte{byte(7 + i)}, c[1]))
	}
	clear(want[64<<10 : 192<<10])
	clear(want[2<<20 : 2<<20+4096])
	h, err := r.Client().Health(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Find(h.Process)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := qemu(t, r.Socket(), "d"); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("after the kill: other bytes (%v)", err)
	}
	at, err := r.Client().Freeze(ctx, "d")
	if err != nil {
		t.Fatal(err)
	}
	qemuIO(t, r.Socket(), "d", "write -P 9 3M 1M")
	f, err := disks.OpenFrozen("d", at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	same("frozen", f, want)
	c, err := store.Ingest(ctx, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Client().Rebase(ctx, "d", at, layer.Ref{Store: a.Name, Content: c.ID, Size: c.Size}); err != nil {
		t.Fatal(err)
	}
	copy(want[3<<20:], bytes.Repeat([]byte{9}, 1<<20))
	if got, err := qemu(t, r.Socket(), "d"); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("after the rebase: other bytes (%v)", err)
	}
	if info, err := disks.Stat("d"); err != nil || info.Base.Content != c.ID || info.Layers != 1 {
		t.Errorf("%+v, %v", info, err)
	}
	if err := r.Client().Release(ctx, "d"); err != nil {
		t.Fatal(err)
	}
	k, err := disks.Open("d")
	if err != nil {
		t.Fatal(err)
	}
	same("in the server again", k, want)
	// While the server has it, a machine waits, and is refused in the end.
	if err := r.Provide(ctx, []Export{export}); millpond.KindOf(err) != millpond.Conflict {
		t.Errorf("two writers: %v", err)
	}
	k.Close()
	if err := r.Provide(ctx, []Export{export}); err != nil {
		t.Fatal(err)
	}
	if err := r.Keep(ctx, map[string]bool{}); err != nil {
		t.Fatal(err)
	}
	if k, err = disks.Open("d"); err != nil {
		t.Errorf("no machine has the disk any more: %v", err)
	} else {
		k.Close()
	}
	for _, bad := range []Export{{Name: "d", Kind: Disk}, {Name: "d", Kind: Disk, Folder: "x"}, {Name: "../d", Kind: Disk, Folder: folder}} {
		if _, err := r.Client().Register(ctx, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, err := r.Client().Freeze(ctx, "other"); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("freeze of an unknown disk: %v", err)
	}
	if _, err := r.Client().Register(ctx, Export{Name: "none", Kind: Disk, Folder: filepath.Join(folder)}); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("a disk that is not there: %v", err)
	}
}
