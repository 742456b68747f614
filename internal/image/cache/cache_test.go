package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/image"
)

// memStore is a replica in memory that can be slow, wrong, poor and away.
type memStore struct {
	name string

	mu        sync.Mutex
	manifests map[image.ContentID]*image.Manifest
	chunks    map[image.Digest][]byte
	rotten    map[image.Digest]bool
	away      error
	delay     time.Duration
	reads     int
	most, now int
	repaired  []image.Digest
	order     []image.Digest
}

func newStore(name string) *memStore {
	return &memStore{name: name, manifests: map[image.ContentID]*image.Manifest{}, chunks: map[image.Digest][]byte{}, rotten: map[image.Digest]bool{}}
}

func (s *memStore) Name() string { return s.name }

func (s *memStore) Manifest(_ context.Context, id image.ContentID) (*image.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return nil, s.away
	}
	if m := s.manifests[id]; m != nil {
		return m, nil
	}
	return nil, millpond.Errorf(millpond.NotFound, "ContentNotFound", "no content")
}

func (s *memStore) ReadChunk(ctx context.Context, d image.Digest, length int) ([]byte, error) {
	s.mu.Lock()
	s.reads++
	s.now++
	s.most = max(s.most, s.now)
	s.order = append(s.order, d)
	delay := s.delay
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.now--; s.mu.Unlock() }()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch data := s.chunks[d]; {
	case s.away != nil:
		return nil, s.away
	case s.rotten[d]:
		return nil, millpond.Errorf(millpond.Internal, codeDamaged, "damaged")
	case data == nil:
		return nil, millpond.Errorf(millpond.NotFound, "ChunkNotFound", "no chunk")
	default:
		return bytes.Clone(data), nil
	}
}

func (s *memStore) RepairChunk(_ context.Context, d image.Digest, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if image.Digest(sha256.Sum256(data)) != d {
		return errors.New("a wrong repair")
	}
	s.chunks[d] = bytes.Clone(data)
	delete(s.rotten, d)
	s.repaired = append(s.repaired, d)
	return nil
}

