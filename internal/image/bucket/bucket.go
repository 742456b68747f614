// Package bucket is the seam between the chunk store and whatever keeps its
// objects: a local folder, an S3-compatible service, Azure Blob Storage. It
// knows keys and bytes; what they mean is the chunk store's, its only caller
// beside cmd/millpond, which opens it. It never interprets an object.
//
// Every implementation passes buckettest and is consistent: what Put, Delete and
// List say holds for every process from the moment that the call returns. S3,
// Azure Blob Storage and a local file system are; the collection of the chunk
// store relies on it (docs/adr/0012).
package bucket

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Bucket keeps objects by key. Keys are made of lower-case letters, digits, dots,
// hyphens and slashes. All methods are safe for concurrent use by many processes.
//
// There is no conditional put: a key names its bytes or belongs to one process,
// so that services which lack it, or honour it in their own way, are as good.
type Bucket interface {
	// Get reads an object whole: ErrNotFound if it is not there, ErrTooLarge if it
	// has more than limit bytes.
	Get(ctx context.Context, key string, limit int64) ([]byte, error)
	// Put writes an object, over one that is there, so that a reader sees all of
	// the new one or all of what was there.
	Put(ctx context.Context, key string, data []byte, how How) error
	// Stat tells about an object, ErrNotFound if it is not there.
	Stat(ctx context.Context, key string) (Info, error)
	// List walks the objects whose keys begin with prefix, in no order. An object
	// that comes or goes meanwhile may be missing or not.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, key string) error
	// Flush makes every Lazy Put that has returned, of any process, durable.
	Flush(ctx context.Context) error
}

// How says when a Put is durable.
type How bool

const (
	// Durable means that the object survives a loss of power once Put has returned.
	Durable How = false
	// Lazy means that it may be lost, or damaged, until the next Flush.
	Lazy How = true
)

// Info is what is known of an object without reading it.
type Info struct {
	Key string
	// Size is in bytes, as stored.
	Size int64
	// Modified is the time of the last Put by the bucket's own clock.
	Modified time.Time
}

var (
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("the object is not there")
	// ErrTooLarge says that an object is larger than its reader can make sense of.
	ErrTooLarge = errors.New("the object is larger than it can be")
)
