package chunkstore

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
	"millpond.dev/millpond/internal/image/bucket/buckettest"
)

// A record whose writing fails may be there all the same. Whoever begins after
// that must not rely on the one before.
func TestARecordThatIsWrittenWithoutAnAnswer(t *testing.T) {
	ctx := context.Background()
	f, err := bucket.OpenFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &buckettest.Faulty{Bucket: f}
	// A poll that never comes: the loop has no part in this.
	s, err := New("s", "test://s", b, Options{Timing: Timing{Lease: 3 * time.Second, Poll: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	x, id := s.session, image.ContentID(strings.Repeat("ab", 32))
	record := func() record {
		t.Helper()
		x.mu.Lock()
		name := x.id
		x.mu.Unlock()
		r, err := s.readSession(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// publishing writes the record; during runs while it is under way, and fails it.
	publishing := func(during func()) {
		t.Helper()
		var waits atomic.Int32
		b.Set(buckettest.Faults{Delay: func(op, key string) time.Duration {
			if op != "put" || waits.Add(1) != 2 {
				return 0
			}
			if during == nil {
				return time.Hour
			}
			during()
			return 0
		}})
		defer b.Set(buckettest.Faults{})
		if err := x.takeTurn(ctx); err != nil {
			t.Fatal(err)
		}
		err := x.publish(ctx, bucket.Lazy)
		<-x.turn
		if (err == nil) == (during == nil) {
			t.Fatalf("publish: %v", err)
		}
	}

	if err := x.read(ctx, id); err != nil {
		t.Fatal(err)
	}
	x.unread(id)
	publishing(nil)
	if r := record(); slices.Contains(r.Reads, id) {
		t.Fatalf("%+v: the record was not written", r)
	}
	if err := x.read(ctx, id); err != nil {
		t.Fatal(err)
	}
	if r := record(); !slices.Contains(r.Reads, id) {
		t.Errorf("%+v lacks a content that is read", r)
	}

	c, err := x.begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.end()
	publishing(nil)
	if c, err = x.begin(ctx); err != nil {
		t.Fatal(err)
	}
	if r := record(); !r.Writing {
		t.Errorf("%+v does not say that the session writes", r)
	}
	c.end()

	// A reader that comes while a record without its content is under way.
	x.unread(id)
	read := make(chan error, 1)
	publishing(func() {
		go func() { read <- x.read(ctx, id) }()
		select {
		case err := <-read:
			t.Errorf("the reader did not wait for a record of its own (%v)", err)
			read <- err
		case <-time.After(50 * time.Millisecond):
		}
	})
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if r := record(); !slices.Contains(r.Reads, id) {
		t.Errorf("%+v lacks a content that is read", r)
	}
}
