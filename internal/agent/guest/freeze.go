package guest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNotFrozen says that nothing is held: it never was, or its time was over.
var ErrNotFrozen = errors.New("no file system is frozen: the limit passed, or nothing was")

// The ioctls of fs.h; x/sys has no names for them.
const (
	ioFreeze = 0xc0045877 // FIFREEZE
	ioThaw   = 0xc0045878 // FITHAW
	ioTrim   = 0xc0185879 // FITRIM
)

// volume is one mounted file system.
type volume interface {
	// trim gives free blocks back to the disk and returns how many bytes.
	trim() (uint64, error)
	freeze() error
	thaw() error
	Close() error
}

// freezer holds file systems still by ioctl and not by a program: one that
// starts while / is frozen can block for ever.
type freezer struct {
	// mounts is the text of /proc/self/mountinfo.
	mounts func() (string, error)
	open   func(dir string) (volume, error)

	one sync.Mutex // one hold at a time

	// mu is not held while anything freezes: that can block, and the watchdog
	// must then thaw what was frozen before.
	mu   sync.Mutex
	held []volume
	dog  *time.Timer
}

func newFreezer() *freezer {
	return &freezer{open: openVolume, mounts: func() (string, error) {
		b, err := os.ReadFile("/proc/self/mountinfo")
		return string(b), err
	}}
}

// hold trims everything, then freezes everything, the innermost mount first. It
// holds all that can be held or, with an error, nothing. Whatever happens
// afterwards, the limit ends it.
func (f *freezer) hold(limit time.Duration) (n int, trimmed uint64, err error) {
	f.one.Lock()
	defer f.one.Unlock()
	f.mu.Lock()
	f.release() // what a caller that died has left
	f.mu.Unlock()
	text, err := f.mounts()
	if err != nil {
		return 0, 0, err
	}
	var all []volume
	defer func() {
		for _, v := range all {
			v.Close()
		}
	}()
	for _, dir := range freezable(text) {
		v, err := f.open(dir)
		if err != nil {
			return 0, 0, fmt.Errorf("open %s: %w", dir, err)
		}
		all = append(all, v)
	}
	for _, v := range all {
		// A disk may not know how to trim; capturing it costs more then.
		if got, err := v.trim(); err == nil {
			trimmed += got
		}
	}
	f.mu.Lock()
	var dog *time.Timer
	dog = time.AfterFunc(limit, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.dog == dog {
			f.release()
		}
	})
	f.dog = dog
	f.mu.Unlock()
	slices.Reverse(all)
	for i, v := range all {
		err := v.freeze()
		f.mu.Lock()
		switch {
		case f.dog != dog: // the limit has passed
			if err == nil {
				_ = v.thaw()
			}
			err = ErrNotFrozen
		case err == nil:
			f.held = append(f.held, v)
			all[i] = nothing{}
			n++
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EBUSY):
			// vfat cannot be frozen; one that somebody else froze is theirs to thaw.
			err = nil
		default:
			f.release()
		}
		f.mu.Unlock()
		if err != nil {
			return 0, trimmed, fmt.Errorf("freeze: %w", err)
		}
	}
	return n, trimmed, nil
}

// end thaws what is held.
func (f *freezer) end() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dog == nil {
		return ErrNotFrozen
	}
	return f.release()
}

// release thaws, the outermost first; mu is held.
func (f *freezer) release() (err error) {
	if f.dog != nil {
		f.dog.Stop()
		f.dog = nil
	}
	for _, v := range slices.Backward(f.held) {
		err = errors.Join(err, v.thaw(), v.Close())
	}
	f.held = nil
	return err
}

// freezable lists where the file systems of disks that are written to are
// mounted, outer before inner, each once. The temporary disk is left out: it is
// in no capture, and the agent keeps its events there.
func freezable(mountinfo string) (dirs []string) {
	seen := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		m, d := strings.Fields(before), strings.Fields(after)
		if !ok || len(m) < 6 || len(d) < 3 {
			continue
		}
		device, dir, kind, super := m[2], unescape(m[4]), d[0], d[2]
		// btrfs has a device number of its own; all others of major 0 have no disk.
		if strings.HasPrefix(device, "0:") && kind != "btrfs" {
			continue
		}
		if seen[device] || dir == tempMount || !slices.Contains(strings.Split(super, ","), "rw") {
			continue
		}
		seen[device] = true
		dirs = append(dirs, dir)
	}
	return dirs
}

// unescape reads the octal escapes of the kernel's mount tables.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

type mounted struct{ *os.File }

func openVolume(dir string) (volume, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return mounted{f}, nil
}

func (m mounted) freeze() error { return unix.IoctlSetInt(int(m.Fd()), ioFreeze, 0) }
func (m mounted) thaw() error   { return unix.IoctlSetInt(int(m.Fd()), ioThaw, 0) }

func (m mounted) trim() (uint64, error) {
	// Blocks of deleted files are free once the journal says so.
	if err := unix.Syncfs(int(m.Fd())); err != nil {
		return 0, err
	}
	r := struct{ start, length, min uint64 }{length: ^uint64(0)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, m.Fd(), ioTrim, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return 0, errno
	}
	return r.length, nil
}

// nothing stands where a volume has gone to the held ones.
type nothing struct{}

func (nothing) trim() (uint64, error) { return 0, nil }
func (nothing) freeze() error         { return nil }
func (nothing) thaw() error           { return nil }
func (nothing) Close() error          { return nil }
