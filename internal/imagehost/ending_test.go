package imagehost

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/layer"
)

// The machine of a disk ends while the disk is frozen: until the freeze is done
// nobody else may open it, and afterwards nobody keeps it.
func TestDiskThatEndsWhileItIsUsed(t *testing.T) {
	ctx, folder := context.Background(), t.TempDir()
	disks, err := layer.OpenDisks(folder, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := disks.Create("d", 1<<20); err != nil {
		t.Fatal(err)
	}
	h := &host{cfg: Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, exports: map[string]*export{}, folders: map[string]*layer.Disks{}}
	e := &export{Export: Export{Name: "d", Kind: Disk, Folder: folder}}
	h.exports["d"] = e
	err = h.withDisk(ctx, "d", func(k *layer.Disk) error {
		h.unregister("d")
		if o, err := disks.Open("d"); millpond.KindOf(err) != millpond.Conflict {
			if err == nil {
				o.Close()
			}
			t.Errorf("another process has the disk in the middle of a freeze: %v", err)
		}
		_, f, err := k.Freeze()
		if err == nil {
			err = f.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// A call that came before the end must not open the disk after it.
	if err := h.openDisk(ctx, e); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("an export that has ended opens its disk: %v", err)
	}
	k, err := disks.Open("d")
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
}

// slowBase is a content whose end takes as long as the channel says.
type slowBase struct {
	layer.Contents
	closes, goOn chan struct{}
}

func (s slowBase) Open(context.Context, image.ContentID) (image.ReadCloser, error) { return s, nil }
func (s slowBase) ReadAt(p []byte, off int64) (int, error)                         { return len(p), nil }
func (s slowBase) Size() int64                                                     { return 1 << 20 }
func (s slowBase) Close() error {
	close(s.closes)
	<-s.goOn
	return nil
}

// A disk is made durable at its end, however long that takes: meanwhile the exports of
// other machines are served, and who asked for the end waits.
func TestOthersGoOnWhileADiskEnds(t *testing.T) {
	slow := slowBase{closes: make(chan struct{}), goOn: make(chan struct{})}
	folder := t.TempDir()
	disks, err := layer.OpenDisks(folder, func(layer.Ref) (layer.Contents, error) { return slow, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := disks.CreateOn("d", layer.Ref{Store: "s", Content: image.ContentID(strings.Repeat("a", 64)), Size: 1 << 20}, 1<<20); err != nil {
		t.Fatal(err)
	}
	h := &host{cfg: Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, exports: map[string]*export{}, folders: map[string]*layer.Disks{folder: disks}}
	h.exports["d"] = &export{Export: Export{Name: "d", Kind: Disk, Folder: folder}}
	err = h.withDisk(t.Context(), "d", func(k *layer.Disk) error {
		_, err := k.ReadAt(make([]byte, 1), 0) // opens the base
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan error, 1)
	go func() { released <- h.release("d") }()
	<-slow.closes
	names := make(chan []string, 1)
	go func() { names <- h.Names() }()
	select {
	case got := <-names:
		if len(got) != 0 {
			t.Errorf("the image host still serves %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("the image host answers nobody while a disk ends")
	}
	select {
	case err := <-released:
		t.Errorf("the disk is said to be free while it is open: %v", err)
	default:
	}
	close(slow.goOn)
	if err := <-released; err != nil {
		t.Error(err)
	}
	h.closeDisks()
}

// A folder that has had an image host gets it back before a machine asks.
func TestStartsBeforeItIsNeeded(t *testing.T) {
	dir := t.TempDir()
	first := newRunner(t, dir, "1")
	if _, err := first.Client().Health(t.Context()); err == nil {
		t.Fatal("a new folder has an image host")
	}
	if err := first.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := newRunner(t, dir, "1")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := second.Client().Health(t.Context()); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it was not started")
		}
	}
}
