package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/image"
)

// A map lets QEMU read the chunks of a content that are kept here from the slab's
// file itself, as it reads a local image. In front of the slots the file has
// maxMaps areas; one that is in use has the header and tables of a qcow2 image of
// clusters as long as a chunk, whose data clusters are slots. Offsets count from
// the image's begin, so that it is the file from there on:
//
//	cluster 0  header
//	        1  refcount table: a hole, nobody writes to the image
//	        2  L1 table
//	        3… L2 tables, one for each 32 GiB of the disk
//
// A map does not change. What it does not have is read from the disk below it,
// which is the content's export. One that was made before all was here that a boot
// reads is followed by a larger one in the second half of its area, to which QEMU
// goes over: both have the slots of the first at the same place of the file. As long
// as somebody has the lease of the area locked, the slots that its maps name are not
// replaced.
const (
	maxMaps     = 256
	mapClusters = 16
	mapArea     = mapClusters * image.ChunkSize
	slotsBegin  = maxMaps * mapArea
	// mapTables is how many L2 tables an area has room for, halfTables a half of it.
	mapTables  = mapClusters - 3
	halfTables = mapClusters/2 - 3
	// clusterBits is that of a chunk's length.
	clusterBits = 19
	// mapSpan is how many bytes of the disk an L2 table covers.
	mapSpan = image.ChunkSize / 8 * image.ChunkSize
	// mapsFolder has a lease for each area, named by its number.
	mapsFolder = "maps"
	// mapGrace is how long a lease is kept before somebody has locked it.
	mapGrace = time.Minute
	// leaseMagic begins each of a lease's parts, one for each map of the area. Behind
	// it come the slots and a CRC-32C of all before it in the part, in 4 bytes each.
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
	// Area is the number by which Grow knows the map.
	Area int `json:"area"`
	// Chunks is how many chunks the map has.
	Chunks int `json:"chunks"`
	// Grows says that more is being fetched, with which Grow makes a larger map.
	Grows bool `json:"grows"`
}

// errNoMap says that there is no room for another map, or none for one of a disk
// of this size. The content is read without one.
var errNoMap = errors.New("the cache has no room for a map")

// lease is an area in use.
type lease struct {
	slots []int
	// begun is when the map could be had first.
	begun time.Time
	// core is of what its map is, and at which of its chunks that has; nil for one of
	// an earlier process, which does not grow any more.
	core *core
	at   map[int64]int
	// ahead fetches what a larger map is to have; nil if there is no larger one.
	ahead *aheadRun
	// writing keeps the area while one of its halves is written.
	writing bool
}

// mapped makes a map of a content that has those of its chunks that are kept and
// verified. Together the maps hold no more than half of the slots. ahead is what
// fetches more for it, if anything does.
func (s *slab) mapped(dir string, k *core, ahead *aheadRun) (Mapping, error) {
	tables := tablesOf(k.m.Size)
	if tables < 1 || tables > mapTables {
		return Mapping{}, fmt.Errorf("%w: a disk of %d bytes", errNoMap, k.m.Size)
	}
	if tables > halfTables {
		ahead = nil
	}
	area, l := s.hire(k, ahead)
	if l == nil {
		return Mapping{}, errNoMap
	}
	if len(l.at) == 0 && ahead == nil {
		s.endLease(area)
		return Mapping{}, fmt.Errorf("%w: nothing of the content is kept", errNoMap)
	}
	m := Mapping{File: s.chunks.Name(), Offset: int64(area) * mapArea, Lease: leaseFile(dir, area), Area: area, Chunks: len(l.at), Grows: ahead != nil}
	err := s.writeMap(m.Offset, k.m.Size, l.at)
	if err == nil {
		err = writeLease(m.Lease, l.slots)
	}
	if err != nil {
		s.endLease(area)
		return Mapping{}, err
	}
	s.mu.Lock()
	l.writing, l.begun = false, s.clock.Now()
	s.mu.Unlock()
	return m, nil
}

// errNotGrowing says that an area has no map of the content that would grow.
var errNotGrowing = errors.New("the map does not grow")

// growing finds the map of a content that can be followed by a larger one, and what
// that waits for.
func (s *slab) growing(area int, id image.ContentID) (*core, *aheadRun, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[area]
	if l == nil || l.ahead == nil || l.core.id != id {
		return nil, nil, errNotGrowing
	}
	return l.core, l.ahead, nil
}

// grow writes the larger map of an area, once, with what is kept and verified by now.
// It returns also which chunks that has.
func (s *slab) grow(dir string, area int, k *core) (Mapping, map[int64]int, error) {
	s.mu.Lock()
	l := s.leases[area]
	if l == nil || l.ahead == nil || l.core != k {
		s.mu.Unlock()
		return Mapping{}, nil, errNotGrowing
	}
	had := len(l.at)
	l.ahead, l.writing = nil, true
	s.fill(l)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		l.writing = false
		s.mu.Unlock()
	}()
	m := Mapping{File: s.chunks.Name(), Offset: int64(area) * mapArea, Lease: leaseFile(dir, area), Area: area, Chunks: len(l.at)}
	if m.Chunks == had {
		return m, l.at, nil
	}
	m.Offset += mapArea / 2
	// A process that takes over finds the slots before QEMU can know them.
	err := growLease(m.Lease, l.slots)
	if err == nil {
		err = s.writeMap(m.Offset, k.m.Size, l.at)
	}
	return m, l.at, err
}

func tablesOf(size int64) int { return int((size + mapSpan - 1) / mapSpan) }

func leaseFile(dir string, area int) string {
	return filepath.Join(dir, mapsFolder, strconv.Itoa(area))
}

