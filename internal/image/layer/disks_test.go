package layer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	millpond "millpond.dev/millpond"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MILLPOND_TEST_LAYER_WRITER"); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func openDisks(t *testing.T, dir string, c memContents) *Disks {
	t.Helper()
	d, err := OpenDisks(dir, c.bases)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLifeOfADisk(t *testing.T) {
	dir, c := t.TempDir(), memContents{}
	d := openDisks(t, dir, c)
	ref := c.add(bytes.Repeat([]byte("base"), 1<<20))
	if err := d.CreateOn("a", ref, 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := d.Create("a", 512); millpond.KindOf(err) != millpond.Conflict {
		t.Errorf("a second disk of the name: %v", err)
	}
	if err := d.CreateOn("small", ref, 512); millpond.KindOf(err) != millpond.Invalid {
		t.Errorf("a disk smaller than its base: %v", err)
	}
	if info, err := d.Stat("a"); err != nil || info.Size != 8<<20 || info.Base == nil || *info.Base != ref || info.Allocated > 64<<10 {
		t.Errorf("%+v, %v", info, err)
	}
	k, err := d.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.WriteAt([]byte("hello"), 100); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 12)
	if _, err := again.ReadAt(b, 98); err != nil || string(b) != "sehelloaseba" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := k.WriteAt(b, 8<<20-4); millpond.KindOf(err) != millpond.Range {
		t.Errorf("a write over the end: %v", err)
	}
	if err := d.Resize("a", 4<<20); millpond.KindOf(err) != millpond.Invalid {
		t.Errorf("shrink: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Resize("a", 16<<20); err != nil || again.Size() != 16<<20 {
		t.Errorf("%d, %v", again.Size(), err)
	}
	p, f, err := again.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.WriteAt([]byte("later"), 100); err != nil {
		t.Fatal(err)
	}
	// As another process sees it.
	other, err := openDisks(t, dir, c).OpenFrozen("a", p)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 16<<20)
	copy(want, bytes.Repeat([]byte("base"), 1<<20))
	copy(want[100:], "hello")
	check(t, "frozen", f, want)
	check(t, "frozen, in another process", other, want)
	if err := d.Delete("a"); err != nil {
		t.Fatal(err)
	}
	check(t, "frozen, after the deletion", f, want)
	if _, _, err := again.Freeze(); err == nil {
		t.Error("a deleted disk was frozen")
	}
	for _, c := range []io.Closer{f, other, again} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := d.Open("a"); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("open after the deletion: %v", err)
	}
	if err := d.Delete("a"); err != nil {
		t.Error(err)
	}
}

func TestTidyKeepsDisksAndAdoptsRawFiles(t *testing.T) {
	dir := t.TempDir()
	d := openDisks(t, dir, nil)
	if err := d.Create("kept", 1<<20); err != nil {
		t.Fatal(err)
	}
	old := bytes.Repeat([]byte{5}, 1<<20)
	if err := os.WriteFile(filepath.Join(dir, "old.raw"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, ".new-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Tidy(); err != nil {
		t.Fatal(err)
	}
	ids, err := d.List()
	if slices.Sort(ids); err != nil || !slices.Equal(ids, []string{"kept", "old"}) {
		t.Fatalf("%v, %v", ids, err)
	}
	k, err := d.Open("old")
	if err != nil {
		t.Fatal(err)
	}
	check(t, "adopted", k, old)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if ents, _ := os.ReadDir(dir); len(ents) != 2 {
		t.Errorf("left over: %v", ents)
	}
}

// writeUntilKilled writes numbered blocks and says so; it never syncs.
func writeUntilKilled(dir string) {
	c := memContents{}
	c.add(make([]byte, 1<<20))
	d, err := OpenDisks(dir, c.bases)
	if err != nil {
		panic(err)
	}
	k, err := d.Open("a")
	if err != nil {
		panic(err)
	}
	for i := uint64(1); ; i++ {
		b := binary.LittleEndian.AppendUint64(nil, i)
		if _, err := k.WriteAt(b, int64(i%1000)*4096); err != nil {
			panic(err)
		}
		fmt.Println(i)
	}
}

func TestAnsweredWritesSurviveTheEndOfTheProcess(t *testing.T) {
	dir, c := t.TempDir(), memContents{}
	d := openDisks(t, dir, c)
	if err := d.CreateOn("a", c.add(make([]byte, 1<<20)), 8<<20); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MILLPOND_TEST_LAYER_WRITER="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last uint64
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
			t.Fatal(err)
		}
		if last == 500 {
			// Two processes at once would ruin the disk.
			if _, err := d.Open("a"); millpond.KindOf(err) != millpond.Conflict {
				t.Errorf("open in two processes: %v", err)
			}
			if err := d.Delete("a"); millpond.KindOf(err) != millpond.Conflict {
				t.Errorf("delete under another process: %v", err)
			}
		}
		if last == 2345 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	if last < 2345 {
		t.Fatalf("the writer ended after %d writes", last)
	}
	k, err := d.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for i := last - 999; i <= last; i++ {
		b := make([]byte, 8)
		if _, err := k.ReadAt(b, int64(i%1000)*4096); err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(b); got != i && got != i+1000 { // one more may have got in unsaid
			t.Fatalf("write %d is gone: %d is there", i, got)
		}
	}
}

// Many writers of their own 512 bytes each, many of them in one block, while the
// disk is frozen again and again: nobody undoes a neighbour's write, and a
// frozen disk does not change.
func TestManyAtOnce(t *testing.T) {
	c := memContents{}
	d := openDisks(t, t.TempDir(), c)
	want := make([]byte, 2<<20)
	for i := range want {
		want[i] = byte(i * 7)
	}
	if err := d.CreateOn("a", c.add(want), 0); err != nil {
		t.Fatal(err)
	}
	k, err := d.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(uint64(w), 3))
			for range 500 {
				off := int64(w*512 + r.IntN(len(want)/4096)*4096)
				b := bytes.Repeat([]byte{byte(r.Uint32())}, 512)
				copy(want[off:], b)
				if r.IntN(8) == 0 {
					clear(want[off : off+512])
					if err := k.Clear(off, 512); err != nil {
						t.Error(err)
					}
				} else if _, err := k.WriteAt(b, off); err != nil {
					t.Error(err)
				}
				if r.IntN(50) == 0 {
					if err := k.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		}()
	}
	for range 5 {
		p, f, err := k.Freeze()
		if err != nil {
			t.Fatal(err)
		}
		first, second := make([]byte, len(want)), make([]byte, len(want))
		if _, err := f.ReadAt(first, 0); err != nil {
			t.Fatal(err)
		}
		if err := k.Rebase(p, c.add(first)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(second, 0); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("a frozen disk changed (%v)", err)
		}
		f.Close()
	}
	wg.Wait()
	check(t, "in the end", k, want)
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"size":1024,"layers":[{"n":1,"size":1024,"whole":true}]}`))
	f.Add([]byte(`{"version":1,"size":1024,"base":{"store":"s","content":"` + strings.Repeat("a", 64) + `","size":512},"layers":[{"n":1,"size":512},{"n":2,"size":1024}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err == nil && (!validSize(s.Size) || len(s.names()) < 3) {
			t.Errorf("%+v", s)
		}
	})
}
