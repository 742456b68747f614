package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/image"
)

// A map lets QEMU read the chunks of a content that are kept here from the slab's
// file itself, as it reads a local image. In front of the slots the file has
// maxMaps areas; one that is in use has the header and tables of a qcow2 image of
// clusters as long as a chunk, whose data clusters are slots. Offsets count from
// the area's begin, so that the image is the file from there on:
//
//	cluster 0  header
//	        1  refcount table: a hole, nobody writes to the image
//	        2  L1 table
//	        3… L2 tables, one for each 32 GiB of the disk
//
// A map does not change. What it does not have is read from the disk below it,
// which is the content's export. As long as somebody has the map's lease locked,
// the slots that it names are not replaced.
const (
	maxMaps     = 256
	mapClusters = 16
	mapArea     = mapClusters * image.ChunkSize
	slotsBegin  = maxMaps * mapArea
	mapTables   = mapClusters - 3
	clusterBits = 19
	// mapSpan is how many bytes of the disk an L2 table covers.
	mapSpan = image.ChunkSize / 8 * image.ChunkSize
	// mapsFolder has a lease for each map, named by its number.
	mapsFolder = "maps"
	// mapGrace is how long a lease is kept before somebody has locked it.
	mapGrace = time.Minute
	// leaseMagic is a lease's first line. Behind it come the slots and a CRC-32C of
	// all before it, in 4 bytes each.
	leaseMagic = "millpond map 1\n"
)

// Mapping is where QEMU finds a map.
type Mapping struct {
	// File is the slab's file; from Offset on it is a qcow2 image.
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	// Lease is a file that whoever reads the map has locked (flock, shared) from
	// before its first read to after its last. If the name does not lead to the
	// locked file any more, the map is gone.
	Lease string `json:"lease"`
	// Chunks is how many chunks the map has.
	Chunks int `json:"chunks"`
}

// errNoMap says that there is no room for another map, or none for one of a disk
// of this size. The content is read without one.
var errNoMap = errors.New("the cache has no room for a map")

// lease is a map in use.
type lease struct {
	slots []int
	begun time.Time
}

// mapped makes a map of a disk of size bytes that has those of the chunks that are
// kept and verified. Together the maps hold no more than half of the slots.
func (s *slab) mapped(dir string, size int64, chunks map[int64]image.Digest) (Mapping, []int64, error) {
	tables := int((size + mapSpan - 1) / mapSpan)
	if size <= 0 || tables > mapTables {
		return Mapping{}, nil, fmt.Errorf("%w: a disk of %d bytes", errNoMap, size)
	}
	area, at := s.hire(chunks)
	if area < 0 {
		return Mapping{}, nil, errNoMap
	}
	if len(at) == 0 {
		s.endLease(area)
		return Mapping{}, nil, fmt.Errorf("%w: nothing of the content is kept", errNoMap)
	}
	m := Mapping{File: s.chunks.Name(), Offset: int64(area) * mapArea, Lease: filepath.Join(dir, mapsFolder, strconv.Itoa(area)), Chunks: len(at)}
	l2 := make([]byte, 8*((size+image.ChunkSize-1)/image.ChunkSize))
	var slots []int
	var numbers []int64
	for n, i := range at {
		binary.BigEndian.PutUint64(l2[8*n:], uint64(slotPlace(i)-m.Offset))
		slots, numbers = append(slots, i), append(numbers, n)
	}
	l1 := make([]byte, 0, 8*tables)
	for t := range tables {
		l1 = binary.BigEndian.AppendUint64(l1, uint64(3+t)*image.ChunkSize)
	}
	var err error
	for _, part := range []struct {
		cluster int64
		data    []byte
	}{{0, mapHeader(size, tables)}, {2, l1}, {3, l2}} {
		if err == nil {
			_, err = s.chunks.WriteAt(part.data, m.Offset+part.cluster*image.ChunkSize)
		}
	}
	if err == nil {
		err = writeLease(m.Lease, slots)
	}
	if err != nil {
		s.endLease(area)
		return Mapping{}, nil, err
	}
	slices.Sort(numbers)
	return m, numbers, nil
}

// hire takes a free area and holds the slots of chunks for it; -1 if there is no
// area.
func (s *slab) hire(chunks map[int64]image.Digest) (area int, at map[int64]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for area = 0; s.leases[area] != nil; area++ {
		if area == maxMaps-1 {
			return -1, nil
		}
	}
	l := &lease{begun: s.clock.Now()}
	at = map[int64]int{}
	for n, d := range chunks {
		i, ok := s.at[d]
		if !ok || !s.slots[i].verified || s.pinned[i] == 0 && len(s.pinned) >= s.limit/2 {
			continue
		}
		s.slots[i].recent = true
		s.pin(i)
		l.slots = append(l.slots, i)
		at[n] = i
	}
	s.leases[area] = l
	return area, at
}

// pin keeps slot i from being replaced; with s.mu.
func (s *slab) pin(i int) {
	if s.pinned[i]++; s.pinned[i] == 1 {
		s.slots[i].held++
	}
}

// endLease lets go of a map's slots.
func (s *slab) endLease(area int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[area]
	if l == nil {
		return
	}
	delete(s.leases, area)
	for _, i := range l.slots {
		if s.pinned[i]--; s.pinned[i] == 0 {
			delete(s.pinned, i)
			s.slots[i].held--
		}
	}
}

