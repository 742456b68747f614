package filestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/image"
)

// holeUnit is the granularity at which zeros become holes.
const holeUnit = 64 << 10

// done is one chunk that was looked at.
type done struct {
	n      int64
	bytes  int64
	zero   bool
	digest image.Digest
}

// Hash computes the name of src without writing anything.
func Hash(ctx context.Context, src image.Source, p image.Progress) (image.ContentID, error) {
	return transfer(ctx, nil, src, true, p)
}

// copyInto writes src over dst, which has no data yet, and hashes it on the way
// if asked. A file is cloned where the file system can (FICLONE).
func copyInto(ctx context.Context, dst *os.File, src image.Source, hash bool, p image.Progress) (image.ContentID, error) {
	if f, ok := src.(interface{ raw() *os.File }); ok && unix.IoctlFileClone(int(dst.Fd()), int(f.raw().Fd())) == nil {
		// The source may have grown since it was opened.
		if err := dst.Truncate(src.Size()); err != nil {
			return "", err
		}
		if !hash {
			return "", nil
		}
		// The clone is hashed, not the source, which may be written to meanwhile.
		return transfer(ctx, nil, &File{f: dst, size: src.Size()}, true, p)
	}
	if err := dst.Truncate(src.Size()); err != nil {
		return "", err
	}
	return transfer(ctx, dst, src, hash, p)
}

// transfer reads the data of src with one worker per processor; each reads a
// chunk, hashes it and writes it, so reading, hashing and writing overlap.
func transfer(ctx context.Context, dst *os.File, src image.Source, hash bool, p image.Progress) (image.ContentID, error) {
	size := src.Size()
	zeros := make([]byte, image.ChunkSize)
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan int64)
	results := make(chan done, 64)
	g.Go(func() error {
		defer close(jobs)
		return eachDataChunk(src, func(n int64) error {
			select {
			case jobs <- n:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Add(1)
		g.Go(func() error {
			defer workers.Done()
			buf := make([]byte, image.ChunkSize)
			for n := range jobs {
				r, err := chunk(dst, src, n, buf, zeros, hash)
				if err != nil {
					return err
				}
				select {
				case results <- r:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	}
	g.Go(func() error { workers.Wait(); close(results); return nil })

	h := image.NewHasher(size)
	reached := int64(0)
	for r := range results {
		if hash && !r.zero {
			h.Set(r.n, r.digest)
		}
		// Chunks come nearly in order, so the place is the progress, holes included.
		if at := r.n*image.ChunkSize + r.bytes; p != nil && at > reached {
			reached = at
			p(reached, size)
		}
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	if p != nil {
		p(size, size)
	}
	if !hash {
		return "", nil
	}
	return h.ID(), nil
}

// eachDataChunk calls do for each chunk that may hold data, in order.
func eachDataChunk(src image.Source, do func(n int64) error) error {
	size := src.Size()
	sparse, _ := src.(image.Sparse)
	next := int64(0) // first chunk not yet handed out
	for off := int64(0); off < size; {
		start, end := off, size
		if sparse != nil {
			var err error
			if start, end, err = sparse.NextData(off); err != nil {
				return err
			}
			if start >= size || end <= start {
				return nil
			}
		}
		for n := max(next, start/image.ChunkSize); n*image.ChunkSize < end; n++ {
			if err := do(n); err != nil {
				return err
			}
			next = n + 1
		}
		off = end
	}
	return nil
}

// chunk handles one chunk: read, compare with zeros, hash, write.
func chunk(dst *os.File, src image.Source, n int64, buf, zeros []byte, hash bool) (done, error) {
	off := n * image.ChunkSize
	b := buf[:min(image.ChunkSize, src.Size()-off)]
	if got, err := src.ReadAt(b, off); got < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return done{}, err
	}
	r := done{n: n, bytes: int64(len(b)), zero: bytes.Equal(b, zeros[:len(b)])}
	if r.zero {
		return r, nil
	}
	if hash {
		r.digest = sha256.Sum256(b)
	}
	if dst == nil {
		return r, nil
	}
	return r, writeSparse(dst, b, off, zeros)
}

// writeSparse writes the runs of b that are not zeros.
func writeSparse(dst *os.File, b []byte, off int64, zeros []byte) error {
	for at := 0; at < len(b); {
		end := at
		for end < len(b) {
			u := b[end:min(end+holeUnit, len(b))]
			if bytes.Equal(u, zeros[:len(u)]) {
				break
			}
			end += len(u)
		}
		if end > at {
			if _, err := dst.WriteAt(b[at:end], off+int64(at)); err != nil {
				return err
			}
		}
		at = end
		for at < len(b) {
			u := b[at:min(at+holeUnit, len(b))]
			if !bytes.Equal(u, zeros[:len(u)]) {
				break
			}
			at += len(u)
		}
	}
	return nil
}
