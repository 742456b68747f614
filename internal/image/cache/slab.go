package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/image"
)

// slab keeps chunks in the slots of one sparse file, and in a second file what is
// in which slot. Neither is ever synced: an entry of the index is believed after
// the bytes in its slot were compared with the digest once, so whatever a crash
// leaves behind is noticed and fetched again.
//
//	slab     areas of maps (maps.go), then the slots of ChunkSize
//	slots    entry i at i × entryLen: digest, length, CRC-32C of both
type slab struct {
	clock  clock.Clock
	chunks *os.File
	index  *os.File

	mu sync.Mutex
	// limit is the number of slots that may be used, grown how many have been.
	limit, grown int
	slots        []slot
	at           map[image.Digest]int
	free         []int
	// leases are the maps in use by their area, and pinned how many of them hold a
	// slot.
	leases map[int]*lease
	pinned map[int]int
	// hand is the clock's: the slot that is looked at next for eviction.
	hand int
	// noGrowth is until when no slot is taken that was never used, because the disk
	// was full; meanwhile chunks replace each other.
	noGrowth  time.Time
	evictions int64
	// fail replaces a write's outcome in tests of a full disk.
	fail func(slot int) error
}

// slot is what is known of a slot.
type slot struct {
	digest image.Digest
	length int
	// held is how many read or write it now; it is not evicted meanwhile.
	held int
	// full: it has a chunk. verified: and its bytes have been compared.
	full, verified bool
	// recent is set by every use and cleared by the hand.
	recent bool
}

const (
	chunksFile = "slab"
	indexFile  = "slots"
	entryLen   = sha256.Size + 4 + 4
	// growthPause is how long a full disk is left alone.
	growthPause = time.Minute
	// minSlots is the smallest cache that makes sense: a large request and some.
	minSlots = 32
	// maxSlots keeps the numbers of slots apart from nonsense: 128 TiB.
	maxSlots = 1 << 28
)

// formerFiles had the slots of earlier builds, which began at the file's start.
var formerFiles = []string{"chunks", "index"}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errAllHeld says that every slot is in use at this moment.
var errAllHeld = errors.New("every slot of the cache is in use")

