package chunkstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
)

// A session is the lease of one open Store while it writes or reads. Its record
// in the bucket is renewed as long as there is work; a record that has not
// changed for a time is that of a dead process. Collections and sessions agree
// through records and dooms alone (docs/adr/0012):
//
//	absent ──first work──► published ──renewals──► published ──idle──► absent
//	                           └──renewals fail for the lease──► lost: work begins anew
const (
	sessionPrefix = "sessions/"
	doomPrefix    = "doomed/"
)

// record is a session as others see it.
type record struct {
	// Owner names the process, for people.
	Owner string `json:"owner"`
	// Boot is the host's boot in which a local folder is written to.
	Boot string `json:"boot,omitempty"`
	// Renewal makes every record differ from the one before.
	Renewal int64     `json:"renewal"`
	Started time.Time `json:"started"`
	Renewed time.Time `json:"renewed"`
	// Writing says that chunks are being relied on that no manifest names yet.
	Writing bool `json:"writing,omitempty"`
	// Seen are the dooms that the session will rely on no chunk of, but for Keeps.
	Seen []string `json:"seen,omitempty"`
	// Keeps are the chunks of those dooms that it had relied on before.
	Keeps []string `json:"keeps,omitempty"`
	// Reads are the contents that are open.
	Reads []image.ContentID `json:"reads,omitempty"`
}

// doom is a list of chunks that a collection is going to delete.
type doom struct {
	// Session is the collector's.
	Session string `json:"session"`
	// Chunks are digests, in hexadecimal.
	Chunks []string `json:"chunks"`
}

// errLost says that the session may have been taken for dead.
var errLost = errors.New("the store did not answer in time and the lease on it has run out")

// Timing are the bounds of the agreement; the zero value is for real stores.
type Timing struct {
	// Lease is how long a record is good for without renewal. Every process on a
	// store must use the same.
	Lease time.Duration
	// Poll is how often a session that writes looks for dooms, and a collector for
	// answers.
	Poll time.Duration
}

func (t Timing) withDefaults() Timing {
	if t.Lease <= 0 {
		t.Lease = time.Minute
	}
	if t.Poll <= 0 {
		t.Poll = t.Lease / 30
	}
	return t
}

// forbidden is a doom that this session knows.
type forbidden struct {
	session string
	chunks  map[image.Digest]bool
	keeps   []string
}

// session is the Store's own.
type session struct {
	s      *Store
	timing Timing
	boot   string

	// turn orders publications and observations; a channel, so that whoever waits
	// for it can stop waiting.
	turn chan struct{}

	mu       sync.Mutex
	id       string // of the record that is in the bucket, empty for none
	started  time.Time
	renewal  int64
	until    time.Time // the record is good until then
	last     record
	unsynced bool // something was written since the last Flush
	writers  map[*claims]bool
	reads    map[image.ContentID]int
	shown    map[image.ContentID]bool // the reads of the record
	dooms    map[string]forbidden
	changed  chan struct{} // closed when dooms changes
	looping  bool
	closed   chan struct{}
	dead     graveyard
}

func newSession(s *Store, timing Timing) *session {
	return &session{s: s, timing: timing.withDefaults(), turn: make(chan struct{}, 1), writers: map[*claims]bool{}, reads: map[image.ContentID]int{},
		shown: map[image.ContentID]bool{}, dooms: map[string]forbidden{}, changed: make(chan struct{}), closed: make(chan struct{}), dead: graveyard{}}
}

// claims are the chunks that one ingest, copy or collection relies on.
type claims struct {
	x  *session
	id string // the session's when it began
	// relied is guarded by x.mu.
	relied map[image.Digest]bool
}

