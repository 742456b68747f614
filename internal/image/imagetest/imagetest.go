// Package imagetest is the conformance suite of image.Store. Every
// implementation's test calls Run; nothing else imports it.
package imagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

// Bytes is a Source in memory. It does not know its holes.
type Bytes []byte

func (b Bytes) Size() int64 { return int64(len(b)) }
func (b Bytes) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(b).ReadAt(p, off)
}

// Zeros is a Source of nothing but a hole, of any size.
type Zeros int64

func (z Zeros) Size() int64 { return int64(z) }
func (z Zeros) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(z) {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), int64(z)-off))
	clear(p[:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
func (z Zeros) NextData(int64) (int64, int64, error) { return int64(z), int64(z), nil }

// Random makes size bytes from a seed, about half of them zeros in long runs.
func Random(seed uint64, size int) Bytes {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make(Bytes, size)
	for at := 0; at < size; {
		n := min(1+r.IntN(300<<10), size-at)
		if r.IntN(2) == 0 {
			for i := at; i < at+n; i++ {
				b[i] = byte(r.Uint32())
			}
		}
		at += n
	}
	return b
}

// broken fails at an offset.
type broken struct {
	Bytes
	at  int64
	err error
}

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.at {
		return 0, b.err
	}
	return b.Bytes.ReadAt(p, off)
}

// Run checks that open makes stores that keep the contract. Each call of open
// returns a new, empty store.
func Run(t *testing.T, open func(t *testing.T) image.Store) {
	ctx := context.Background()
	sizes := []int{512, 4096, image.ChunkSize - 512, image.ChunkSize, image.ChunkSize + 512, 5*image.ChunkSize + 1024}

	t.Run("what goes in comes out", func(t *testing.T) {
		s := open(t)
		for i, size := range sizes {
			src := Random(uint64(i), size)
			c := ingest(t, s, src)
			if c.Size != int64(size) || !c.ID.Valid() {
				t.Fatalf("size %d: got %+v", size, c)
			}
			if got := read(t, s, c.ID); !bytes.Equal(got, src) {
				t.Fatalf("size %d: other bytes came out", size)
			}
			if st, err := s.Stat(ctx, c.ID); err != nil || st != c {
				t.Fatalf("Stat = %+v, %v; Ingest said %+v", st, err, c)
			}
		}
		if all, err := s.List(ctx); err != nil || len(all) != len(sizes) {
			t.Fatalf("List = %d contents, %v; want %d", len(all), err, len(sizes))
		}
	})

	t.Run("the name is that of the bytes", func(t *testing.T) {
		a, b := open(t), open(t)
		src := Random(7, 3*image.ChunkSize)
		first := ingest(t, a, src)
		if again := ingest(t, a, src); again != first {
			t.Errorf("the same bytes became %+v, then %+v", first, again)
		}
		if other := ingest(t, b, src); other.ID != first.ID {
			t.Errorf("another store says %s, not %s", other.ID, first.ID)
		}
		src[len(src)-1] ^= 1
		if changed := ingest(t, a, src); changed.ID == first.ID {
			t.Error("one bit changed and the name did not")
		}
		if longer := ingest(t, a, append(src, make([]byte, 512)...)); longer.ID == first.ID {
			t.Error("zeros were appended and the name did not change")
		}
	})

	t.Run("holes and zeros cost nothing and are the same", func(t *testing.T) {
		s := open(t)
		hole := ingest(t, s, Zeros(64*image.ChunkSize+512))
		zeros := ingest(t, s, make(Bytes, 64*image.ChunkSize+512))
		if hole.ID != zeros.ID {
			t.Errorf("a hole is %s, zeros are %s", hole.ID, zeros.ID)
		}
		if hole.Stored > 1<<20 {
			t.Errorf("a hole of %d bytes takes %d", hole.Size, hole.Stored)
		}
		big := ingest(t, s, Zeros(1<<40))
		if big.Size != 1<<40 || big.Stored > 1<<20 {
			t.Errorf("an empty terabyte became %+v", big)
		}
	})

	t.Run("a failed or cancelled ingest leaves nothing", func(t *testing.T) {
		s := open(t)
		want := errors.New("the line broke")
		if _, err := s.Ingest(ctx, broken{Random(3, 8*image.ChunkSize), 5 * image.ChunkSize, want}, nil); !errors.Is(err, want) {
			t.Errorf("Ingest = %v, want the source's error", err)
		}
		dead, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := s.Ingest(dead, Random(4, 8*image.ChunkSize), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Ingest = %v, want context.Canceled", err)
		}
		if all, _ := s.List(ctx); len(all) != 0 {
			t.Errorf("List = %v, want nothing", all)
		}
	})

	t.Run("bad sizes are refused", func(t *testing.T) {
		s := open(t)
		for _, size := range []int{0, 511, 1000} {
			if _, err := s.Ingest(ctx, make(Bytes, size), nil); millpond.KindOf(err) != millpond.Invalid {
				t.Errorf("size %d: %v", size, err)
			}
		}
	})

	t.Run("what is not there", func(t *testing.T) {
		s := open(t)
		for _, id := range []image.ContentID{image.NewHasher(512).ID(), "", "../../etc/passwd", "ABC"} {
			if _, err := s.Stat(ctx, id); millpond.KindOf(err) != millpond.NotFound {
				t.Errorf("Stat(%q) = %v", id, err)
			}
			if _, err := s.Open(ctx, id); millpond.KindOf(err) != millpond.NotFound {
				t.Errorf("Open(%q) = %v", id, err)
			}
			if _, err := s.Manifest(ctx, id); millpond.KindOf(err) != millpond.NotFound {
				t.Errorf("Manifest(%q) = %v", id, err)
			}
			if err := s.Delete(ctx, id); err != nil {
				t.Errorf("Delete(%q) = %v", id, err)
			}
		}
		if _, err := s.ReadChunk(ctx, image.Digest{1}, image.ChunkSize); millpond.KindOf(err) != millpond.NotFound {
			t.Errorf("ReadChunk of an unknown chunk = %v", err)
		}
	})

	t.Run("a content is its manifest and its chunks", func(t *testing.T) {
		s := open(t)
		src := Random(21, 5*image.ChunkSize+1024)
		clear(src[image.ChunkSize : 2*image.ChunkSize])
		c := ingest(t, s, src)
		m, err := s.Manifest(ctx, c.ID)
		if err != nil || m.Size != c.Size || m.ID() != c.ID {
			t.Fatalf("Manifest = %+v, %v", m, err)
		}
		if _, ok := m.Chunks[1]; ok {
			t.Error("a chunk of zeros is in the manifest")
		}
		whole := make([]byte, len(src))
		for n, d := range m.Chunks {
			b, err := s.ReadChunk(ctx, d, m.ChunkLen(n))
			if err != nil || len(b) != m.ChunkLen(n) {
				t.Fatalf("ReadChunk = %d bytes, %v", len(b), err)
			}
			copy(whole[n*image.ChunkSize:], b)
		}
		if !bytes.Equal(whole, src) {
			t.Error("the chunks are not the content")
		}
		if d, ok := m.Chunks[0]; ok {
			if _, err := s.ReadChunk(ctx, d, 512); err == nil || millpond.AsError(err).Code != "ContentDamaged" {
				t.Errorf("ReadChunk with another length = %v", err)
			}
		}
	})

	t.Run("a store has a name and a place", func(t *testing.T) {
		if s := open(t); s.Name() == "" || s.URL() == "" {
			t.Errorf("name %q, URL %q", s.Name(), s.URL())
		}
	})

	t.Run("delete", func(t *testing.T) {
		s := open(t)
		c := ingest(t, s, Random(9, 4096))
		r, err := s.Open(ctx, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := s.Delete(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(ctx, c.ID); millpond.KindOf(err) != millpond.NotFound {
			t.Errorf("Stat after Delete = %v", err)
		}
		if _, err := r.ReadAt(make([]byte, 512), 0); err != nil {
			t.Errorf("a reader from before the Delete fails: %v", err)
		}
	})

	t.Run("progress ends at the end", func(t *testing.T) {
		s := open(t)
		var last, total int64
		src := Random(11, 6*image.ChunkSize)
		if _, err := s.Ingest(ctx, src, func(d, n int64) {
			if d < last {
				t.Errorf("progress went back from %d to %d", last, d)
			}
			last, total = d, n
		}); err != nil {
			t.Fatal(err)
		}
		if last != src.Size() || total != src.Size() {
			t.Errorf("progress ended at %d of %d, want %d", last, total, src.Size())
		}
	})

	t.Run("many at once", func(t *testing.T) {
		s := open(t)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				src := Random(uint64(i%3), 2*image.ChunkSize)
				c, err := s.Ingest(ctx, src, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if err := same(s, c.ID, src); err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		if all, _ := s.List(ctx); len(all) != 3 {
			t.Errorf("List has %d contents, want 3", len(all))
		}
	})

	t.Run("copy between stores", func(t *testing.T) {
		a, b := open(t), open(t)
		src := Random(13, 4*image.ChunkSize)
		c := ingest(t, a, src)
		got, err := b.Fetch(ctx, c.ID, nil, a)
		if err != nil || got.ID != c.ID {
			t.Fatalf("Fetch = %+v, %v", got, err)
		}
		if err := same(b, c.ID, src); err != nil {
			t.Fatal(err)
		}
		if err := a.Delete(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Fetch(ctx, c.ID, nil, a); err != nil {
			t.Errorf("a copy of what is there already needs the source: %v", err)
		}
	})
}

func ingest(t *testing.T, s image.Store, src image.Source) image.Content {
	t.Helper()
	c, err := s.Ingest(context.Background(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t *testing.T, s image.Store, id image.ContentID) []byte {
	t.Helper()
	r, err := s.Open(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(s image.Store, id image.ContentID, want []byte) error {
	r, err := s.Open(context.Background(), id)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("content %s has other bytes", id)
	}
	return nil
}
