package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/proto"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// errFull refuses new attempts while the server does not acknowledge.
var errFull = errors.New("the node keeps as many unacknowledged events as it may; acknowledge some first")

// events are the numbered events that the server has not acknowledged, in
// order, and the journal from which the next agent learns them. Numbers go on
// over agents and boots for as long as the journal lives.
//
// The journal is a file of lines, each a record. It is written without fsync:
// it serves restarts of the agent; what a crash of the machine loses of it, the
// server learns from the new boot id.
type events struct {
	mu      sync.Mutex
	list    []*nodev1.Event
	last    uint64
	max     int
	begun   map[attemptKey]*nodev1.TaskKey // not completed
	changed chan struct{}                  // closed and replaced at each event
	ended   chan struct{}                  // closed and replaced at each end

	path string
	file *os.File
	size int64
}

// record is one line of the journal; one field is set.
type record struct {
	Begin []byte `json:"begin,omitempty"` // a TaskKey that is about to run
	Event []byte `json:"event,omitempty"`
	Ack   uint64 `json:"ack,omitempty"` // forgotten up to here
}

// compactSize is the size from which a journal is rewritten when it can shrink.
const compactSize = 1 << 20

// openEvents reads the journal at path, if there is one. An unreadable last
// line is what a crash leaves; it is dropped with all that follows.
func openEvents(path string, max int) (*events, error) {
	e := &events{max: max, begun: map[attemptKey]*nodev1.TaskKey{}, changed: make(chan struct{}), ended: make(chan struct{}), path: path}
	if path == "" {
		return e, nil
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return e, nil // it is made when there is something to write
	}
	e.replay(bytes.NewReader(data))
	return e, e.rewrite()
}

func (e *events) replay(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var rec record
		if json.Unmarshal(line, &rec) != nil {
			return
		}
		switch {
		case rec.Begin != nil:
			k := new(nodev1.TaskKey)
			if proto.Unmarshal(rec.Begin, k) != nil {
				return
			}
			e.begun[keyOf(k)] = k
		case rec.Event != nil:
			ev := new(nodev1.Event)
			if proto.Unmarshal(rec.Event, ev) != nil || ev.GetSequence() <= e.last {
				return
			}
			e.take(ev)
		case rec.Ack > 0:
			e.forget(rec.Ack)
		}
	}
}

func (e *events) take(ev *nodev1.Event) {
	e.list = append(e.list, ev)
	e.last = ev.GetSequence()
	if c := ev.GetTaskCompleted(); c != nil {
		delete(e.begun, keyOf(c.GetKey()))
	}
}

func (e *events) forget(through uint64) {
	n := 0
	for n < len(e.list) && e.list[n].GetSequence() <= through {
		n++
	}
	e.list = e.list[n:]
	// The journal begins with an Ack that tells the last number.
	e.last = max(e.last, through)
}

// rewrite makes a new journal of what is kept; e.mu is held or not needed yet.
func (e *events) rewrite() error {
	if e.path == "" {
		return nil
	}
	var b []byte
	recs := []record{{Ack: e.forgotten()}}
	for _, k := range e.begun {
		recs = append(recs, record{Begin: mustMarshal(k)})
	}
	for _, ev := range e.list {
		recs = append(recs, record{Event: mustMarshal(ev)})
	}
	for _, r := range recs {
		b = append(b, line(r)...)
	}
	next := e.path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := os.Rename(next, filepath.Clean(e.path)); err != nil {
		f.Close()
		return err
	}
	if e.file != nil {
		e.file.Close()
	}
	e.file, e.size = f, int64(len(b))
	return nil
}

func (e *events) append(r record) error {
	if e.path == "" {
		return nil
	}
	if e.file == nil {
		return e.rewrite() // r is among it
	}
	n, err := e.file.Write(line(r))
	e.size += int64(n)
	return err
}

func line(r record) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // bytes and a number
	}
	return append(b, '\n')
}

func mustMarshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		// Only a string that is not UTF-8 can do this; texts are cleaned before.
		panic(err)
	}
	return b
}

