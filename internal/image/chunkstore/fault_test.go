package chunkstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
	"millpond.dev/millpond/internal/image/bucket/buckettest"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/imagetest"
)

func faulty(t *testing.T, name string) (*chunkstore.Store, *buckettest.Faulty) {
	t.Helper()
	f, err := bucket.OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &buckettest.Faulty{Bucket: f}
	s, err := chunkstore.New(name, "test://"+name, b, chunkstore.Options{Timing: chunkstore.Timing{Lease: 2 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, b
}

func TestSourcesThatAreWrongSlowOrSilent(t *testing.T) {
	ctx := context.Background()
	c := take(t, open(t), full(5, 12))
	for name, hurt := range map[string]func(b *buckettest.Faulty){
		"flipped bits": func(b *buckettest.Faulty) {
			b.Set(buckettest.Faults{Spoil: func(key string, data []byte) []byte {
				if strings.HasPrefix(key, "chunks/") {
					data[len(data)/3] ^= 16
				}
				return data
			}})
		},
		"silent": func(b *buckettest.Faulty) {
			b.Set(buckettest.Faults{Fail: func(op, key string) error {
				if op == "get" && strings.HasPrefix(key, "chunks/") {
					return syscall.ECONNREFUSED
				}
				return nil
			}})
		},
		"slow": func(b *buckettest.Faulty) {
			b.Set(buckettest.Faults{Delay: func(op, key string) time.Duration {
				if op == "get" {
					return 20 * time.Millisecond
				}
				return 0
			}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad, b := faulty(t, "bad")
			good := open(t)
			take(t, bad, full(5, 12))
			take(t, good, full(5, 12))
			hurt(b)
			dst := open(t)
			if _, err := dst.Fetch(ctx, c.ID, nil, bad, good); err != nil {
				t.Fatal(err)
			}
			sound(t, dst, c.ID)
			if name == "slow" {
				return
			}
			_, err := open(t).Fetch(ctx, c.ID, nil, bad)
			if err == nil || !strings.Contains(err.Error(), "store bad") {
				t.Errorf("alone: %v; it should name the store", err)
			}
		})
	}
}

// full is told by the store's name and what to do; nothing of it is visible, and
// the next try goes on from there.
func TestAFullDisk(t *testing.T) {
	ctx := context.Background()
	s, b := faulty(t, "full-0")
	var puts atomic.Int32
	b.Set(buckettest.Faults{Fail: func(op, key string) error {
		if op == "put" && strings.HasPrefix(key, "chunks/") && puts.Add(1) > 5 {
			return &os.PathError{Op: "write", Path: key, Err: syscall.ENOSPC}
		}
		return nil
	}})
	isFull(t, ctx, s)
	b.Set(buckettest.Faults{})
	c := take(t, s, full(6, 12))
	sound(t, s, c.ID)
}

func isFull(t *testing.T, ctx context.Context, s *chunkstore.Store) {
	t.Helper()
	_, err := s.Ingest(ctx, full(6, 12), nil)
	e := millpond.AsError(err)
	if err == nil || e.Code != "StoreFull" || !strings.Contains(e.Message, s.Name()) || !strings.Contains(e.Message, "image gc") {
		t.Errorf("Ingest into a full store = %v", err)
	}
	if all, err := s.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("visible: %v, %v", all, err)
	}
}

func TestARealFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("needs root to mount a small file system: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s, err := chunkstore.Open(context.Background(), "small-0", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	isFull(t, context.Background(), s)
}

// Every Put that an ingest and a copy make is the last one of its process once.
func TestAnEndAtAnyWrite(t *testing.T) {
	ctx := context.Background()
	src := full(7, 4)
	good := open(t)
	id := take(t, good, src).ID
	for last := int64(0); last < 8; last++ {
		for what, work := range map[string]func(s *chunkstore.Store) error{
			"ingest": func(s *chunkstore.Store) error { _, err := s.Ingest(ctx, src, nil); return err },
			"copy":   func(s *chunkstore.Store) error { _, err := s.Fetch(ctx, id, nil, good); return err },
		} {
			f, err := bucket.OpenFolder(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			b := &buckettest.Faulty{Bucket: f}
			b.Set(buckettest.Faults{Fail: func(op, _ string) error {
				if op == "put" && b.Puts.Load() >= last {
					b.Cut()
					return buckettest.ErrCut
				}
				return nil
			}})
			s, err := chunkstore.New("cut", "test://", b, chunkstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			broken := work(s)
			after, err := chunkstore.Open(ctx, "after", f.Dir())
			if err != nil {
				t.Fatal(err)
			}
			all, err := after.List(ctx)
			if err != nil || broken == nil != (len(all) == 1) {
				t.Errorf("%s cut after %d writes: %v; then there are %v, %v", what, last, broken, all, err)
			}
			if err := work(after); err != nil {
				t.Errorf("%s after a cut at %d: %v", what, last, err)
			}
			sound(t, after, id)
			after.Close()
		}
	}
}

// A real process is killed in the middle of an ingest; the next one finds its
// chunks, and a collection waits for its lease and keeps what is in use.
func TestAKilledProcess(t *testing.T) {
	if dir := os.Getenv("MILLPOND_TEST_INGEST"); dir != "" {
		s, err := chunkstore.Open(context.Background(), "child", dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Ingest(context.Background(), slowly{full(8, 120)}, nil)
		t.Fatal("the ingest ended: ", err)
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestAKilledProcess$")
	cmd.Env = append(os.Environ(), "MILLPOND_TEST_INGEST="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	limit := time.Now().Add(time.Minute)
	for {
		files, _ := filepath.Glob(filepath.Join(dir, "chunks", "*", "*"))
		if len(files) >= 20 {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("the child wrote nothing")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	ctx := context.Background()
	s, err := chunkstore.Open(ctx, "parent", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if all, err := s.List(ctx); err != nil || len(all) != 0 {
		t.Fatalf("visible: %v, %v", all, err)
	}
	before := chunkFiles(t, s)
	was := modified(t, before)
	c := take(t, s, full(8, 120))
	if fmt.Sprint(was) != fmt.Sprint(modified(t, before)) {
		t.Error("chunks of the killed process were written anew")
	}
	sound(t, s, c.ID)
}

// slowly is a source that takes its time.
type slowly struct{ imagetest.Bytes }

func (s slowly) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return s.Bytes.ReadAt(p, off)
}

// A session of an earlier boot wrote without a sync: what it wrote is looked at
// before anybody relies on it.
func TestALossOfPower(t *testing.T) {
	ctx := context.Background()
	s := open(t)
	src := full(9, 6)
	if _, err := s.Ingest(ctx, short{src, 5 * image.ChunkSize}, nil); !errors.Is(err, errLine) {
		t.Fatal(err)
	}
	files := chunkFiles(t, s)
	if err := os.Truncate(files[0], 0); err != nil {
		t.Fatal(err)
	}
	sessions, _ := filepath.Glob(filepath.Join(s.Dir(), "sessions", "*"))
	if len(sessions) != 1 {
		t.Fatalf("sessions: %v", sessions)
	}
	record, err := os.ReadFile(sessions[0])
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Replace(string(record), strings.TrimSpace(string(boot)), "an-earlier-boot", 1)
	if err := os.WriteFile(filepath.Join(s.Dir(), "sessions", "0123"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := chunkstore.Open(ctx, "after", s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if _, err := os.Stat(files[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the torn chunk is still there: %v", err)
	}
	if left := chunkFiles(t, after); len(left) != len(files)-1 {
		t.Errorf("%d chunks of %d are left; only the torn one should go", len(left), len(files))
	}
	sound(t, after, take(t, after, src).ID)
}
