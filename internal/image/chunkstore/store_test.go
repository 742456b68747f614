package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/imagetest"
)

func open(t *testing.T) *chunkstore.Store {
	t.Helper()
	s, err := chunkstore.Open(context.Background(), "westus2-1", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	imagetest.Run(t, func(t *testing.T) image.Store { return open(t) })
}

// chunkFiles are the files of a local store's chunks.
func chunkFiles(t *testing.T, s *chunkstore.Store) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir(), "chunks", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDamageIsNoticedAtEveryRead(t *testing.T) {
	ctx := context.Background()
	for name, hurt := range map[string]func(file string) error{
		"a flipped bit": func(f string) error {
			b, err := os.ReadFile(f)
			b[len(b)/2] ^= 4
			return errors.Join(err, os.WriteFile(f, b, 0o600))
		},
		"cut short":      func(f string) error { return os.Truncate(f, 100) },
		"empty":          func(f string) error { return os.Truncate(f, 0) },
		"far too long":   func(f string) error { return os.Truncate(f, 1<<30) },
		"another's form": func(f string) error { return os.WriteFile(f, []byte{9, 9, 9}, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			src := imagetest.Random(1, 3*image.ChunkSize)
			c, err := s.Ingest(ctx, src, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := hurt(chunkFiles(t, s)[0]); err != nil {
				t.Fatal(err)
			}
			r, err := s.Open(ctx, c.ID)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for _, size := range []int{4096, 3 * image.ChunkSize} {
				var failure error
				for off := 0; off+size <= len(src) && failure == nil; off += size {
					got := make([]byte, size)
					if _, failure = r.ReadAt(got, int64(off)); failure == nil && !bytes.Equal(got, src[off:off+size]) {
						t.Fatal("wrong bytes were served")
					}
				}
				if failure == nil || millpond.AsError(failure).Code != "ContentDamaged" {
					t.Errorf("reading in pieces of %d: %v", size, failure)
				}
			}
			other := open(t)
			if _, err := other.Fetch(ctx, c.ID, nil, s); err == nil || millpond.AsError(err).Code != "ContentDamaged" {
				t.Errorf("Copy of a damaged content = %v", err)
			}
			if _, err := other.Stat(ctx, c.ID); millpond.KindOf(err) != millpond.NotFound {
				t.Errorf("the damage spread: %v", err)
			}
		})
	}
}

// The name of a content is a format: it must never change by accident.
func TestContentIDIsFixed(t *testing.T) {
	c, err := open(t).Ingest(context.Background(), imagetest.Random(42, 2*image.ChunkSize+512), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := image.ContentID("0c69cbb75202a7c62430294707852fce1805ce0d4c88292044e369e896291dc6"); c.ID != want {
		t.Errorf("ContentID = %s, want %s", c.ID, want)
	}
}

func TestWhatIsThereIsNotWrittenAgain(t *testing.T) {
	ctx := context.Background()
	s := open(t)
	src := imagetest.Random(3, 8*image.ChunkSize)
	if _, err := s.Ingest(ctx, src, nil); err != nil {
		t.Fatal(err)
	}
	before := len(chunkFiles(t, s))
	src[5*image.ChunkSize+9] ^= 1
	if _, err := s.Ingest(ctx, src, nil); err != nil {
		t.Fatal(err)
	}
	if after := len(chunkFiles(t, s)); after != before+1 {
		t.Errorf("one chunk changed and %d were written", after-before)
	}
}
