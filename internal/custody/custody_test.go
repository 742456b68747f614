package custody_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/sqlite"
)

type source []byte

func (s source) Size() int64 { return int64(len(s)) }
func (s source) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s).ReadAt(p, off)
}

// stubborn is a store that does not delete when told so.
type stubborn struct {
	*chunkstore.Store
	err error
}

func (s *stubborn) Delete(ctx context.Context, id image.ContentID) error {
	if s.err != nil {
		return s.err
	}
	return s.Store.Delete(ctx, id)
}

func TestHold(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	db, err := sqlite.Open(ctx, filepath.Join(dir, "db"), clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f, err := chunkstore.Open(context.Background(), "one", filepath.Join(dir, "one"))
	if err != nil {
		t.Fatal(err)
	}
	st := &stubborn{Store: f}
	nodes := map[string]bool{}
	// Each is a server's start: a store is swept once in its life.
	fresh := func() *custody.Keeper {
		k, err := custody.New(db, []custody.Region{{Name: "West US 2", Stores: []image.Store{st}}}, func(context.Context) (map[string]bool, error) { return nodes, nil })
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k := fresh()
	bits := source(bytes.Repeat([]byte{1}, 4096))
	a, b := k.Hold(), k.Hold()
	c, err := a.Ingest(ctx, st, bits, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Ingest(ctx, st, bits, nil); err != nil {
		t.Fatal(err)
	}
	use := []sqlite.ContentUse{{Store: "one", Content: string(c.ID)}}
	there := func(what string, want bool) {
		t.Helper()
		if _, err := st.Stat(ctx, c.ID); (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The work of a caller whose request has gone is tidied up all the same.
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := errors.Join(k.Release(ctx, use), a.End(gone)); err != nil {
		t.Error(err)
	}
	// The store is not known yet to be this server's.
	if strange, err := fresh().Sweep(ctx, time.Minute, nil); err != nil || len(strange) != 1 {
		t.Error(strange, err)
	}
	there("held by the second", true)
	nodes[string(c.ID)] = true
	if err := b.End(gone); err != nil {
		t.Error(err)
	}
	there("a node boots from it", true)
	delete(nodes, string(c.ID))
	st.err = errors.New("read-only file system")
	if err := k.Collect(ctx); err == nil {
		t.Error("a store's failure is not told")
	}
	there("the store does not delete", true)
	st.err = nil
	if err := k.Collect(ctx); err != nil {
		t.Error(err)
	}
	there("nothing needs it", false)
	left := func() {
		t.Helper()
		if _, err := st.Ingest(ctx, bits, nil); err != nil {
			t.Fatal(err)
		}
	}
	left()
	if strange, err := fresh().Sweep(ctx, time.Minute, nil); err != nil || len(strange) != 1 {
		t.Errorf("a store that may be another server's: %v, %v", strange, err)
	}
	there("it may be another server's", true)
	if err := st.Delete(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"the store is empty", "a crash left it behind"} {
		if strange, err := fresh().Sweep(ctx, time.Minute, nil); err != nil || len(strange) != 0 {
			t.Errorf("%s: %v, %v", what, strange, err)
		}
		there(what, false)
		left()
	}
	if _, err := k.Replica("westus2", 7); err != nil {
		t.Errorf("an ordinal beyond the stores: %v", err)
	}
	if _, err := k.Home("mars"); err == nil {
		t.Error("a region without a store was found")
	}
}
