package vmrun

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/launch"
)

const (
	// roomFile is given up for the status that says that there is no room.
	roomFile = "room"
	roomSize = 16 << 10
	// roomToGoOn is what has to be free where the VM's folder lies before its guest
	// goes on: as much as a guest may have ready to be written.
	roomToGoOn = 64 << 20
	// lookForRoom is how often that is looked at, for nothing tells of it; a machine
	// that stands still again at once is let wait longer, up to longestRest.
	lookForRoom = time.Second
	longestRest = 30 * time.Second
)

// heldByFullDisk is why a machine stands still.
func heldByFullDisk(dir string) *launch.Failure {
	return &launch.Failure{Host: true, Code: CodeHostDiskFull,
		Message:    "The disk of the host is full: the machine stands still where it could not write.",
		Suggestion: "Free at least 64 MiB where " + dir + " lies, or where the disks and the image cache of the data folder lie, if that is elsewhere: df -h. The machine then goes on by itself, and nothing of it is lost."}
}

// stoodStill tells goOn that QEMU has stopped the machine because a write found no
// room. It is called for each of the writes that did, and must not block.
func (s *supervisor) stoodStill() {
	select {
	case s.full <- struct{}{}:
	default:
	}
}

// goOn lets the machine go on when there is room again, until ctx ends. QEMU keeps
// the writes that found none, and makes them then; a guest sees no error.
func (s *supervisor) goOn(ctx context.Context) {
	s.keepRoom()
	rest := lookForRoom
	var went time.Time
	for {
		select {
		case <-s.full:
		case <-ctx.Done():
			return
		}
		if rest = min(2*rest, longestRest); time.Since(went) > longestRest {
			rest = lookForRoom
		}
		f := heldByFullDisk(s.dir)
		s.log.Error("the machine stands still", "code", f.Code, "err", f.Message)
		told := s.tellHeld(f)
		for on := false; !on; {
			timer := time.NewTimer(rest)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			if !told {
				told = s.tellHeld(f)
			}
			if free, err := freeBytes(s.dir); err == nil && free < roomToGoOn {
				continue
			}
			// Other writes of the same stop have been told of by now.
			select {
			case <-s.full:
			default:
			}
			if err := s.qmp.Execute(ctx, "cont", nil, nil); err != nil {
				s.log.Warn("the machine does not go on", "err", err)
				continue
			}
			on = true
		}
		went = time.Now()
		s.log.Info("the machine goes on: there is room again")
		s.tellHeld(nil)
		s.keepRoom()
	}
}

// tellHeld writes why the machine stands still, nil that it does not; false if
// there is not even room for that.
func (s *supervisor) tellHeld(f *launch.Failure) bool {
	held := func(st *launch.Status) { st.Held = f }
	err := s.change(held)
	if errors.Is(err, syscall.ENOSPC) && os.Remove(filepath.Join(s.dir, roomFile)) == nil {
		err = s.change(held)
	}
	if err != nil {
		s.log.Error("the status was not written", "err", err)
	}
	return err == nil
}

// keepRoom takes the room that a status will need when there is none.
func (s *supervisor) keepRoom() {
	name := filepath.Join(s.dir, roomFile)
	if _, err := os.Stat(name); err == nil {
		return
	}
	if err := os.WriteFile(name, make([]byte, roomSize), 0o600); err != nil {
		os.Remove(name) // half of it is of no use, and takes what others need
		s.log.Warn("no room was kept for a status", "err", err)
	}
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
