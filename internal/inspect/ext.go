package inspect

import (
	"encoding/binary"
	"fmt"
)

// ext reads ext2, ext3 and ext4, as far as it takes to find a file: the layout
// is in the kernel's Documentation/filesystems/ext4.
type ext struct {
	w           window
	block       int64 // bytes
	inodes      uint32
	perGroup    uint32
	inodeSize   int64
	descSize    int64
	firstBlock  int64
	wide        bool // 64bit: block numbers have high halves
	inlineFiles bool
	// counted: descriptors say how much of a group's inode table was ever used.
	counted bool
}

func openExt(w window) (fileSystem, error) {
	b, err := w.at(1024, 1024)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	log := le.Uint32(b[24:])
	if log > 6 {
		return nil, fmt.Errorf("it claims to have blocks of 2^%d KiB", log)
	}
	e := &ext{w: w, block: 1024 << log, inodes: le.Uint32(b[0:]), perGroup: le.Uint32(b[40:]), firstBlock: int64(le.Uint32(b[20:])), inodeSize: 128, descSize: 32}
	if le.Uint32(b[76:]) >= 1 {
		e.inodeSize = int64(le.Uint16(b[88:]))
	}
	incompat := le.Uint32(b[96:])
	if incompat&0x80 != 0 {
		e.wide = true
		e.descSize = int64(le.Uint16(b[254:]))
	}
	e.inlineFiles = incompat&0x8000 != 0
	e.counted = le.Uint32(b[100:])&(0x10|0x400) != 0
	if e.perGroup == 0 || e.inodeSize < 128 || e.inodeSize > e.block || e.descSize < 32 || e.descSize > 1024 {
		return nil, fmt.Errorf("its superblock makes no sense")
	}
	if incompat&0x10 != 0 {
		return nil, fmt.Errorf("it uses meta block groups, which are not supported")
	}
	return e, nil
}

func (e *ext) root() (node, error) { return e.inode(2) }

type extInode struct {
	e    *ext
	raw  []byte // the first 128 bytes
	rest []byte // what follows, where inline data goes on
}

func (e *ext) inode(n uint32) (*extInode, error) {
	if n == 0 || n > e.inodes {
		return nil, fmt.Errorf("it names the inode %d of %d", n, e.inodes)
	}
	group, index := int64((n-1)/e.perGroup), int64((n-1)%e.perGroup)
	_, table, err := e.descriptor(group)
	if err != nil {
		return nil, err
	}
	b, err := e.blockAt(table, index*e.inodeSize, int(e.inodeSize))
	if err != nil {
		return nil, err
	}
	return &extInode{e: e, raw: b[:128], rest: b[128:]}, nil
}

// descriptor reads that of a group, and where its inode table begins.
func (e *ext) descriptor(group int64) (d []byte, table int64, err error) {
	d, err = e.w.at((e.firstBlock+1)*e.block+group*e.descSize, int(e.descSize))
	if err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	table = int64(le.Uint32(d[8:]))
	if e.wide && e.descSize >= 64 {
		table |= int64(le.Uint32(d[40:])&0x7fff) << 32
	}
	return d, table, nil
}

// tables calls do with the places of bitmaps and of inode tables, as far as they were
// ever used: mounting and walking folders reads about all of them.
func (e *ext) tables(do func(at, n int64) error) error {
	const uninit = 0x1
	if !e.counted {
		return nil
	}
	le := binary.LittleEndian
	for g := int64(0); g*int64(e.perGroup) < int64(e.inodes) && g < maxGroups; g++ {
		d, table, err := e.descriptor(g)
		if err != nil {
			return err
		}
		unused := int64(le.Uint16(d[28:]))
		if e.wide && e.descSize >= 64 {
			unused |= int64(le.Uint16(d[50:])) << 16
		}
		used := (int64(e.perGroup) - unused) * e.inodeSize
		if le.Uint16(d[18:])&uninit != 0 || used <= 0 || table <= 0 || table > e.w.size/e.block || used > e.w.size-table*e.block {
			continue
		}
		for _, bitmap := range []int64{int64(le.Uint32(d)), int64(le.Uint32(d[4:]))} {
			if err := do(bitmap*e.block, 1); err != nil {
				return err
			}
		}
		if err := do(table*e.block, used); err != nil {
			return err
		}
	}
	return nil
}

// maxGroups bounds the groups whose tables are looked at: 512 GiB with blocks of 4 KiB.
const maxGroups = 4096

// blockAt reads n bytes at an offset from the start of a block.
func (e *ext) blockAt(block, off int64, n int) ([]byte, error) {
	at, err := e.placeOf(block)
	if err != nil {
		return nil, err
	}
	return e.w.at(at+off, n)
}

// placeOf is the offset of a block, whose number is checked before it is multiplied.
func (e *ext) placeOf(block int64) (int64, error) {
	if block < 0 || block > e.w.size/e.block {
		return 0, fmt.Errorf("it points to the block %d, outside of its partition", block)
	}
	return block * e.block, nil
}

