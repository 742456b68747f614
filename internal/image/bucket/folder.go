package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Folder is a Bucket in a local folder: an object is a file of its key's name,
// written beside its place and renamed into it.
type Folder struct {
	dir string
	// root is open for Flush.
	root *os.File
}

// tmpFolder holds what is being written. Its name cannot be a key's beginning.
const tmpFolder = ".tmp"

// OpenFolder makes the folder if need be and removes what a crash left half
// written. Many processes may have it open.
func OpenFolder(dir string) (*Folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(abs, tmpFolder), 0o755); err != nil {
		return nil, err
	}
	root, err := os.Open(abs)
	if err != nil {
		return nil, err
	}
	f := &Folder{dir: abs, root: root}
	if err := f.sweepTmp(); err != nil {
		root.Close()
		return nil, err
	}
	return f, nil
}

// staleTmp is the age at which a half-written file has no writer any more: no
// Put takes this long.
const staleTmp = time.Hour

func (f *Folder) sweepTmp() error {
	ents, err := os.ReadDir(filepath.Join(f.dir, tmpFolder))
	if err != nil {
		return err
	}
	for _, e := range ents {
		st, err := e.Info()
		if err != nil || time.Since(st.ModTime()) < staleTmp {
			continue // gone meanwhile, or another process's
		}
		if err := os.Remove(filepath.Join(f.dir, tmpFolder, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Dir is the folder's absolute path.
func (f *Folder) Dir() string { return f.dir }

// Close lets go of the folder.
func (f *Folder) Close() error { return f.root.Close() }

func (f *Folder) path(key string) (string, error) {
	if key == "" || strings.HasPrefix(key, ".") || !filepath.IsLocal(key) || filepath.Clean(key) != key {
		return "", fmt.Errorf("%q cannot name an object", key)
	}
	return filepath.Join(f.dir, key), nil
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	return err
}

// Get implements Bucket.
func (f *Folder) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := f.path(key)
	if err != nil {
		return nil, err
	}
	r, err := os.Open(p)
	if err != nil {
		return nil, missing(err)
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, ErrTooLarge
	}
	data := make([]byte, st.Size())
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return data, nil
}

// Put implements Bucket.
func (f *Folder) Put(ctx context.Context, key string, data []byte, how How) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := f.path(key)
	if err != nil {
		return err
	}
	w, err := os.CreateTemp(filepath.Join(f.dir, tmpFolder), "put-*")
	if err != nil {
		return err
	}
	named := false
	defer func() {
		if !named {
			os.Remove(w.Name())
		}
	}()
	_, err = w.Write(data)
	switch {
	case err != nil:
	case how == Durable:
		err = w.Sync()
	default:
		// The disk begins now and does not stand still until Flush. Only a hint: what
		// it cannot write, Flush tells.
		_ = unix.SyncFileRange(int(w.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	err = os.Rename(w.Name(), p)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		err = os.Rename(w.Name(), p)
	}
	named = err == nil
	if err != nil || how == Lazy {
		return err
	}
	return syncDirs(f.dir, filepath.Dir(p))
}

// syncDirs makes the names between top and dir durable.
func syncDirs(top, dir string) error {
	for {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
		if dir == top || len(dir) <= len(top) {
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

// Stat implements Bucket.
func (f *Folder) Stat(ctx context.Context, key string) (Info, error) {
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	p, err := f.path(key)
	if err != nil {
		return Info{}, err
	}
	st, err := os.Lstat(p)
	if err != nil {
		return Info{}, missing(err)
	}
	return Info{Key: key, Size: st.Size(), Modified: st.ModTime()}, nil
}

// List implements Bucket.
func (f *Folder) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		// A prefix ends within a name; the walk begins at the folder above it.
		from := f.dir
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			p, err := f.path(prefix[:i])
			if err != nil {
				yield(Info{}, err)
				return
			}
			from = p
		}
		err := filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone meanwhile, or nothing was ever put there
			}
			if err = errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			if e.IsDir() {
				if e.Name() == tmpFolder {
					return fs.SkipDir
				}
				return nil
			}
			key, err := filepath.Rel(f.dir, p)
			if err != nil || !strings.HasPrefix(key, prefix) || !e.Type().IsRegular() {
				return err
			}
			st, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if !yield(Info{Key: key, Size: st.Size(), Modified: st.ModTime()}, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(Info{}, err)
		}
	}
}

// Delete implements Bucket.
func (f *Folder) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := f.path(key)
	if err != nil {
		return err
	}
	if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Not made durable: an object that comes back after a loss of power is one
	// that is deleted again.
	return nil
}

// Flush syncs the whole file system: one pass over thousands of small files,
// those of other processes included.
func (f *Folder) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.root.Fd())))
}
