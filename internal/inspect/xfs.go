package inspect

import (
	"encoding/binary"
	"fmt"
)

// xfs reads XFS version 4 and 5, as far as it takes to find a file: the layout
// is in "XFS Algorithms & Data Structures", 3rd edition.
type xfs struct {
	w         window
	block     int64 // bytes
	agBlocks  uint64
	agBlkLog  uint
	inodeSize int64
	inoPBLog  uint // inodes per block, as a power of two
	dirBlock  int64
	rootNum   uint64
	fileTypes bool
	v5        bool
}

func openXFS(w window) (fileSystem, error) {
	b, err := w.at(0, 512)
	if err != nil {
		return nil, err
	}
	be := binary.BigEndian
	version := be.Uint16(b[100:])
	x := &xfs{
		w: w, block: int64(be.Uint32(b[4:])), agBlocks: uint64(be.Uint32(b[84:])), agBlkLog: uint(b[124]),
		inodeSize: int64(be.Uint16(b[104:])), inoPBLog: uint(b[123]), rootNum: be.Uint64(b[56:]),
		v5: version&0xf == 5,
	}
	if x.block < 512 || x.block > 65536 || x.block&(x.block-1) != 0 || x.inodeSize < 256 || x.inodeSize > 2048 ||
		x.inodeSize<<x.inoPBLog != x.block || x.agBlkLog > 32 || b[192] > 7 {
		return nil, fmt.Errorf("its superblock makes no sense")
	}
	x.dirBlock = x.block << b[192]
	if x.dirBlock > 65536 {
		return nil, fmt.Errorf("its superblock makes no sense")
	}
	if x.v5 {
		x.fileTypes = be.Uint32(b[216:])&1 != 0
	} else {
		x.fileTypes = be.Uint32(b[200:])&0x200 != 0
	}
	return x, nil
}

func (x *xfs) root() (node, error) { return x.inode(x.rootNum) }

// blockAt turns a file system block number (group and block in it) into an
// offset.
func (x *xfs) blockAt(n uint64) (int64, error) {
	group, in := n>>x.agBlkLog, n&(1<<x.agBlkLog-1)
	at := group*x.agBlocks + in
	if group > 1<<31 || at > uint64(x.w.size/x.block) {
		return 0, fmt.Errorf("it points to the block %d, outside of its partition", n)
	}
	return int64(at) * x.block, nil
}

type xfsInode struct {
	x    *xfs
	raw  []byte
	fork []byte // the data fork
	// known are its extents, after the first place.
	known []xfsExtent
}

func (x *xfs) inode(n uint64) (*xfsInode, error) {
	at, err := x.blockAt(n >> x.inoPBLog)
	if err != nil {
		return nil, err
	}
	b, err := x.w.at(at+int64(n&(1<<x.inoPBLog-1))*x.inodeSize, int(x.inodeSize))
	if err != nil {
		return nil, err
	}
	if string(b[:2]) != "IN" {
		return nil, fmt.Errorf("there is no inode %d", n)
	}
	core := 100
	if b[4] >= 3 {
		core = 176
	}
	fork := b[core:]
	if off := int(b[82]) * 8; off != 0 && off < len(fork) {
		fork = fork[:off]
	}
	return &xfsInode{x: x, raw: b, fork: fork}, nil
}

const (
	xfsLocal   = 1
	xfsExtents = 2
	xfsBtree   = 3
)

func (i *xfsInode) mode() uint16 { return binary.BigEndian.Uint16(i.raw[2:]) }
func (i *xfsInode) isDir() bool  { return i.mode()>>12 == 4 }
func (i *xfsInode) isLink() bool { return i.mode()>>12 == 10 }
func (i *xfsInode) size() int64  { return int64(binary.BigEndian.Uint64(i.raw[56:]) & (1<<62 - 1)) }

// xfsExtent maps count blocks of a file from offset on to the block start.
type xfsExtent struct {
	offset, start, count uint64
	unwritten            bool
}

