package chunkstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/image/bucket"
	"millpond.dev/millpond/internal/process"
)

// recover looks after what a loss of power left behind in a local folder. Chunks
// are written without a sync each, so those that a session of an earlier boot
// wrote may be empty or torn, and the next ingest would take them for sound. Each
// is read, and deleted if it is not what its name says; no manifest names one,
// because a manifest is published after a sync.
//
// It comes before the store's first use in every process, under a lock of the
// host: a chunk that one process has deleted and written anew must not be
// deleted by another that read it before.
func (s *Store) recover(ctx context.Context, f *bucket.Folder) error {
	boot, err := process.BootID()
	if err != nil {
		return err
	}
	s.session.boot = boot
	lock, err := os.OpenFile(filepath.Join(f.Dir(), ".recover"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return os.NewSyscallError("flock", err)
	}
	ids, err := s.sessions(ctx)
	if err != nil {
		return err
	}
	var since time.Time
	var gone []string
	for _, id := range ids {
		r, err := s.readSession(ctx, id)
		if errors.Is(err, bucket.ErrNotFound) || err == nil && r.Boot == boot {
			continue
		}
		// A record that cannot be read was being written when the power was lost.
		gone = append(gone, id)
		if err != nil {
			r.Started = time.Unix(0, 0)
		}
		if since.IsZero() || r.Started.Before(since) {
			since = r.Started
		}
	}
	if len(gone) == 0 {
		return nil
	}
	for i, err := range s.bucket.List(ctx, chunkPrefix) {
		if err != nil {
			return err
		}
		if i.Modified.Before(since.Add(-time.Minute)) {
			continue
		}
		if err := s.recoverChunk(ctx, i.Key); err != nil {
			return err
		}
	}
	if err := s.bucket.Flush(ctx); err != nil {
		return err
	}
	for _, id := range gone {
		if err := s.bucket.Delete(ctx, sessionPrefix+id); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) recoverChunk(ctx context.Context, key string) error {
	d, ok := parseDigest(key[strings.LastIndexByte(key, '/')+1:])
	if !ok {
		return nil
	}
	object, err := s.bucket.Get(ctx, key, maxObject)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	if err == nil {
		if err = s.codec.verify(object, d, -1); err == nil {
			return nil
		}
	} else if !errors.Is(err, bucket.ErrTooLarge) {
		return err
	}
	return s.bucket.Delete(ctx, key)
}
