package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	// BlockSize is the unit of ownership, 64 KiB: one bit of a layer's bitmap.
	// Smaller blocks would copy less at the first write to one, larger ones keep
	// fewer bits; QEMU's overlays use the same size.
	BlockSize = 64 << 10
	// A page of the bitmap is the unit of its writing: 4 KiB, for 2 GiB of disk.
	pageBytes  = 4096
	pageWords  = pageBytes / 8
	pageBlocks = pageBytes * 8
	// liveBits is where the bits begin in the live file; its header is before.
	liveBits = 4096
)

type page [pageWords]atomic.Uint64

// bitmap says which blocks a layer owns. Bits are only ever set. It is kept
// twice: in the map file, which is written by Sync behind the data and so holds
// after a power failure; and in the live file, which every set writes at once
// and nobody syncs: it holds after the end of this process, as long as the
// kernel that has both files' pages runs. Without it, writes that were answered
// would be lost with an image host that is killed, while the VM runs on and
// believes in them.
type bitmap struct {
	pages []atomic.Pointer[page]

	mu    sync.Mutex
	dirty map[int]bool // pages with bits that the map file does not have
	live  file         // nil in a frozen layer
}

func newBitmap(size int64) *bitmap {
	b := &bitmap{dirty: map[int]bool{}}
	b.grow(size)
	return b
}

// grow makes room for the blocks of a disk of size bytes. Nobody else may use
// the bitmap meanwhile.
func (m *bitmap) grow(size int64) {
	n := int((blocks(size) + pageBlocks - 1) / pageBlocks)
	if n <= len(m.pages) {
		return
	}
	pages := make([]atomic.Pointer[page], n)
	for i := range m.pages {
		pages[i].Store(m.pages[i].Load())
	}
	m.pages = pages
}

func blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

func (m *bitmap) has(b int64) bool {
	i := int(b / pageBlocks)
	if i >= len(m.pages) {
		return false
	}
	p := m.pages[i].Load()
	return p != nil && p[b%pageBlocks/64].Load()&(1<<(b%64)) != 0
}

// set marks block b as owned. Its data has been written before.
func (m *bitmap) set(b int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := int(b / pageBlocks)
	p := m.pages[i].Load()
	if p == nil {
		p = new(page)
		m.pages[i].Store(p)
	}
	w := &p[b%pageBlocks/64]
	word := w.Load() | 1<<(b%64)
	var buf [8]byte
	binary.LittleEndian.PutUint64(buf[:], word)
	if _, err := m.live.WriteAt(buf[:], liveBits+b/64*8); err != nil {
		return err
	}
	w.Store(word)
	m.dirty[i] = true
	return nil
}

// next is the first owned block from b to limit; limit or more if there is none.
func (m *bitmap) next(b, limit int64) int64 { return m.scan(b, limit, false) }

// nextFree is the first block from b to limit that is not owned.
func (m *bitmap) nextFree(b, limit int64) int64 { return m.scan(b, limit, true) }

func (m *bitmap) scan(b, limit int64, free bool) int64 {
	for i := int(b / pageBlocks); i < len(m.pages) && b < limit; i++ {
		p := m.pages[i].Load()
		if p == nil {
			if free {
				return b
			}
			b = int64(i+1) * pageBlocks
			continue
		}
		for w := b % pageBlocks / 64; w < pageWords && b < limit; w++ {
			v := p[w].Load()
			if free {
				v = ^v
			}
			v &= ^uint64(0) << (b % 64)
			if v != 0 {
				return int64(i)*pageBlocks + w*64 + int64(bits.TrailingZeros64(v))
			}
			b = int64(i)*pageBlocks + (w+1)*64
		}
	}
	if free {
		return b
	}
	return max(b, limit)
}

// empty says whether no block is owned.
func (m *bitmap) empty() bool { return m.next(0, never) >= never }

// take copies the pages that the map file lacks, and takes them for written.
func (m *bitmap) take() map[int][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[int][]byte, len(m.dirty))
	for i := range m.dirty {
		p, b := m.pages[i].Load(), make([]byte, pageBytes)
		for w := range p {
			binary.LittleEndian.PutUint64(b[w*8:], p[w].Load())
		}
		out[i] = b
	}
	clear(m.dirty)
	return out
}

// giveBack marks pages as not written after all.
func (m *bitmap) giveBack(pages map[int][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range pages {
		m.dirty[i] = true
	}
}

// load adds the bits of a file, which begin at off. Pages that get bits this way
// are dirty if asked. Bits beyond the disk are dropped.
func (m *bitmap) load(f file, off int64, dirty bool) error {
	buf := make([]byte, pageBytes)
	for i := 0; i < len(m.pages); {
		start, _, err := f.NextData(off + int64(i)*pageBytes)
		if err != nil {
			return err
		}
		if start = (start - off) / pageBytes; start >= int64(len(m.pages)) {
			return nil
		}
		i = max(i, int(start))
		n, err := f.ReadAt(buf, off+int64(i)*pageBytes)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		clear(buf[n:])
		if bytes.Count(buf, []byte{0}) != pageBytes {
			p := m.pages[i].Load()
			if p == nil {
				p = new(page)
				m.pages[i].Store(p)
			}
			for w := range p {
				old, word := p[w].Load(), binary.LittleEndian.Uint64(buf[w*8:])
				if word&^old != 0 {
					p[w].Store(old | word)
					if dirty {
						m.dirty[i] = true
					}
				}
			}
		}
		i++
	}
	return nil
}
