// Package vhdx reads the disk in a VHDX file, Hyper-V's newer format. It never
// trusts the file: each structure is checked before it is used, and nothing is
// allocated by what one says beyond the file's own size. Files with a parent,
// and files whose log has not been written back, are refused with what to do.
// internal/diskformat uses it.
//
// The format is in Microsoft's open specification MS-VHDX.
package vhdx

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

const (
	kib, mib = int64(1) << 10, int64(1) << 20
	maxSize  = 64 << 40 // the format's own limit
	// Both copies of the header and of the region table, by offset.
	header1, header2 = 64 * kib, 128 * kib
	region1, region2 = 192 * kib, 256 * kib
	headerSize       = 4 * kib
	regionSize       = 64 * kib
)

// Identifiers of regions and metadata, in the byte order of the file.
var (
	regionBAT      = guid(0x2DC27766, 0xF623, 0x4200, 0x9D64115E9BFD4A08)
	regionMetadata = guid(0x8B7CA206, 0x4790, 0x4B9A, 0xB8FE575F050F886E)
	itemParameters = guid(0xCAA16737, 0xFA36, 0x4D43, 0xB3B633F0AA44E76B)
	itemSize       = guid(0x2FA54224, 0xCD1B, 0x4876, 0xB2115DBED83BF4B8)
	itemSector     = guid(0x8141BF1D, 0xA96F, 0x4709, 0xBA47F233A8FAAB5F)
	itemPhysical   = guid(0xCDA348C7, 0x445D, 0x4471, 0x9CC9E9885251C556)
	itemID         = guid(0xBECA12AB, 0xB2E6, 0x4523, 0x93EFC309E000C746)
)

func guid(a uint32, b, c uint16, d uint64) [16]byte {
	var g [16]byte
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint64(g[8:], d)
	return g
}

func invalid(format string, args ...any) error {
	return millpond.Errorf(millpond.Invalid, "InvalidVhd", format, args...)
}

// region is a part of the file.
type region struct{ off, size int64 }

// Open reads a VHDX of size bytes. The Source knows its holes.
func Open(r io.ReaderAt, size int64) (image.Source, error) {
	f := file{r, size}
	id, err := f.read(0, 8)
	if err != nil {
		return nil, err
	}
	if string(id) != "vhdxfile" {
		return nil, invalid("The file does not begin like a VHDX.")
	}
	if err := f.header(); err != nil {
		return nil, err
	}
	bat, meta, err := f.regions()
	if err != nil {
		return nil, err
	}
	p, err := f.metadata(meta)
	if err != nil {
		return nil, err
	}
	return f.disk(bat, p)
}

type file struct {
	r    io.ReaderAt
	size int64
}

func (f file) read(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > f.size || n > f.size-off {
		return nil, invalid("The VHDX is cut off: %d bytes at %d are not in its %d bytes. Copy it again.", n, off, f.size)
	}
	b := make([]byte, n)
	if got, err := f.r.ReadAt(b, off); int64(got) < n {
		return nil, err
	}
	return b, nil
}

// checked reads a structure with a signature and a CRC-32C over its bytes with
// the sum itself, at 4, as zeros.
func (f file) checked(off, n int64, signature string) ([]byte, error) {
	b, err := f.read(off, n)
	if err != nil || string(b[:4]) != signature {
		return nil, err
	}
	want := binary.LittleEndian.Uint32(b[4:])
	clear(b[4:8])
	if crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) != want {
		return nil, nil
	}
	return b, nil
}

// header finds the current header and refuses a file whose log is in use: the
// newest data of such a file is in its log only.
func (f file) header() error {
	var current []byte
	for _, at := range []int64{header1, header2} {
		h, err := f.checked(at, headerSize, "head")
		if err != nil {
			return err
		}
		if h != nil && (current == nil || binary.LittleEndian.Uint64(h[8:]) > binary.LittleEndian.Uint64(current[8:])) {
			current = h
		}
	}
	if current == nil {
		return invalid("Both headers of the VHDX are damaged. Copy the file again.")
	}
	if v := binary.LittleEndian.Uint16(current[66:]); v != 1 {
		return invalid("The VHDX has version %d; only 1 is known.", v)
	}
	if !bytes.Equal(current[48:64], make([]byte, 16)) {
		return invalid("The VHDX was not closed cleanly: its log holds changes that are not in the disk yet. Shut the VM down, or let Hyper-V (Mount-VHD, Dismount-VHD) or 'qemu-img check -r all FILE.vhdx' write them back, and copy the file again.")
	}
	return nil
}