func unpackExtents(b []byte, n int) []xfsExtent {
	be := binary.BigEndian
	var out []xfsExtent
	for ; n > 0 && len(b) >= 16; n, b = n-1, b[16:] {
		hi, lo := be.Uint64(b), be.Uint64(b[8:])
		out = append(out, xfsExtent{offset: hi >> 9 & (1<<54 - 1), start: hi&0x1ff<<43 | lo>>21, count: lo & (1<<21 - 1), unwritten: hi>>63 != 0})
	}
	return out
}

// extents lists where a file's blocks are.
func (i *xfsInode) extents() ([]xfsExtent, error) {
	be := binary.BigEndian
	switch i.raw[5] {
	case xfsExtents:
		return unpackExtents(i.fork, int(be.Uint32(i.raw[76:]))), nil
	case xfsBtree:
	default:
		return nil, fmt.Errorf("an inode has the unknown format %d", i.raw[5])
	}
	if len(i.fork) < 4 {
		return nil, fmt.Errorf("an inode is damaged")
	}
	level, n := int(be.Uint16(i.fork)), int(be.Uint16(i.fork[2:]))
	half := (len(i.fork) - 4) / 16 // the pointers come after room for as many keys
	if level < 1 || level > 9 || n > half {
		return nil, fmt.Errorf("an inode is damaged")
	}
	var out []xfsExtent
	for k := range n {
		if err := i.x.leaves(be.Uint64(i.fork[4+8*half+8*k:]), level-1, &out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// leaves gathers the extents below a block of a file's btree.
func (x *xfs) leaves(block uint64, level int, out *[]xfsExtent) error {
	at, err := x.blockAt(block)
	if err != nil {
		return err
	}
	b, err := x.w.at(at, int(x.block))
	if err != nil {
		return err
	}
	be := binary.BigEndian
	head := 24
	if x.v5 {
		head = 72
	}
	if m := string(b[:4]); m != "BMAP" && m != "BMA3" || int(be.Uint16(b[4:])) != level {
		return fmt.Errorf("a file's block list is damaged")
	}
	n := int(be.Uint16(b[6:]))
	if level == 0 {
		if *out = append(*out, unpackExtents(b[head:], n)...); len(*out) > 100_000 {
			return errBudget
		}
		return nil
	}
	half := (len(b) - head) / 16
	if n > half {
		return fmt.Errorf("a file's block list is damaged")
	}
	for k := range n {
		if err := x.leaves(be.Uint64(b[head+8*half+8*k:]), level-1, out); err != nil {
			return err
		}
	}
	return nil
}

func (i *xfsInode) bytes(max int) ([]byte, error) {
	n := min(i.size(), int64(max))
	if i.raw[5] == xfsLocal {
		return i.fork[:min(n, int64(len(i.fork)))], nil
	}
	ext, err := i.extents()
	if err != nil {
		return nil, err
	}
	if i.isLink() && i.x.v5 {
		return i.remoteLink(ext, int(n))
	}
	out := make([]byte, n)
	for _, e := range ext {
		for k := uint64(0); k < e.count && !e.unwritten; k++ {
			to := (e.offset + k) * uint64(i.x.block)
			if to >= uint64(n) {
				break
			}
			at, err := i.x.blockAt(e.start + k)
			if err != nil {
				return nil, err
			}
			b, err := i.x.w.at(at, int(min(i.x.block, n-int64(to))))
			if err != nil {
				return nil, err
			}
			copy(out[to:], b)
		}
	}
	return out, nil
}

// remoteLink reads a link's target that has blocks of its own; in version 5 each
// begins with a header of 56 bytes.
func (i *xfsInode) remoteLink(ext []xfsExtent, n int) ([]byte, error) {
	var out []byte
	for _, e := range ext {
		for k := uint64(0); k < e.count && len(out) < n; k++ {
			at, err := i.x.blockAt(e.start + k)
			if err != nil {
				return nil, err
			}
			b, err := i.x.w.at(at, int(i.x.block))
			if err != nil {
				return nil, err
			}
			if string(b[:4]) != "XSLM" {
				return nil, fmt.Errorf("a symbolic link is damaged")
			}
			out = append(out, b[56:min(len(b), 56+n-len(out))]...)
		}
	}
	return out, nil
}

func (i *xfsInode) lookup(name string) (node, error) {
	found, ino := false, uint64(0)
	err := i.each(func(entry string, n uint64) bool {
		if entry == name {
			found, ino = true, n
		}
		return !found
	})
	if err == nil && !found {
		err = errNotFound
	}
	if err != nil {
		return nil, err
	}
	return i.x.inode(ino)
}

func (i *xfsInode) names() ([]string, error) {
	var c collector
	err := i.each(func(entry string, _ uint64) bool { return c.add(entry) })
	return c, err
}

// each goes through a folder until do returns false.
func (i *xfsInode) each(do func(name string, ino uint64) bool) error {
	if i.raw[5] == xfsLocal {
		return i.short(do)
	}
	ext, err := i.extents()
	if err != nil {
		return err
	}
	// Entries lie below 32 GiB of a folder's address space; what comes after are
	// indexes, which are not needed.
	per, limit := uint64(i.x.dirBlock/i.x.block), uint64(32<<30)/uint64(i.x.block)
	for _, e := range ext {
		for k := uint64(0); k < e.count && e.offset+k < limit; k += per {
			if (e.offset+k)*uint64(i.x.block) > maxDirSize {
				return fmt.Errorf("a folder is too large")
			}
			at, err := i.x.blockAt(e.start + k)
			if err != nil {
				return err
			}
			b, err := i.x.w.at(at, int(i.x.dirBlock))
			if err != nil {
				return err
			}
			more, err := i.x.scan(b, do)
			if err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// short goes through a folder that lies inside its inode.
func (i *xfsInode) short(do func(name string, ino uint64) bool) error {
	be := binary.BigEndian
	b := i.fork
	if len(b) < 6 {
		return fmt.Errorf("a folder is damaged")
	}
	count, wide := int(b[0]), b[1] != 0
	width := 4
	if wide {
		width, count = 8, int(b[1])
	}
	if len(b) < 2+width {
		return fmt.Errorf("a folder is damaged")
	}
	b = b[2+width:]
	for range count {
		if len(b) < 3 {
			return fmt.Errorf("a folder is damaged")
		}
		nl := int(b[0])
		skip := 3 + nl
		if i.x.fileTypes {
			skip++
		}
		if len(b) < skip+width {
			return fmt.Errorf("a folder is damaged")
		}
		ino := uint64(0)
		if wide {
			ino = be.Uint64(b[skip:])
		} else {
			ino = uint64(be.Uint32(b[skip:]))
		}
		if !do(string(b[3:3+nl]), ino) {
			return nil
		}
		b = b[skip+width:]
	}
	return nil
}

// scan goes through one block of a folder; more is false when do ended it.
func (x *xfs) scan(b []byte, do func(name string, ino uint64) bool) (more bool, err error) {
	be := binary.BigEndian
	head, end := 16, len(b)
	switch string(b[:4]) {
	case "XD2D":
	case "XD2B":
		end = -1
	case "XDD3":
		head = 64
	case "XDB3":
		head, end = 64, -1
	default:
		return false, fmt.Errorf("a folder is damaged")
	}
	if end < 0 {
		// A folder of one block has its index at the end: 8 bytes for each entry
		// and 8 for their number.
		n := int64(be.Uint32(b[len(b)-8:]))
		if n*8+8 > int64(len(b)-head) {
			return false, fmt.Errorf("a folder is damaged")
		}
		end = len(b) - 8 - int(n)*8
	}
	for at := head; at+8 <= end; {
		if be.Uint16(b[at:]) == 0xffff {
			length := int(be.Uint16(b[at+2:]))
			if length < 8 || length%8 != 0 {
				return false, fmt.Errorf("a folder is damaged")
			}
			at += length
			continue
		}
		if at+12 > end {
			return false, fmt.Errorf("a folder is damaged")
		}
		nl := int(b[at+8])
		length := 8 + 1 + nl + 2
		if x.fileTypes {
			length++
		}
		length = (length + 7) &^ 7
		if at+length > end {
			return false, fmt.Errorf("a folder is damaged")
		}
		if !do(string(b[at+9:at+9+nl]), be.Uint64(b[at:])) {
			return false, nil
		}
		at += length
	}
	return true, nil
}
