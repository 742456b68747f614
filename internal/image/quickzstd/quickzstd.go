// Package quickzstd writes zstd frames quickly: the matches are those that S2's
// encoder finds, the sequences are coded with the tables that the format predefines,
// and literals stay as they are. A frame is longer than what a zstd encoder of the
// fastest level makes, and any zstd decoder reads it.
//
// It never decodes, keeps no dictionary and writes no checksum. Package chunkstore
// calls it for stores in folders, where an ingest waits for processors and not for
// the disk.
//
// The format is that of RFC 8878.
package quickzstd

import (
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/s2"
)

const (
	// maxBlock is the most that a block of the format holds, in bytes of plain text.
	maxBlock = 128 << 10
	// minMatch is the shortest match that the format can say.
	minMatch = 3
	// slack is what may be written behind the end of a buffer's content.
	slack = 16
)

// sequence is one of a block: so many literals, then a match. offset is as it is
// coded: the distance and 3, or 1 for the distance of the sequence before.
type sequence struct{ literals, match, offset uint32 }

// Encoder writes frames, one at a time. Its zero value is ready; what it has allocated
// is used again.
type Encoder struct {
	found     []byte // S2's form of the text
	literals  []byte
	sequences []sequence
	bits      []byte
	// last is the distance of the last match that was written, and before what it was at
	// the block's beginning.
	last, before uint32
}

// Append appends a frame of plain to dst. It has at most 9 bytes and 3 for each 128 KiB
// more than plain.
func (e *Encoder) Append(dst, plain []byte) []byte {
	// One segment, and four bytes of the content's length.
	dst = append(dst, 0x28, 0xb5, 0x2f, 0xfd, 0xa0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(plain)))
	e.found = s2.Encode(e.found[:cap(e.found)], plain)
	_, n := binary.Uvarint(e.found)
	found := e.found[n:]
	if e.literals == nil {
		e.literals = make([]byte, 0, maxBlock+slack)
	}
	e.begin(1) // what the format takes for the distance before the first

	// plain[from:at] are literals that no sequence has yet.
	from, at, block := 0, 0, 0
	for distance := 0; len(found) > 0; {
		t, length := found[0], 0
		switch t & 3 {
		case 0:
			length = int(t >> 2)
			found = found[1:]
			if length >= 60 {
				bytes := length - 59
				length = 0
				for i := range bytes {
					length |= int(found[i]) << (8 * i)
				}
				found = found[bytes:]
			}
			length++
			found = found[length:]
			at += length
			continue
		case 1:
			length = int(t>>2&7) + 4
			d := int(t&0xe0)<<3 | int(found[1])
			found = found[2:]
			if d != 0 {
				distance = d
				break
			}
			// S2's own: the distance of the match before.
			switch length {
			case 9:
				length = int(found[0]) + 8
				found = found[1:]
			case 10:
				length = int(found[0]) | int(found[1])<<8 + 1<<8 + 4
				found = found[2:]
			case 11:
				length = int(found[0]) | int(found[1])<<8 | int(found[2])<<16 + 1<<16 + 4
				found = found[3:]
			}
		case 2:
			length, distance = int(t>>2)+1, int(found[1])|int(found[2])<<8
			found = found[3:]
		case 3:
			length, distance = int(t>>2)+1, int(binary.LittleEndian.Uint32(found[1:]))
			found = found[5:]
		}
		for length > 0 {
			for at >= block+maxBlock {
				dst = e.block(dst, plain, block, from, block+maxBlock, false)
				block += maxBlock
				from = max(from, block)
			}
			// A part that is too short for a match is left to the literals.
			part := min(length, block+maxBlock-at)
			if part >= minMatch {
				e.add(plain, from, at, part, distance)
				from = at + part
			}
			at += part
			length -= part
		}
	}
	for len(plain) > block+maxBlock {
		dst = e.block(dst, plain, block, from, block+maxBlock, false)
		block += maxBlock
		from = max(from, block)
	}
	return e.block(dst, plain, block, from, len(plain), true)
}

// add notes the literals plain[from:at] and a match behind them.
func (e *Encoder) add(plain []byte, from, at, length, distance int) {
	n := at - from
	if n == 0 && len(e.sequences) > 0 && e.last == uint32(distance) {
		e.sequences[len(e.sequences)-1].match += uint32(length) // S2 cuts long ones
		return
	}
	end := len(e.literals)
	if n <= 16 && from+16 <= len(plain) {
		// Most are a few bytes, for which a call costs more than the copy. The literals of a
		// block are less than a block, and have slack behind them.
		to := e.literals[end : end+16]
		binary.LittleEndian.PutUint64(to, binary.LittleEndian.Uint64(plain[from:]))
		binary.LittleEndian.PutUint64(to[8:], binary.LittleEndian.Uint64(plain[from+8:]))
		e.literals = e.literals[:end+n]
	} else {
		e.literals = append(e.literals, plain[from:at]...)
	}
	offset := uint32(distance) + 3
	// Without literals before it, code 1 would be the distance before the last.
	if n > 0 && e.last == uint32(distance) {
		offset = 1
	}
	e.last = uint32(distance)
	e.sequences = append(e.sequences, sequence{uint32(n), uint32(length), offset})
}

