package layer

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"sync"
)

const memPage = 4096

// memFolder is a folder that can lose what was not synced, in every way in which
// a file system may: each page of a file is found at any of its contents since
// the last sync, each name made or not, removed or not.
type memFolder struct {
	mu      sync.Mutex
	names   map[string]*memFile
	durable map[string]*memFile
}

func newMemFolder() *memFolder {
	return &memFolder{names: map[string]*memFile{}, durable: map[string]*memFile{}}
}

type memFile struct {
	mu    sync.Mutex
	data  []byte
	was   map[int][][]byte // contents of pages since the last sync, that at the sync first
	sizes []int            // likewise
}

func (d *memFolder) Create(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &memFile{was: map[int][][]byte{}, sizes: []int{0}}
	d.names[name] = f
	return f, nil
}

func (d *memFolder) Open(name string, _ bool) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.names[name]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func (d *memFolder) Read(name string) ([]byte, error) {
	f, err := d.Open(name, false)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(f.(*memFile).data), nil
}

func (d *memFolder) Replace(name string, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name] = &memFile{data: bytes.Clone(b), was: map[int][][]byte{}, sizes: []int{len(b)}}
	d.durable = maps.Clone(d.names)
	return nil
}

func (d *memFolder) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.names, name)
	return nil
}

func (d *memFolder) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.durable = maps.Clone(d.names)
	return nil
}

// crash is a power failure: what a folder holds afterwards.
func (d *memFolder) crash(r *rand.Rand) *memFolder {
	out := newMemFolder()
	for name := range d.names {
		if d.durable[name] == nil && r.IntN(2) == 0 {
			out.names[name] = d.names[name].crash(r)
		}
	}
	for name, f := range d.durable {
		now := d.names[name]
		switch {
		case now == f:
			out.names[name] = f.crash(r)
		case now == nil && r.IntN(2) == 0: // the removal got through
		case now != nil && r.IntN(2) == 0:
			out.names[name] = now.crash(r)
		default:
			out.names[name] = f.crash(r)
		}
	}
	out.durable = maps.Clone(out.names)
	return out
}

func (f *memFile) crash(r *rand.Rand) *memFile {
	data := bytes.Clone(f.data)
	for p, was := range f.was {
		if n := r.IntN(len(was) + 1); n < len(was) && p*memPage < len(data) {
			clear(data[p*memPage : min(len(data), (p+1)*memPage)])
			copy(data[p*memPage:], was[n])
		}
	}
	size := f.sizes[r.IntN(len(f.sizes))]
	data = append(data, make([]byte, max(0, size-len(data)))...)[:size]
	return &memFile{data: data, was: map[int][][]byte{}, sizes: []int{size}}
}

// remember keeps the pages of a range before they change.
func (f *memFile) remember(off, n int64) {
	for p := int(off / memPage); int64(p)*memPage < off+n; p++ {
		var was []byte
		if p*memPage < len(f.data) {
			was = bytes.Clone(f.data[p*memPage : min(len(f.data), (p+1)*memPage)])
		}
		f.was[p] = append(f.was[p], was)
	}
}

func (f *memFile) resize(n int) {
	if n > len(f.data) {
		f.data = append(f.data, make([]byte, n-len(f.data))...)
	}
	f.data = f.data[:n]
	f.sizes = append(f.sizes, n)
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.NewReader(f.data).ReadAt(p, off)
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remember(off, int64(len(p)))
	if end := int(off) + len(p); end > len(f.data) {
		f.resize(end)
	}
	return copy(f.data[off:], p), nil
}

func (f *memFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resize(int(size))
	return nil
}

func (f *memFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.was)
	f.sizes = []int{len(f.data)}
	return nil
}

func (f *memFile) Punch(off, n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := min(off+n, int64(len(f.data)))
	if off < end {
		f.remember(off, end-off)
		clear(f.data[off:end])
	}
	return nil
}

func (f *memFile) NextData(off int64) (start, end int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hole := func(at int64) bool {
		p := f.data[at/memPage*memPage : min(int64(len(f.data)), at/memPage*memPage+memPage)]
		return bytes.Count(p, []byte{0}) == len(p)
	}
	size := int64(len(f.data))
	for start = off; start < size && hole(start); start = start/memPage*memPage + memPage {
	}
	if start >= size {
		return never, never, nil
	}
	for end = start; end < size && !hole(end); end = end/memPage*memPage + memPage {
	}
	return start, end, nil
}

func (f *memFile) Close() error { return nil }

var _ io.ReaderAt = (*memFile)(nil)