func (s *memStore) set(change func(*memStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *memStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// ingest puts data into all stores.
func ingest(data []byte, stores ...*memStore) (image.ContentID, *image.Manifest) {
	m := &image.Manifest{Size: int64(len(data)), Chunks: map[int64]image.Digest{}}
	for n := int64(0); n*image.ChunkSize < m.Size; n++ {
		part := data[n*image.ChunkSize:][:m.ChunkLen(n)]
		if len(bytes.Trim(part, "\x00")) == 0 {
			continue
		}
		d := image.Digest(sha256.Sum256(part))
		m.Chunks[n] = d
		for _, s := range stores {
			s.chunks[d] = part
		}
	}
	for _, s := range stores {
		s.manifests[m.ID()] = m
	}
	return m.ID(), m
}

// content makes chunks of random bytes, the third of which is a hole, and a short
// last one.
func content(seed byte, chunks int) []byte {
	b := make([]byte, chunks*image.ChunkSize-4096)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	if chunks > 3 {
		clear(b[2*image.ChunkSize : 3*image.ChunkSize])
	}
	return b
}

func openCache(t *testing.T, dir string, limitChunks int, change ...func(*Config)) *Cache {
	t.Helper()
	cfg := Config{Dir: dir, Limit: int64(limitChunks) * image.ChunkSize, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler), Patience: 300 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func openContent(t *testing.T, c *Cache, id image.ContentID, stores ...*memStore) *Content {
	t.Helper()
	o, err := c.Open(context.Background(), id, asStores(stores))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func asStores(stores []*memStore) []Store {
	var out []Store
	for _, s := range stores {
		out = append(out, s)
	}
	return out
}

func mustRead(t *testing.T, o *Content, want []byte, off, n int) {
	t.Helper()
	p := bytes.Repeat([]byte{0xee}, n)
	if _, err := o.ReadAt(p, int64(off)); err != nil {
		t.Fatalf("read %d at %d: %v", n, off, err)
	}
	if !bytes.Equal(p, want[off:off+n]) {
		t.Fatalf("read %d at %d: wrong bytes", n, off)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never happened that %s", what)
}

func TestReadsAndKeeps(t *testing.T) {
	a := newStore("a")
	data := content(1, 6)
	id, m := ingest(data, a)
	dir := t.TempDir()
	c := openCache(t, dir, 64)
	o := openContent(t, c, id, a)
	if o.Prompt(0, 10) {
		t.Error("a chunk that nobody has fetched is prompt")
	}
	mustRead(t, o, data, 0, len(data))
	if a.count() != len(m.Chunks) {
		t.Errorf("%d reads of %d chunks", a.count(), len(m.Chunks))
	}
	// The bytes are handed out before they are kept.
	eventually(t, "everything is kept", func() bool { return c.Stats().Chunks == len(m.Chunks) })
	if !o.Prompt(image.ChunkSize-10, 20) || !o.Prompt(2*image.ChunkSize, 4096) || o.Prompt(int64(len(data))-10, 20) {
		t.Error("what is kept is not prompt")
	}
	mustRead(t, o, data, image.ChunkSize-10, 20)
	mustRead(t, o, data, len(data)-512, 512)
	if n, err := o.ReadAt(make([]byte, 100), int64(len(data))-50); n != 50 || err == nil {
		t.Errorf("a read over the end: %d, %v", n, err)
	}
	if a.count() != len(m.Chunks) {
		t.Error("what is kept was fetched again")
	}
	st, _ := c.ContentStats(id)
	if st.Touched != len(m.Chunks) || st.Kept != len(m.Chunks) || st.TouchedBytes != st.Bytes {
		t.Errorf("stats %+v", st)
	}
	o.Close()
	c.Close()

	// After a restart the chunks are there, and the store is not needed but for
	// the manifest.
	c = openCache(t, dir, 64)
	a.set(func(s *memStore) { s.chunks = nil })
	o = openContent(t, c, id, a)
	mustRead(t, o, data, 0, len(data))
	mustRead(t, o, data, 0, len(data))
	if s := c.Stats(); s.Chunks != len(m.Chunks) || s.Wrong != 0 {
		t.Errorf("after a restart: %+v", s)
	}
}

// What lies on the host's disk is not believed after a restart: a flipped bit and
// a torn index cost a fetch, and nothing else.
func TestDamageOnTheHostsDisk(t *testing.T) {
	a := newStore("a")
	data := content(2, 5)
	id, m := ingest(data, a)
	dir := t.TempDir()
	c := openCache(t, dir, 64)
	mustRead(t, openContent(t, c, id, a), data, 0, len(data))
	c.Close() // waits for the writes
	for name, off := range map[string]int64{chunksFile: slotPlace(1) + 77, indexFile: 3*entryLen + 5} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		_, _ = f.ReadAt(b, off)
		b[0] ^= 1
		_, _ = f.WriteAt(b, off)
		f.Close()
	}
	before := a.count()
	c = openCache(t, dir, 64)
	mustRead(t, openContent(t, c, id, a), data, 0, len(data))
	if got := a.count() - before; got != 2 {
		t.Errorf("%d of %d chunks were fetched again, want 2", got, len(m.Chunks))
	}
	eventually(t, "all are kept again", func() bool { s := c.Stats(); return s.Wrong == 1 && s.Chunks == len(m.Chunks) })
}

func TestContentsShareChunksAndTheBoundHolds(t *testing.T) {
	a := newStore("a")
	one := content(3, 40)
	two := bytes.Clone(one)
	two[5*image.ChunkSize] ^= 1
	id1, _ := ingest(one, a)
	id2, _ := ingest(two, a)
	dir := t.TempDir()
	c := openCache(t, dir, 48)
	o1, o2 := openContent(t, c, id1, a), openContent(t, c, id2, a)
	mustRead(t, o1, one, 0, len(one))
	before := a.count()
	mustRead(t, o2, two, 0, len(two))
	if got := a.count() - before; got != 1 {
		t.Errorf("a content that differs in one chunk fetched %d", got)
	}
	three := content(4, 40)
	id3, _ := ingest(three, a)
	o3 := openContent(t, c, id3, a)
	mustRead(t, o3, three, 0, len(three))
	s := c.Stats()
	if s.Chunks > 48 || s.Evicted == 0 {
		t.Errorf("%+v", s)
	}
	if st, err := os.Stat(filepath.Join(dir, chunksFile)); err != nil || st.Size() > slotPlace(48) {
		t.Errorf("the file has %d bytes", st.Size())
	}
	mustRead(t, o1, one, 0, len(one))
	mustRead(t, o3, three, 0, len(three))
}

func TestOneFetchPerChunkUnderConcurrency(t *testing.T) {
	a, b := newStore("a"), newStore("b")
	data := content(5, 24)
	id, m := ingest(data, a, b)
	a.delay, b.delay = 5*time.Millisecond, 5*time.Millisecond
	c := openCache(t, t.TempDir(), 64, func(c *Config) { c.NoReadAhead = true })
	var g sync.WaitGroup
	for i := range 8 {
		o := openContent(t, c, id, a, b)
		g.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			for range 200 {
				off := rnd.IntN(len(data) - 70000)
				p := make([]byte, 1+rnd.IntN(70000))
				if _, err := o.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, data[off:off+len(p)]) {
					t.Errorf("read at %d: %v", off, err)
					return
				}
			}
		})
	}
	g.Wait()
	// On a busy machine a store may look slow, and the other is asked too.
	slow := 0
	for _, st := range c.Stats().Stores {
		slow += int(st.Slow)
	}
	if n := a.count() + b.count(); n > len(m.Chunks)+slow {
		t.Errorf("%d reads for %d chunks", n, len(m.Chunks))
	}
	if a.count() < 4 || b.count() < 4 {
		t.Errorf("the replicas were read %d and %d times; reads shall spread", a.count(), b.count())
	}
}

// Concurrent reads with constant eviction always give right bytes.
func TestEvictionUnderConcurrency(t *testing.T) {
	a := newStore("a")
	data := content(6, 80)
	id, _ := ingest(data, a)
	c := openCache(t, t.TempDir(), minSlots, func(c *Config) { c.NoReadAhead = true })
	var g sync.WaitGroup
	for i := range 6 {
		o := openContent(t, c, id, a)
		g.Go(func() {
			rnd := rand.New(rand.NewPCG(2, uint64(i)))
			for range 150 {
				off := rnd.IntN(len(data) - 600000)
				p := make([]byte, 1+rnd.IntN(600000))
				if _, err := o.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, data[off:off+len(p)]) {
					t.Errorf("read at %d: %v", off, err)
					return
				}
			}
		})
	}
	g.Wait()
	if s := c.Stats(); s.Evicted == 0 || s.Chunks > minSlots {
		t.Errorf("%+v", s)
	}
}

