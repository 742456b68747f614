package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// The numbers are those of doc/proto.md of the NBD project.
const (
	magicServer   = 0x4e42444d41474943 // NBDMAGIC
	magicOption   = 0x49484156454f5054 // IHAVEOPT
	magicOptReply = 0x0003e889045565a9
	magicRequest  = 0x25609513
	magicReply    = 0x67446698

	handshakeFixed  = 1 << 0
	handshakeNoZero = 1 << 1

	optExportName = 1
	optAbort      = 2
	optList       = 3
	optInfo       = 6
	optGo         = 7

	repAck        = 1
	repServer     = 2
	repInfo       = 3
	repErr        = 1 << 31
	repErrUnsup   = repErr + 1
	repErrPolicy  = repErr + 2
	repErrInvalid = repErr + 3
	repErrUnknown = repErr + 6
	repErrTooBig  = repErr + 9

	infoExport    = 0
	infoBlockSize = 3

	flagHasFlags    = 1 << 0
	flagReadOnly    = 1 << 1
	flagSendFlush   = 1 << 2
	flagSendFUA     = 1 << 3
	flagSendTrim    = 1 << 5
	flagSendZeroes  = 1 << 6
	flagMultiConn   = 1 << 8
	cmdRead         = 0
	cmdWrite        = 1
	cmdDisconnect   = 2
	cmdFlush        = 3
	cmdTrim         = 4
	cmdWriteZeroes  = 6
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	requestLen      = 28
	replyLen        = 16
	maxOption       = 64 << 10
	maxName         = 4096
	maxPayload      = 32 << 20
	preferredBlock  = 64 << 10
	maxBlock        = 4 << 20
	minBlock        = 1
	maxOptionsAsked = 64
)

// Errno is the protocol's number of an error.
type Errno uint32

// The errors that a server may send.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

func (e Errno) Error() string { return syscall.Errno(e).Error() }

// errnoOf is what a client is told of a device's error: whatever is not one of
// the protocol's own is an I/O error.
func errnoOf(err error) Errno {
	var own Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		return own
	case errors.Is(err, ErrReadOnly), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EPERM):
		return EPERM
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ENOSPC
	}
	return EIO
}

// request is one command of the transmission phase.
type request struct {
	flags  uint16
	cmd    uint16
	cookie uint64
	off    uint64
	length uint32
}

// parseRequest reads the 28 bytes of a request's head. Only a wrong magic is an
// error here: after it the two sides do not agree where requests begin.
func parseRequest(b []byte) (request, error) {
	if len(b) < requestLen {
		return request{}, fmt.Errorf("a request of %d bytes; it has %d", len(b), requestLen)
	}
	e := binary.BigEndian
	if m := e.Uint32(b); m != magicRequest {
		return request{}, fmt.Errorf("a request begins with %#x", m)
	}
	return request{flags: e.Uint16(b[4:]), cmd: e.Uint16(b[6:]), cookie: e.Uint64(b[8:]), off: e.Uint64(b[16:]), length: e.Uint32(b[24:])}, nil
}

// check says why a request cannot be given to a device of size bytes, 0 if it can.
func (r request) check(size int64, readOnly bool) Errno {
	var allowed uint16
	switch r.cmd {
	case cmdRead, cmdFlush:
		allowed = cmdFlagFUA // without meaning, but clients may send it
	case cmdWrite, cmdTrim:
		allowed = cmdFlagFUA
	case cmdWriteZeroes:
		allowed = cmdFlagFUA | cmdFlagNoHole
	default:
		return EINVAL
	}
	if r.flags&^allowed != 0 {
		return EINVAL
	}
	if r.cmd == cmdFlush {
		return 0
	}
	writes := r.cmd != cmdRead
	if writes && readOnly {
		return EPERM
	}
	if r.off > uint64(size) || uint64(r.length) > uint64(size)-r.off {
		if r.cmd == cmdWrite || r.cmd == cmdWriteZeroes {
			return ENOSPC
		}
		return EINVAL
	}
	if (r.cmd == cmdRead || r.cmd == cmdWrite) && r.length > maxPayload {
		return EINVAL
	}
	return 0
}

// putReply writes the head of a simple reply.
func putReply(b []byte, errno Errno, cookie uint64) {
	e := binary.BigEndian
	e.PutUint32(b, magicReply)
	e.PutUint32(b[4:], uint32(errno))
	e.PutUint64(b[8:], cookie)
}

// exportFlags are the transmission flags of a device. Several connections to one
// device see each other's writes, because they share the Device, and a flush of
// one covers all.
func exportFlags(d Device) uint16 {
	f := uint16(flagHasFlags | flagSendFlush | flagMultiConn)
	if d.ReadOnly() {
		return f | flagReadOnly
	}
	return f | flagSendFUA | flagSendTrim | flagSendZeroes
}

// exportAsked is the data of GO and INFO.
type exportAsked struct {
	name  string
	infos []uint16
}

// parseExportAsked reads the data of GO and INFO: the name with its length, and
// the numbers of the information asked for.
func parseExportAsked(b []byte) (exportAsked, error) {
	e := binary.BigEndian
	if len(b) < 6 {
		return exportAsked{}, errors.New("the option is too short")
	}
	n := uint64(e.Uint32(b))
	if n > maxName || n > uint64(len(b)-6) {
		return exportAsked{}, fmt.Errorf("a name of %d bytes in an option of %d", n, len(b))
	}
	a := exportAsked{name: string(b[4 : 4+n])}
	b = b[4+n:]
	count := int(e.Uint16(b))
	if b = b[2:]; len(b) != 2*count {
		return exportAsked{}, fmt.Errorf("%d pieces of information in %d bytes", count, len(b))
	}
	for ; len(b) > 0; b = b[2:] {
		a.infos = append(a.infos, e.Uint16(b))
	}
	return a, nil
}
