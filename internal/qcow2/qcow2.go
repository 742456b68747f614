// Package qcow2 reads the disk in a qcow2 file, QEMU's format, versions 2 and 3:
// compressed clusters (zlib and zstd) and subclusters too. It never trusts the
// file: offsets are checked before they are used, and nothing is allocated by
// what a header says beyond the file's own size or a few clusters. Encrypted
// files, files with a backing file or external data, and files marked corrupt
// are refused with what to do. internal/diskformat uses it.
//
// The format is in QEMU's docs/interop/qcow2. Snapshots inside the file are not
// looked at; the current state is what is read.
package qcow2

import (
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

const (
	maxSize = 64 << 40
	// maxTable is QEMU's limit of the L1 table in bytes.
	maxTable = 32 << 20
	// maxCached bounds the tables, and likewise the unpacked clusters, that are
	// kept: 2 MiB each at most.
	maxCached = 8
	offsets   = 0x00fffffffffffe00
)

// Bits of the header's incompatible features.
const (
	featureDirty    = 1 << iota // only the reference counts are stale
	featureCorrupt              //
	featureExternal             //
	featureCompression
	featureSubclusters
	featuresKnown = featureDirty | featureCorrupt | featureExternal | featureCompression | featureSubclusters
)

func invalid(format string, args ...any) error {
	return millpond.Errorf(millpond.Invalid, "InvalidVhd", format, args...)
}

// disk is an open file.
type disk struct {
	r        io.ReaderAt
	fileSize int64
	size     int64
	bits     uint
	cluster  int64
	entry    int64 // bytes of an L2 entry: 8, or 16 with subclusters
	perTable int64 // entries of an L2 table
	l1       []uint64
	v3       bool
	zstd     bool

	mu       sync.Mutex
	tables   cache
	unpacked cache
}

// cache keeps a few things by their offset; the oldest goes.
type cache struct {
	have  map[int64][]byte
	order []int64
}

func (c *cache) put(at int64, b []byte) {
	if c.have == nil {
		c.have = map[int64][]byte{}
	}
	if c.have[at] != nil {
		return
	}
	if len(c.order) == maxCached {
		delete(c.have, c.order[0])
		c.order = c.order[1:]
	}
	c.have[at], c.order = b, append(c.order, at)
}

// Open reads a qcow2 file of size bytes. The Source knows its holes and is safe
// for concurrent use.
func Open(r io.ReaderAt, size int64) (image.Source, error) {
	h := make([]byte, 112)
	n, err := r.ReadAt(h, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n < 72 || string(h[:4]) != "QFI\xfb" {
		return nil, invalid("The file does not begin like a qcow2.")
	}
	be := binary.BigEndian
	version := be.Uint32(h[4:])
	if version != 2 && version != 3 || version == 3 && n < 104 {
		return nil, invalid("The qcow2 has version %d; 2 and 3 are known. Convert it with: qemu-img convert -O qcow2 IN OUT.qcow2", version)
	}
	d := &disk{r: r, fileSize: size, size: int64(be.Uint64(h[24:])), bits: uint(be.Uint32(h[20:])), entry: 8, v3: version == 3}
	if be.Uint64(h[8:]) != 0 {
		return nil, invalid("The qcow2 lies over a backing file and holds only what differs from it. Make it whole with: qemu-img convert -O qcow2 IN.qcow2 OUT.qcow2")
	}
	if be.Uint32(h[32:]) != 0 {
		return nil, invalid("The qcow2 is encrypted. Decrypt it with qemu-img convert and its key first.")
	}
	if d.v3 {
		features := be.Uint64(h[72:])
		switch {
		case features&featureCorrupt != 0:
			return nil, invalid("The qcow2 is marked as corrupt. Mend it with: qemu-img check -r all FILE.qcow2")
		case features&featureExternal != 0:
			return nil, invalid("The qcow2 keeps its data in another file. Make it whole with: qemu-img convert -O qcow2 IN.qcow2 OUT.qcow2")
		case features&^featuresKnown != 0:
			return nil, invalid("The qcow2 uses features that are not known here (%#x). Convert it with: qemu-img convert -O raw IN.qcow2 OUT.raw", features&^featuresKnown)
		}
		if features&featureSubclusters != 0 {
			d.entry = 16
		}
		if features&featureCompression != 0 {
			if n < 105 || be.Uint32(h[100:]) < 105 || h[104] > 1 {
				return nil, invalid("The qcow2 is compressed in a way that is not known here. Convert it with: qemu-img convert -O raw IN.qcow2 OUT.raw")
			}
			d.zstd = h[104] == 1
		}
	}
	if d.bits < 9 || d.bits > 21 || d.entry == 16 && d.bits < 14 {
		return nil, invalid("The qcow2 has clusters of 2^%d bytes; 9 to 21 bits are known.", d.bits)
	}
	if d.size <= 0 || d.size%512 != 0 || d.size > maxSize {
		return nil, invalid("The qcow2 names a disk of %d bytes.", d.size)
	}
	d.cluster = 1 << d.bits
	d.perTable = d.cluster / d.entry
	return d, d.readL1(int64(be.Uint64(h[40:])), int64(be.Uint32(h[36:])))
}

func (d *disk) readL1(at, entries int64) error {
	span := d.cluster * d.perTable
	need := (d.size + span - 1) / span
	if entries < need || need*8 > maxTable || at <= 0 || at%d.cluster != 0 || at > d.fileSize || need*8 > d.fileSize-at {
		return invalid("The qcow2's first table of %d entries at %d does not fit its disk of %d bytes or its file.", entries, at, d.size)
	}
	b := make([]byte, need*8)
	if got, err := d.r.ReadAt(b, at); got < len(b) {
		return fmt.Errorf("read the first table: %w", err)
	}
	d.l1 = make([]uint64, need)
	for i := range d.l1 {
		d.l1[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	return nil
}

func (d *disk) Size() int64 { return d.size }

// table is the L2 table at an offset of the file.
func (d *disk) table(at int64) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.tables.have[at]; b != nil {
		return b, nil
	}
	if at%d.cluster != 0 || at > d.fileSize-d.cluster {
		return nil, invalid("A table of the qcow2 is said to lie at %d, outside of the file.", at)
	}
	b := make([]byte, d.cluster)
	if got, err := d.r.ReadAt(b, at); got < len(b) {
		return nil, fmt.Errorf("read a table: %w", err)
	}
	d.tables.put(at, b)
	return b, nil
}

// place is where a range of the disk lies.
type place struct {
	at     int64  // offset in the file; image.Hole for zeros
	packed uint64 // the L2 entry of a compressed cluster, or 0
	until  int64
}

func (d *disk) find(off int64) (place, error) {
	span := d.cluster * d.perTable
	l2 := int64(d.l1[off/span] & offsets)
	if l2 == 0 {
		return place{at: image.Hole, until: (off/span + 1) * span}, nil
	}
	t, err := d.table(l2)
	if err != nil {
		return place{}, err
	}
	n := off / d.cluster
	e := binary.BigEndian.Uint64(t[n%d.perTable*d.entry:])
	p := place{at: int64(e & offsets), until: (n + 1) * d.cluster}
	if e&(1<<62) != 0 {
		p.packed = e
		return p, nil
	}
	if d.entry == 16 {
		// 32 parts of a cluster, each with a bit for data and one for zeros.
		bits := binary.BigEndian.Uint64(t[n%d.perTable*d.entry+8:])
		sub := d.cluster / 32
		i := off % d.cluster / sub
		p.until = off/sub*sub + sub
		if bits&(1<<i) == 0 || p.at == 0 {
			p.at = image.Hole
			return p, nil
		}
	} else if p.at == 0 || d.v3 && e&1 != 0 {
		p.at = image.Hole
		return p, nil
	}
	if p.at%d.cluster != 0 || p.at > d.fileSize {
		return place{}, invalid("A cluster of the qcow2 is said to lie at %d, outside of the file.", p.at)
	}
	p.at += off % d.cluster
	return p, nil
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := 0
	for n < len(p) && off < d.size {
		at, err := d.find(off)
		if err != nil {
			return n, err
		}
		part := p[n:min(int64(len(p)), int64(n)+min(at.until, d.size)-off)]
		switch {
		case at.packed != 0:
			b, err := d.unpack(at.packed)
			if err != nil {
				return n, err
			}
			copy(part, b[off%d.cluster:])
		case at.at < 0:
			clear(part)
		default:
			got, err := d.r.ReadAt(part, at.at)
			// The last cluster may be cut where its data ends.
			if got < len(part) && !(errors.Is(err, io.EOF) && at.at+int64(len(part)) > d.fileSize) {
				return n, err
			}
			clear(part[got:])
		}
		n, off = n+len(part), off+int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// unpack reads the compressed cluster of an L2 entry.
func (d *disk) unpack(e uint64) ([]byte, error) {
	x := 62 - (d.bits - 8)
	at := int64(e & (1<<x - 1))
	length := (int64(e>>x&(1<<(d.bits-8)-1)) + 1) * 512
	length -= at & 511
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.unpacked.have[at]; b != nil {
		return b, nil
	}
	if at > d.fileSize {
		return nil, invalid("A cluster of the qcow2 is said to lie at %d, outside of the file.", at)
	}
	packed := io.NewSectionReader(d.r, at, min(length, d.fileSize-at))
	b := make([]byte, d.cluster)
	var err error
	if d.zstd {
		var z *zstd.Decoder
		if z, err = zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20)); err == nil {
			_, err = io.ReadFull(z, b)
			z.Close()
		}
	} else {
		z := flate.NewReader(packed)
		_, err = io.ReadFull(z, b)
		z.Close()
	}
	if err != nil {
		return nil, invalid("A compressed cluster of the qcow2, at %d, is damaged: %v. Copy the file again.", at, err)
	}
	d.unpacked.put(at, b)
	return b, nil
}

// NextData implements image.Sparse.
func (d *disk) NextData(off int64) (start, end int64, err error) {
	for start = off; start < d.size; {
		p, err := d.find(start)
		if err != nil {
			return 0, 0, err
		}
		if p.at < 0 && p.packed == 0 {
			start = p.until
			continue
		}
		for end = p.until; end < d.size; end = p.until {
			if p, err = d.find(end); err != nil {
				return 0, 0, err
			}
			if p.at < 0 && p.packed == 0 {
				break
			}
		}
		return start, min(end, d.size), nil
	}
	return d.size, d.size, nil
}