func (e *Encoder) begin(last uint32) {
	e.literals, e.sequences = e.literals[:0], e.sequences[:0]
	e.last, e.before = last, last
}

const (
	rawBlock        = 0
	compressedBlock = 2
)

// block appends the block plain[start:end], whose literals from from on no sequence
// has, and begins the next.
func (e *Encoder) block(dst, plain []byte, start, from, end int, final bool) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0)
	kind := compressedBlock
	if len(e.sequences) > 0 {
		e.literals = append(e.literals, plain[from:end]...)
		dst = e.sections(dst)
	}
	if len(e.sequences) == 0 || len(dst)-at-3 >= end-start {
		// A reader of this block learns no distance.
		kind, e.last = rawBlock, e.before
		dst = append(dst[:at+3], plain[start:end]...)
	}
	head := uint32(len(dst)-at-3)<<3 | uint32(kind)<<1
	if final {
		head |= 1
	}
	dst[at], dst[at+1], dst[at+2] = byte(head), byte(head>>8), byte(head>>16)
	e.begin(e.last)
	return dst
}

// sections appends a compressed block's two: literals as they are, and sequences.
func (e *Encoder) sections(dst []byte) []byte {
	switch n := len(e.literals); {
	case n < 1<<5:
		dst = append(dst, byte(n<<3))
	case n < 1<<12:
		dst = append(dst, byte(n<<4|1<<2), byte(n>>4))
	default:
		dst = append(dst, byte(n<<4|3<<2), byte(n>>4), byte(n>>12))
	}
	dst = append(dst, e.literals...)
	switch n := len(e.sequences); {
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7f00:
		dst = append(dst, byte(n>>8|0x80), byte(n))
	default:
		dst = append(dst, 0xff, byte(n-0x7f00), byte((n-0x7f00)>>8))
	}
	dst = append(dst, 0) // all three tables are the predefined ones
	return append(dst, e.bitstream()...)
}

// code is a number's: symbol, and how many bits of the number follow.
type code struct{ symbol, bits uint8 }

// literalsCode and matchCode are RFC 8878, 3.1.1.3.2.1.1; match is a match's length
// less minMatch.
func literalsCode(n uint32) code {
	if n < uint32(len(literalsCodes)) {
		return literalsCodes[n]
	}
	h := uint8(bits.Len32(n) - 1)
	return code{h + 19, h}
}

func matchCode(n uint32) code {
	if n < uint32(len(matchCodes)) {
		return matchCodes[n]
	}
	h := uint8(bits.Len32(n) - 1)
	return code{h + 36, h}
}

// bitstream is the sequences', written from the last to the first, because a reader
// begins at the end. It is valid until the next call.
func (e *Encoder) bitstream() []byte {
	// A sequence has at most 17 bits of states and 51 of numbers.
	if need := 9*len(e.sequences) + slack; cap(e.bits) < need {
		e.bits = make([]byte, need)
	}
	w := writer{to: e.bits[:cap(e.bits)]}
	i := len(e.sequences) - 1
	s := e.sequences[i]
	l, m, o := literalsCode(s.literals), matchCode(s.match-minMatch), uint8(bits.Len32(s.offset)-1)
	ls, ms, os := literalsTable.first(l.symbol), matchTable.first(m.symbol), offsetTable.first(o)
	for {
		if l.bits+m.bits > 20 {
			w.flush() // there are 43 at most
		}
		w.add(s.literals, l.bits)
		w.add(s.match-minMatch, m.bits)
		w.flush()
		w.add(s.offset, o)
		if i--; i < 0 {
			break
		}
		s = e.sequences[i]
		l, m, o = literalsCode(s.literals), matchCode(s.match-minMatch), uint8(bits.Len32(s.offset)-1)
		os = offsetTable.next(&w, os, o)
		ms = matchTable.next(&w, ms, m.symbol)
		ls = literalsTable.next(&w, ls, l.symbol)
	}
	w.flush()
	w.add(ms, matchLog)
	w.add(os, offsetLog)
	w.add(ls, literalsLog)
	w.add(1, 1)
	w.flush()
	if w.have > 0 {
		w.n++ // what is left of a byte is written already
	}
	return w.to[:w.n]
}

// writer fills to from its beginning, the lowest bits first. At most 56 bits may be
// added between two flushes: seven may be left of the first.
type writer struct {
	to   []byte
	n    int
	word uint64
	have uint8
}

// add adds the lowest n bits of v.
func (w *writer) add(v uint32, n uint8) {
	w.word |= uint64(v&(1<<(n&31)-1)) << (w.have & 63)
	w.have += n
}

func (w *writer) flush() {
	binary.LittleEndian.PutUint64(w.to[w.n:], w.word)
	w.n += int(w.have >> 3)
	w.word >>= w.have &^ 7 & 63
	w.have &= 7
}
