package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"millpond.dev/millpond/internal/image"
)

// memContents is a store of contents in memory.
type memContents map[image.ContentID][]byte

func (m memContents) bases(Ref) (Contents, error) { return m, nil }

func (m memContents) add(b []byte) Ref {
	id := manifestOf(b).ID()
	m[id] = bytes.Clone(b)
	return Ref{Store: "s", Content: id, Size: int64(len(b))}
}

func manifestOf(b []byte) *image.Manifest {
	m := &image.Manifest{Size: int64(len(b)), Chunks: map[int64]image.Digest{}}
	for n := int64(0); n*image.ChunkSize < m.Size; n++ {
		c := b[n*image.ChunkSize:][:m.ChunkLen(n)]
		if bytes.Count(c, []byte{0}) != len(c) {
			m.Chunks[n] = sha256.Sum256(c)
		}
	}
	return m
}

type memContent struct{ memFile }

func (c *memContent) Size() int64 { return int64(len(c.data)) }
func (c *memContent) NextData(off int64) (int64, int64, error) {
	s, e, err := c.memFile.NextData(off)
	return min(s, c.Size()), min(e, c.Size()), err
}

func (m memContents) Open(_ context.Context, id image.ContentID) (image.ReadCloser, error) {
	b, ok := m[id]
	if !ok {
		return nil, fmt.Errorf("no content %s", id)
	}
	return &memContent{memFile{data: b}}, nil
}

func (m memContents) Manifest(_ context.Context, id image.ContentID) (*image.Manifest, error) {
	b, ok := m[id]
	if !ok {
		return nil, fmt.Errorf("no content %s", id)
	}
	return manifestOf(b), nil
}

// model is what the disk should hold, with what its pages may hold after a power
// failure.
type model struct {
	now []byte
	may map[int][][]byte
}

func (m *model) change(off, n int64, with func([]byte)) {
	for p := int(off / memPage); int64(p)*memPage < off+n; p++ {
		m.may[p] = append(m.may[p], bytes.Clone(m.now[p*memPage:min(len(m.now), (p+1)*memPage)]))
	}
	with(m.now[off : off+n])
}

type frozenAt struct {
	p    Point
	f    *Frozen
	want []byte
}

// source is anything that is read and compared.
type source interface {
	image.Source
	image.Sparse
	image.Chunked
}

func check(t *testing.T, what string, s source, want []byte) {
	t.Helper()
	if s.Size() != int64(len(want)) {
		t.Fatalf("%s: %d bytes, want %d", what, s.Size(), len(want))
	}
	got := make([]byte, len(want))
	if _, err := s.ReadAt(got, 0); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s: other bytes from %d (block %d) on", what, i, i/BlockSize)
			}
		}
	}
	holes := bytes.Clone(want)
	for off := int64(0); off < s.Size(); {
		start, end, err := s.NextData(off)
		if err != nil || start < off || start < s.Size() && end <= start || end > s.Size() {
			t.Fatalf("%s: NextData(%d) = %d, %d, %v", what, off, start, end, err)
		}
		if start == s.Size() {
			break
		}
		clear(holes[start:end])
		off = end
	}
	if bytes.Count(holes, []byte{0}) != len(holes) {
		t.Fatalf("%s: data in what NextData calls a hole", what)
	}
	m := manifestOf(want)
	for n := int64(0); n*image.ChunkSize < m.Size; n++ {
		if d, known := s.KnownChunk(n); known && d != m.Chunks[n] {
			t.Fatalf("%s: chunk %d is not what KnownChunk says", what, n)
		}
	}
}

// inMemory makes a handle without a folder of the host.
func inMemory(v *volume, c memContents) *Disk {
	return &Disk{disks: &Disks{bases: c.bases}, v: &shared{volume: v}}
}

