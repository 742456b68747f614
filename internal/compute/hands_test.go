package compute

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/sqlite"
)

// leaving is an image host whose machine ends at the moment of a call.
type leaving struct{ open *layer.Disk }

func (l *leaving) gone() error {
	return errors.Join(millpond.Errorf(millpond.NotFound, "ExportNotFound", "The machine has ended."), l.open.Close())
}

func (l *leaving) Freeze(context.Context, string) (layer.Point, error) {
	return layer.Point{}, l.gone()
}
func (l *leaving) Release(context.Context, string) error { return l.open.Close() }
func (l *leaving) Rebase(context.Context, string, layer.Point, layer.Ref) error {
	return l.gone()
}

// elsewhere opens a disk as another process does.
func elsewhere(t *testing.T, s *Service, d *millpond.Disk) *layer.Disk {
	t.Helper()
	home, err := s.Keeper.Home("westus2")
	if err != nil {
		t.Fatal(err)
	}
	other, err := layer.OpenDisks(filepath.Join(filepath.Dir(strings.TrimPrefix(home.URL(), "file://")), "disks"), Bases(s.Keeper))
	if err != nil {
		t.Fatal(err)
	}
	k, err := other.Open(d.File)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func TestDisksThatChangeHands(t *testing.T) {
	s, ctx := testService(t), context.Background()
	d := made(t, s, "disks", "d", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	live := &leaving{open: elsewhere(t, s, d)}
	s.Live = live
	// The machine ends between the two looks of a capture.
	made(t, s, "snapshots", "one", millpond.Disk{Creation: copyOf("disks", "d")}, 0)
	// It has ended, and its image host has the disk still: it can be read.
	live.open = elsewhere(t, s, d)
	b, err := s.openDisk(ctx, d, false)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

// An order to lie on a content that was given and not answered may be carried
// out later: the content is kept.
func TestARebaseWithoutAnAnswer(t *testing.T) {
	s, ctx := testService(t), context.Background()
	d := made(t, s, "disks", "d", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	k := elsewhere(t, s, d)
	if _, err := k.WriteAt([]byte("data"), 0); err != nil {
		t.Fatal(err)
	}
	live := &silent{open: k}
	s.Live = live
	made(t, s, "snapshots", "one", millpond.Disk{Creation: copyOf("disks", "d")}, 0)
	if err := live.late(); err != nil {
		t.Fatal(err)
	}
	var uses []sqlite.ContentUse
	if err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) { uses, err = tx.ContentsOf(d.ID.Key()); return err }); err != nil {
		t.Fatal(err)
	}
	if base := k.Base(); base == nil || len(uses) != 1 || uses[0].Content != string(base.Content) {
		t.Errorf("the disk lies on %+v and uses %+v", base, uses)
	}
}

// silent is an image host that does what it is told after its caller has given up.
type silent struct {
	open *layer.Disk
	late func() error
}

func (l *silent) Freeze(context.Context, string) (layer.Point, error) {
	at, f, err := l.open.Freeze()
	if err == nil {
		err = f.Close()
	}
	return at, err
}

func (l *silent) Release(context.Context, string) error { return nil }

func (l *silent) Rebase(_ context.Context, _ string, p layer.Point, ref layer.Ref) error {
	l.late = func() error { return l.open.Rebase(p, ref) }
	return errors.New("the image host does not answer")
}