// openSlab opens or makes the files in dir. What does not fit into limit bytes
// is dropped.
func openSlab(dir string, limit int64, c clock.Clock) (_ *slab, err error) {
	s := &slab{clock: c, limit: min(max(int(limit/image.ChunkSize), minSlots), maxSlots), at: map[image.Digest]int{}, pinned: map[int]int{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, name := range formerFiles {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if s.leases, err = loadLeases(dir, c.Now()); err != nil {
		return nil, err
	}
	// What is being read stays, also beyond a limit that has become smaller.
	for _, l := range s.leases {
		for _, i := range l.slots {
			s.limit = max(s.limit, i+1)
		}
	}
	if s.chunks, err = os.OpenFile(filepath.Join(dir, chunksFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if s.index, err = os.OpenFile(filepath.Join(dir, indexFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	// The file has its whole length from the beginning, in holes: QEMU does not see one
	// that it has opened become longer, and a map that grows leads to new slots.
	if err := errors.Join(s.chunks.Truncate(slotPlace(s.limit)), shrink(s.index, int64(s.limit)*entryLen)); err != nil {
		return nil, err
	}
	entries, err := io.ReadAll(s.index)
	if err != nil {
		return nil, err
	}
	s.load(entries)
	for _, l := range s.leases {
		for _, i := range l.slots {
			for s.grown <= i {
				s.slots = append(s.slots, slot{})
				s.free = append(s.free, s.grown)
				s.grown++
			}
			s.pin(i)
		}
	}
	s.free = slices.DeleteFunc(s.free, func(i int) bool { return s.slots[i].held > 0 })
	return s, nil
}

func shrink(f *os.File, limit int64) error {
	st, err := f.Stat()
	if err != nil || st.Size() <= limit {
		return err
	}
	return f.Truncate(limit)
}

// load takes over the index of an earlier process, entry by entry; one that is
// torn or double is an empty slot.
func (s *slab) load(entries []byte) {
	for i := 0; len(entries) >= entryLen && i < s.limit; i++ {
		e := entries[:entryLen]
		entries = entries[entryLen:]
		s.slots = append(s.slots, slot{})
		s.grown++
		d, length, ok := parseEntry(e)
		if _, double := s.at[d]; !ok || double {
			s.free = append(s.free, i)
			continue
		}
		s.slots[i] = slot{digest: d, length: length, full: true}
		s.at[d] = i
	}
}

func parseEntry(e []byte) (d image.Digest, length int, ok bool) {
	if crc32.Checksum(e[:entryLen-4], castagnoli) != binary.BigEndian.Uint32(e[entryLen-4:]) {
		return d, 0, false
	}
	copy(d[:], e)
	n := binary.BigEndian.Uint32(e[sha256.Size:])
	return d, int(n), n > 0 && n <= image.ChunkSize
}

func makeEntry(d image.Digest, length int) []byte {
	e := append(make([]byte, 0, entryLen), d[:]...)
	e = binary.BigEndian.AppendUint32(e, uint32(length))
	return binary.BigEndian.AppendUint32(e, crc32.Checksum(e, castagnoli))
}

// hold finds a chunk that has been verified and keeps it in its slot until
// release.
func (s *slab) hold(d image.Digest) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.at[d]
	if !ok || !s.slots[i].verified {
		return 0, false
	}
	s.slots[i].held++
	s.slots[i].recent = true
	return i, true
}

func (s *slab) release(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[i].held--
}

// has says whether there is a chunk, verified or not.
func (s *slab) has(d image.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.at[d]
	return ok
}

// verifiedHas says whether there is a chunk that hold would find.
func (s *slab) verifiedHas(d image.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.at[d]
	return ok && s.slots[i].verified
}

// read fills p from the held slot i.
func (s *slab) read(i int, p []byte, within int64) error {
	_, err := s.chunks.ReadAt(p, slotPlace(i)+within)
	return err
}

// verify reads a chunk of an earlier process and compares it; nil if there is
// none or it is not what its entry says.
func (s *slab) verify(d image.Digest, length int) (data []byte, wrong bool) {
	s.mu.Lock()
	i, ok := s.at[d]
	if !ok || s.slots[i].length != length {
		s.mu.Unlock()
		return nil, ok
	}
	s.slots[i].held++
	s.mu.Unlock()
	data = make([]byte, length)
	err := s.read(i, data, 0)
	good := err == nil && image.Digest(sha256.Sum256(data)) == d
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[i].held--
	if good {
		s.slots[i].verified, s.slots[i].recent = true, true
		return data, false
	}
	s.drop(i)
	return nil, true
}

// discard forgets a chunk whose slot cannot be read.
func (s *slab) discard(d image.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.at[d]; ok {
		s.drop(i)
	}
}

// drop empties a slot; with s.mu. If it is held it stays out of use.
func (s *slab) drop(i int) {
	if s.slots[i].full {
		delete(s.at, s.slots[i].digest)
	}
	s.slots[i].full, s.slots[i].verified = false, false
	if s.slots[i].held == 0 {
		s.free = append(s.free, i)
	}
}

// put keeps a chunk, in the place of another one if need be.
func (s *slab) put(d image.Digest, data []byte) error {
	for attempt := 0; ; attempt++ {
		i, grew, err := s.take(d)
		if err != nil || i < 0 {
			return err
		}
		err = s.write(i, d, data)
		s.mu.Lock()
		s.slots[i].held--
		if err == nil {
			s.slots[i].digest, s.slots[i].length, s.slots[i].full, s.slots[i].verified, s.slots[i].recent = d, len(data), true, true, true
			s.at[d] = i
			s.mu.Unlock()
			return nil
		}
		if grew && i == s.grown-1 {
			s.grown--
			s.slots = s.slots[:i]
		} else {
			s.drop(i)
		}
		full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
		if full && grew {
			s.noGrowth = s.clock.Now().Add(growthPause)
		}
		again := full && grew && attempt == 0 && s.grown > 0
		s.mu.Unlock()
		if !again {
			return err
		}
	}
}

// take finds a slot to write to and holds it; -1 if the chunk is there already.
func (s *slab) take(d image.Digest) (i int, grew bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.at[d]; ok {
		return -1, false, nil
	}
	if n := len(s.free); n > 0 {
		i = s.free[n-1]
		s.free = s.free[:n-1]
		s.slots[i].held++
		return i, false, nil
	}
	if s.grown < s.limit && !s.clock.Now().Before(s.noGrowth) {
		s.slots = append(s.slots, slot{held: 1})
		s.grown++
		return s.grown - 1, true, nil
	}
	// Two rounds: the first clears the marks of use.
	for range 2 * len(s.slots) {
		s.hand = (s.hand + 1) % len(s.slots)
		v := &s.slots[s.hand]
		switch {
		case v.held > 0:
		case !v.full: // dropped while somebody read it
			v.held++
			return s.hand, false, nil
		case v.recent:
			v.recent = false
		default:
			delete(s.at, v.digest)
			v.full, v.verified = false, false
			v.held++
			s.evictions++
			return s.hand, false, nil
		}
	}
	return 0, false, errAllHeld
}

func (s *slab) write(i int, d image.Digest, data []byte) error {
	if s.fail != nil {
		if err := s.fail(i); err != nil {
			return err
		}
	}
	if _, err := s.chunks.WriteAt(data, slotPlace(i)); err != nil {
		return err
	}
	_, err := s.index.WriteAt(makeEntry(d, len(data)), int64(i)*entryLen)
	return err
}

// usage is what the slab holds.
func (s *slab) usage() (chunks int, bytes, limit, evictions int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.slots {
		if v.full {
			bytes += int64(v.length)
		}
	}
	return len(s.at), bytes, int64(s.limit) * image.ChunkSize, s.evictions
}

func (s *slab) close() error {
	var errs []error
	for _, f := range []*os.File{s.chunks, s.index} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
