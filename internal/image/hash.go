package image

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// ChunkSize is the unit of hashing, 512 KiB. The measurements behind it are in
// docs/adr/0011.
const ChunkSize = 512 << 10

// Digest is the SHA-256 of one chunk.
type Digest [sha256.Size]byte

// Hasher gathers the digests of a content's chunks, in any order, and computes
// its name: the SHA-256 of the text "millpond content 1\n", the size as 8 bytes
// big-endian, and the SHA-256 of each chunk in order. Chunks that were never set
// are zeros and cost nothing. A Hasher is for one goroutine.
type Hasher struct {
	size   int64
	chunks map[int64]Digest
}

// NewHasher begins the name of a content of size bytes.
func NewHasher(size int64) *Hasher { return &Hasher{size: size, chunks: map[int64]Digest{}} }

// Set tells the digest of chunk n, whose bytes begin at n × ChunkSize.
func (h *Hasher) Set(n int64, d Digest) { h.chunks[n] = d }

// ID is the content's name.
func (h *Hasher) ID() ContentID {
	sum := sha256.New()
	sum.Write([]byte("millpond content 1\n"))
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(h.size))
	sum.Write(size[:])
	zeros := make([]byte, ChunkSize)
	zero := Digest(sha256.Sum256(zeros))
	for n := int64(0); n*ChunkSize < h.size; n++ {
		d, ok := h.chunks[n]
		switch {
		case ok:
		case h.size-n*ChunkSize >= ChunkSize:
			d = zero
		default:
			d = sha256.Sum256(zeros[:h.size-n*ChunkSize])
		}
		sum.Write(d[:])
	}
	return ContentID(hex.EncodeToString(sum.Sum(nil)))
}
