// Package inotify reads what Linux tells of folders in which files are replaced, and
// waits for one such file, or for one that grows. launch/local watches the status files
// of its machines with it, vmrun the file that says where the server is, the agent what
// a task writes and somebody follows. It never reads the files.
package inotify

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Event is one struct inotify_event; Name is empty for the folder itself.
type Event struct {
	WD   int32
	Mask uint32
	Name string
}

// Lost says that the kernel has dropped events: anything may have changed.
func (e Event) Lost() bool { return e.Mask&unix.IN_Q_OVERFLOW != 0 }

// Parse reads a buffer of events: wd, mask, cookie, len, name padded with zeros. What
// is cut off at the end is left out; the kernel cuts off none.
func Parse(b []byte) []Event {
	var out []Event
	for len(b) >= unix.SizeofInotifyEvent {
		n := int(binary.NativeEndian.Uint32(b[12:]))
		if n > len(b)-unix.SizeofInotifyEvent {
			break
		}
		name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+n]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		out = append(out, Event{int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]), string(name)})
		b = b[unix.SizeofInotifyEvent+n:]
	}
	return out
}

// File waits for a file to be written or to be renamed into its place; one of WatchWrites
// for each write alone.
type File struct {
	f       *os.File
	changed chan struct{}
}

// Watch watches the file name, which need not exist; its folder must. The caller
// closes it.
func Watch(name string) (*File, error) {
	dir, base := filepath.Split(name)
	return watch(name, filepath.Clean(dir), base, unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_ONLYDIR)
}

// WatchWrites watches the file that is open as f for writes, under whatever name it
// has; f may be closed then. Some file systems tell of none that another host makes.
// The caller closes it.
func WatchWrites(f *os.File) (*File, error) {
	return watch(f.Name(), fmt.Sprintf("/proc/self/fd/%d", f.Fd()), "", unix.IN_MODIFY)
}

// watch watches path for events of base, which is empty where path is the file itself.
func watch(name, path, base string, events uint32) (*File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", name, err)
	}
	w := &File{f: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1)}
	if _, err := unix.InotifyAddWatch(fd, path, events); err != nil {
		w.f.Close()
		return nil, fmt.Errorf("watch %s (fs.inotify.max_user_watches may be too low): %w", name, err)
	}
	go w.loop(base)
	return w, nil
}

// Changed receives after each change; several that nobody has taken are one.
func (w *File) Changed() <-chan struct{} { return w.changed }

// Close ends the watch; Changed receives no more.
func (w *File) Close() error { return w.f.Close() }

func (w *File) loop(base string) {
	// One event has at most a name of 255 bytes.
	buf := make([]byte, 4<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return
		}
		for _, e := range Parse(buf[:n]) {
			if e.Name != base && !e.Lost() {
				continue
			}
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}