func (f file) regions() (bat, meta region, err error) {
	for _, at := range []int64{region1, region2} {
		t, err := f.checked(at, regionSize, "regi")
		if err != nil {
			return bat, meta, err
		}
		if t == nil {
			continue
		}
		n := int64(binary.LittleEndian.Uint32(t[8:]))
		if n > (regionSize-16)/32 {
			return bat, meta, invalid("The VHDX names %d regions, more than fit.", n)
		}
		for e := t[16 : 16+n*32]; len(e) > 0; e = e[32:] {
			reg := region{int64(binary.LittleEndian.Uint64(e[16:])), int64(binary.LittleEndian.Uint32(e[24:]))}
			switch id := [16]byte(e[:16]); {
			case reg.off < mib || reg.off%mib != 0 || reg.size == 0 || reg.off > f.size || reg.size > f.size-reg.off:
				return bat, meta, invalid("A region of the VHDX, %d bytes at %d, does not fit its file.", reg.size, reg.off)
			case id == regionBAT:
				bat = reg
			case id == regionMetadata:
				meta = reg
			case binary.LittleEndian.Uint32(e[28:])&1 != 0:
				return bat, meta, invalid("The VHDX needs a region that is not known here. Convert it with: qemu-img convert -f vhdx -O raw FILE.vhdx OUT.raw")
			}
		}
		if bat.size == 0 || meta.size == 0 {
			return bat, meta, invalid("The VHDX lacks its block table or its metadata.")
		}
		return bat, meta, nil
	}
	return bat, meta, invalid("Both region tables of the VHDX are damaged. Copy the file again.")
}

type parameters struct{ size, block, sector int64 }

func (f file) metadata(meta region) (p parameters, err error) {
	t, err := f.read(meta.off, min(64*kib, meta.size))
	if err != nil {
		return p, err
	}
	if len(t) < 32 || string(t[:8]) != "metadata" {
		return p, invalid("The VHDX's metadata is damaged.")
	}
	n := int(binary.LittleEndian.Uint16(t[10:]))
	if n > 2047 || 32+n*32 > len(t) {
		return p, invalid("The VHDX names %d items of metadata, more than fit.", n)
	}
	for e := t[32 : 32+n*32]; len(e) > 0; e = e[32:] {
		off, size := int64(binary.LittleEndian.Uint32(e[16:])), int64(binary.LittleEndian.Uint32(e[20:]))
		id := [16]byte(e[:16])
		want := map[[16]byte]int64{itemParameters: 8, itemSize: 8, itemSector: 4}[id]
		if want == 0 {
			if id != itemPhysical && id != itemID && binary.LittleEndian.Uint32(e[24:])&4 != 0 {
				return p, invalid("The VHDX is a differencing disk or needs metadata that is not known here. Merge it into its parent, or convert it with: qemu-img convert -f vhdx -O raw FILE.vhdx OUT.raw")
			}
			continue
		}
		if size < want || off < 64*kib || off > meta.size || size > meta.size-off {
			return p, invalid("An item of the VHDX's metadata, %d bytes at %d, does not fit.", size, off)
		}
		b, err := f.read(meta.off+off, want)
		if err != nil {
			return p, err
		}
		switch id {
		case itemParameters:
			p.block = int64(binary.LittleEndian.Uint32(b))
			if binary.LittleEndian.Uint32(b[4:])&2 != 0 {
				return p, invalid("The VHDX is a differencing disk, which holds only what differs from its parent. Merge it into its parent and take that.")
			}
		case itemSize:
			p.size = int64(binary.LittleEndian.Uint64(b))
		case itemSector:
			p.sector = int64(binary.LittleEndian.Uint32(b))
		}
	}
	switch {
	case p.sector != 512 && p.sector != 4096:
		err = invalid("The VHDX has sectors of %d bytes; 512 and 4096 are known.", p.sector)
	case p.block < mib || p.block > 256*mib || p.block&(p.block-1) != 0:
		err = invalid("The VHDX has blocks of %d bytes; a power of two from 1 to 256 MiB is expected.", p.block)
	case p.size <= 0 || p.size > maxSize || p.size%p.sector != 0:
		err = invalid("The VHDX names a disk of %d bytes.", p.size)
	}
	return p, err
}

// States of a payload block.
const (
	notPresent = 0
	undefined  = 1
	zero       = 2
	unmapped   = 3
	present    = 6
)

func (f file) disk(bat region, p parameters) (image.Source, error) {
	// After each ratio payload blocks the table has one of sector bitmaps, which
	// only differencing disks use.
	ratio := (int64(1) << 23) * p.sector / p.block
	blocks := (p.size + p.block - 1) / p.block
	entries := blocks + (blocks-1)/ratio
	if entries*8 > bat.size {
		return nil, invalid("The VHDX's block table of %d bytes is too short for its disk of %d.", bat.size, p.size)
	}
	table, err := f.read(bat.off, entries*8)
	if err != nil {
		return nil, err
	}
	return &image.Mapped{File: f.r, Length: p.size, Find: func(off int64) (int64, int64, error) {
		n := off / p.block
		e := binary.LittleEndian.Uint64(table[(n+n/ratio)*8:])
		until := (n + 1) * p.block
		switch e & 7 {
		case notPresent, undefined, zero, unmapped:
			return image.Hole, until, nil
		case present:
			at := int64(e>>20) << 20
			if at < mib || at > f.size {
				return 0, 0, invalid("Block %d of the VHDX is said to lie at %d, outside of the file.", n, at)
			}
			return at + off%p.block, until, nil
		}
		return 0, 0, invalid("Block %d of the VHDX has the state %d, which a disk without parent cannot have.", n, e&7)
	}}, nil
}
