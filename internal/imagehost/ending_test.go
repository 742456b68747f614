package imagehost

import (
	"context"
	"log/slog"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
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
