package inspect

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// fat reads FAT12, FAT16 and FAT32 with long names, as far as it takes to find a
// file: the layout is in Microsoft's "FAT: General Overview of On-Disk Format".
type fat struct {
	w        window
	cluster  int64 // bytes
	table    int64 // where the first FAT begins
	data     int64 // where cluster 2 begins
	count    uint32
	bits     int
	rootAt   int64 // FAT12 and FAT16: a fixed area
	rootSize int64
	rootNum  uint32 // FAT32: its first cluster
}

func openFAT(w window) (fileSystem, error) {
	b, err := w.at(0, 512)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	bytes, per := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, fats, roots := int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[17:]))
	total, each := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	if each == 0 {
		each = int64(le.Uint32(b[36:]))
	}
	if bytes != 512 && bytes != 1024 && bytes != 2048 && bytes != 4096 || per == 0 || per&(per-1) != 0 || fats == 0 || fats > 4 {
		return nil, fmt.Errorf("its boot sector makes no sense")
	}
	f := &fat{w: w, cluster: bytes * per, table: reserved * bytes, rootSize: roots * 32}
	f.rootAt = f.table + fats*each*bytes
	f.data = f.rootAt + (f.rootSize+bytes-1)/bytes*bytes
	clusters := (total*bytes - f.data) / f.cluster
	if clusters < 1 || clusters > 1<<28 {
		return nil, fmt.Errorf("its boot sector makes no sense")
	}
	f.count = uint32(clusters)
	switch {
	case roots == 0:
		f.bits, f.rootNum = 32, le.Uint32(b[44:])
	case clusters < 4085:
		f.bits = 12
	default:
		f.bits = 16
	}
	return f, nil
}

func (f *fat) root() (node, error) {
	return &fatNode{f: f, dir: true, first: f.rootNum, root: true}, nil
}

// next is the cluster after c; false at the end of a chain.
func (f *fat) next(c uint32) (uint32, bool, error) {
	off := int64(c) * int64(f.bits) / 8
	n := 2
	if f.bits == 32 {
		n = 4
	}
	b, err := f.w.at(f.table+off, n)
	if err != nil {
		return 0, false, err
	}
	var v uint32
	switch f.bits {
	case 32:
		v = binary.LittleEndian.Uint32(b) & 0x0fffffff
	case 16:
		v = uint32(binary.LittleEndian.Uint16(b))
	default:
		v = uint32(binary.LittleEndian.Uint16(b))
		if c%2 == 1 {
			v >>= 4
		}
		v &= 0xfff
	}
	return v, v >= 2 && v < f.count+2, nil
}

// chain reads at most max bytes of the clusters from first on.
func (f *fat) chain(first uint32, max int) ([]byte, error) {
	var out []byte
	for c, ok := first, first >= 2 && first < f.count+2; ok && len(out) < max; {
		b, err := f.w.at(f.data+int64(c-2)*f.cluster, int(f.cluster))
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
		if c, ok, err = f.next(c); err != nil {
			return nil, err
		}
	}
	return out[:min(len(out), max)], nil
}

type fatNode struct {
	f         *fat
	dir, root bool
	first     uint32
	length    int64
	// clusters are those of the chain that have been looked up.
	clusters []uint32
}

func (n *fatNode) isDir() bool  { return n.dir }
func (n *fatNode) isLink() bool { return false }
func (n *fatNode) bytes(max int) ([]byte, error) {
	return n.f.chain(n.first, int(min(n.length, int64(max))))
}

// names is not needed of a FAT: firmware names its files.
func (n *fatNode) names() ([]string, error) { return nil, errNotFound }

// lookup compares long and short names without regard to case.
func (n *fatNode) lookup(name string) (node, error) {
	var b []byte
	var err error
	if n.root && n.f.bits != 32 {
		b, err = n.f.w.at(n.f.rootAt, int(n.f.rootSize))
	} else {
		b, err = n.f.chain(n.first, maxDirSize)
	}
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var long []uint16
	for ; len(b) >= 32 && b[0] != 0; b = b[32:] {
		e := b[:32]
		if e[0] == 0xe5 {
			long = nil
			continue
		}
		if e[11]&0x3f == 0x0f {
			var part []uint16
			for _, r := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
				for k := r[0]; k < r[1]; k += 2 {
					part = append(part, le.Uint16(e[k:]))
				}
			}
			// The last part of a name comes first.
			if long = append(part, long...); len(long) > 260 {
				long = nil
			}
			continue
		}
		label := e[11]&0x08 != 0
		if !label && (strings.EqualFold(longName(long), name) || strings.EqualFold(shortName(e), name)) {
			return &fatNode{f: n.f, dir: e[11]&0x10 != 0, first: uint32(le.Uint16(e[20:]))<<16&mask(n.f.bits) | uint32(le.Uint16(e[26:])), length: int64(le.Uint32(e[28:]))}, nil
		}
		long = nil
	}
	return nil, errNotFound
}

// mask leaves the high half of a cluster number to FAT32 only.
func mask(bits int) uint32 {
	if bits == 32 {
		return 0x0fff0000
	}
	return 0
}

func longName(u []uint16) string {
	for i, c := range u {
		if c == 0 {
			u = u[:i]
			break
		}
	}
	return string(utf16.Decode(u))
}

func shortName(e []byte) string {
	base, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if ext == "" {
		return base
	}
	return base + "." + ext
}
