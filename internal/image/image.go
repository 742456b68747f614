// Package image keeps disk contents: writable disk files, and immutable contents
// that snapshots, managed images and gallery versions refer to. A content lives
// in one or more stores; a replica of a version is its contents in one store of
// a region.
//
// It knows bytes and sizes, no resources, no SQL and no QEMU. Verbs in compute
// and gallery call it; package chunkstore implements it (docs/adr/0011).
package image

import (
	"context"
	"io"
)

// ContentID names an immutable disk content by its bytes: lower-case hex of the
// digest that Hasher computes. Holes read as zeros, so how a file is stored does
// not show in its name.
type ContentID string

// Valid says whether id has the form of a content's name.
func (id ContentID) Valid() bool {
	if len(id) != 64 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Content is an immutable disk content in a store.
type Content struct {
	ID ContentID `json:"id"`
	// Size is the virtual size in bytes, a multiple of 512.
	Size int64 `json:"size"`
	// Stored is how many bytes lie in chunks that are not all zeros.
	Stored int64 `json:"stored"`
}

// MaxSize is the largest disk that is taken, 32 TiB, Azure's own limit for a
// managed disk.
const MaxSize = 32 << 40

// Source is what can be ingested: random access and a size.
type Source interface {
	io.ReaderAt
	Size() int64
}

// Sparse is an optional ability of a Source: it knows its holes, so that nobody
// has to read gigabytes of zeros.
type Sparse interface {
	// NextData returns the first range of data at or after off; start equals
	// Size if there is none. The range may contain zeros.
	NextData(off int64) (start, end int64, err error)
}

// Progress is called with bytes done of bytes in all, from one goroutine, often.
type Progress func(done, total int64)

// Store keeps immutable contents. Every implementation passes imagetest. All
// methods are safe for concurrent use.
type Store interface {
	// Name is the store's configured name, unique on a server.
	Name() string
	// URL is where another process finds the same store.
	URL() string
	// Ingest copies src into the store, skipping holes and zeros, and returns
	// its content. A content that is there already is not written again. After a
	// crash in the middle nothing of it is visible.
	Ingest(ctx context.Context, src Source, p Progress) (Content, error)
	// Fetch replicates a content from other stores; those in front are asked first,
	// the others for what these cannot give, chunk by chunk. Chunks that are there
	// already are not moved, so it resumes what was broken off, and nothing is moved
	// if the content is there. What arrives is compared with its digest. After a
	// crash in the middle nothing of it is visible. p may be nil.
	Fetch(ctx context.Context, id ContentID, p func(Moved), from ...Store) (Content, error)
	// Stat tells about a content; NotFound kind if it is not there in full.
	Stat(ctx context.Context, id ContentID) (Content, error)
	// Open reads a content. The caller closes it.
	Open(ctx context.Context, id ContentID) (ReadCloser, error)
	// Manifest tells what a content is made of. It has been compared with id.
	Manifest(ctx context.Context, id ContentID) (*Manifest, error)
	// ReadChunk reads the length bytes of one chunk, compared with d on every
	// read: NotFound kind if it is not there, code ContentDamaged if it is not
	// what it should be. Chunks of zeros are not stored and not asked for.
	ReadChunk(ctx context.Context, d Digest, length int) ([]byte, error)
	// Delete removes a content; one that is not there is no error. The caller
	// knows that nothing refers to it. Its chunks may go later.
	Delete(ctx context.Context, id ContentID) error
	// List walks all contents.
	List(ctx context.Context) ([]Content, error)
}

// ReadCloser is an open content.
type ReadCloser interface {
	Source
	io.Closer
}

// Moved is how far a copy is, in bytes of data: what is not holes or zeros.
type Moved struct {
	// Total is the content's data. Done of it is in the destination, either because
	// it was there or because it has been moved.
	Total, Done int64
	// Moved is how much of Done had to come from a source, and Bytes how many bytes
	// that took, compressed.
	Moved, Bytes int64
}
