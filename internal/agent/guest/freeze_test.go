package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mountinfo = `21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
23 21 8:17 / /mnt rw - ext4 /dev/sdb1 rw
24 21 8:33 / /my\040data rw - xfs /dev/sdc1 rw,attr2
25 24 8:33 /sub /again rw - xfs /dev/sdc1 rw,attr2
26 21 7:0 / /snap ro - squashfs /dev/loop0 ro
27 21 8:15 / /boot/efi rw - vfat /dev/sda15 rw,fmask=0022
28 21 0:30 / /b rw - btrfs /dev/sdd rw
not a line of it
`

type book struct {
	mu  sync.Mutex
	log []string
}

func (b *book) add(what, dir string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, what+" "+dir)
}

func (b *book) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.log
	b.log = nil
	return out
}

type paper struct {
	*book
	dir string
	err error
}

func (p paper) trim() (uint64, error) { p.add("trim", p.dir); return 10, nil }
func (p paper) freeze() error {
	if p.err == nil {
		p.add("freeze", p.dir)
	}
	return p.err
}
func (p paper) thaw() error  { p.add("thaw", p.dir); return nil }
func (p paper) Close() error { p.add("close", p.dir); return nil }

func papers(fail map[string]error) (*freezer, *book) {
	b := &book{}
	return &freezer{mounts: func() (string, error) { return mountinfo, nil },
		open: func(dir string) (volume, error) { return paper{b, dir, fail[dir]}, nil }}, b
}

func TestFreezable(t *testing.T) {
	if got := freezable(mountinfo); !slices.Equal(got, []string{"/", "/my data", "/boot/efi", "/b"}) {
		t.Errorf("%q", got)
	}
}

func TestHoldAndEnd(t *testing.T) {
	f, b := papers(map[string]error{"/boot/efi": unix.EOPNOTSUPP})
	n, trimmed, err := f.hold(time.Hour)
	if n != 3 || trimmed != 40 || err != nil {
		t.Fatalf("%d, %d, %v", n, trimmed, err)
	}
	want := []string{"trim /", "trim /my data", "trim /boot/efi", "trim /b", "freeze /b", "freeze /my data", "freeze /", "close /boot/efi"}
	if got := b.take(); !slices.Equal(got, want) {
		t.Errorf("held: %q", got)
	}
	if err := f.end(); err != nil {
		t.Fatal(err)
	}
	if got := b.take(); !slices.Equal(got, []string{"thaw /", "close /", "thaw /my data", "close /my data", "thaw /b", "close /b"}) {
		t.Errorf("ended: %q", got)
	}
	if err := f.end(); !errors.Is(err, ErrNotFrozen) {
		t.Errorf("a second end: %v", err)
	}
}

// The limit thaws for a caller that is gone, and a caller that comes back anew
// finds nothing in its way.
func TestTheLimitThaws(t *testing.T) {
	f, b := papers(nil)
	if _, _, err := f.hold(20 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	b.take()
	var got []string
	for end := time.Now().Add(10 * time.Second); len(got) < 8 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		got = append(got, b.take()...)
	}
	if len(got) != 8 || got[0] != "thaw /" {
		t.Errorf("after the limit: %q", got)
	}
	if err := f.end(); !errors.Is(err, ErrNotFrozen) {
		t.Errorf("the caller learns: %v", err)
	}
	for range 2 {
		if n, _, err := f.hold(time.Hour); n != 4 || err != nil {
			t.Errorf("again: %d, %v", n, err)
		}
	}
	if err := f.end(); err != nil {
		t.Error(err)
	}
}

func TestAFailedHoldHoldsNothing(t *testing.T) {
	f, b := papers(map[string]error{"/": fmt.Errorf("no: %w", unix.EIO)})
	if _, _, err := f.hold(time.Hour); !errors.Is(err, unix.EIO) {
		t.Errorf("%v", err)
	}
	balance := map[string]int{}
	for _, l := range b.take() {
		switch l[:4] {
		case "free":
			balance[l[7:]]++
		case "thaw":
			balance[l[5:]]--
		}
	}
	for dir, n := range balance {
		if n != 0 {
			t.Errorf("%s: %d", dir, n)
		}
	}
	if f.dog != nil || len(f.held) != 0 {
		t.Error("something is held")
	}
}

// TestARealFileSystem freezes and trims an ext4 of its own, where it may mount.
func TestARealFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	disk, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	for _, c := range [][]string{{"truncate", "-s", "64M", disk}, {"mkfs.ext4", "-q", "-F", disk}, {"mount", "-o", "loop", disk, dir}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v %s", c, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(disk, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	write := func(name string, n int) error {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		_, err = f.Write(bytes.Repeat([]byte("deleted "), n/8))
		return errors.Join(err, f.Sync(), f.Close())
	}
	if err := errors.Join(write("big", 32<<20), os.Remove(filepath.Join(dir, "big"))); err != nil {
		t.Fatal(err)
	}
	before := blocks()
	f := newFreezer()
	t.Cleanup(func() { _ = f.end() }) // before the umount, which would wait
	f.mounts = func() (string, error) { return "1 2 7:99 / " + dir + " rw - ext4 /dev/loop99 rw\n", nil }
	n, trimmed, err := f.hold(time.Minute)
	if n != 1 || trimmed < 32<<20 || err != nil {
		t.Fatalf("%d, %d, %v", n, trimmed, err)
	}
	if after := blocks(); before-after < 30<<20 {
		t.Errorf("the trim gave back %d bytes", before-after)
	}
	done := make(chan error, 1)
	go func() { done <- write("held", 8) }()
	select {
	case err := <-done:
		t.Errorf("a write went through: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := f.end(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still frozen")
	}
	// The limit ends it too; a busy machine must not reach it while it holds.
	if _, _, err := f.hold(time.Second); err != nil {
		t.Fatal(err)
	}
	if err := write("later", 8); err != nil {
		t.Error(err)
	}
	if err := f.end(); !errors.Is(err, ErrNotFrozen) {
		t.Errorf("after the limit: %v", err)
	}
}
