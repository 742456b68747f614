package vhd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"millpond.dev/millpond/internal/image"
)

var dynamicCookie = []byte("cxsparse")

const (
	dynamicHeaderSize = 1024
	// maxDynamic is the format's own limit: 2040 GiB.
	maxDynamic = 2040 << 30
	unused     = 0xFFFFFFFF
)

// OpenDynamic reads a dynamic VHD of size bytes. Blocks that are not allocated
// read as zeros; a differencing VHD is refused, because its parent is elsewhere.
// The sector bitmaps are not looked at: a sector that was never written is zero
// in the file too. What is allocated is bounded by the file's own size.
func OpenDynamic(r io.ReaderAt, size int64) (image.Source, error) {
	f := make([]byte, FooterSize)
	if size < 3*FooterSize {
		return nil, invalid("The file of %d bytes is too short for a dynamic VHD. Copy it again.", size)
	}
	// The footer at the end counts; the copy in front is for a file that is cut.
	if _, err := r.ReadAt(f, size-FooterSize); err != nil && err != io.EOF {
		return nil, err
	}
	if !bytes.HasPrefix(f, cookie) || binary.BigEndian.Uint32(f[64:]) != checksum(f) {
		return nil, invalid("The dynamic VHD has no footer at its end: it is cut off or has been appended to. Copy it again.")
	}
	be := binary.BigEndian
	switch t := be.Uint32(f[60:]); t {
	case typeDynamic:
	case typeDifferencing:
		return nil, invalid("The file is a differencing VHD, which holds only what differs from its parent. Merge it into its parent and take that.")
	default:
		return nil, invalid("The VHD has the type %d in its footer; 3 is a dynamic one. Copy or convert it again.", t)
	}
	current, at := int64(be.Uint64(f[48:])), int64(be.Uint64(f[16:]))
	if current <= 0 || current%512 != 0 || current > maxDynamic {
		return nil, invalid("The dynamic VHD's footer names a disk of %d bytes.", current)
	}
	h := make([]byte, dynamicHeaderSize)
	if at < FooterSize || at > size-dynamicHeaderSize {
		return nil, invalid("The dynamic VHD's footer says that its header is at %d, outside of the file.", at)
	}
	if _, err := r.ReadAt(h, at); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(h, dynamicCookie) {
		return nil, invalid("The dynamic VHD has no header where its footer says, at %d.", at)
	}
	if sum := headerChecksum(h); sum != be.Uint32(h[36:]) {
		return nil, invalid("The dynamic VHD's header is damaged: its checksum is %#08x and its bytes add up to %#08x.", be.Uint32(h[36:]), sum)
	}
	table, entries, block := int64(be.Uint64(h[16:])), int64(be.Uint32(h[28:])), int64(be.Uint32(h[32:]))
	if block < 4096 || block&(block-1) != 0 || block > 1<<30 {
		return nil, invalid("The dynamic VHD has blocks of %d bytes; a power of two from 4096 on is expected.", block)
	}
	need := (current + block - 1) / block
	if entries < need || table < FooterSize || table > size || need*4 > size-table {
		return nil, invalid("The dynamic VHD's block table of %d entries at %d does not fit its disk or its file.", entries, table)
	}
	bat := make([]byte, need*4)
	if _, err := r.ReadAt(bat, table); err != nil {
		return nil, fmt.Errorf("read the block table: %w", err)
	}
	// Each block begins with a bitmap of its sectors, in whole sectors.
	bitmap := (block/512/8 + 511) / 512 * 512
	return &image.Mapped{File: r, Length: current, Find: func(off int64) (int64, int64, error) {
		n := off / block
		sector := be.Uint32(bat[n*4:])
		if sector == unused {
			return image.Hole, (n + 1) * block, nil
		}
		return int64(sector)*512 + bitmap + off%block, (n + 1) * block, nil
	}}, nil
}

// headerChecksum is checksum over a dynamic header.
func headerChecksum(h []byte) uint32 {
	var sum uint32
	for i, c := range h {
		if i < 36 || i >= 40 {
			sum += uint32(c)
		}
	}
	return ^sum
}
