package image

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// CopySparse writes what is not zero in src to the same places of dst, which has
// its size already and reads as zeros. p may be nil.
func CopySparse(ctx context.Context, dst io.WriterAt, src Source, p Progress) error {
	size := src.Size()
	sparse, _ := src.(Sparse)
	buf, zeros := make([]byte, ChunkSize), make([]byte, ChunkSize)
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(int64(len(buf)), size-off)
		if sparse != nil {
			start, end, err := sparse.NextData(off)
			if err != nil {
				return err
			}
			if start >= size || end <= start {
				break
			}
			off, n = start, min(n, end-start)
		}
		b := buf[:n]
		if got, err := src.ReadAt(b, off); got < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if !bytes.Equal(b, zeros[:n]) {
			if _, err := dst.WriteAt(b, off); err != nil {
				return err
			}
		}
		off += n
		if p != nil {
			p(off, size)
		}
	}
	if p != nil {
		p(size, size)
	}
	return nil
}