func randomName() string {
	var b [12]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (x *session) takeTurn(ctx context.Context) error {
	select {
	case x.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// validLocked says that nobody can have taken the session for dead. A margin is
// left for calls that are under way. The wall clock is asked too, because the
// other one stands still while a computer sleeps.
func (x *session) validLocked() bool {
	now := time.Now()
	return x.id != "" && now.Before(x.until) && now.Round(0).Before(x.until.Round(0))
}

// valid is whether c's work may still be published.
func (c *claims) valid() bool {
	c.x.mu.Lock()
	defer c.x.mu.Unlock()
	return c.x.validLocked() && c.x.id == c.id
}

// deadline is when what c does now must have ended.
func (c *claims) deadline() time.Time {
	c.x.mu.Lock()
	defer c.x.mu.Unlock()
	return c.x.until
}

// begin makes the store know that something is being written.
func (x *session) begin(ctx context.Context) (*claims, error) {
	if err := x.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer func() { <-x.turn }()
	x.mu.Lock()
	c := &claims{x: x, relied: map[image.Digest]bool{}}
	x.writers[c] = true
	x.unsynced = true
	fresh := !x.validLocked() || !x.last.Writing
	x.mu.Unlock()
	if fresh {
		// First the record, then the dooms: a collection that does not see the
		// record has published its doom before we look.
		err := x.publish(ctx, bucket.Durable)
		if err == nil {
			err = x.observe(ctx)
		}
		if err != nil {
			c.end()
			return nil, err
		}
	}
	x.mu.Lock()
	c.id = x.id
	x.mu.Unlock()
	x.loop()
	return c, nil
}

// end lets go of what c relied on: it is named by a manifest now, or given up.
func (c *claims) end() {
	c.x.mu.Lock()
	defer c.x.mu.Unlock()
	delete(c.x.writers, c)
}

// claim relies on a chunk, there or not. While a collection may delete it, it
// waits. It comes before the look whether the chunk is there.
func (c *claims) claim(ctx context.Context, d image.Digest) error {
	for {
		c.x.mu.Lock()
		doomed := false
		for _, f := range c.x.dooms {
			doomed = doomed || f.chunks[d]
		}
		if !doomed || c.relied[d] {
			c.relied[d] = true
			c.x.mu.Unlock()
			return nil
		}
		changed := c.x.changed
		c.x.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read makes the store know that a content is being read. It comes before the
// look for its manifest.
func (x *session) read(ctx context.Context, id image.ContentID) error {
	x.mu.Lock()
	x.reads[id]++
	if x.shown[id] && x.validLocked() {
		x.mu.Unlock()
		return nil
	}
	x.mu.Unlock()
	err := x.takeTurn(ctx)
	if err == nil {
		err = x.publish(ctx, bucket.Lazy)
		<-x.turn
	}
	if err != nil {
		x.unread(id)
		return err
	}
	x.loop()
	return nil
}

// unread ends a read; the record tells it with its next renewal.
func (x *session) unread(id image.ContentID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.reads[id]--; x.reads[id] <= 0 {
		delete(x.reads, id)
	}
}

// publish writes the record. The caller has the turn. A session that may be
// taken for dead gets another name, and the work under the old one is lost.
func (x *session) publish(ctx context.Context, how bucket.How) error {
	x.mu.Lock()
	now := time.Now()
	if !x.validLocked() {
		x.id, x.started, x.last = randomName(), now, record{}
	}
	x.renewal++
	r := record{Owner: owner(), Boot: x.boot, Renewal: x.renewal, Started: x.started, Renewed: now.UTC(), Writing: len(x.writers) > 0}
	for name, f := range x.dooms {
		r.Seen = append(r.Seen, name)
		r.Keeps = append(r.Keeps, f.keeps...)
	}
	for id := range x.reads {
		r.Reads = append(r.Reads, id)
	}
	// A reader that comes while the record is under way must not rely on the one
	// that it replaces.
	for id := range x.shown {
		if x.reads[id] == 0 {
			delete(x.shown, id)
		}
	}
	id := x.id
	x.mu.Unlock()
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// A record that arrives late would be a lie.
	ctx, cancel := context.WithTimeout(ctx, x.timing.Lease/3)
	defer cancel()
	if err := x.s.bucket.Put(ctx, sessionPrefix+id, data, how); err != nil {
		// It may be there all the same: whoever begins to write or to read has to
		// publish first.
		x.mu.Lock()
		x.last.Writing, x.shown = false, map[image.ContentID]bool{}
		x.mu.Unlock()
		return fmt.Errorf("renew the lease: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	// A third is the margin for calls that are under way when it runs out.
	x.until = now.Add(x.timing.Lease * 2 / 3)
	x.last = r
	x.shown = map[image.ContentID]bool{}
	for _, id := range r.Reads {
		x.shown[id] = true
	}
	return nil
}

func owner() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}

// observe reads which dooms there are. From then on nothing new is relied on of
// what they name. The caller has the turn.
func (x *session) observe(ctx context.Context) error {
	there := map[string]bool{}
	for i, err := range x.s.bucket.List(ctx, doomPrefix) {
		if err != nil {
			return err
		}
		there[strings.TrimPrefix(i.Key, doomPrefix)] = true
	}
	x.mu.Lock()
	gone := false
	for name := range x.dooms {
		if !there[name] {
			delete(x.dooms, name)
			gone = true
		}
	}
	var fresh []string
	for name := range there {
		if _, known := x.dooms[name]; !known {
			fresh = append(fresh, name)
		}
	}
	x.mu.Unlock()
	for _, name := range fresh {
		d, err := x.s.readDoom(ctx, name)
		if errors.Is(err, bucket.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		f := forbidden{session: d.Session, chunks: map[image.Digest]bool{}}
		for _, h := range d.Chunks {
			if digest, ok := parseDigest(h); ok {
				f.chunks[digest] = true
			}
		}
		// In one step: what is relied on until now is kept, and no more is added.
		x.mu.Lock()
		for c := range x.writers {
			for digest := range c.relied {
				if f.chunks[digest] {
					f.keeps = append(f.keeps, hex.EncodeToString(digest[:]))
				}
			}
		}
		x.dooms[name] = f
		x.mu.Unlock()
	}
	if gone {
		x.mu.Lock()
		close(x.changed)
		x.changed = make(chan struct{})
		x.mu.Unlock()
	}
	return nil
}

func parseDigest(h string) (d image.Digest, ok bool) {
	n, err := hex.Decode(d[:], []byte(h[:min(len(h), 2*len(d))]))
	return d, err == nil && n == len(d) && len(h) == 2*len(d)
}

// maxRecord bounds sessions and dooms: doomLimit digests and more.
const maxRecord = 64 << 20

func (s *Store) readDoom(ctx context.Context, name string) (doom, error) {
	var d doom
	b, err := s.bucket.Get(ctx, doomPrefix+name, maxRecord)
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	return d, err
}

// loop renews the record until there has been no work for a while.
func (x *session) loop() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.looping {
		return
	}
	x.looping = true
	go func() {
		tick := time.NewTicker(x.timing.Poll)
		defer tick.Stop()
		idle := time.Now()
		for {
			select {
			case <-tick.C:
			case <-x.closed:
				return
			}
			busy, ended := x.turnOver(idle)
			if ended {
				return
			}
			if busy {
				idle = time.Now()
			}
		}
	}()
}

// turnOver is one round of the loop: look for dooms, answer them, renew, or end
// after a time without work.
func (x *session) turnOver(idle time.Time) (busy, ended bool) {
	ctx, cancel := context.WithTimeout(context.Background(), x.timing.Lease)
	defer cancel()
	if x.takeTurn(ctx) != nil {
		return true, false
	}
	defer func() { <-x.turn }()
	x.mu.Lock()
	writing := len(x.writers) > 0
	busy = writing || len(x.reads) > 0
	x.mu.Unlock()
	if !busy && time.Since(idle) > x.timing.Lease/3 {
		return false, x.retire(ctx)
	}
	if writing {
		// An error is the next round's; meanwhile nothing is answered.
		if x.observe(ctx) == nil {
			x.s.buryDooms(ctx, x)
		}
	}
	x.mu.Lock()
	seen := len(x.last.Seen) == len(x.dooms)
	for _, name := range x.last.Seen {
		_, known := x.dooms[name]
		seen = seen && known
	}
	due := time.Since(x.last.Renewed) > x.timing.Lease/4 || writing && !seen || writing != x.last.Writing
	x.mu.Unlock()
	if due {
		_ = x.publish(ctx, bucket.Lazy)
	}
	return busy, false
}

// retire removes the record. The caller has the turn.
func (x *session) retire(ctx context.Context) bool {
	x.mu.Lock()
	unsynced := x.unsynced
	x.mu.Unlock()
	if unsynced {
		// Chunks of a failed ingest stay, and without a record nobody would look
		// after them when the power is lost.
		if x.s.bucket.Flush(ctx) != nil {
			return false
		}
	}
	x.mu.Lock()
	if len(x.writers) > 0 || len(x.reads) > 0 {
		x.mu.Unlock()
		return false
	}
	id := x.id
	x.id, x.unsynced, x.last, x.shown, x.looping = "", false, record{}, map[image.ContentID]bool{}, false
	x.mu.Unlock()
	if id != "" {
		_ = x.s.bucket.Delete(ctx, sessionPrefix+id)
	}
	return true
}

// Close ends the session of a store that nobody uses any more. If the store does
// not answer in time, the record is left, and stands for a dead process.
func (s *Store) Close() error {
	x := s.session
	x.mu.Lock()
	select {
	case <-x.closed:
		x.mu.Unlock()
		return nil
	default:
	}
	// Before the wait for the turn, which may be in vain: the loop ends in any case.
	close(x.closed)
	x.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := x.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-x.turn }()
	x.retire(ctx)
	if c, ok := s.bucket.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}
