package compute

import (
	"context"
	"errors"
	"sync"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/sqlite"
)

// Live freezes disks that another process has open: those of running VMs, which
// the image host serves. Names are those of layer.Disks.
type Live interface {
	// Freeze makes everything up to now readable by Disks.OpenFrozen.
	Freeze(ctx context.Context, disk string) (layer.Point, error)
	// Rebase is layer.Disk.Rebase in that process.
	Rebase(ctx context.Context, disk string, p layer.Point, ref layer.Ref) error
	// Release closes a disk that no machine has open; kind Conflict otherwise.
	Release(ctx context.Context, disk string) error
}

// Guests reaches the guests of machines.
type Guests interface {
	// Still makes the guest of a machine, by its id, trim its file systems and
	// hold every write until thaw, whose error says that it did not hold so long.
	Still(ctx context.Context, vm millpond.ResourceID) (thaw func() error, err error)
}

// still holds the guest still that may write to a disk. Without its help the
// disk is captured as after a power cut, which is also what Azure does with a
// guest whose agent does not answer.
func (s *Service) still(ctx context.Context, d *millpond.Disk) (thaw func()) {
	vm, ok := millpond.ParseResourceID(d.ManagedBy)
	if !ok || s.Guests == nil {
		return func() {}
	}
	end, err := s.Guests.Still(ctx, vm)
	if err != nil {
		s.Log.Warn("a disk is captured as after a power cut: its guest was neither trimmed nor held still", "disk", d.ID.String(), "vm", d.ManagedBy, "err", err)
		return func() {}
	}
	return func() {
		if err := end(); err != nil {
			s.Log.Warn("a disk was captured while its guest wrote again", "disk", d.ID.String(), "vm", d.ManagedBy, "err", err)
		}
	}
}

// capture makes the bytes of a disk or snapshot, as they are now, an immutable
// content in the home store of a region. The caller ends the hold when a row
// uses it. Of a disk only what was written since its last capture is read, and
// afterwards the disk lies on the new content.
func (s *Service) capture(ctx context.Context, hold *custody.Hold, id millpond.ResourceID, region string, p image.Progress) (content, error) {
	src, err := s.Disk(ctx, id)
	if err != nil {
		return content{}, err
	}
	home, err := s.Keeper.Home(region)
	if err != nil {
		return content{}, err
	}
	if src.Snapshot {
		from, err := s.Keeper.Store(src.Store)
		if err != nil {
			return content{}, err
		}
		c, err := hold.Fetch(ctx, home, image.ContentID(src.Content), moved(p), from)
		return content{home.Name(), string(c.ID), c.Size}, err
	}
	z, err := s.freeze(ctx, src)
	if err != nil {
		return content{}, err
	}
	defer z.frozen.Close()
	var c image.Content
	base, same := z.frozen.Base()
	if base != nil {
		// Another capture may put the disk on a content of its own meanwhile, and
		// let go of this base.
		from, err := s.Keeper.Store(base.Store)
		if err != nil {
			return content{}, err
		}
		if c, err = hold.Keep(ctx, from, base.Content); err != nil {
			return content{}, err
		}
		if same && base.Store != home.Name() {
			c, err = hold.Fetch(ctx, home, base.Content, moved(p), from)
			if err != nil {
				return content{}, err
			}
		}
	}
	if !same {
		if c, err = hold.Ingest(ctx, home, z.frozen, p); err != nil {
			return content{}, err
		}
	}
	out := content{home.Name(), string(c.ID), c.Size}
	if src.Location != region {
		return out, nil // the disk stays on the store of its own region
	}
	if err := s.adopt(ctx, src, z, out); err != nil {
		// The content is right all the same; the next capture costs more.
		s.Log.Warn("a captured disk keeps its frozen layer", "disk", src.ID.String(), "err", err)
	}
	return out, nil
}

// moment is a disk at a point.
type moment struct {
	file   string
	at     layer.Point
	frozen *layer.Frozen
}

// freeze freezes a disk here, or where it is open. The disk itself is not kept
// open: a machine that starts meanwhile can have it.
func (s *Service) freeze(ctx context.Context, d *millpond.Disk) (*moment, error) {
	file := d.File
	// Before the lock: a trim can take a minute.
	defer s.still(ctx, d)()
	// A capture that ends would drop the layer between its freeze and its opening.
	s.adopting.Lock()
	defer s.adopting.Unlock()
	z := &moment{file: file}
	err := s.where(file, func(k *layer.Disk) (err error) {
		z.at, z.frozen, err = k.Freeze()
		return err
	}, func() (err error) {
		if z.at, err = s.Live.Freeze(ctx, file); err == nil {
			z.frozen, err = s.Disks.OpenFrozen(file, z.at)
		}
		return err
	})
	if err != nil {
		if z.frozen != nil {
			err = errors.Join(err, z.frozen.Close())
		}
		return nil, err
	}
	return z, nil
}

