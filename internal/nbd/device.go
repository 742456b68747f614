// Package nbd serves disks to QEMU, and to any other client, by the network block
// device protocol: fixed newstyle negotiation (GO, INFO, EXPORT_NAME, LIST, ABORT),
// and READ, WRITE, TRIM, WRITE_ZEROES, FLUSH and DISC with simple replies.
//
// It knows bytes and ranges. What an export is, where its bytes come from and who
// may have it is the business of Exports, which internal/imagehost implements. It
// has no TLS and no authentication: it is served on unix sockets that the owner of
// the data folder alone can reach, and never on a network.
package nbd

import (
	"context"
	"errors"
	"io"
)

// Device is one disk. All methods are called concurrently, with ranges that lie
// within Size; an error is told to the client by Errno, and the connection goes on.
type Device interface {
	// ReadAt fills p whole or fails.
	io.ReaderAt
	// WriteAt takes p whole or fails. It is not called on a read-only device,
	// nor are Trim and Clear.
	io.WriterAt
	// Size in bytes. It does not change while the device is open.
	Size() int64
	ReadOnly() bool
	// Trim says that n bytes at off are not needed any more. What they read as
	// afterwards is not defined by the protocol; zeros are the best answer.
	Trim(off, n int64) error
	// Clear makes n bytes at off read as zeros. Without punch the space has to
	// stay reserved, so that later writes to it cannot find the disk full.
	Clear(off, n int64, punch bool) error
	// Flush returns when every write, trim and clear that had returned before it
	// was called is durable.
	Flush() error
}

// Prompt is an optional ability of a Device: it knows that a read will not wait
// for anything but this host's memory or disk. Such a read is answered without
// handing it to another goroutine, which on a busy host costs more than the read.
type Prompt interface {
	Prompt(off, n int64) bool
}

// Exports are the devices of a server by name.
type Exports interface {
	// Open lends a device to one client, until release is called, once. An error
	// made by Refuse tells its text to the client. The context ends with the
	// client's connection.
	Open(ctx context.Context, name string) (dev Device, release func(), err error)
	// Names lists what can be opened. It may be empty for exports that are not
	// for everybody to see.
	Names() []string
}

// ErrReadOnly is the answer of a device, or of a part of it, that takes no writes.
var ErrReadOnly = errors.New("the device is read-only")

// refusal is an error whose text is for the client.
type refusal struct {
	text   string
	policy bool
}

func (r *refusal) Error() string { return r.text }

// Unknown is the error of an export that is not there.
func Unknown(text string) error { return &refusal{text: text} }

// Refuse is the error of an export that is there but not to be had now.
func Refuse(text string) error { return &refusal{text: text, policy: true} }
