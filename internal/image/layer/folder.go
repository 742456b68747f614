package layer

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// file is what a disk needs of a file. The tests have a second implementation
// that forgets, at a crash, what was not synced.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	// Sync makes all writes that returned before it was called durable.
	Sync() error
	// Punch turns a range to zeros and gives its space back.
	Punch(off, n int64) error
	// NextData is the first range of data at or after off; start is beyond every
	// offset if there is none.
	NextData(off int64) (start, end int64, err error)
}

// folder is one disk's folder.
type folder interface {
	// Create makes an empty file, replacing one that is there.
	Create(name string) (file, error)
	Open(name string, write bool) (file, error)
	Read(name string) ([]byte, error)
	// Replace makes a small file hold b, whole or not at all, durably.
	Replace(name string, b []byte) error
	Remove(name string) error
	// Sync makes creations durable.
	Sync() error
}

// dirFolder is a folder of the host.
type dirFolder string

func (d dirFolder) path(name string) string { return filepath.Join(string(d), name) }

func (d dirFolder) Create(name string) (file, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	return osFile{f}, err
}

func (d dirFolder) Open(name string, write bool) (file, error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(d.path(name), flag, 0)
	return osFile{f}, err
}

func (d dirFolder) Read(name string) ([]byte, error) { return os.ReadFile(d.path(name)) }

func (d dirFolder) Replace(name string, b []byte) error {
	f, err := os.CreateTemp(string(d), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.path(name)); err != nil {
		return err
	}
	return d.Sync()
}

func (d dirFolder) Remove(name string) error {
	err := os.Remove(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d dirFolder) Sync() error { return syncDir(string(d)) }

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

type osFile struct{ *os.File }

func (f osFile) Punch(off, n int64) error {
	if n <= 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if !errors.Is(err, unix.ENOTSUP) {
		return os.NewSyscallError("fallocate", err)
	}
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		m, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}

const never = int64(1) << 62

// NextData asks the kernel. A file system without SEEK_DATA is all data. The
// descriptor's own offset moves, which nobody else uses: but two callers must
// not mix, so each pair of seeks is of its own effect, SEEK_DATA then SEEK_HOLE
// from the found offset, neither relative.
func (f osFile) NextData(off int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return never, never, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP):
		return off, never, nil
	case err != nil:
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); errors.Is(err, unix.ENXIO) {
		// Punched or cut between the two calls: no data after all.
		return f.NextData(start)
	}
	return start, end, os.NewSyscallError("lseek", err)
}
