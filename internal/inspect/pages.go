package inspect

import "io"

const (
	pageSize = 64 << 10
	maxPages = 256 // 16 MiB
)

// pages keeps what was read of a source, because file systems are read a few
// hundred bytes at a time and a source may have to unpack half a MiB for each.
// It is for one goroutine.
type pages struct {
	src  io.ReaderAt
	size int64
	have map[int64][]byte
	old  []int64 // in the order in which they came
}

// ReadAt reads whole pages of the source. What lies beyond size is an error.
func (c *pages) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n := (off + int64(done)) / pageSize
		page, err := c.page(n)
		if err != nil {
			return done, err
		}
		from := off + int64(done) - n*pageSize
		if from >= int64(len(page)) {
			return done, io.ErrUnexpectedEOF
		}
		done += copy(p[done:], page[from:])
	}
	return done, nil
}

func (c *pages) page(n int64) ([]byte, error) {
	if b, ok := c.have[n]; ok {
		return b, nil
	}
	b := make([]byte, min(pageSize, c.size-n*pageSize))
	if got, err := c.src.ReadAt(b, n*pageSize); got < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if len(c.old) == maxPages {
		delete(c.have, c.old[0])
		c.old = c.old[1:]
	}
	c.have[n] = b
	c.old = append(c.old, n)
	return b, nil
}
