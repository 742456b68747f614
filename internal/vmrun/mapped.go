package vmrun

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/internal/qemu"
)

const (
	// mapLimit bounds the question for a map, growLimit that for a larger one, for which
	// the image host waits less.
	mapLimit  = 2 * time.Second
	growLimit = 10 * time.Second
)

// mapping is a map of the OS disk's content that the image host makes while the
// steps before QEMU's start are under way.
type mapping struct {
	done chan struct{}
	at   cache.Mapping
	// lease is the locked file that QEMU inherits, so that the map stays as long as
	// QEMU lives, whoever else dies.
	lease *os.File
	err   error
}

// askForMap has a map made if the machine boots from an overlay on a content. It
// returns at once.
func (s *supervisor) askForMap() {
	s.mapping, s.growing = nil, nil
	id := s.cfg.Spec.OSDisk.Content
	if id == "" || s.cfg.Spec.OSDisk.FullCopy || s.cfg.ImageSocket == "" || s.clones {
		return
	}
	m := &mapping{done: make(chan struct{})}
	s.mapping = m
	s.loops.Go(func() {
		defer close(m.done)
		ctx, cancel := context.WithTimeout(context.Background(), mapLimit)
		defer cancel()
		if m.at, m.err = imagehost.NewClient(filepath.Dir(s.cfg.ImageSocket)).Map(ctx, id); m.err == nil {
			m.lease, m.err = lockLease(m.at.Lease)
		}
	})
}

// takeMap gives the OS disk's drive its map, if it gets one, and returns the lease
// for QEMU. A machine without a map reads all through the image host.
func (s *supervisor) takeMap(ctx context.Context, drives []qemu.Drive) (lease *os.File) {
	m := s.mapping
	if m == nil {
		return nil
	}
	select {
	case <-m.done:
	case <-ctx.Done():
		return nil
	}
	s.mapping = nil
	// A machine that began as a clone has its template's disk below its own.
	base, err := contentBase(s.dir, s.cfg.ImageSocket, s.cfg.Spec.OSDisk.Content)
	if err = errors.Join(m.err, err); err == nil {
		var below string
		if below, err = backingName(s.disks.path(osDisk)); err == nil && below != base {
			err = errors.New("the disk lies on something else")
		}
	}
	if err != nil {
		s.log.Info("the OS disk is read through the image host alone", "why", err.Error())
		if m.lease != nil {
			m.lease.Close()
		}
		return nil
	}
	socket, _ := socketName(s.dir, s.cfg.ImageSocket) // contentBase has looked at it
	for i := range drives {
		if drives[i].Boot {
			drives[i].Map = &qemu.Map{File: m.at.File, Offset: m.at.Offset,
				Export: qemu.NBD{Socket: socket, Export: s.cfg.Spec.OSDisk.Content, ReconnectDelay: reconnectDelay, OpenTimeout: openTimeout}}
			if m.at.Grows {
				s.growing = &growingMap{m.at, drives[i]}
			}
		}
	}
	s.log.Info("the OS disk is read from the host's cache", "chunks", m.at.Chunks)
	return m.lease
}

// growingMap is a map with which a machine has started before all was there that its
// boot reads.
type growingMap struct {
	at    cache.Mapping
	drive qemu.Drive
}

// growMap has the machine go over to a larger map when that is there, while its firmware
// still looks around. Without one it goes on as it is.
func (s *supervisor) growMap(ctx context.Context) {
	g := s.growing
	ctx, cancel := context.WithTimeout(ctx, growLimit)
	defer cancel()
	larger, err := imagehost.NewClient(filepath.Dir(s.cfg.ImageSocket)).Grow(ctx, s.cfg.Spec.OSDisk.Content, g.at)
	if err == nil && larger.Chunks > g.at.Chunks {
		err = s.qmp.Execute(ctx, "blockdev-reopen", g.drive.Remapped(&qemu.Map{File: larger.File, Offset: larger.Offset}), nil)
	}
	if err != nil {
		s.log.Info("the OS disk's map does not grow", "why", err.Error())
		return
	}
	s.log.Info("the OS disk is read from the host's cache", "chunks", larger.Chunks)
}

// dropMap lets go of a map that QEMU has not got.
func (s *supervisor) dropMap() {
	if m := s.mapping; m != nil {
		<-m.done
		if m.lease != nil {
			m.lease.Close()
		}
	}
	s.mapping = nil
}

// lockLease locks a map's lease. It may have ended before it was locked.
func lockLease(name string) (_ *os.File, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock the map's lease: %w", err)
	}
	mine, err := f.Stat()
	if err != nil {
		return nil, err
	}
	there, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !os.SameFile(mine, there) {
		return nil, errors.New("the map has ended")
	}
	return f, nil
}

// backingName is the name of its base in the header of a qcow2 file.
func backingName(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var head [20]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return "", err
	}
	e := binary.BigEndian
	n := e.Uint32(head[16:])
	if string(head[:4]) != "QFI\xfb" || n > maxBackingName {
		return "", fmt.Errorf("%s is no qcow2 file", filepath.Base(name))
	}
	b := make([]byte, n)
	_, err = f.ReadAt(b, int64(e.Uint64(head[8:])))
	return string(b), err
}
