package custody_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/sqlite"
)

// silent is a store whose deletions wait to be let on.
type silent struct {
	*chunkstore.Store
	begun, on chan struct{}
}

func (s *silent) Delete(ctx context.Context, id image.ContentID) error {
	s.begun <- struct{}{}
	<-s.on
	return s.Store.Delete(ctx, id)
}

// A store that does not answer keeps nobody from holding other contents; whoever
// wants the one that is being deleted waits, and learns that it has gone.
func TestASilentStore(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	db, err := sqlite.Open(ctx, filepath.Join(dir, "db"), clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f, err := chunkstore.Open(ctx, "one", filepath.Join(dir, "one"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st := &silent{f, make(chan struct{}), make(chan struct{})}
	k, err := custody.New(db, []custody.Region{{Name: "westus2", Stores: []image.Store{st}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var ids []image.ContentID
	for i := range 2 {
		c, err := f.Ingest(ctx, source(bytes.Repeat([]byte{byte(i + 1)}, 4096)), nil)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	released := make(chan error, 1)
	go func() { released <- k.Release(ctx, []sqlite.ContentUse{{Store: "one", Content: string(ids[0])}}) }()
	<-st.begun
	other, same := k.Hold(), k.Hold()
	kept := make(chan error, 1)
	go func() { _, err := other.Keep(ctx, st, ids[1]); kept <- err }()
	select {
	case err := <-kept:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("another content cannot be held")
	}
	go func() { _, err := same.Keep(ctx, st, ids[0]); kept <- err }()
	select {
	case err := <-kept:
		t.Fatalf("a content was held while it was deleted: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(st.on)
	if err := <-released; err != nil {
		t.Error(err)
	}
	if err := <-kept; millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("the content that was deleted: %v", err)
	}
}

// listless is a store that does not list what it has.
type listless struct {
	*chunkstore.Store
	mu     sync.Mutex
	silent bool
}

func (s *listless) say(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

func (s *listless) List(ctx context.Context) ([]image.Content, error) {
	s.mu.Lock()
	silent := s.silent
	s.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Store.List(ctx)
}

// What a crash left is deleted in the stores that answer, and in the others when they do.
func TestSweepLeavesASilentStoreForLater(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	db, err := sqlite.Open(ctx, filepath.Join(dir, "db"), clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	open := func(name string) *listless {
		f, err := chunkstore.Open(ctx, name, filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return &listless{Store: f}
	}
	one, two := open("one"), open("two")
	start := func() *custody.Keeper {
		k, err := custody.New(db, []custody.Region{{Name: "westus2", Stores: []image.Store{one, two}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sweep := func(k *custody.Keeper, limit time.Duration, answers func(string) bool) error {
		strange, err := k.Sweep(ctx, limit, answers)
		if len(strange) != 0 {
			t.Errorf("strange: %v", strange)
		}
		return err
	}
	left := func() (n int) {
		for _, s := range []*listless{one, two} {
			all, err := s.Store.List(ctx)
			if err != nil {
				t.Fatal(err)
			}
			n += len(all)
		}
		return n
	}
	// Both are known to be ours, and have what nothing uses.
	if err := sweep(start(), time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*listless{one, two} {
		if _, err := s.Ingest(ctx, source(bytes.Repeat([]byte{1}, 4096)), nil); err != nil {
			t.Fatal(err)
		}
	}
	k := start()
	two.say(true)
	if err := sweep(k, 50*time.Millisecond, nil); err == nil || !strings.Contains(err.Error(), "store two") || left() != 1 {
		t.Errorf("beside a silent store: %v, %d left", err, left())
	}
	if err := sweep(k, time.Minute, func(string) bool { return false }); err != nil || left() != 1 {
		t.Errorf("a store that is known to be away: %v, %d left", err, left())
	}
	two.say(false)
	if err := sweep(k, time.Minute, nil); err != nil || left() != 0 {
		t.Errorf("when it answers: %v, %d left", err, left())
	}
}
