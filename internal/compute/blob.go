package compute

import (
	"context"
	"io"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/vhd"
)

// Blob is a disk as a page blob: a fixed VHD. When it is read, the footer is
// made up behind the disk's bytes; when it is uploaded, the client writes it.
type Blob struct {
	r        image.ReadCloser
	w        *layer.Disk // nil when read-only
	tail     []byte      // the footer
	save     func(footer []byte) error
	ETag     string
	Modified time.Time
}

func (s *Service) openDisk(ctx context.Context, d *millpond.Disk, write bool) (*Blob, error) {
	b := &Blob{ETag: etag(d), Modified: d.Changed}
	if d.Content != "" {
		st, err := s.Keeper.Store(d.Store)
		if err != nil {
			return nil, err
		}
		if b.r, err = st.Open(ctx, image.ContentID(d.Content)); err != nil {
			return nil, err
		}
	} else {
		f, err := s.openFile(ctx, d.File)
		if err != nil {
			return nil, err
		}
		b.r = f
		if write {
			b.w = f
		}
	}
	if !write {
		b.tail = vhd.NewFooter(b.r.Size(), d.UniqueID, d.Created)
		return b, nil
	}
	// The footer of an upload is kept in the disk's row, so that the file has
	// the disk's size from the beginning.
	b.tail = make([]byte, footer)
	copy(b.tail, d.Footer)
	b.save = func(tail []byte) error {
		return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
			now, err := sqlite.Load[millpond.Disk](tx, d.ID.Key())
			if err != nil {
				return err
			}
			if now.UniqueID != d.UniqueID || now.State != millpond.DiskActiveUpload {
				return denied() // the upload ended while this request was under way
			}
			now.Footer = tail
			return tx.Put(now)
		})
	}
	return b, nil
}

// Writable says whether pages may be put.
func (b *Blob) Writable() bool { return b.w != nil }

// Size is the length of the blob in bytes, the footer included.
func (b *Blob) Size() int64 { return b.r.Size() + int64(len(b.tail)) }

// ReadAt reads disk bytes and then the footer.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	disk := b.r.Size()
	n := 0
	if off < disk {
		part := p[:min(int64(len(p)), disk-off)]
		m, err := b.r.ReadAt(part, off)
		n += m
		if m < len(part) {
			return n, err
		}
	}
	if n < len(p) && off+int64(n)-disk < int64(len(b.tail)) {
		n += copy(p[n:], b.tail[off+int64(n)-disk:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes pages of an upload.
func (b *Blob) WriteAt(p []byte, off int64) (int, error) {
	n := 0
	if disk := b.r.Size(); off < disk {
		m, err := b.w.WriteAt(p[:min(int64(len(p)), disk-off)], off)
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
	at := off + int64(n) - b.r.Size()
	if at+int64(len(p)-n) > int64(len(b.tail)) {
		return n, io.ErrShortWrite
	}
	n += copy(b.tail[at:], p[n:])
	return n, b.save(b.tail)
}

// Zero clears pages of an upload.
func (b *Blob) Zero(off, n int64) error {
	disk := b.r.Size()
	if off < disk {
		if err := b.w.Clear(off, min(n, disk-off)); err != nil {
			return err
		}
	}
	if off+n <= disk {
		return nil
	}
	clear(b.tail[max(0, off-disk) : off+n-disk])
	return b.save(b.tail)
}

// Extent is a range of bytes.
type Extent struct{ Off, Len int64 }

// Data lists the ranges within [off, off+n) that may hold more than zeros.
func (b *Blob) Data(off, n int64) ([]Extent, error) {
	disk := b.r.Size()
	var out []Extent
	end := min(off+n, disk)
	sparse, ok := b.r.(image.Sparse)
	for at := off; at < end; {
		s, e := at, end
		if ok {
			var err error
			if s, e, err = sparse.NextData(at); err != nil {
				return nil, err
			}
			if s >= end || e <= s {
				break
			}
		}
		// File systems know blocks, page blobs have pages of 512.
		s, e = s&^511, min(end, (e+511)&^511)
		out = append(out, Extent{s, e - s})
		at = e
	}
	if off+n > disk && !zero(b.tail) {
		start := max(off, disk)
		out = append(out, Extent{start, off + n - start})
	}
	return out, nil
}

// Close closes the disk.
func (b *Blob) Close() error { return b.r.Close() }
