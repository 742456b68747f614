// Package image keeps disk contents: writable disk files, and immutable contents
// that snapshots, managed images and gallery versions refer to. A content lives
// in one or more stores; a replica of a version is its contents in one store of
// a region.
//
// It knows bytes and sizes, no resources, no SQL and no QEMU. Verbs in compute
// and gallery call it. Today a content is a whole sparse file; the interface is
// the seam behind which it becomes chunks (docs/adr/0003).
package image

import (
	"context"
	"io"
)

// ContentID names an immutable disk content by the SHA-256 of its bytes,
// lower-case hex, holes read as zeros.
type ContentID string

// Content is an immutable disk content in a store.
type Content struct {
	ID ContentID `json:"id"`
	// Size is the virtual size in bytes, a multiple of 512.
	Size int64 `json:"size"`
	// Stored is how many bytes are not holes.
	Stored int64 `json:"stored"`
}

// Source is what can be ingested: random access and a size.
type Source interface {
	io.ReaderAt
	Size() int64
}

// Progress is called with bytes done of bytes in all, from one goroutine, often.
type Progress func(done, total int64)

// Store keeps immutable contents. Every implementation passes imagetest. All
// methods are safe for concurrent use.
type Store interface {
	// Name is the store's configured name, unique on a server.
	Name() string
	// Ingest copies src into the store, skipping holes and zeros, and returns
	// its content. A content that is there already is not written again. After a
	// crash in the middle nothing of it is visible.
	Ingest(ctx context.Context, src Source, p Progress) (Content, error)
	// Stat tells about a content; NotFound kind if it is not there in full.
	Stat(ctx context.Context, id ContentID) (Content, error)
	// Open reads a content. The caller closes it.
	Open(ctx context.Context, id ContentID) (ReadCloser, error)
	// Backing is QEMU's name for the content as a read-only raw base.
	Backing(ctx context.Context, id ContentID) (string, error)
	// Delete removes a content; one that is not there is no error. The caller
	// knows that nothing refers to it.
	Delete(ctx context.Context, id ContentID) error
	// List walks all contents.
	List(ctx context.Context) ([]Content, error)
}

// ReadCloser is an open content.
type ReadCloser interface {
	Source
	io.Closer
}

// Copy replicates one content from one store to another. It resumes: nothing is
// moved if the content is in dst already.
func Copy(ctx context.Context, dst, src Store, id ContentID, p Progress) (Content, error) {
	if c, err := dst.Stat(ctx, id); err == nil {
		if p != nil {
			p(c.Size, c.Size)
		}
		return c, nil
	}
	r, err := src.Open(ctx, id)
	if err != nil {
		return Content{}, err
	}
	defer r.Close()
	return dst.Ingest(ctx, r, p)
}