func (i *extInode) mode() uint16  { return binary.LittleEndian.Uint16(i.raw) }
func (i *extInode) flags() uint32 { return binary.LittleEndian.Uint32(i.raw[32:]) }
func (i *extInode) isDir() bool   { return i.mode()>>12 == 4 }
func (i *extInode) isLink() bool  { return i.mode()>>12 == 10 }
func (i *extInode) size() int64 {
	le := binary.LittleEndian
	return int64(le.Uint32(i.raw[4:])) | int64(le.Uint32(i.raw[108:])&0x7fffffff)<<32
}

const (
	extExtents = 0x80000
	extInline  = 0x10000000
)

func (i *extInode) bytes(max int) ([]byte, error) {
	n := int(min(i.size(), int64(max)))
	if i.isLink() && i.size() < 60 && i.flags()&extExtents == 0 || i.flags()&extInline != 0 {
		if n > 60 {
			return nil, fmt.Errorf("it keeps %d bytes inside an inode, which is not supported", n)
		}
		return i.raw[40 : 40+n], nil
	}
	out := make([]byte, 0, n)
	for b := int64(0); len(out) < n; b++ {
		p, err := i.blockOf(b)
		if err != nil {
			return nil, err
		}
		part := make([]byte, i.e.block)
		if p != 0 {
			if part, err = i.e.blockAt(p, 0, int(i.e.block)); err != nil {
				return nil, err
			}
		}
		out = append(out, part[:min(len(part), n-len(out))]...)
	}
	return out, nil
}

// blockOf is the disk block of a file's block, 0 for a hole.
func (i *extInode) blockOf(n int64) (int64, error) {
	if i.flags()&extExtents == 0 {
		return i.indirect(n)
	}
	le := binary.LittleEndian
	b := i.raw[40:100]
	for depth := 0; depth <= 5; depth++ {
		if le.Uint16(b) != 0xf30a {
			return 0, fmt.Errorf("an extent tree is damaged")
		}
		entries, level := int(le.Uint16(b[2:])), le.Uint16(b[6:])
		if (entries+1)*12 > len(b) {
			return 0, fmt.Errorf("an extent tree is damaged")
		}
		next := int64(-1)
		for k := 1; k <= entries; k++ {
			x := b[k*12 : k*12+12]
			first := int64(le.Uint32(x))
			if first > n {
				break
			}
			if level > 0 {
				next = int64(le.Uint32(x[4:])) | int64(le.Uint16(x[8:]))<<32
				continue
			}
			length := int64(le.Uint16(x[4:]))
			if length > 32768 {
				continue // allocated and never written: zeros
			}
			if n < first+length {
				return int64(le.Uint32(x[8:])) | int64(le.Uint16(x[6:]))<<32 + n - first, nil
			}
		}
		if level == 0 || next < 0 {
			return 0, nil
		}
		var err error
		if b, err = i.e.blockAt(next, 0, int(i.e.block)); err != nil {
			return 0, err
		}
	}
	return 0, errBudget
}

// indirect is ext2's and ext3's way.
func (i *extInode) indirect(n int64) (int64, error) {
	le := binary.LittleEndian
	per := i.e.block / 4
	if n < 12 {
		return int64(le.Uint32(i.raw[40+4*n:])), nil
	}
	n -= 12
	span := per
	for level := int64(0); level < 3; level++ {
		if n >= span {
			n -= span
			span *= per
			continue
		}
		p := int64(le.Uint32(i.raw[40+4*(12+level):]))
		for span > 1 && p != 0 {
			span /= per
			b, err := i.e.blockAt(p, n/span*4, 4)
			if err != nil {
				return 0, err
			}
			p, n = int64(le.Uint32(b)), n%span
		}
		return p, nil
	}
	return 0, errBudget
}

func (i *extInode) lookup(name string) (node, error) {
	found := uint32(0)
	err := i.each(func(entry string, ino uint32) bool {
		if entry == name {
			found = ino
		}
		return found == 0
	})
	if err == nil && found == 0 {
		err = errNotFound
	}
	if err != nil {
		return nil, err
	}
	return i.e.inode(found)
}

func (i *extInode) names() ([]string, error) {
	var c collector
	err := i.each(func(entry string, _ uint32) bool { return c.add(entry) })
	return c, err
}

// each scans all blocks of a folder until do returns false. An index (htree)
// looks like unused entries, so it need not be known.
func (i *extInode) each(do func(name string, ino uint32) bool) error {
	if i.flags()&extInline != 0 {
		return fmt.Errorf("it keeps folders inside inodes, which is not supported")
	}
	if i.size() > maxDirSize {
		return fmt.Errorf("a folder has %d bytes", i.size())
	}
	le := binary.LittleEndian
	for n := int64(0); n*i.e.block < i.size(); n++ {
		p, err := i.blockOf(n)
		if err != nil {
			return err
		}
		if p == 0 {
			continue
		}
		b, err := i.e.blockAt(p, 0, int(i.e.block))
		if err != nil {
			return err
		}
		for len(b) >= 8 {
			length := int(le.Uint16(b[4:]))
			if length < 8 || length > len(b) {
				return fmt.Errorf("a folder is damaged")
			}
			ino, nl := le.Uint32(b), int(b[6])
			if ino != 0 && 8+nl <= length && !do(string(b[8:8+nl]), ino) {
				return nil
			}
			b = b[length:]
		}
	}
	return nil
}
