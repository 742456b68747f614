package imagehost

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

// A content that has been read is mapped: QEMU reads it from the host's file, and
// what the map lacks through the export below it.
func TestMap(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (Debian: apt install qemu-utils)")
	}
	ctx, dir := context.Background(), t.TempDir()
	r := newRunner(t, dir, "v1")
	data := disk(16 * image.ChunkSize)
	place, id := stored(t, "store", data)
	if err := r.Provide(ctx, []Export{{Name: string(id), Kind: Content, Stores: []Place{place}}}); err != nil {
		t.Fatal(err)
	}
	client := r.Client()
	if _, err := client.Map(ctx, "no-such-export"); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("a map of nothing: %v", err)
	}
	// A part of it is read, so that a part is mapped.
	if out, err := exec.Command("qemu-io", "-r", "-f", "raw", "-c", "read 0 1M", "nbd+unix:///"+string(id)+"?socket="+Socket(dir)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m, err := client.Map(ctx, string(id))
	if err != nil || m.Chunks == 0 || m.Chunks >= 9 {
		t.Fatalf("%+v, %v", m, err)
	}
	out := filepath.Join(t.TempDir(), "out")
	node := fmt.Sprintf(`json:{"driver":"qcow2","read-only":true,"file":{"driver":"raw","offset":%d,"file":{"driver":"file","filename":%q,"locking":"off"}},
		"backing":{"driver":"raw","read-only":true,"file":{"driver":"nbd","server":{"type":"unix","path":%q},"export":%q}}}`, m.Offset, m.File, Socket(dir), id)
	if msg, err := exec.Command("qemu-img", "convert", "-O", "raw", node, out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the disk differs: %v", err)
	}
}
