package vhd

import (
	"context"
	"io"
	"os"
	"time"

	"millpond.dev/millpond/internal/image"
)

// Export writes src as a fixed VHD into dst, an empty file: the same bytes with
// holes left out, then a footer. A size that is no multiple of 1 MiB is padded
// with zeros, because Azure takes no other.
func Export(ctx context.Context, dst *os.File, src image.Source, uniqueID string, created time.Time, p image.Progress) (Footer, error) {
	size := Align(src.Size())
	if err := dst.Truncate(0); err != nil {
		return Footer{}, err
	}
	if err := image.CopySparse(ctx, dst, src, p); err != nil {
		return Footer{}, err
	}
	b := NewFooter(size, uniqueID, created)
	if _, err := dst.WriteAt(b, size); err != nil {
		return Footer{}, err
	}
	if err := dst.Sync(); err != nil {
		return Footer{}, err
	}
	return ParseFooter(b)
}

// Payload is the disk inside a fixed VHD as a Source: src without its footer.
func Payload(src image.Source, f Footer) image.Source {
	if s, ok := src.(image.Sparse); ok {
		return sparsePayload{payload{src, f.CurrentSize}, s}
	}
	return payload{src, f.CurrentSize}
}

type payload struct {
	src  image.Source
	size int64
}

func (p payload) Size() int64 { return p.size }

func (p payload) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= p.size {
		return 0, io.EOF
	}
	if rest := p.size - off; int64(len(b)) > rest {
		n, err := p.src.ReadAt(b[:rest], off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return p.src.ReadAt(b, off)
}

type sparsePayload struct {
	payload
	holes image.Sparse
}

func (p sparsePayload) NextData(off int64) (start, end int64, err error) {
	start, end, err = p.holes.NextData(off)
	return min(start, p.size), min(end, p.size), err
}