// whereTries is how often a disk is looked for that changes hands: a machine that
// ends gives its disk free between the two looks.
const whereTries = 3

// where does something with a disk here, or with the process that has it open.
func (s *Service) where(file string, here func(*layer.Disk) error, there func() error) error {
	var err error
	for range whereTries {
		k, oerr := s.Disks.Open(file)
		if oerr == nil {
			return errors.Join(here(k), k.Close())
		}
		if err = oerr; s.Live == nil || millpond.KindOf(oerr) != millpond.Conflict {
			return oerr
		}
		if err = there(); err == nil || millpond.KindOf(err) != millpond.NotFound {
			return err
		}
	}
	return err
}

// rebase puts a disk on a content, here or where it is open.
func (s *Service) rebase(ctx context.Context, z *moment, ref layer.Ref) error {
	return s.where(z.file, func(k *layer.Disk) error { return k.Rebase(z.at, ref) },
		func() error { return s.Live.Rebase(ctx, z.file, z.at, ref) })
}

// openFile opens a disk that no machine runs with. An image host may still have
// it of a machine that has ended.
func (s *Service) openFile(ctx context.Context, file string) (*layer.Disk, error) {
	k, err := s.Disks.Open(file)
	if err == nil || millpond.KindOf(err) != millpond.Conflict || s.Live == nil {
		return k, err
	}
	if err := s.Live.Release(ctx, file); err != nil {
		return nil, err
	}
	return s.Disks.Open(file)
}

// removeFile deletes a disk's bytes. An image host may still have a disk that no
// machine has any more.
func (s *Service) removeFile(ctx context.Context, file string) error {
	err := s.Disks.Delete(file)
	if millpond.KindOf(err) != millpond.Conflict || s.Live == nil {
		return err
	}
	if err := s.Live.Release(ctx, file); err != nil {
		return err
	}
	return s.Disks.Delete(file)
}

// adopt puts a disk on the content that was captured of it. The content's use is
// committed before the disk names it, and that of the old base is taken back
// after: whatever a crash leaves, what the disk names is kept, and tidy takes
// back what is too much. One at a time: between commit and rebase the disk's
// uses are more than its base, which another one would take for too much.
func (s *Service) adopt(ctx context.Context, d *millpond.Disk, z *moment, c content) error {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	gone := false
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := sqlite.Load[millpond.Disk](tx, d.ID.Key())
		if errors.Is(err, sqlite.ErrNoRow) || err == nil && now.UniqueID != d.UniqueID {
			gone = true
			return nil
		}
		if err != nil {
			return err
		}
		return tx.UseContent(d.ID.Key(), c.store, c.id)
	})
	if err != nil || gone {
		return err
	}
	// After an error the disk may lie on either, now or as soon as a slow process
	// comes to it: both are kept until another capture, or the next start.
	if err := s.rebase(ctx, z, c.ref()); err != nil {
		return err
	}
	return s.settleUses(ctx, d)
}

// settleUses leaves a disk the use of its base only.
func (s *Service) settleUses(ctx context.Context, d *millpond.Disk) error {
	info, err := s.Disks.Stat(d.File)
	if err != nil {
		return err
	}
	var dropped []sqlite.ContentUse
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		uses, err := tx.ContentsOf(d.ID.Key())
		if err != nil {
			return err
		}
		for _, u := range uses {
			if info.Base != nil && u.Store == info.Base.Store && u.Content == string(info.Base.Content) {
				continue
			}
			if err := tx.DropContent(d.ID.Key(), u.Store, u.Content); err != nil {
				return err
			}
			dropped = append(dropped, u)
		}
		return nil
	})
	if err == nil {
		s.leftover(s.Keeper.Release(ctx, dropped))
	}
	return err
}

// progress is how far the captures under way are, by the key of what is made.
type progress struct {
	mu   sync.Mutex
	done map[string]float64
}

// of notes the progress of one; forget ends it.
func (p *progress) of(id millpond.ResourceID) image.Progress {
	return func(done, total int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.done == nil {
			p.done = map[string]float64{}
		}
		p.done[id.Key()] = 100 * float64(done) / float64(max(total, 1))
	}
}

func (p *progress) forget(id millpond.ResourceID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.done, id.Key())
}

// Completion is how much of a snapshot is there, in percent.
func (s *Service) Completion(d *millpond.Disk) float64 {
	if d.Base().State == millpond.StateSucceeded {
		return 100
	}
	s.progress.mu.Lock()
	defer s.progress.mu.Unlock()
	return s.progress.done[d.ID.Key()]
}

// Bases reads the contents that disks lie on from the stores of a Keeper.
func Bases(k *custody.Keeper) layer.Bases {
	return func(ref layer.Ref) (layer.Contents, error) { return k.Store(ref.Store) }
}

// moved tells a copy's progress as that of an ingest; p may be nil.
func moved(p image.Progress) func(image.Moved) {
	if p == nil {
		return nil
	}
	return func(m image.Moved) { p(m.Done, m.Total) }
}
