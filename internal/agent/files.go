package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// RootFiles are Files of a real directory. Nothing outside of it is reachable:
// not by "..", not by an absolute path, not by a symbolic link.
type RootFiles struct {
	root *os.Root
	// at is the absolute path of the root.
	at string
	// fixed are the directories that stay.
	fixed map[string]bool
}

// NewRootFiles opens the node's root directory. fixed names directories that
// cannot be deleted, relative to it.
func NewRootFiles(dir string, fixed []string) (*RootFiles, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &RootFiles{root: root, fixed: map[string]bool{}}
	for _, d := range fixed {
		f.fixed[d] = true
	}
	if f.at, err = realPath(root, "."); err != nil {
		return nil, err
	}
	return f, nil
}

// hides says whether a path without links lies in what is nobody's business: the
// agent's own area, and the certificates of tasks.
func (f *RootFiles) hides(real string) bool {
	rel, below := strings.CutPrefix(real, f.at+"/")
	if !below {
		return false
	}
	parts := strings.Split(rel, "/")
	at := -1
	switch {
	case parts[0] == proc.Volatile:
		return true
	case parts[0] == "startup":
		at = 1
	case parts[0] == "workitems": // then job, job-1 and task
		at = 4
	}
	return at > 0 && len(parts) > at && parts[at] == proc.CertificateFolder
}

// realPath is the path of what name is after all links.
func realPath(root *os.Root, name string) (string, error) {
	d, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(d.Fd())))
}

// clean checks a path of the wire. It returns "." for the root.
func (f *RootFiles) clean(name string) (string, error) {
	if name == "" || name == "." {
		return ".", nil
	}
	if strings.ContainsRune(name, 0) || path.IsAbs(name) {
		return "", fmt.Errorf("%q is no path below the node's root: %w", name, fs.ErrInvalid)
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q leaves the node's root: %w", name, fs.ErrInvalid)
		}
	}
	name = path.Clean(name)
	if f.hides(path.Join(f.at, name)) {
		return "", fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	return name, nil
}

// open opens for reading what name is and refuses what a link leads to in the
// hidden area. It never waits, as opening a FIFO otherwise would.
func (f *RootFiles) open(name string) (*os.File, fs.FileInfo, error) {
	h, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, outside(err)
	}
	at, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(h.Fd())))
	if err != nil || f.hides(at) {
		h.Close()
		return nil, nil, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	info, err := h.Stat()
	if err != nil {
		h.Close()
		return nil, nil, err
	}
	return h, info, nil
}

// outside turns os.Root's refusal of a path into fs.ErrInvalid.
func outside(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && strings.Contains(pe.Err.Error(), "escapes from parent") {
		return fmt.Errorf("%q leads out of the node's root: %w", pe.Path, fs.ErrInvalid)
	}
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) {
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return err
}

func (f *RootFiles) Stat(name string) (*nodev1.FileInfo, error) {
	name, err := f.clean(name)
	if err != nil {
		return nil, err
	}
	h, info, err := f.open(name)
	if err != nil {
		return nil, err
	}
	h.Close()
	return fileInfo(name, info), nil
}

func (f *RootFiles) Open(name string) (File, error) {
	name, err := f.clean(name)
	if err != nil {
		return nil, err
	}
	h, info, err := f.open(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		h.Close()
		return nil, fmt.Errorf("%q is not a file: %w", name, fs.ErrInvalid)
	}
	return osFile{h, info.Size()}, nil
}

type osFile struct {
	*os.File
	size int64
}

func (f osFile) Size() int64 { return f.size }

// List tells what lies in a directory, sorted by path, parents first. Links
// are told as what they lead to, left out when that is not reachable, and not
// followed into.
func (f *RootFiles) List(dir string, recursive bool) ([]*nodev1.FileInfo, error) {
	dir, err := f.clean(dir)
	if err != nil {
		return nil, err
	}
	h, info, err := f.open(dir)
	if err != nil {
		return nil, err
	}
	h.Close()
	if !info.IsDir() {
		return nil, fmt.Errorf("%q is not a directory: %w", dir, fs.ErrNotExist)
	}
	// A link may lead back to the root, by which the hidden area has other names.
	real, err := realPath(f.root, dir)
	if err != nil {
		return nil, outside(err)
	}
	var list []*nodev1.FileInfo
	err = fs.WalkDir(f.root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return nil // gone meanwhile, or not ours to say
		}
		below := strings.TrimPrefix(name, dir)
		if dir == "." {
			below = name
		}
		if f.hides(path.Join(real, below)) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		var info fs.FileInfo
		if d.Type()&fs.ModeSymlink != 0 {
			h, i, err := f.open(name)
			if err != nil {
				return nil
			}
			h.Close()
			info = i
		} else if info, err = d.Info(); err != nil {
			return nil
		}
		list = append(list, fileInfo(name, info))
		if d.IsDir() && !recursive {
			return fs.SkipDir
		}
		return nil
	})
	return list, err
}

func (f *RootFiles) Delete(name string, recursive bool) error {
	name, err := f.clean(name)
	if err != nil {
		return err
	}
	if name == "." || f.fixed[name] {
		return fmt.Errorf("%q belongs to the node and stays: %w", name, fs.ErrPermission)
	}
	info, err := f.root.Lstat(name)
	if err != nil {
		return outside(err)
	}
	// A parent may be a link into the hidden area.
	parent, err := realPath(f.root, path.Dir(name))
	if err != nil {
		return outside(err)
	}
	if f.hides(path.Join(parent, path.Base(name))) {
		return fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	if info.IsDir() && recursive {
		return outside(f.root.RemoveAll(name))
	}
	err = f.root.Remove(name)
	if errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("%q: %w", name, ErrNotEmpty)
	}
	return outside(err)
}

func fileInfo(name string, info fs.FileInfo) *nodev1.FileInfo {
	fi := &nodev1.FileInfo{
		Path:        strings.ToValidUTF8(name, "\uFFFD"),
		IsDirectory: info.IsDir(),
		Modified:    timestamppb.New(info.ModTime()),
		Mode:        uint32(info.Mode().Perm()),
	}
	if !info.IsDir() {
		fi.Size = info.Size()
	}
	return fi
}

var _ Files = (*RootFiles)(nil)