func TestBadReplicas(t *testing.T) {
	data := content(7, 12)
	for name, hurt := range map[string]func(s *memStore, m *image.Manifest){
		"wrong": func(s *memStore, m *image.Manifest) {
			for _, d := range m.Chunks {
				s.rotten[d] = true
			}
		},
		"absent": func(s *memStore, _ *image.Manifest) { s.away = errors.New("connection refused") },
		"lost":   func(s *memStore, _ *image.Manifest) { clear(s.chunks) },
		"slow":   func(s *memStore, _ *image.Manifest) { s.delay = 10 * time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			good, bad := newStore("good"), newStore("bad")
			id, m := ingest(data, good, bad)
			hurt(bad, m)
			c := openCache(t, t.TempDir(), 64, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&syncWriter{w: &log}, nil)) })
			o := openContent(t, c, id, bad, good)
			begun := time.Now()
			mustRead(t, o, data, 0, len(data))
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			if name == "wrong" || name == "lost" {
				eventually(t, "the bad replica is repaired", func() bool {
					for _, s := range c.Stats().Stores {
						if s.Name == "bad" {
							return s.Repaired > 0 && s.Repaired >= s.Damaged+s.Missing-maxMendings
						}
					}
					return false
				})
			}
			c.Close()
			for _, s := range c.Stats().Stores {
				if s.Name == "good" && s.Chunks == 0 {
					t.Errorf("the good store gave nothing: %+v", s)
				}
				if s.Name == "bad" && s.Failures+s.Slow == 0 {
					t.Errorf("nothing was counted: %+v", s)
				}
			}
			if !strings.Contains(log.String(), "store=bad") {
				t.Errorf("the log does not name the store:\n%s", log.String())
			}
		})
	}
}

