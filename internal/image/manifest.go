package image

import (
	"maps"
	"slices"
)

// Manifest is the immutable description of a content: its size and the digest of
// each chunk that is not all zeros, by the chunk's number. Its name is ID, so a
// manifest that was read from anywhere is checked by computing it again.
type Manifest struct {
	// Size is the virtual size in bytes.
	Size   int64
	Chunks map[int64]Digest
}

// ID is the content's name, as Hasher computes it.
func (m *Manifest) ID() ContentID {
	h := NewHasher(m.Size)
	for n, d := range m.Chunks {
		h.Set(n, d)
	}
	return h.ID()
}

// ChunkLen is the length of chunk n in bytes: ChunkSize, or less at the end.
func (m *Manifest) ChunkLen(n int64) int { return int(min(ChunkSize, m.Size-n*ChunkSize)) }

// Chunked is a Source that knows what some of its chunks are without reading
// them, because it is an overlay on a content: an ingest takes the digest and
// reads nothing, if the store has that chunk.
type Chunked interface {
	// KnownChunk is the digest of chunk n where it is known. A known chunk of
	// zeros has the zero Digest.
	KnownChunk(n int64) (Digest, bool)
}

// Numbers are the chunks that are not zeros, in order.
func (m *Manifest) Numbers() []int64 {
	return slices.Sorted(maps.Keys(m.Chunks))
}

// NextChunks is Sparse over the ordered numbers of the chunks that hold data, for
// a content of size bytes.
func NextChunks(chunks []int64, size, off int64) (start, end int64) {
	i, _ := slices.BinarySearch(chunks, off/ChunkSize)
	if off >= size || i == len(chunks) {
		return size, size
	}
	first := chunks[i]
	for i++; i < len(chunks) && chunks[i] == chunks[i-1]+1; {
		i++
	}
	return max(off, first*ChunkSize), min((chunks[i-1]+1)*ChunkSize, size)
}