func TestAgainstAPlainSliceWithCrashes(t *testing.T) {
	// MILLPOND_TEST_SEEDS asks for more of them.
	seeds := 16
	if n, err := strconv.Atoi(os.Getenv("MILLPOND_TEST_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { t.Parallel(); runModel(t, uint64(seed)) })
	}
}

func runModel(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	contents := memContents{}
	dir := newMemFolder()
	boot := "boot-0"
	size := int64(512 * (1 + r.IntN(5000)))
	m := &model{now: make([]byte, size), may: map[int][][]byte{}}
	st := state{Version: 1, Size: size, Layers: []layerState{{N: 1, Size: size, Whole: true}}}
	if r.IntN(3) > 0 {
		b := make([]byte, 512*(1+r.Int64N(size/512)))
		for range r.IntN(6) {
			at := r.IntN(len(b))
			for i := at; i < min(len(b), at+r.IntN(200<<10)); i++ {
				b[i] = byte(r.Uint32())
			}
		}
		ref := contents.add(b)
		copy(m.now, b)
		st.Base, st.Layers[0].Whole = &ref, false
	}
	l, err := createLayer(dir, st.Layers[0], boot)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	if err := st.write(dir); err != nil {
		t.Fatal(err)
	}
	open := func() *Disk {
		v, err := openVolume(dir, contents.bases, boot)
		if err != nil {
			t.Fatal(err)
		}
		return inMemory(v, contents)
	}
	k := open()
	var frozen []frozenAt
	for op := range 60 {
		size := int64(len(m.now))
		off := 512 * r.Int64N(size/512)
		n := min(size-off, 512*(1+r.Int64N(400)))
		if r.IntN(4) == 0 { // whole blocks
			off = off / BlockSize * BlockSize
			n = min(size-off, BlockSize*(1+r.Int64N(3)))
		}
		switch r.IntN(16) {
		case 0, 1, 2, 3, 4, 5:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			m.change(off, n, func(b []byte) { copy(b, p) })
			if _, err := k.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		case 6, 7:
			m.change(off, n, func(b []byte) { clear(b) })
			if err := k.Clear(off, n); err != nil {
				t.Fatal(err)
			}
		case 8:
			if err := k.Sync(); err != nil {
				t.Fatal(err)
			}
			clear(m.may)
		case 9, 10:
			p, f, err := k.Freeze()
			if err != nil {
				t.Fatal(err)
			}
			clear(m.may)
			frozen = append(frozen, frozenAt{p, f, bytes.Clone(m.now)})
		case 11, 12:
			if len(frozen) == 0 {
				continue
			}
			i := r.IntN(len(frozen))
			z := frozen[i]
			check(t, "frozen", z.f, z.want)
			if err := k.Rebase(z.p, contents.add(z.want)); err != nil {
				t.Fatal(err)
			}
			check(t, "frozen, after its rebase", z.f, z.want)
			if err := z.f.Close(); err != nil {
				t.Fatal(err)
			}
			frozen = append(frozen[:i], frozen[i+1:]...)
		case 13:
			if grown := size + 512*r.Int64N(300); grown < 6<<20 {
				if err := k.Resize(grown); err != nil {
					t.Fatal(err)
				}
				// A page across the old end may hold less of itself after a crash, and
				// then has zeros there, as it has now.
				m.now = append(m.now, make([]byte, grown-size)...)
				for p, was := range m.may {
					for i := range was {
						m.may[p][i] = append(bytes.Clone(was[i]), make([]byte, max(0, min(len(m.now), (p+1)*memPage)-p*memPage-len(was[i])))...)
					}
				}
			}
		case 14: // the process is killed: nothing of the files is lost
			frozen = nil
			k = open()
		case 15: // power failure
			frozen = nil
			dir, boot = dir.crash(r), fmt.Sprint("boot-", op+1)
			k = open()
			after := make([]byte, len(m.now))
			if _, err := k.ReadAt(after, 0); err != nil {
				t.Fatal(err)
			}
			for p := 0; p*memPage < len(after); p++ {
				got := after[p*memPage : min(len(after), (p+1)*memPage)]
				ok := bytes.Equal(got, m.now[p*memPage:][:len(got)])
				for _, may := range m.may[p] {
					ok = ok || bytes.Equal(got, may)
				}
				if !ok {
					t.Fatalf("after a power failure page %d (block %d) has bytes that it never had", p, p*memPage/BlockSize)
				}
			}
			m.now = after
			clear(m.may)
		}
		if op%4 > 0 && op < 59 {
			continue
		}
		check(t, fmt.Sprintf("after op %d", op), k, m.now)
		if len(frozen) > 0 {
			z := frozen[r.IntN(len(frozen))]
			check(t, "frozen", z.f, z.want)
		}
	}
}
