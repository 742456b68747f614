package compute

import (
	"context"
	"fmt"
	"io"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/filestore"
	"millpond.dev/millpond/internal/sqlite"
)

// content is immutable bytes in a store, with the size of the disk they are.
type content struct {
	store string
	id    string
	size  int64
}

// scratchPrefix begins the names of disk files that hold a fetched VHD until it
// is a content. No row names them, so the next start removes what a crash left.
const scratchPrefix = "scratch-"

// fillDisk gives a new disk or snapshot its bytes and ends its creation. It
// begins from nothing each time, so it may be run again after a crash.
func (s *Service) fillDisk(ctx context.Context, d *millpond.Disk) error {
	if d.Snapshot {
		return s.fillSnapshot(ctx, d)
	}
	size := d.SizeBytes
	// A crash may have left the file of an attempt before.
	if err := s.Disks.Delete(d.File); err != nil {
		return err
	}
	switch c := d.Creation; c.Option {
	case millpond.CreateEmpty, millpond.CreateUpload:
		if err := s.Disks.Create(ctx, d.File, size); err != nil {
			return err
		}
	case millpond.CreateImport:
		n, err := s.fetch(ctx, d.Creation.SourceURI, d.File, size)
		if err != nil {
			return err
		}
		d.SizeBytes = max(size, n)
	case millpond.CreateCopy, millpond.CreateFromImage:
		src, err := s.source(ctx, d)
		if err != nil {
			return err
		}
		defer src.Close()
		if err := s.Disks.CreateFrom(ctx, d.File, src, size, nil); err != nil {
			return err
		}
	default:
		return fmt.Errorf("disk %s: create option %q", d.ID, c.Option)
	}
	return s.finishDisk(ctx, d, nil)
}

func (s *Service) fillSnapshot(ctx context.Context, d *millpond.Disk) error {
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	var c content
	var err error
	if d.Creation.Option == millpond.CreateImport {
		c, err = s.ingestURL(ctx, hold, d.Creation.SourceURI, scratchPrefix+d.UniqueID, d.Location)
	} else {
		p, _ := millpond.ParseResourceID(d.Creation.SourceID)
		c, err = s.freeze(ctx, hold, p, d.Location)
	}
	if err != nil {
		return err
	}
	d.Content, d.Store, d.SizeBytes = c.id, c.store, c.size
	return s.finishDisk(ctx, d, &c)
}

// finishDisk writes the outcome over the row as it is now: tags may have
// changed since.
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

// source opens what a Copy or FromImage disk begins with.
func (s *Service) source(ctx context.Context, d *millpond.Disk) (image.ReadCloser, error) {
	var store, id string
	var file string
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if d.Creation.Option == millpond.CreateFromImage && isOther(d.Creation.ImageID) {
			var err error
			store, id, file, err = s.otherSource(tx, d)
			return err
		}
		if d.Creation.Option == millpond.CreateFromImage {
			p, _ := millpond.ParseResourceID(d.Creation.ImageID)
			v, err := load[millpond.ImageVersion](s, tx, p)
			if err != nil {
				return err
			}
			vd, err := versionDisk(v, d.Creation.ImageLUN)
			if err != nil {
				return err
			}
			id = vd.Content
			store, err = regionContent(tx, v, d.Location, id)
			return err
		}
		p, _ := millpond.ParseResourceID(d.Creation.SourceID)
		src, err := load[millpond.Disk](s, tx, p)
		if err != nil {
			return err
		}
		store, id, file = src.Store, src.Content, src.File
		return nil
	})
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(file, "/") {
		return filestore.OpenFile(file)
	}
	if file != "" {
		return s.Disks.Open(file)
	}
	st, err := s.Keeper.Store(store)
	if err != nil {
		return nil, err
	}
	return st.Open(ctx, image.ContentID(id))
}

// freeze makes the bytes of a disk or snapshot an immutable content in the home
// store of a region. The caller ends the hold when a row uses it.
func (s *Service) freeze(ctx context.Context, hold *custody.Hold, id millpond.ResourceID, region string) (content, error) {
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
		c, err := hold.Fetch(ctx, home, image.ContentID(src.Content), nil, from)
		return content{home.Name(), string(c.ID), c.Size}, err
	}
	f, err := s.Disks.Open(src.File)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	c, err := hold.Ingest(ctx, home, f, nil)
	return content{home.Name(), string(c.ID), c.Size}, err
}

// Freeze is freeze for the gallery, which publishes from disks and snapshots.
// The caller ends the hold when a row uses the content.
func (s *Service) Freeze(ctx context.Context, hold *custody.Hold, id millpond.ResourceID, region string) (store, contentID string, size int64, err error) {
	c, err := s.freeze(ctx, hold, id, region)
	return c.store, c.id, c.size, err
}

// FreezeURL is Freeze for a VHD at a URL. scratch is unique to the work.
func (s *Service) FreezeURL(ctx context.Context, hold *custody.Hold, url, scratch, region string) (store, contentID string, size int64, err error) {
	c, err := s.ingestURL(ctx, hold, url, scratchPrefix+scratch, region)
	return c.store, c.id, c.size, err
}

// ingestURL fetches a VHD into a scratch disk and makes it a content.
func (s *Service) ingestURL(ctx context.Context, hold *custody.Hold, url, scratch, region string) (content, error) {
	home, err := s.Keeper.Home(region)
	if err != nil {
		return content{}, err
	}
	defer func() { _ = s.Disks.Delete(scratch) }()
	if _, err := s.fetch(ctx, url, scratch, 0); err != nil {
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