// sweep ends the leases that nobody has locked.
func (s *slab) sweep(dir string) error {
	s.mu.Lock()
	var old []int
	for area, l := range s.leases {
		if s.clock.Now().Sub(l.begun) >= mapGrace {
			old = append(old, area)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, area := range old {
		gone, err := removeUnlocked(filepath.Join(dir, mapsFolder, strconv.Itoa(area)))
		if gone {
			s.endLease(area)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeUnlocked removes a lease unless somebody has it locked.
func removeUnlocked(name string) (gone bool, err error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		return false, err
	}
	// Whoever gets the lock after us sees that the name is gone.
	err = os.Remove(name)
	return err == nil || errors.Is(err, os.ErrNotExist), err
}

// loadLeases takes over the maps of an earlier process: their readers live on. A
// lease that cannot be read was never handed out.
func loadLeases(dir string, now time.Time) (map[int]*lease, error) {
	folder := filepath.Join(dir, mapsFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	leases := map[int]*lease{}
	for _, e := range entries {
		name := filepath.Join(folder, e.Name())
		area, err := strconv.Atoi(e.Name())
		var slots []int
		if err == nil && area >= 0 && area < maxMaps {
			var b []byte
			if b, err = os.ReadFile(name); err == nil {
				slots, err = parseLease(b)
			}
		} else if err == nil {
			err = errLease
		}
		if err != nil {
			if err := os.Remove(name); err != nil {
				return nil, err
			}
			continue
		}
		leases[area] = &lease{slots: slots, begun: now}
	}
	return leases, nil
}

// writeLease writes a lease, not durably: it does not outlive the host's processes.
func writeLease(name string, slots []int) error {
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, formatLease(slots), 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, name)
}

func formatLease(slots []int) []byte {
	b := []byte(leaseMagic)
	for _, i := range slots {
		b = binary.BigEndian.AppendUint32(b, uint32(i))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errLease = errors.New("it is not a lease of a map")

func parseLease(b []byte) ([]int, error) {
	n := len(b) - len(leaseMagic) - 4
	if n < 0 || n%4 != 0 || string(b[:len(leaseMagic)]) != leaseMagic || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return nil, errLease
	}
	var slots []int
	for b = b[len(leaseMagic) : len(b)-4]; len(b) > 0; b = b[4:] {
		i := binary.BigEndian.Uint32(b)
		if i > maxSlots {
			return nil, errLease
		}
		slots = append(slots, int(i))
	}
	return slots, nil
}

// mapHeader is that of a qcow2 image, version 3, without a backing file: whoever
// opens it says what lies below.
func mapHeader(size int64, tables int) []byte {
	const headerLength = 104
	e := binary.BigEndian
	h := []byte("QFI\xfb")
	h = e.AppendUint32(h, 3)
	h = e.AppendUint64(h, 0) // no backing file
	h = e.AppendUint32(h, 0)
	h = e.AppendUint32(h, clusterBits)
	h = e.AppendUint64(h, uint64(size))
	h = e.AppendUint32(h, 0) // no encryption
	h = e.AppendUint32(h, uint32(tables))
	h = e.AppendUint64(h, 2*image.ChunkSize)
	h = e.AppendUint64(h, 1*image.ChunkSize)
	h = e.AppendUint32(h, 1)
	h = e.AppendUint32(h, 0) // no snapshots
	h = e.AppendUint64(h, 0)
	h = e.AppendUint64(h, 0) // features: none of the three kinds
	h = e.AppendUint64(h, 0)
	h = e.AppendUint64(h, 0)
	h = e.AppendUint32(h, 4) // refcounts of 16 bits
	h = e.AppendUint32(h, headerLength)
	return append(h, make([]byte, 8)...) // end of extensions
}

// Map makes a map of a content. It first waits, not longer than patience, until what
// a boot is known or foreseen to read is here; what comes later is not in the map.
// A content that cannot be mapped is an error, and can be read all the same.
func (c *Cache) Map(ctx context.Context, id image.ContentID, stores []Store, patience time.Duration) (Mapping, error) {
	k, err := c.known(ctx, id, stores)
	if err != nil {
		return Mapping{}, err
	}
	a := c.lookAhead(k)
	if a != nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-a.done:
		case <-timer.C:
		case <-ctx.Done():
			return Mapping{}, ctx.Err()
		}
	}
	m, mapped, err := c.slab.mapped(c.cfg.Dir, k.m.Size, k.m.Chunks)
	if err != nil {
		return Mapping{}, err
	}
	k.mappedOnce(a, mapped)
	return m, nil
}

// mappedOnce notes chunks that a machine may read without asking. What of them was
// read ahead for its boot counts as read in the order in which it came, because
// nobody sees the real one.
func (k *core) mappedOnce(a *aheadRun, mapped []int64) {
	has := make(map[int64]bool, len(mapped))
	for _, n := range mapped {
		has[n] = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mapped = max(k.mapped, len(mapped))
	if k.learn == nil || a == nil {
		return
	}
	for _, n := range a.order {
		if has[n] {
			k.learn.touch(n)
		}
	}
}

// SweepMaps lets go of the maps that nobody reads any more.
func (c *Cache) SweepMaps() {
	if err := c.slab.sweep(c.cfg.Dir); err != nil {
		c.log.Warn("a map that nobody reads was not let go", "err", err)
	}
}

// slotPlace is where slot i begins in the file.
func slotPlace(i int) int64 { return slotsBegin + int64(i)*image.ChunkSize }
