package imagehost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/qemu/qmp"
)

// served is an image host in dir that serves a content of 16 chunks.
func served(t *testing.T, dir string) (*Client, image.ContentID, []byte) {
	t.Helper()
	r := newRunner(t, dir, "v1")
	data := disk(16 * image.ChunkSize)
	place, id := stored(t, "store", data)
	if err := r.Provide(context.Background(), []Export{{Name: string(id), Kind: Content, Stores: []Place{place}}}); err != nil {
		t.Fatal(err)
	}
	return r.Client(), id, data
}

// A content that has been read is mapped: QEMU reads it from the host's file, and
// what the map lacks through the export below it.
func TestMap(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (Debian: apt install qemu-utils)")
	}
	ctx, dir := context.Background(), t.TempDir()
	client, id, data := served(t, dir)
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

// A machine that has started with a map goes over to a larger one while it runs: it
// reads then from the host's file also what came after it had opened that, and has
// looked into the tables of the first map before.
func TestMapGrowsBelowQEMU(t *testing.T) {
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		t.Skip("qemu-storage-daemon is not installed (Debian: apt install qemu-system-common)")
	}
	ctx, dir := context.Background(), t.TempDir()
	client, id, data := served(t, dir)
	read := func(socket, export string, off int) []byte {
		t.Helper()
		out := filepath.Join(t.TempDir(), "part")
		uri := fmt.Sprintf(`json:{"driver":"raw","offset":%d,"size":%d,"file":{"driver":"nbd","server":{"type":"unix","path":%q},"export":%q}}`, off, image.ChunkSize, socket, export)
		if msg, err := exec.Command("qemu-img", "convert", "-O", "raw", uri, out).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, msg)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	touched := func() int {
		t.Helper()
		list, err := client.Touched(ctx, string(id))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	read(Socket(dir), string(id), 0)
	m, err := client.Map(ctx, string(id))
	if err != nil || m.Chunks == 0 || !m.Grows {
		t.Fatalf("%+v, %v", m, err)
	}

	run := t.TempDir()
	monitor, nbd := filepath.Join(run, "qmp"), filepath.Join(run, "nbd")
	node := func(m cache.Mapping, backing string) string {
		return fmt.Sprintf(`{"driver":"qcow2","node-name":"map","read-only":true,"backing":%s,
			"file":{"driver":"raw","read-only":true,"offset":%d,"file":{"driver":"file","filename":%q,"read-only":true,"locking":"off"}}}`, backing, m.Offset, m.File)
	}
	below := fmt.Sprintf(`{"driver":"raw","node-name":"below","read-only":true,"file":{"driver":"nbd","read-only":true,"server":{"type":"unix","path":%q},"export":%q}}`, Socket(dir), id)
	daemon := exec.Command("qemu-storage-daemon", "--chardev", "socket,id=m,server=on,wait=off,path="+monitor, "--monitor", "chardev=m", "--blockdev", node(m, below),
		"--nbd-server", "addr.type=unix,addr.path="+nbd, "--export", "type=nbd,id=e,node-name=map,name=disk")
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	deadline := time.Now().Add(20 * time.Second)
	for _, err := os.Stat(nbd); err != nil; _, err = os.Stat(nbd) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	last := 6 * image.ChunkSize
	if !bytes.Equal(read(nbd, "disk", 0), data[:image.ChunkSize]) || !bytes.Equal(read(nbd, "disk", last), data[last:][:image.ChunkSize]) {
		t.Fatal("the disk differs by the first map")
	}
	conn, err := net.Dial("unix", monitor)
	if err != nil {
		t.Fatal(err)
	}
	q, err := qmp.Connect(ctx, conn, func(qmp.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	larger, err := client.Grow(ctx, string(id), m)
	if err != nil || larger.Chunks <= m.Chunks {
		t.Fatalf("%+v after %+v, %v", larger, m, err)
	}
	if err := q.Execute(ctx, "blockdev-reopen", json.RawMessage(`{"options":[`+node(larger, `"below"`)+`]}`), nil); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(data); off += image.ChunkSize {
		if !bytes.Equal(read(nbd, "disk", off), data[off:][:image.ChunkSize]) {
			t.Errorf("the disk differs at %d", off)
		}
	}
	// What the larger map has is not asked for any more.
	before := touched()
	read(nbd, "disk", last)
	if got := touched(); got != before {
		t.Errorf("%d chunks were asked for, and then %d", before, got)
	}
}
