package chunkstore_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/imagetest"
)

// full is a source without zeros, so that every chunk is stored.
func full(seed byte, chunks int) imagetest.Bytes {
	b := imagetest.Random(uint64(seed), chunks*image.ChunkSize)
	for n := range chunks {
		b[n*image.ChunkSize], b[n*image.ChunkSize+1] = seed|128, byte(n)
	}
	return b
}

func take(t *testing.T, s *chunkstore.Store, src image.Source) image.Content {
	t.Helper()
	c, err := s.Ingest(context.Background(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sound(t *testing.T, s *chunkstore.Store, id image.ContentID) {
	t.Helper()
	if faults, err := s.Verify(context.Background(), id, false, nil); err != nil || len(faults) > 0 {
		t.Errorf("the content %s in %s: %v, %v", id, s.Name(), faults, err)
	}
}

func TestFetchMovesOnlyWhatIsMissing(t *testing.T) {
	ctx := context.Background()
	a, b := open(t), open(t)
	src := full(1, 20)
	v1 := take(t, a, src)
	var last image.Moved
	if _, err := b.Fetch(ctx, v1.ID, func(m image.Moved) { last = m }, a); err != nil {
		t.Fatal(err)
	}
	if last.Done != last.Total || last.Total != v1.Stored || last.Moved != last.Total || last.Bytes <= 0 || last.Bytes > last.Moved {
		t.Errorf("the first copy: %+v of %d bytes of data", last, v1.Stored)
	}
	src[7*image.ChunkSize+5] ^= 1
	v2 := take(t, a, src)
	if _, err := b.Fetch(ctx, v2.ID, func(m image.Moved) { last = m }, a); err != nil {
		t.Fatal(err)
	}
	if last.Done != v2.Stored || last.Moved != image.ChunkSize {
		t.Errorf("one chunk changed: %+v", last)
	}
	sound(t, b, v1.ID)
	sound(t, b, v2.ID)
}

func TestFetchFallsBackChunkByChunk(t *testing.T) {
	ctx := context.Background()
	a, b, dst := open(t), open(t), open(t)
	c := take(t, a, full(2, 6))
	take(t, b, full(2, 6))
	files := chunkFiles(t, a)
	if err := errors.Join(os.Truncate(files[1], 10), os.Remove(files[4])); err != nil {
		t.Fatal(err)
	}
	other := chunkFiles(t, b)
	if err := os.Remove(other[2]); err != nil {
		t.Fatal(err)
	}
	if _, err := dst.Fetch(ctx, c.ID, nil, a, b); err != nil {
		t.Fatal(err)
	}
	sound(t, dst, c.ID)

	// Nobody has it sound: the error is the damage, and nothing is visible.
	if err := os.WriteFile(other[1], []byte{1, 2, 3}, 0o600); err != nil {
		t.Fatal(err)
	}
	worse := open(t)
	if _, err := worse.Fetch(ctx, c.ID, nil, a, b); err == nil || millpond.AsError(err).Code != "ContentDamaged" {
		t.Errorf("Fetch of what is damaged everywhere = %v", err)
	}
	if _, err := worse.Stat(ctx, c.ID); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("it became visible: %v", err)
	}
	if _, err := worse.Fetch(ctx, c.ID, nil); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("Fetch from nowhere = %v", err)
	}

	// Repair takes what it can from whoever has it.
	faults, err := a.Verify(ctx, c.ID, true, nil, b, dst)
	if err != nil || len(faults) != 2 || !faults[0].Repaired || !faults[1].Repaired {
		t.Fatalf("repair: %+v, %v", faults, err)
	}
	sound(t, a, c.ID)
	faults, err = b.Verify(ctx, c.ID, false, nil, dst)
	if err != nil || len(faults) != 2 || faults[0].Source != dst.Name() || faults[0].Repaired {
		t.Fatalf("verify: %+v, %v", faults, err)
	}
}

var errLine = errors.New("the line broke")

// short is a source that breaks off in the middle.
type short struct {
	imagetest.Bytes
	at int64
}

func (s short) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.at {
		return 0, errLine
	}
	return s.Bytes.ReadAt(p, off)
}

