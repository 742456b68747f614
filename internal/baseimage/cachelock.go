package baseimage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockRetry is how often a build looks whether another one has ended: the kernel's
// own wait for a lock cannot be given up when the context ends.
const lockRetry = 100 * time.Millisecond

// lockCache takes the cache folder for one build, of whatever process, until release
// is called or the process ends. Two at once would download into the same files, and
// one could take the image away from under the other's reader. busy is called once if
// there is somebody to wait for.
func lockCache(ctx context.Context, dir string, busy func()) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
		if !told {
			told = true
			busy()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(lockRetry):
		}
	}
}