// writeMap writes the image of a disk of size bytes whose chunks are in slots.
func (s *slab) writeMap(offset, size int64, at map[int64]int) error {
	tables := tablesOf(size)
	l2 := make([]byte, 8*((size+image.ChunkSize-1)/image.ChunkSize))
	for n, i := range at {
		binary.BigEndian.PutUint64(l2[8*n:], uint64(slotPlace(i)-offset))
	}
	l1 := make([]byte, 0, 8*tables)
	for t := range tables {
		l1 = binary.BigEndian.AppendUint64(l1, uint64(3+t)*image.ChunkSize)
	}
	for _, part := range []struct {
		cluster int64
		data    []byte
	}{{0, mapHeader(size, tables)}, {2, l1}, {3, l2}} {
		if _, err := s.chunks.WriteAt(part.data, offset+part.cluster*image.ChunkSize); err != nil {
			return err
		}
	}
	return nil
}

// hire takes a free area and holds the slots of a content's chunks for it; no lease if
// there is no area.
func (s *slab) hire(k *core, ahead *aheadRun) (area int, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for area = 0; s.leases[area] != nil; area++ {
		if area == maxMaps-1 {
			return 0, nil
		}
	}
	l = &lease{writing: true, core: k, at: map[int64]int{}, ahead: ahead}
	s.fill(l)
	s.leases[area] = l
	return area, l
}

// fill holds for a lease the slots of chunks that it does not have; with s.mu.
func (s *slab) fill(l *lease) {
	for n, d := range l.core.m.Chunks {
		i, ok := s.at[d]
		if _, has := l.at[n]; has || !ok || !s.slots[i].verified || s.pinned[i] == 0 && len(s.pinned) >= s.limit/2 {
			continue
		}
		s.slots[i].recent = true
		s.pin(i)
		l.slots = append(l.slots, i)
		l.at[n] = i
	}
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
		if s.clock.Now().Sub(l.begun) >= mapGrace && !l.writing {
			old = append(old, area)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, area := range old {
		gone, err := removeUnlocked(leaseFile(dir, area))
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

// growLease adds a part to a lease that somebody has locked, which a rename would not
// do. What a crash leaves of it names slots that no map has yet.
func growLease(name string, slots []int) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(formatLease(slots))
	return errors.Join(err, f.Close())
}

func formatLease(slots []int) []byte {
	b := []byte(leaseMagic)
	for _, i := range slots {
		b = binary.BigEndian.AppendUint32(b, uint32(i))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errLease = errors.New("it is not a lease of a map")

// parseLease reads the slots of a lease's last whole part, which has those of the ones
// before it as well. No slot's number looks like leaseMagic.
func parseLease(b []byte) ([]int, error) {
	parts := bytes.Split(b, []byte(leaseMagic))
	if len(parts) < 2 || len(parts[0]) > 0 {
		return nil, errLease
	}
	slots, err := parseLeasePart(parts[1])
	for n := 1; n < len(leaseMagic) && err != nil && len(parts) == 2; n++ {
		// Of the next part not even the beginning was written.
		if whole, torn := bytes.CutSuffix(parts[1], []byte(leaseMagic[:n])); torn {
			slots, err = parseLeasePart(whole)
		}
	}
	for _, p := range parts[2:] {
		if more, torn := parseLeasePart(p); err == nil && torn == nil {
			slots = more
		}
	}
	return slots, err
}

func parseLeasePart(b []byte) ([]int, error) {
	n := len(b) - 4
	if n < 0 || n%4 != 0 || crc32.Update(crc32.Checksum([]byte(leaseMagic), castagnoli), castagnoli, b[:n]) != binary.BigEndian.Uint32(b[n:]) {
		return nil, errLease
	}
	var slots []int
	for b = b[:n]; len(b) > 0; b = b[4:] {
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

// Map makes a map of what is here of a content, at once, and begins to fetch what a
// boot is known or foreseen to read. A content that cannot be mapped is an error, and
// can be read all the same.
func (c *Cache) Map(ctx context.Context, id image.ContentID, stores []Store) (Mapping, error) {
	k, err := c.known(ctx, id, stores)
	if err != nil {
		return Mapping{}, err
	}
	m, err := c.slab.mapped(c.cfg.Dir, k, c.lookAhead(k))
	if err == nil {
		k.mu.Lock()
		k.mapped = max(k.mapped, m.Chunks)
		k.mu.Unlock()
	}
	return m, err
}

// Grow makes the larger map that follows a map of a content, once. It first waits, not
// longer than patience, until what the boot reads is here; what comes later is in no
// map.
func (c *Cache) Grow(ctx context.Context, id image.ContentID, area int, patience time.Duration) (Mapping, error) {
	k, a, err := c.slab.growing(area, id)
	if err != nil {
		return Mapping{}, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-a.done:
	case <-timer.C:
	case <-ctx.Done():
		return Mapping{}, ctx.Err()
	}
	m, at, err := c.slab.grow(c.cfg.Dir, area, k)
	if err != nil {
		return Mapping{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mapped = max(k.mapped, m.Chunks)
	if k.learn != nil {
		// What was read ahead by now and mapped counts as read in the order in which it
		// came, because nobody sees the real one.
		for _, n := range a.order {
			if _, mapped := at[n]; mapped {
				k.learn.touch(n)
			}
		}
	}
	return m, nil
}

// SweepMaps lets go of the maps that nobody reads any more.
func (c *Cache) SweepMaps() {
	if err := c.slab.sweep(c.cfg.Dir); err != nil {
		c.log.Warn("a map that nobody reads was not let go", "err", err)
	}
}

// slotPlace is where slot i begins in the file.
func slotPlace(i int) int64 { return slotsBegin + int64(i)*image.ChunkSize }