// few is a store that gives a number of chunks and no more.
type few struct {
	*chunkstore.Store
	left atomic.Int32
}

func (f *few) ReadObject(ctx context.Context, d image.Digest) ([]byte, error) {
	if f.left.Add(-1) < 0 {
		return nil, errLine
	}
	return f.Store.ReadObject(ctx, d)
}

func TestBrokenOffWorkIsTakenUp(t *testing.T) {
	ctx := context.Background()
	a, b := open(t), open(t)
	src := full(3, 40)
	if _, err := a.Ingest(ctx, short{src, 20 * image.ChunkSize}, nil); !errors.Is(err, errLine) {
		t.Fatalf("an ingest of a source that breaks off = %v", err)
	}
	before := chunkFiles(t, a)
	if len(before) < 5 || len(before) >= 40 {
		t.Fatalf("%d chunks are left of the first try", len(before))
	}
	was := modified(t, before)
	c := take(t, a, src)
	if !slices.Equal(was, modified(t, before)) {
		t.Error("the second try wrote chunks anew that were there")
	}
	half := &few{Store: a}
	half.left.Store(20)
	if _, err := b.Fetch(ctx, c.ID, nil, half); !errors.Is(err, errLine) {
		t.Fatalf("a copy that breaks off = %v", err)
	}
	first := int64(len(chunkFiles(t, b)))
	var last image.Moved
	if _, err := b.Fetch(ctx, c.ID, func(m image.Moved) { last = m }, a); err != nil {
		t.Fatal(err)
	}
	if first == 0 || last.Moved != c.Stored-first*image.ChunkSize {
		t.Errorf("the second try moved %d bytes of %d with %d chunks there", last.Moved, c.Stored, first)
	}
	sound(t, b, c.ID)
	stop, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := open(t).Fetch(stop, c.ID, nil, a); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled copy = %v", err)
	}
}

func modified(t *testing.T, files []string) []int64 {
	t.Helper()
	var out []int64
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, st.ModTime().UnixNano())
	}
	return out
}

func TestCollect(t *testing.T) {
	ctx := context.Background()
	s := open(t)
	src := full(4, 10)
	a := take(t, s, src)
	src[0] ^= 1
	b := take(t, s, src)
	collect := func(o chunkstore.CollectOptions) chunkstore.Collected {
		t.Helper()
		done, err := s.Collect(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if done := collect(chunkstore.CollectOptions{}); done.Chunks != 0 {
		t.Errorf("with everything in use: %+v", done)
	}
	r, err := s.Open(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	if done := collect(chunkstore.CollectOptions{}); done.Chunks != 0 || done.Spared != 1 {
		t.Errorf("while it is being read: %+v", done)
	}
	if _, err := r.ReadAt(make([]byte, image.ChunkSize), 0); err != nil {
		t.Errorf("the reader: %v", err)
	}
	r.Close()
	if done := collect(chunkstore.CollectOptions{Grace: 1 << 50}); done.Chunks != 0 || done.Young != 1 {
		t.Errorf("within the grace time: %+v", done)
	}
	if done := collect(chunkstore.CollectOptions{DryRun: true}); done.Chunks != 1 || len(chunkFiles(t, s)) != 11 {
		t.Errorf("dry run: %+v, %d chunks left", done, len(chunkFiles(t, s)))
	}
	// The reader's lease says with its next renewal that it has ended.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = chunkstore.Open(ctx, s.Name(), s.URL()); err != nil {
		t.Fatal(err)
	}
	if done := collect(chunkstore.CollectOptions{}); done.Chunks != 1 || done.Bytes == 0 {
		t.Errorf("with nobody reading: %+v", done)
	}
	sound(t, s, b.ID)
	if err := s.Delete(ctx, b.ID); err != nil {
		t.Fatal(err)
	}
	if done := collect(chunkstore.CollectOptions{}); done.Chunks != 10 || len(chunkFiles(t, s)) != 0 {
		t.Errorf("with nothing in use: %+v, %d chunks left", done, len(chunkFiles(t, s)))
	}
	if u, err := s.Usage(ctx); err != nil || u != (chunkstore.Usage{}) {
		t.Errorf("Usage = %+v, %v", u, err)
	}
}
