// Package rawfile reads raw disk files of this host as sources that know their
// holes: built base images, and files that a user names. Managed disks are in
// internal/image/layer. cmd/millpond uses it.
package rawfile

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// File is a raw file as an image.Source that knows its holes.
type File struct {
	f    *os.File
	size int64
	// seek guards the file's offset, which only NextData uses.
	seek sync.Mutex
}

// Open opens a raw file for reading. Its size is taken now.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{f: f, size: st.Size()}, nil
}

func (f *File) Size() int64                             { return f.size }
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }
func (f *File) Close() error                            { return f.f.Close() }

// NextData implements image.Sparse with the kernel's SEEK_DATA and SEEK_HOLE. A
// file system without them is one range of data.
func (f *File) NextData(off int64) (start, end int64, err error) {
	size := f.size
	if off >= size {
		return size, size, nil
	}
	f.seek.Lock()
	defer f.seek.Unlock()
	start, err = unix.Seek(int(f.f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return off, size, nil
	}
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	end, err = unix.Seek(int(f.f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	return min(start, size), min(end, size), nil
}
