package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gocloud.dev/blob/memblob"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
	"millpond.dev/millpond/internal/image/bucket/buckettest"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/imagetest"
)

// The simulation of docs/adr/0012: several processes share one bucket whose calls
// take random times on a clock of their own, so that their steps interleave in
// every way; processes end in the middle of anything. At no time may a content
// that is published, or open for reading, lack a chunk.
func TestNothingInUseIsCollected(t *testing.T) {
	// MILLPOND_TEST_SEEDS asks for more of them.
	seeds := 2
	if n, err := strconv.Atoi(os.Getenv("MILLPOND_TEST_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, uint64(seed)) })
		})
	}
}

type world struct {
	t      *testing.T
	shared bucket.Bucket
	timing chunkstore.Timing

	mu  sync.Mutex
	rnd *rand.Rand
	// published are the contents that somebody was told are there, and not deleted.
	published map[image.ContentID]imagetest.Bytes
	deleted   int
	collected int
}

func (w *world) random(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rnd.IntN(n)
}

func simulate(t *testing.T, seed uint64) {
	w := &world{t: t, shared: bucket.NewCloud(memblob.OpenBucket(nil)), rnd: rand.New(rand.NewPCG(seed, 7)), published: map[image.ContentID]imagetest.Bytes{},
		timing: chunkstore.Timing{Lease: time.Minute, Poll: 2 * time.Second}}
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for ctx.Err() == nil {
				w.process(ctx)
			}
		})
	}
	all.Wait()
	// The dust settles: what is garbage goes, what is published stays.
	time.Sleep(2 * time.Hour)
	s := w.open(w.shared)
	defer s.Close()
	for range 3 {
		if _, err := s.Collect(context.Background(), chunkstore.CollectOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
	}
	for id, want := range w.published {
		w.check(context.Background(), s, id, want)
	}
	u, err := s.Usage(context.Background())
	if err != nil || u.Garbage != 0 {
		t.Errorf("what is left: %+v, %v", u, err)
	}
	if w.deleted == 0 || w.collected == 0 {
		t.Errorf("nothing was tried: %d deleted, %d chunks collected", w.deleted, w.collected)
	}
}

func (w *world) open(b bucket.Bucket) *chunkstore.Store {
	s, err := chunkstore.New("model", "mem://", b, chunkstore.Options{Timing: w.timing, Workers: 2})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// process lives for some actions, several at a time, and ends at any moment.
func (w *world) process(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := &buckettest.Faulty{Bucket: w.shared}
	b.Set(buckettest.Faults{Delay: func(string, string) time.Duration {
		// Now and then a call takes very long.
		if w.random(50) == 0 {
			return time.Duration(w.random(int(8 * time.Second)))
		}
		return time.Duration(w.random(int(300 * time.Millisecond)))
	}})
	s := w.open(b)
	life := time.Duration(1+w.random(240)) * time.Second
	end := time.AfterFunc(life, func() {
		b.Cut()
		cancel()
	})
	defer end.Stop()
	var acts sync.WaitGroup
	for range 3 {
		acts.Go(func() {
			for ctx.Err() == nil {
				w.act(ctx, s)
				time.Sleep(time.Duration(w.random(int(5 * time.Second))))
			}
		})
	}
	acts.Wait()
	s.Close()
}

func (w *world) act(ctx context.Context, s *chunkstore.Store) {
	switch w.random(10) {
	case 0, 1, 2, 3:
		src := w.source()
		c, err := s.Ingest(ctx, src, nil)
		if err != nil {
			w.expected(ctx, "ingest", err)
			return
		}
		w.mu.Lock()
		w.published[c.ID] = src
		w.mu.Unlock()
	case 4, 5:
		// Like the server's books, the row goes first.
		w.mu.Lock()
		var id image.ContentID
		for id = range w.published {
			delete(w.published, id)
			w.deleted++
			break
		}
		w.mu.Unlock()
		if id != "" {
			w.expected(ctx, "delete", s.Delete(ctx, id))
		}
	case 6, 7:
		w.mu.Lock()
		var id image.ContentID
		var want imagetest.Bytes
		for id, want = range w.published {
			break
		}
		w.mu.Unlock()
		if id != "" {
			w.check(ctx, s, id, want)
		}
	default:
		done, err := s.Collect(ctx, chunkstore.CollectOptions{})
		w.expected(ctx, "collect", err)
		w.mu.Lock()
		w.collected += done.Chunks
		w.mu.Unlock()
	}
}

// source is made of few different chunks, so that contents share and revive them.
func (w *world) source() imagetest.Bytes {
	b := make(imagetest.Bytes, (1+w.random(4))*image.ChunkSize)
	for n := 0; n*image.ChunkSize < len(b); n++ {
		b[n*image.ChunkSize] = byte(1 + w.random(60))
	}
	return b
}

// check reads a content that was published when it was chosen. It may have been
// deleted since, but once it is open it has to be whole.
func (w *world) check(ctx context.Context, s *chunkstore.Store, id image.ContentID, want imagetest.Bytes) {
	r, err := s.Open(ctx, id)
	if err != nil {
		w.mu.Lock()
		_, still := w.published[id]
		w.mu.Unlock()
		if still && millpond.KindOf(err) == millpond.NotFound && ctx.Err() == nil {
			// A deletion by another may have come between; twice is no accident.
			if _, again := s.Manifest(ctx, id); millpond.KindOf(again) == millpond.NotFound && w.stillPublished(id) && ctx.Err() == nil {
				w.t.Logf("content %s is not there yet or not any more", id)
			}
		}
		return
	}
	defer r.Close()
	got := make([]byte, len(want))
	if _, err := r.ReadAt(got, 0); err != nil {
		if ctx.Err() == nil && !errors.Is(err, buckettest.ErrCut) && !errors.Is(err, context.Canceled) {
			w.t.Errorf("the open content %s cannot be read: %v", id, err)
		}
		return
	}
	if !bytes.Equal(got, want) {
		w.t.Errorf("the content %s has other bytes", id)
	}
}

func (w *world) stillPublished(id image.ContentID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.published[id]
	return ok
}

// expected are the errors of a process that ends, and of a lease that ran out
// because a call took too long.
func (w *world) expected(ctx context.Context, what string, err error) {
	if err == nil || ctx.Err() != nil || errors.Is(err, buckettest.ErrCut) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return
	}
	if chunkstore.LeaseLost(err) {
		return
	}
	w.t.Errorf("%s: %v", what, err)
}
