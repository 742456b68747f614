package inspect

import (
	"errors"
	"io"
)

// placed is a file whose bytes have places: where on the partition the byte at off
// lies, or -1 for a hole, and how many bytes follow it there for certain.
type placed interface {
	size() int64
	place(off int64) (at, run int64, err error)
}

var errShort = errors.New("a file ends before its size")

func (i *extInode) place(off int64) (int64, int64, error) {
	within := off % i.e.block
	if i.flags()&extInline != 0 { // what would be block numbers is the text itself
		return -1, i.e.block - within, nil
	}
	b, err := i.blockOf(off / i.e.block)
	if err != nil || b == 0 {
		return -1, i.e.block - within, err
	}
	at, err := i.e.placeOf(b)
	return at + within, i.e.block - within, err
}

func (i *xfsInode) place(off int64) (int64, int64, error) {
	within, n := off%i.x.block, uint64(off/i.x.block)
	if i.known == nil {
		ext, err := i.extents()
		if err != nil {
			return 0, 0, err
		}
		i.known = ext
	}
	for _, e := range i.known {
		if n < e.offset || n >= e.offset+e.count || e.unwritten {
			continue
		}
		at, err := i.x.blockAt(e.start + n - e.offset)
		return at + within, i.x.block - within, err
	}
	return -1, i.x.block - within, nil
}

func (n *fatNode) size() int64 { return n.length }

// place follows the chain of clusters, once.
func (n *fatNode) place(off int64) (int64, int64, error) {
	i, within := off/n.f.cluster, off%n.f.cluster
	for int64(len(n.clusters)) <= i {
		c, ok := n.first, n.first >= 2 && n.first < n.f.count+2
		if last := len(n.clusters) - 1; last >= 0 {
			var err error
			if c, ok, err = n.f.next(n.clusters[last]); err != nil {
				return 0, 0, err
			}
		}
		if !ok {
			return 0, 0, errShort
		}
		n.clusters = append(n.clusters, c)
	}
	return n.f.data + int64(n.clusters[i]-2)*n.f.cluster + within, n.f.cluster - within, nil
}

// placedFile reads a file by its places.
type placedFile struct {
	w window
	f placed
}

// ReadAt implements io.ReaderAt.
func (p placedFile) ReadAt(b []byte, off int64) (int, error) {
	for done := 0; ; {
		if done == len(b) {
			return done, nil
		}
		at := off + int64(done)
		if at < 0 || at >= p.f.size() {
			return done, io.EOF
		}
		from, run, err := p.f.place(at)
		if err != nil {
			return done, err
		}
		part := b[done:min(int64(len(b)), int64(done)+run, int64(done)+p.f.size()-at)]
		if from < 0 {
			clear(part)
		} else {
			got, err := p.w.at(from, len(part))
			if err != nil {
				return done, err
			}
			copy(part, got)
		}
		done += len(part)
	}
}
