package fake

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// rootDir is AZ_BATCH_NODE_ROOT_DIR of every fake node.
const rootDir = "/mnt/batch"

// maxFile bounds a file; what a command writes beyond it is lost.
const maxFile = 1 << 20

// fixed are the directories that every node has.
var fixed = [...]string{"applications", "fsmounts", "shared", "startup", "workitems"}

// disk is the tree below a node's root directory, in memory. A nil entry is a
// directory. It implements agent.Files.
type disk struct {
	clock clock.Clock
	mu    sync.Mutex
	nodes map[string]*file // by path relative to the root; nil map until used
	made  time.Time
}

type file struct {
	dir      bool
	data     []byte
	modified time.Time
	mode     uint32
}

func newDisk(c clock.Clock) *disk { return &disk{clock: c, made: c.Now()} }

// get is what lies at a clean path; the mutex is held.
func (d *disk) get(name string) *file {
	if f := d.nodes[name]; f != nil {
		return f
	}
	if name == "." || slices.Contains(fixed[:], name) {
		return &file{dir: true, modified: d.made, mode: 0o755}
	}
	return nil
}

func clean(name string) (string, error) {
	if name == "" {
		return ".", nil
	}
	if path.IsAbs(name) || strings.ContainsRune(name, 0) || slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("%q leaves the node's root: %w", name, fs.ErrInvalid)
	}
	return path.Clean(name), nil
}

// mkdir makes a directory and those above it; the mutex is held.
func (d *disk) mkdir(name string) {
	for ; name != "." && d.get(name) == nil; name = path.Dir(name) {
		d.put(name, &file{dir: true, modified: d.clock.Now(), mode: 0o770})
	}
}

func (d *disk) put(name string, f *file) {
	if d.nodes == nil {
		d.nodes = map[string]*file{}
	}
	d.nodes[name] = f
}

// fresh empties a task's directory and makes wd in it.
func (d *disk) fresh(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeAll(dir)
	d.mkdir(dir + "/wd")
}

// removeAll deletes what lies at and below a path; the mutex is held.
func (d *disk) removeAll(name string) {
	if d.nodes[name] == nil && !slices.Contains(fixed[:], name) {
		return // and so there is nothing below it
	}
	for p := range d.nodes {
		if p == name || strings.HasPrefix(p, name+"/") {
			delete(d.nodes, p)
		}
	}
}

// write appends to a file, or replaces it.
func (d *disk) write(name string, data []byte, replace bool, mode uint32) error {
	name, err := clean(name)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.get(name)
	if f != nil && f.dir {
		return fmt.Errorf("%q is a directory: %w", name, fs.ErrInvalid)
	}
	if f == nil {
		d.mkdir(path.Dir(name))
		f = &file{mode: mode}
		d.put(name, f)
	}
	if replace {
		f.data = nil
	}
	// A new array each time: readers keep the old one.
	f.data = append(f.data[:len(f.data):len(f.data)], data[:min(len(data), max(0, maxFile-len(f.data)))]...)
	f.modified = d.clock.Now()
	return nil
}

func (d *disk) read(name string) ([]byte, error) {
	name, err := clean(name)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.get(name)
	switch {
	case f == nil:
		return nil, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	case f.dir:
		return nil, fmt.Errorf("%q is not a file: %w", name, fs.ErrInvalid)
	}
	return f.data, nil
}

func info(name string, f *file) *nodev1.FileInfo {
	return &nodev1.FileInfo{Path: name, IsDirectory: f.dir, Size: int64(len(f.data)), Modified: timestamppb.New(f.modified), Mode: f.mode}
}

func (d *disk) List(dir string, recursive bool) ([]*nodev1.FileInfo, error) {
	dir, err := clean(dir)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.get(dir); f == nil || !f.dir {
		return nil, fmt.Errorf("%q is not a directory: %w", dir, fs.ErrNotExist)
	}
	var list []*nodev1.FileInfo
	add := func(name string, f *file) {
		below := name != "." && (dir == "." || strings.HasPrefix(name, dir+"/"))
		if below && (recursive || path.Dir(name) == dir) {
			list = append(list, info(name, f))
		}
	}
	for _, name := range fixed {
		if d.nodes[name] == nil {
			add(name, d.get(name))
		}
	}
	for name, f := range d.nodes {
		add(name, f)
	}
	slices.SortFunc(list, func(a, b *nodev1.FileInfo) int { return strings.Compare(a.GetPath(), b.GetPath()) })
	return list, nil
}

func (d *disk) Stat(name string) (*nodev1.FileInfo, error) {
	name, err := clean(name)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.get(name)
	if f == nil {
		return nil, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	return info(name, f), nil
}

func (d *disk) Open(name string) (agent.File, error) {
	data, err := d.read(name)
	if err != nil {
		return nil, err
	}
	return opened{bytes.NewReader(data)}, nil
}

type opened struct{ *bytes.Reader }

func (opened) Close() error { return nil }

func (d *disk) Delete(name string, recursive bool) error {
	name, err := clean(name)
	if err != nil {
		return err
	}
	if name == "." || slices.Contains(fixed[:], name) {
		return fmt.Errorf("%q belongs to the node and stays: %w", name, fs.ErrPermission)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.get(name)
	if f == nil {
		return fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	if f.dir && !recursive {
		for p := range d.nodes {
			if strings.HasPrefix(p, name+"/") {
				return fmt.Errorf("%q: %w", name, agent.ErrNotEmpty)
			}
		}
	}
	d.removeAll(name)
	return nil
}

var _ agent.Files = (*disk)(nil)
