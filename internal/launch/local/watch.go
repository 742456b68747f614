package local

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/inotify"
	"millpond.dev/millpond/internal/vmrun"
)

// watcher tells when a status file in one of the VM folders was replaced.
type watcher struct {
	f       *os.File
	changed func(dir string)

	mu    sync.Mutex
	byDir map[string]int32
	byWD  map[int32]string
	// waits are those who wait for one folder's next change.
	waits map[string]chan struct{}
}

func newWatcher(changed func(dir string)) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch VM folders: %w", err)
	}
	return &watcher{f: os.NewFile(uintptr(fd), "inotify"), changed: changed,
		byDir: map[string]int32{}, byWD: map[int32]string{}, waits: map[string]chan struct{}{}}, nil
}

// add watches a VM's folder. Status files are renamed into place.
func (w *watcher) add(dir string) error {
	c, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	var wd int
	var aerr error
	err = c.Control(func(fd uintptr) {
		wd, aerr = unix.InotifyAddWatch(int(fd), dir, unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	})
	if err = errors.Join(err, aerr); err != nil {
		return fmt.Errorf("watch %s (fs.inotify.max_user_watches may be too low): %w", dir, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byDir[dir], w.byWD[int32(wd)] = int32(wd), dir
	return nil
}

// remove forgets a folder, watched or not.
func (w *watcher) remove(dir string) {
	w.mu.Lock()
	wd, ok := w.byDir[dir]
	delete(w.byDir, dir)
	delete(w.byWD, wd)
	w.mu.Unlock()
	if !ok {
		return
	}
	if c, err := w.f.SyscallConn(); err == nil {
		// It fails if the folder is gone already, and the watch with it.
		c.Control(func(fd uintptr) { unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}
}

// settled returns a channel that receives after each change in dir, until
// unsettle. One waiter a folder.
func (w *watcher) settled(dir string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := make(chan struct{}, 1)
	w.waits[dir] = c
	return c
}

func (w *watcher) unsettle(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waits, dir)
}

// loop runs until close.
func (w *watcher) loop() {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return
		}
		for _, e := range inotify.Parse(buf[:n]) {
			if e.Name != vmrun.StatusName && !e.Lost() {
				continue
			}
			w.tell(e)
		}
	}
}

func (w *watcher) tell(e inotify.Event) {
	w.mu.Lock()
	var dirs []string
	if dir, ok := w.byWD[e.WD]; ok {
		dirs = append(dirs, dir)
	}
	if e.Lost() { // events were lost: any may have changed
		dirs = dirs[:0]
		for dir := range w.byDir {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		if c := w.waits[dir]; c != nil {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	w.mu.Unlock()
	for _, dir := range dirs {
		w.changed(dir)
	}
}

func (w *watcher) close() error { return w.f.Close() }