// A content that was taken away from a store on purpose is not brought back.
func TestNoRepairOfWhatWasRemoved(t *testing.T) {
	data := content(8, 4)
	good, gone := newStore("good"), newStore("gone")
	id, _ := ingest(data, good, gone)
	clear(gone.chunks)
	clear(gone.manifests)
	c := openCache(t, t.TempDir(), 64)
	mustRead(t, openContent(t, c, id, gone, good), data, 0, len(data))
	c.Close()
	if len(gone.repaired) != 0 {
		t.Error("chunks were put into a store without the content")
	}
}

func TestUnreadable(t *testing.T) {
	data := content(9, 4)
	a, b := newStore("a"), newStore("b")
	id, m := ingest(data, a, b)
	for _, d := range m.Chunks {
		a.rotten[d] = true
		delete(b.chunks, d)
	}
	c := openCache(t, t.TempDir(), 64)
	o := openContent(t, c, id, a, b)
	_, err := o.ReadAt(make([]byte, 10), 0)
	var u *UnreadableError
	if !errors.As(err, &u) || !u.Lasting || !strings.Contains(err.Error(), "store a") || !strings.Contains(err.Error(), "store b") || !strings.Contains(err.Error(), string(id)) {
		t.Fatalf("%v", err)
	}
	if st, _ := c.ContentStats(id); st.Fault == "" {
		t.Error("the fault is not in the statistics")
	}
	// Stores that are away for a moment only make the read wait.
	other := content(10, 4)
	id2, _ := ingest(other, a, b)
	o2 := openContent(t, c, id2, a, b)
	a.set(func(s *memStore) { s.away = errors.New("no route") })
	b.set(func(s *memStore) { s.away = errors.New("no route") })
	time.AfterFunc(150*time.Millisecond, func() { b.set(func(s *memStore) { s.away = nil }) })
	mustRead(t, o2, other, 0, 100)
	b.set(func(s *memStore) { s.away = errors.New("no route") })
	begun := time.Now()
	if _, err := o2.ReadAt(make([]byte, 10), image.ChunkSize); err == nil {
		t.Error("a read without stores succeeded")
	}
	if took := time.Since(begun); took < 250*time.Millisecond || took > 5*time.Second {
		t.Errorf("it gave up after %s", took)
	}
	if _, err := c.Open(context.Background(), image.ContentID(strings.Repeat("0", 64)), asStores([]*memStore{a, b})); err == nil {
		t.Error("a content that nobody has was opened")
	}
}

// A full disk costs the cache its growth and no node its boot.
func TestFullDisk(t *testing.T) {
	a := newStore("a")
	data := content(11, 30)
	id, _ := ingest(data, a)
	c := openCache(t, t.TempDir(), 1000)
	var gone atomic.Bool
	c.slab.fail = func(slot int) error {
		if gone.Load() {
			return errors.New("the disk is gone")
		}
		if slot >= 8 {
			return &os.PathError{Op: "write", Path: "chunks", Err: syscall.ENOSPC}
		}
		return nil
	}
	o := openContent(t, c, id, a)
	for range 2 {
		mustRead(t, o, data, 0, len(data))
	}
	eventually(t, "eight chunks are kept", func() bool { s := c.Stats(); return s.Chunks == 8 && s.Evicted > 0 })
	gone.Store(true)
	mustRead(t, o, data, 0, len(data))
	eventually(t, "a chunk cannot be kept", func() bool { return c.Stats().Unkept > 0 })
}

