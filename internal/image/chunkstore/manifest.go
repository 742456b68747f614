package chunkstore

import (
	"encoding/binary"
	"errors"
	"slices"

	"millpond.dev/millpond/internal/image"
)

// A manifest's object is the line manifestMagic, the size in bytes, the number of
// chunks that are not zeros, and for each of them in order the number of chunks
// that were left out before it and its digest. Numbers are unsigned varints.
const manifestMagic = "millpond manifest 1\n"

// maxManifest bounds what is read of a manifest's object: that of a full disk of
// image.MaxSize.
const maxManifest = 64 + image.MaxSize/image.ChunkSize*(2+32)

var errManifest = errors.New("it is not a manifest")

func encodeManifest(m *image.Manifest) []byte {
	ns := chunkNumbers(m)
	b := make([]byte, 0, len(manifestMagic)+20+len(ns)*34)
	b = append(b, manifestMagic...)
	b = binary.AppendUvarint(b, uint64(m.Size))
	b = binary.AppendUvarint(b, uint64(len(ns)))
	next := int64(0)
	for _, n := range ns {
		d := m.Chunks[n]
		b = binary.AppendUvarint(b, uint64(n-next))
		b = append(b, d[:]...)
		next = n + 1
	}
	return b
}

// chunkNumbers are the numbers of the chunks that are not zeros, in order.
func chunkNumbers(m *image.Manifest) []int64 {
	ns := make([]int64, 0, len(m.Chunks))
	for n := range m.Chunks {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	return ns
}

// decodeManifest reads what encodeManifest wrote. It takes memory in proportion
// to b, whatever b says.
func decodeManifest(b []byte) (*image.Manifest, error) {
	if len(b) < len(manifestMagic) || string(b[:len(manifestMagic)]) != manifestMagic {
		return nil, errManifest
	}
	b = b[len(manifestMagic):]
	number := func() (v uint64, ok bool) {
		v, k := binary.Uvarint(b)
		if k <= 0 || k > 1 && b[k-1] == 0 { // cut short, too large, or a longer form than needed
			return 0, false
		}
		b = b[k:]
		return v, true
	}
	size, ok := number()
	if !ok || size == 0 || size%512 != 0 || size > image.MaxSize {
		return nil, errManifest
	}
	count, ok := number()
	if !ok || count > uint64(len(b))/33 {
		return nil, errManifest
	}
	m := &image.Manifest{Size: int64(size), Chunks: make(map[int64]image.Digest, count)}
	chunks := (size + image.ChunkSize - 1) / image.ChunkSize
	next := uint64(0)
	for range count {
		gap, ok := number()
		if !ok || len(b) < 32 || gap >= chunks || next+gap >= chunks {
			return nil, errManifest
		}
		m.Chunks[int64(next+gap)] = image.Digest(b[:32])
		b, next = b[32:], next+gap+1
	}
	if len(b) != 0 {
		return nil, errManifest
	}
	return m, nil
}

// dataBytes is how many bytes the chunks of m have that are not zeros.
func dataBytes(m *image.Manifest) int64 {
	total := int64(len(m.Chunks)) * image.ChunkSize
	last := (m.Size - 1) / image.ChunkSize
	if _, ok := m.Chunks[last]; ok {
		total -= image.ChunkSize - int64(m.ChunkLen(last))
	}
	return total
}
