package filestore_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/filestore"
	"millpond.dev/millpond/internal/image/imagetest"
)

func open(t *testing.T) *filestore.Store {
	t.Helper()
	s, err := filestore.Open("westus2-1", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	imagetest.Run(t, func(t *testing.T) image.Store { return open(t) })
}

func TestVerifyFindsDamage(t *testing.T) {
	ctx := context.Background()
	s := open(t)
	c, err := s.Ingest(ctx, imagetest.Random(1, 3*image.ChunkSize), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, c.ID, nil); err != nil {
		t.Fatalf("Verify of a sound content: %v", err)
	}
	path, err := s.Backing(ctx, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(path) {
		t.Errorf("Backing = %s, want an absolute path", path)
	}
	damage(t, path)
	if err := s.Verify(ctx, c.ID, nil); err == nil || millpond.AsError(err).Code != "ContentDamaged" {
		t.Errorf("Verify of a damaged content = %v", err)
	}
	other := open(t)
	if _, err := image.Copy(ctx, other, s, c.ID, nil); err == nil || millpond.AsError(err).Code != "ContentDamaged" {
		t.Errorf("Copy of a damaged content = %v", err)
	}
	if _, err := other.Stat(ctx, c.ID); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("the damage spread: %v", err)
	}
}

func damage(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("rot"), image.ChunkSize+77); err != nil {
		t.Fatal(err)
	}
}

func TestOpenForgetsWhatWasHalfWritten(t *testing.T) {
	dir := t.TempDir()
	if _, err := filestore.Open("a", dir); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "tmp", "ingest-1")
	if err := os.WriteFile(left, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := filestore.Open("a", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", left, err)
	}
}

// The name of a content is a format: it must never change by accident.
func TestContentIDIsFixed(t *testing.T) {
	got, err := filestore.Hash(context.Background(), imagetest.Random(42, 2*image.ChunkSize+512), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := image.ContentID("0c69cbb75202a7c62430294707852fce1805ce0d4c88292044e369e896291dc6"); got != want {
		t.Errorf("ContentID = %s, want %s", got, want)
	}
}