func TestLearnsAndReadsAhead(t *testing.T) {
	a := newStore("a")
	data := content(12, 40)
	id, m := ingest(data, a)
	dir := t.TempDir()
	c := openCache(t, dir, 64, func(c *Config) { c.Learn = time.Second })
	o := openContent(t, c, id, a)
	boot := []int{0, 39, 7, 8, 20, 3}
	for _, n := range boot {
		mustRead(t, o, data, n*image.ChunkSize, 4096)
	}
	eventually(t, "the order is learned while the node runs", func() bool { st, _ := c.ContentStats(id); return st.Learned == len(boot) })
	o.Close()
	c.Close()

	// Everything but the order is gone, as after an eviction.
	for _, f := range []string{chunksFile, indexFile} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	a.set(func(s *memStore) { s.order, s.delay = nil, 20*time.Millisecond })
	c = openCache(t, dir, 64)
	o = openContent(t, c, id, a)
	eventually(t, "the chunks of the boot are fetched", func() bool { return c.Stats().Ahead == int64(len(boot)) })
	a.mu.Lock()
	if len(a.order) != len(boot) || !slices.Contains(a.order[:aheadWidth], m.Chunks[0]) || a.most > aheadWidth {
		t.Errorf("%d chunks, at most %d at a time", len(a.order), a.most)
	}
	a.mu.Unlock()
	for _, n := range boot {
		mustRead(t, o, data, n*image.ChunkSize, 4096)
	}
	if s := c.Stats(); s.Misses != 0 || s.Hits != int64(len(boot)) {
		t.Errorf("%+v", s)
	}
	o.Close()
	c.Close()

	// The rest of a boot is not a lesson.
	other := content(13, 10)
	id2, _ := ingest(other, a)
	c = openCache(t, dir, 64)
	o = openContent(t, c, id2, a)
	mustRead(t, o, other, 5*image.ChunkSize, 10)
	o.Close()
	if st, _ := c.ContentStats(id2); st.Learned != 0 {
		t.Error("a boot without its beginning was learned")
	}
}

// Reading ahead from a slow store does not hold up a read that somebody waits for.
func TestReadAheadDelaysNobody(t *testing.T) {
	a := newStore("a")
	data := content(14, 60)
	id, _ := ingest(data, a)
	dir := t.TempDir()
	c := openCache(t, dir, 100)
	var all []int64
	for n := range int64(60) {
		all = append(all, n)
	}
	if err := c.saveOrder(id, order{whole: true, chunks: all}); err != nil {
		t.Fatal(err)
	}
	a.delay = 250 * time.Millisecond
	o := openContent(t, c, id, a)
	eventually(t, "it reads ahead", func() bool { return a.count() > 0 })
	begun := time.Now()
	mustRead(t, o, data, 55*image.ChunkSize, 10)
	if took := time.Since(begun); took > 2*a.delay {
		t.Errorf("a read took %s beside the read-ahead, the store takes %s", took, a.delay)
	}
	// The end of the last reader ends it.
	o.Close()
	c.Close()
	if n := a.count(); n == 60 {
		t.Error("the read-ahead went on without a reader")
	}
}

// Without a learned order, a run of chunks is fetched ahead of its reader, and
// scattered reads are not.
func TestReadsRunsAhead(t *testing.T) {
	a := newStore("a")
	data := content(16, 40)
	id, m := ingest(data, a)
	c := openCache(t, t.TempDir(), 64)
	o := openContent(t, c, id, a)
	for _, n := range []int{30, 5, 20, 10, 35} {
		mustRead(t, o, data, n*image.ChunkSize, 10)
	}
	if s := c.Stats(); s.Ahead != 0 || a.count() != 5 {
		t.Errorf("scattered reads fetched %d chunks", a.count())
	}
	for n := 11; n < 13; n++ {
		mustRead(t, o, data, n*image.ChunkSize, 10)
	}
	eventually(t, "the next chunks come by themselves", func() bool { return c.slab.has(m.Chunks[13]) && c.slab.has(m.Chunks[14]) })
	if a.count() != 5+2+runWidth {
		t.Errorf("%d chunks were fetched", a.count())
	}
}

