package compute

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/image/rawfile"
	"millpond.dev/millpond/internal/sqlite"
)

// content is immutable bytes in a store, with the size of the disk they are.
type content struct {
	store string
	id    string
	size  int64
}

// ref names the content as the base of a disk.
func (c content) ref() layer.Ref {
	return layer.Ref{Store: c.store, Content: image.ContentID(c.id), Size: c.size}
}

// scratchPrefix begins the names of disk files that hold a fetched VHD until it
// is a content. No row names them, so the next start removes what a crash left.
const scratchPrefix = "scratch-"

// fillDisk gives a new disk or snapshot its bytes and ends its creation. It
// begins from nothing each time, so it may be run again after a crash. A disk
// with a source is laid over the source's content and copies nothing.
func (s *Service) fillDisk(ctx context.Context, d *millpond.Disk) error {
	if d.Snapshot {
		return s.fillSnapshot(ctx, d)
	}
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	size := d.SizeBytes
	// A crash may have left the file of an attempt before.
	if err := s.Disks.Delete(d.File); err != nil {
		return err
	}
	var base *content
	switch c := d.Creation; c.Option {
	case millpond.CreateEmpty, millpond.CreateUpload:
		if err := s.Disks.Create(d.File, size); err != nil {
			return err
		}
	case millpond.CreateImport:
		n, err := s.fetch(ctx, d.Creation.SourceURI, d.File, size)
		if err != nil {
			return err
		}
		d.SizeBytes = max(size, n)
	case millpond.CreateCopy, millpond.CreateFromImage:
		c, err := s.origin(ctx, hold, d)
		if err != nil {
			return err
		}
		if err := s.Disks.CreateOn(d.File, c.ref(), size); err != nil {
			return err
		}
		base = &c
	default:
		return fmt.Errorf("disk %s: create option %q", d.ID, c.Option)
	}
	return s.finishDisk(ctx, d, base)
}

func (s *Service) fillSnapshot(ctx context.Context, d *millpond.Disk) error {
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	var c content
	var err error
	switch d.Creation.Option {
	case millpond.CreateImport:
		c, err = s.ingestURL(ctx, hold, d.Creation.SourceURI, scratchPrefix+d.UniqueID, d.Location)
	case millpond.CreateEmpty:
		c, err = s.ingestScratch(ctx, hold, scratchPrefix+d.UniqueID, d.Location, func(name string) error { return s.Disks.Create(name, d.SizeBytes) })
	default:
		p, _ := millpond.ParseResourceID(d.Creation.SourceID)
		c, err = s.capture(ctx, hold, p, d.Location, s.progress.of(d.ID))
	}
	if err == nil && d.SizeBytes > c.size {
		c, err = s.grown(ctx, hold, c, scratchPrefix+d.UniqueID, d.Location, d.SizeBytes)
	}
	if err != nil {
		return err
	}
	d.Content, d.Store, d.SizeBytes = c.id, c.store, c.size
	return s.finishDisk(ctx, d, &c)
}

// grown is a content with zeros behind it up to a size.
func (s *Service) grown(ctx context.Context, hold *custody.Hold, c content, scratch, region string, size int64) (content, error) {
	return s.ingestScratch(ctx, hold, scratch, region, func(name string) error { return s.Disks.CreateOn(name, c.ref(), size) })
}

// enlarge gives a snapshot that is complete a larger content. Who reads it as it was
// goes on with that.
func (s *Service) enlarge(ctx context.Context, id millpond.ResourceID, size int64) (*millpond.Disk, error) {
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	d, err := s.Disk(ctx, id)
	if err != nil {
		return nil, err
	}
	c, err := s.grown(ctx, hold, content{d.Store, d.Content, d.SizeBytes}, scratchPrefix+uuid.NewString(), d.Location, size)
	if err != nil {
		return nil, err
	}
	var now *millpond.Disk
	var dropped []sqlite.ContentUse
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if now, err = load[millpond.Disk](s, tx, id); err != nil {
			return err
		}
		if now.UniqueID != d.UniqueID || now.Content != d.Content || now.Store != d.Store || now.State != millpond.DiskUnattached && now.State != millpond.DiskReserved {
			return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "'%s' was changed by another request. Try again.", id.Name())
		}
		if err := tx.UseContent(id.Key(), c.store, c.id); err != nil {
			return err
		}
		if c.store != d.Store || c.id != d.Content {
			if err := tx.DropContent(id.Key(), d.Store, d.Content); err != nil {
				return err
			}
			dropped = append(dropped, sqlite.ContentUse{Store: d.Store, Content: d.Content})
		}
		now.Content, now.Store, now.SizeBytes = c.id, c.store, c.size
		return tx.Put(now)
	})
	if err != nil {
		return nil, err
	}
	s.leftover(s.Keeper.Release(ctx, dropped))
	return now, nil
}

