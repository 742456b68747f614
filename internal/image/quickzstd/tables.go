package quickzstd

import "math/bits"

// The predefined distributions: RFC 8878, 3.1.1.3.2.2. -1 is a symbol that is rarer
// than one state of the table.
const (
	literalsLog = 6
	matchLog    = 6
	offsetLog   = 5
)

var (
	literalsTable = newTable(literalsLog, []int8{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1})
	matchTable    = newTable(matchLog, []int8{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1})
	offsetTable   = newTable(offsetLog, []int8{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1})

	// Short numbers' codes: which bits follow each symbol from the first that has some.
	literalsCodes = shortCodes(16, 64, []uint8{1, 1, 1, 1, 2, 2, 3, 3, 4})
	matchCodes    = shortCodes(32, 128, []uint8{1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5})
)

// shortCodes are those of the numbers below n: one symbol each below exact, and then
// one for as many as its bits say.
func shortCodes(exact, n int, more []uint8) []code {
	codes := make([]code, 0, n)
	for i := range exact {
		codes = append(codes, code{symbol: uint8(i)})
	}
	for i, b := range more {
		for range 1 << b {
			codes = append(codes, code{uint8(exact + i), b})
		}
	}
	return codes
}

// table codes symbols with finite states: RFC 8878, 4.1. A state is a number from the
// table's size to twice that, of which the lowest bits are written.
type table struct {
	states  [64]uint16
	symbols [64]transition
}

// transition is how a symbol follows a state: (state + bits) >> 16 of the state's bits
// are written, and what is left of it, and states, is the next one's place.
type transition struct {
	bits   uint32
	states int32
}

// newTable makes the coder of a distribution over 1<<log states.
func newTable(log uint8, counts []int8) *table {
	t := new(table)
	size := 1 << log
	// The rarest have one state each at the end; the others are spread over the rest.
	var symbols [64]uint8
	high := size
	for s, c := range counts {
		if c < 0 {
			high--
			symbols[high] = uint8(s)
		}
	}
	at := 0
	for s, c := range counts {
		for range max(c, 0) {
			symbols[at] = uint8(s)
			for at = (at + size>>1 + size>>3 + 3) & (size - 1); at >= high; {
				at = (at + size>>1 + size>>3 + 3) & (size - 1)
			}
		}
	}
	first := 0
	var next [64]int
	for s, c := range counts {
		n := max(int(c), -int(c))
		next[s] = first
		if n == 1 {
			t.symbols[s] = transition{uint32(log)<<16 - uint32(size), int32(first - 1)}
		} else {
			most := uint32(log) - uint32(bits.Len(uint(n-1))-1)
			t.symbols[s] = transition{most<<16 - uint32(n)<<most, int32(first - n)}
		}
		first += n
	}
	for i := range size {
		s := symbols[i]
		t.states[next[s]] = uint16(size + i)
		next[s]++
	}
	return t
}

// first is the state that a reader ends with at a symbol.
func (t *table) first(symbol uint8) uint32 {
	x := t.symbols[symbol&63]
	n := (x.bits + 1<<15) >> 16
	return uint32(t.states[(int32((n<<16-x.bits)>>n)+x.states)&63])
}

// next writes what leads a reader from a symbol's state to state, and returns the
// former.
func (t *table) next(w *writer, state uint32, symbol uint8) uint32 {
	x := t.symbols[symbol&63]
	n := (state + x.bits) >> 16
	w.add(state, uint8(n))
	return uint32(t.states[(int32(state>>(n&31))+x.states)&63])
}