// A content that nobody has booted is read ahead as Foresee guesses, and a reader
// that leaves ends it.
func TestForeseesAFirstBoot(t *testing.T) {
	a := newStore("a")
	data := content(17, 40)
	id, m := ingest(data, a)
	ended := make(chan error, 1)
	c := openCache(t, t.TempDir(), 64, func(c *Config) {
		c.Foresee = func(ctx context.Context, src io.ReaderAt, size int64, want func(int64) error) error {
			p := make([]byte, image.ChunkSize)
			if n, err := src.ReadAt(p, size-100); n != 100 || err != io.EOF || !bytes.Equal(p[:100], data[size-100:]) {
				t.Errorf("the end reads %d bytes, %v", n, err)
			}
			if n, err := src.ReadAt(p, 2*image.ChunkSize-7); n != len(p) || err != nil || !bytes.Equal(p, data[2*image.ChunkSize-7:][:len(p)]) {
				t.Errorf("a read over a hole gives %d bytes, %v", n, err)
			}
			for _, n := range []int64{7, 20, 20, 2} {
				if err := want(n*image.ChunkSize + 5); err != nil {
					t.Errorf("want: %v", err)
				}
			}
			<-ctx.Done()
			err := want(0)
			ended <- err
			return err
		}
	})
	o := openContent(t, c, id, a)
	eventually(t, "what is foreseen comes", func() bool {
		return c.slab.has(m.Chunks[7]) && c.slab.has(m.Chunks[20]) && c.slab.has(m.Chunks[39]) && c.slab.has(m.Chunks[1])
	})
	if st, _ := c.ContentStats(id); st.Touched != 0 || c.Stats().Misses != 0 {
		t.Errorf("it counts as the guest's: %+v, %+v", st, c.Stats())
	}
	o.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, errStop) {
			t.Errorf("after the last reader: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on without a reader")
	}
	if a.count() != 4 {
		t.Errorf("%d chunks were fetched", a.count())
	}
}

// Opening takes the content's lock and begins to look ahead; forgetting takes the
// cache's and then the content's.
func TestForgetWhileItIsOpened(t *testing.T) {
	a := newStore("a")
	id, _ := ingest(content(15, 3), a)
	c := openCache(t, t.TempDir(), 64)
	var over atomic.Bool
	var forgetting sync.WaitGroup
	forgetting.Go(func() {
		for !over.Load() {
			c.Forget(id)
		}
	})
	for range 300 {
		openContent(t, c, id, a).Close()
	}
	over.Store(true)
	forgetting.Wait()
}

func TestForget(t *testing.T) {
	a := newStore("a")
	id, _ := ingest(content(15, 3), a)
	c := openCache(t, t.TempDir(), 64)
	o := openContent(t, c, id, a)
	if c.Forget(id) {
		t.Error("a content was forgotten under its reader")
	}
	o.Close()
	if _, ok := c.ContentStats(id); !c.Forget(id) || !ok {
		t.Error("a closed content was not forgotten")
	}
	if _, ok := c.ContentStats(id); ok {
		t.Error("a forgotten content has statistics")
	}
}

func FuzzOrder(f *testing.F) {
	f.Add(formatOrder(order{whole: true, chunks: []int64{0, 5, 3, 1 << 40}}))
	f.Add([]byte(orderMagic + "\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseOrder(b)
		if err != nil {
			return
		}
		again, err := parseOrder(formatOrder(o))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(o) {
			t.Fatalf("%v is read back as %v, %v", o, again, err)
		}
	})
}

func FuzzIndexEntry(f *testing.F) {
	f.Add(makeEntry(image.Digest{1}, 512))
	f.Add(make([]byte, entryLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != entryLen {
			return
		}
		if d, n, ok := parseEntry(b); ok && !bytes.Equal(makeEntry(d, n), b) {
			t.Fatal("an entry is read that was not written")
		}
	})
}

// syncWriter is a writer for loggers of several goroutines.
type syncWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