// finishDisk writes the outcome over the row as it is now: tags may have
// changed since. c is a snapshot's content, or the one that a disk lies on.
func (s *Service) finishDisk(ctx context.Context, d *millpond.Disk, c *content) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := sqlite.Load[millpond.Disk](tx, d.ID.Key())
		if err != nil {
			return err
		}
		now.SizeBytes, now.Content, now.Store, now.Failure = d.SizeBytes, d.Content, d.Store, ""
		now.Base().State = millpond.StateSucceeded
		if c != nil {
			if err := tx.UseContent(d.ID.Key(), c.store, c.id); err != nil {
				return err
			}
		}
		if err := tx.Put(now); err != nil {
			return err
		}
		return tx.EndOperations(d.ID.Key(), nil)
	})
}

// origin is the content that a Copy or FromImage disk lies on.
func (s *Service) origin(ctx context.Context, hold *custody.Hold, d *millpond.Disk) (content, error) {
	if d.Creation.Option == millpond.CreateCopy {
		p, _ := millpond.ParseResourceID(d.Creation.SourceID)
		return s.capture(ctx, hold, p, d.Location, nil)
	}
	var c content
	var file string
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if isOther(d.Creation.ImageID) {
			c.store, c.id, file, err = s.otherSource(tx, d)
			return err
		}
		p, _ := millpond.ParseResourceID(d.Creation.ImageID)
		v, err := load[millpond.ImageVersion](s, tx, p)
		if err != nil {
			return err
		}
		vd, err := versionDisk(v, d.Creation.ImageLUN)
		if err != nil {
			return err
		}
		c.id = vd.Content
		c.store, err = regionContent(tx, v, d.Location, vd.Content)
		return err
	})
	if err != nil {
		return c, err
	}
	if file != "" {
		return s.ingestFile(ctx, hold, file, d.Location)
	}
	return s.keep(ctx, hold, c)
}

// keep holds a content that rows name, and learns its size.
func (s *Service) keep(ctx context.Context, hold *custody.Hold, c content) (content, error) {
	st, err := s.Keeper.Store(c.store)
	if err != nil {
		return c, err
	}
	kept, err := hold.Keep(ctx, st, image.ContentID(c.id))
	c.size = kept.Size
	return c, err
}

// ingestFile makes a built base image of this host a content. What a file has
// become is remembered while the server runs, so that only the first disk of it
// is read; a file that was built anew is another.
func (s *Service) ingestFile(ctx context.Context, hold *custody.Hold, file, region string) (content, error) {
	home, err := s.Keeper.Home(region)
	if err != nil {
		return content{}, err
	}
	fi, err := os.Stat(file)
	if err != nil {
		return content{}, err
	}
	key := fmt.Sprint(home.Name(), " ", file, " ", fi.Size(), " ", fi.ModTime().UnixNano())
	s.mu.Lock()
	id := s.ingested[key]
	s.mu.Unlock()
	if id != "" {
		if c, err := hold.Keep(ctx, home, id); err == nil {
			return content{home.Name(), string(c.ID), c.Size}, nil
		}
	}
	f, err := rawfile.Open(file)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	c, err := hold.Ingest(ctx, home, f, nil)
	if err != nil {
		return content{}, err
	}
	s.mu.Lock()
	s.ingested[key] = c.ID
	s.mu.Unlock()
	return content{home.Name(), string(c.ID), c.Size}, nil
}

// Freeze is capture for the gallery, which publishes from disks and snapshots.
// The caller ends the hold when a row uses the content.
func (s *Service) Freeze(ctx context.Context, hold *custody.Hold, id millpond.ResourceID, region string) (store, contentID string, size int64, err error) {
	c, err := s.capture(ctx, hold, id, region, nil)
	return c.store, c.id, c.size, err
}

// FreezeURL is Freeze for a VHD at a URL. scratch is unique to the work.
func (s *Service) FreezeURL(ctx context.Context, hold *custody.Hold, url, scratch, region string) (store, contentID string, size int64, err error) {
	c, err := s.ingestURL(ctx, hold, url, scratchPrefix+scratch, region)
	return c.store, c.id, c.size, err
}

// ingestURL fetches a VHD into a scratch disk and makes it a content.
func (s *Service) ingestURL(ctx context.Context, hold *custody.Hold, url, scratch, region string) (content, error) {
	return s.ingestScratch(ctx, hold, scratch, region, func(name string) error {
		_, err := s.fetch(ctx, url, name, 0)
		return err
	})
}

// ingestScratch makes a content of the disk file scratch, which fill creates and
// which is gone afterwards.
func (s *Service) ingestScratch(ctx context.Context, hold *custody.Hold, scratch, region string, fill func(name string) error) (content, error) {
	home, err := s.Keeper.Home(region)
	if err != nil {
		return content{}, err
	}
	// A crash may have left the file of an attempt before.
	if err := s.Disks.Delete(scratch); err != nil {
		return content{}, err
	}
	defer func() { _ = s.Disks.Delete(scratch) }()
	if err := fill(scratch); err != nil {
		return content{}, err
	}
	f, err := s.Disks.Open(scratch)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	c, err := hold.Ingest(ctx, home, f, nil)
	return content{home.Name(), string(c.ID), c.Size}, err
}

// copyData copies n bytes from r to f at 0, leaving zeros as holes.
func copyData(ctx context.Context, f io.WriterAt, r io.Reader, n int64) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), n-off)]
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if !zero(b) {
			if _, err := f.WriteAt(b, off); err != nil {
				return err
			}
		}
		off += int64(len(b))
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
