package image

import (
	"errors"
	"fmt"
	"io"
)

// Mapped is a Source whose bytes lie in pieces somewhere in a file: the common
// part of the readers of disk formats.
type Mapped struct {
	File io.ReaderAt
	// Length is the disk's size in bytes.
	Length int64
	// Find tells where the byte at off lies in File, or a negative offset for
	// zeros, and up to where (not beyond) that goes on; until is larger than off.
	Find func(off int64) (at, until int64, err error)
}

// Hole is what Find answers for zeros.
const Hole = int64(-1)

func (m *Mapped) Size() int64 { return m.Length }

// ReadAt implements io.ReaderAt. A file that is shorter than its own map says is
// an error and never zeros.
func (m *Mapped) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := 0
	for n < len(p) && off < m.Length {
		at, until, err := m.Find(off)
		if err != nil {
			return n, err
		}
		part := p[n:min(int64(len(p)), int64(n)+min(until, m.Length)-off)]
		if at < 0 {
			clear(part)
		} else if got, err := m.File.ReadAt(part, at); got < len(part) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n + got, err
		}
		n, off = n+len(part), off+int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// NextData implements Sparse.
func (m *Mapped) NextData(off int64) (start, end int64, err error) {
	for start = off; start < m.Length; {
		at, until, err := m.Find(start)
		if err != nil {
			return 0, 0, err
		}
		if at < 0 {
			start = until
			continue
		}
		for end = until; end < m.Length; end = until {
			if at, until, err = m.Find(end); err != nil {
				return 0, 0, err
			}
			if at < 0 {
				break
			}
		}
		return start, min(end, m.Length), nil
	}
	return m.Length, m.Length, nil
}
