// Package vhd reads and writes fixed VHDs, the only disk format that Azure
// takes: the disk's bytes, then a footer of 512 bytes. It also reads dynamic VHDs
// (dynamic.go) and tells other formats by their first bytes. It never trusts a
// footer and allocates nothing by what one says. Packages compute and diskformat,
// and cmd/millpond, use it.
//
// The format is in Microsoft's "Virtual Hard Disk Image Format Specification",
// version 1.0 of 2006; Azure's demands are in its documentation of uploads.
package vhd

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
)

// FooterSize is the length of a footer in bytes.
const FooterSize = 512

// Alignment is what Azure wants a disk's size to be a multiple of, 1 MiB.
const Alignment = 1 << 20

// Disk types of a footer.
const (
	typeFixed        = 2
	typeDynamic      = 3
	typeDifferencing = 4
)

var (
	cookie     = []byte("conectix")
	vhdxCookie = []byte("vhdxfile")
	// epoch is where a footer's time begins.
	epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Footer is what the footer of a fixed VHD says.
type Footer struct {
	// CurrentSize is the disk's size in bytes, without the footer.
	CurrentSize  int64
	OriginalSize int64
	Created      time.Time
	// Creator is the program's four letters, such as "win ", "wa", "qem2".
	Creator  string
	UniqueID uuid.UUID
}

// NewFooter makes the footer of a fixed VHD of size bytes. uniqueID should be a
// UUID; other text is hashed into one. The geometry is the largest there is,
// which tells readers to go by the size alone.
func NewFooter(size int64, uniqueID string, created time.Time) []byte {
	id, err := uuid.Parse(uniqueID)
	if err != nil {
		h := sha256.Sum256([]byte(uniqueID))
		copy(id[:], h[:])
	}
	seconds := created.Sub(epoch) / time.Second
	b := make([]byte, FooterSize)
	be := binary.BigEndian
	copy(b, cookie)
	be.PutUint32(b[8:], 2) // features: the reserved bit, always set
	be.PutUint32(b[12:], 0x00010000)
	be.PutUint64(b[16:], ^uint64(0)) // no dynamic header
	be.PutUint32(b[24:], uint32(max(0, min(seconds, 1<<32-1))))
	copy(b[28:], "mlpd")
	be.PutUint32(b[32:], 0x00010000)
	copy(b[36:], "Wi2k") // readers know only Windows and Macintosh
	be.PutUint64(b[40:], uint64(size))
	be.PutUint64(b[48:], uint64(size))
	be.PutUint32(b[56:], 0xFFFF10FF)
	be.PutUint32(b[60:], typeFixed)
	copy(b[68:], id[:])
	be.PutUint32(b[64:], checksum(b))
	return b
}

// checksum is the complement of the sum of all bytes but the checksum's own.
func checksum(b []byte) uint32 {
	var sum uint32
	for i, c := range b {
		if i < 64 || i >= 68 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// ParseFooter reads 512 bytes as the footer of a fixed VHD. The error is a
// sentence part without punctuation that says what is wrong.
func ParseFooter(b []byte) (Footer, error) {
	if len(b) != FooterSize {
		return Footer{}, fmt.Errorf("a footer has %d bytes, not %d", FooterSize, len(b))
	}
	if !bytes.HasPrefix(b, cookie) {
		return Footer{}, fmt.Errorf("the last %d bytes do not begin with 'conectix'", FooterSize)
	}
	be := binary.BigEndian
	if sum := be.Uint32(b[64:]); sum != checksum(b) {
		return Footer{}, fmt.Errorf("the footer's checksum is %#08x and its bytes add up to %#08x", sum, checksum(b))
	}
	if v := be.Uint32(b[12:]); v>>16 != 1 {
		return Footer{}, fmt.Errorf("the footer has format version %d.%d, which is not known", v>>16, v&0xffff)
	}
	switch t := be.Uint32(b[60:]); t {
	case typeFixed:
	case typeDynamic, typeDifferencing:
		return Footer{}, fmt.Errorf("it is a %s VHD", map[uint32]string{typeDynamic: "dynamic", typeDifferencing: "differencing"}[t])
	default:
		return Footer{}, fmt.Errorf("the footer names the unknown disk type %d", t)
	}
	f := Footer{Created: epoch.Add(time.Duration(be.Uint32(b[24:])) * time.Second), Creator: string(bytes.TrimRight(b[28:32], "\x00"))}
	copy(f.UniqueID[:], b[68:84])
	original, current := be.Uint64(b[40:]), be.Uint64(b[48:])
	if current == 0 || current%512 != 0 || current > 1<<62 {
		return Footer{}, fmt.Errorf("the footer names a disk of %d bytes", current)
	}
	f.CurrentSize = int64(current)
	f.OriginalSize = int64(min(original, 1<<62))
	return f, nil
}

// Format is what a file of disk bytes is.
type Format string

const (
	Raw     Format = "raw"
	Fixed   Format = "fixed VHD"
	Dynamic Format = "dynamic VHD"
	VHDX    Format = "VHDX"
	QCOW2   Format = "QCOW2"
	VMDK    Format = "VMDK"
)

// Detect tells the format of a file of size bytes by its first and last bytes. A
// file that begins with a partition table and ends with a damaged footer is
// Fixed: ParseFooter then says what is wrong with it.
func Detect(r io.ReaderAt, size int64) (Format, error) {
	head := make([]byte, 8)
	if size < FooterSize {
		return Raw, nil
	}
	if _, err := r.ReadAt(head, 0); err != nil {
		return "", err
	}
	switch {
	case bytes.Equal(head, vhdxCookie):
		return VHDX, nil
	case bytes.Equal(head, cookie):
		// Dynamic VHDs carry a copy of the footer in front.
		return Dynamic, nil
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return QCOW2, nil
	case bytes.HasPrefix(head, []byte("KDMV")):
		return VMDK, nil
	}
	tail := make([]byte, FooterSize)
	if _, err := r.ReadAt(tail, size-FooterSize); err != nil && err != io.EOF {
		return "", err
	}
	if !bytes.HasPrefix(tail, cookie) {
		return Raw, nil
	}
	return Fixed, nil
}

// Align rounds a size up to a multiple of 1 MiB.
func Align(size int64) int64 { return (size + Alignment - 1) / Alignment * Alignment }

func invalid(format string, args ...any) error {
	return millpond.Errorf(millpond.Invalid, "InvalidVhd", format, args...)
}