// begin notes that an attempt is about to run. errFull when there is no room
// for its events beside those of the others that run.
func (e *events) begin(k *nodev1.TaskKey) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list)+2*(len(e.begun)+1) > e.max {
		return errFull
	}
	e.begun[keyOf(k)] = k
	return e.append(record{Begin: mustMarshal(k)})
}

// add numbers an event and keeps it. On an error it is kept in memory only.
func (e *events) add(ev *nodev1.Event) error {
	clean(ev)
	e.mu.Lock()
	defer e.mu.Unlock()
	ev.Sequence = e.last + 1
	e.take(ev)
	close(e.changed)
	e.changed = make(chan struct{})
	if ev.GetTaskStarted() == nil {
		close(e.ended)
		e.ended = make(chan struct{})
	}
	return e.append(record{Event: mustMarshal(ev)})
}

// clean makes the texts of an event fit for protobuf: a program's name may be
// any bytes.
func clean(ev *nodev1.Event) {
	f := ev.GetTaskCompleted().GetFailure()
	if f == nil {
		return
	}
	f.Message = string(bytes.ToValidUTF8([]byte(f.Message), []byte("\uFFFD")))
	for k, v := range f.Details {
		f.Details[k] = string(bytes.ToValidUTF8([]byte(v), []byte("\uFFFD")))
	}
}

// since lists the kept events after a number; the channel is closed at the
// next, or with ends at the next that is not a start.
func (e *events) since(after uint64, ends bool) ([]*nodev1.Event, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for n < len(e.list) && e.list[n].GetSequence() <= after {
		n++
	}
	next := e.changed
	if ends {
		next = e.ended
	}
	return e.list[n:len(e.list):len(e.list)], next
}

// mostBundled bounds the events of one message.
const mostBundled = 64

// bundle makes one message of the first of some events, and says how many.
func bundle(list []*nodev1.Event) (*nodev1.Event, int) {
	if len(list) == 1 {
		return list[0], 1
	}
	n := min(len(list), mostBundled)
	first := list[0]
	return &nodev1.Event{Sequence: first.GetSequence(), Time: first.GetTime(), What: first.GetWhat(), More: list[1:n]}, n
}

func (e *events) acknowledge(through uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	through = min(through, e.last)
	before := len(e.list)
	e.forget(through)
	if len(e.list) == before {
		return nil
	}
	e.list = append([]*nodev1.Event(nil), e.list...) // let the forgotten go
	if e.size > compactSize && len(e.list) < e.max/4 {
		return e.rewrite()
	}
	return e.append(record{Ack: through})
}

// kept is the number of the last event, and that up to which none is kept.
func (e *events) kept() (last, forgotten uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last, e.forgotten()
}

// forgotten needs e.mu, or an e that nobody else has yet.
func (e *events) forgotten() uint64 {
	if len(e.list) > 0 {
		return e.list[0].GetSequence() - 1
	}
	return e.last
}

// goOn numbers what comes behind what the server knows already: a reset may have
// torn the end of the journal off, and the server takes no number twice.
func (e *events) goOn(known uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = max(e.last, known)
}

// unfinished are the attempts that an earlier agent began and did not report.
func (e *events) unfinished() []*nodev1.TaskKey {
	e.mu.Lock()
	defer e.mu.Unlock()
	var keys []*nodev1.TaskKey
	for _, k := range e.begun {
		keys = append(keys, k)
	}
	return keys
}

// completed are the attempts whose reports are kept.
func (e *events) completed() []*nodev1.TaskKey {
	e.mu.Lock()
	defer e.mu.Unlock()
	var keys []*nodev1.TaskKey
	for _, ev := range e.list {
		if c := ev.GetTaskCompleted(); c != nil {
			keys = append(keys, c.GetKey())
		}
	}
	return keys
}

func (e *events) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file == nil {
		e.path = ""
		return nil
	}
	err := e.file.Close()
	e.path, e.file = "", nil
	return err
}
