// Package events turns what transactions change into events that others can
// follow: one for each change of state of a pool, node, job, task or job
// schedule, numbered in the order of commits, and kept for a bounded time so that
// a reader who was away misses nothing. It hands events to readers, each by its
// own cursor, and posts them to webhooks.
//
// It changes no noun and decides nothing. It writes within the transactions of
// others (ADR 0039), so it must stay cheap: no reading, a line for an event, a row
// for a transaction. Package batchapi serves it; cmd/millpond wires it.
package events

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

// Kind is what an event is about.
type Kind string

const (
	Pool     Kind = "pool"
	Node     Kind = "node"
	Job      Kind = "job"
	Task     Kind = "task"
	Schedule Kind = "jobschedule"
)

// Kinds lists every kind.
func Kinds() []Kind { return []Kind{Pool, Node, Job, Task, Schedule} }

// KindsOf reads a list of kinds; unknown are the words that are none.
func KindsOf(words []string) (kinds []Kind, unknown []string) {
	for _, w := range words {
		if k := Kind(strings.ToLower(strings.TrimSuffix(w, "s"))); slices.Contains(Kinds(), k) {
			kinds = append(kinds, k)
		} else {
			unknown = append(unknown, w)
		}
	}
	return kinds, unknown
}

// Deleted is the state of what is gone.
const Deleted = "deleted"

// Event is one change of state.
type Event struct {
	// Sequence numbers the events of a server, from 1, without gaps.
	Sequence uint64
	Time     time.Time
	Kind     Kind
	Account  string // key
	// Pool and Job are where the thing belongs; empty when that is not known.
	Pool, Job string
	// ID is the thing's own.
	ID string
	// State is as on the wire, or Deleted. Allocation is a pool's second state.
	State, Allocation string
	// Previous is empty when it is not known.
	Previous string
	// Node is where a task is or was last.
	Node string
	// Result is success or failure of a completed task; Code is why it failed.
	Result, Code string
	// Exit is nil when there is none.
	Exit    *int
	Attempt int
}

// Subject is the thing's path below its account.
func (e Event) Subject() string {
	switch e.Kind {
	case Node:
		return "/pools/" + e.Pool + "/nodes/" + e.ID
	case Job:
		return "/jobs/" + e.ID
	case Task:
		return "/jobs/" + e.Job + "/tasks/" + e.ID
	case Schedule:
		return "/jobschedules/" + e.ID
	}
	return "/pools/" + e.ID
}

// columns is how many fields a line of a batch has; more are tolerated, for a
// server that is newer.
const columns = 13

// appendLine writes an event as a line of its batch. Sequence and time are the
// batch's.
func appendLine(b []byte, e Event) []byte {
	exit := ""
	if e.Exit != nil {
		exit = strconv.Itoa(*e.Exit)
	}
	for _, f := range [...]string{string(e.Kind), e.Account, e.Pool, e.Job, e.ID, e.State, e.Allocation, e.Previous, e.Node, e.Result, plain(e.Code), exit} {
		b = append(append(b, f...), '\t')
	}
	return append(strconv.AppendInt(b, int64(e.Attempt), 10), '\n')
}

// plain keeps a word that comes from a node from breaking its line; all others
// are ids and states, which have no such characters.
func plain(s string) string {
	if strings.ContainsAny(s, "\t\n") {
		return strings.NewReplacer("\t", " ", "\n", " ").Replace(s)
	}
	return s
}

// parseBatch reads the lines of a batch whose first event has a sequence.
func parseBatch(first uint64, at time.Time, body string) ([]Event, error) {
	out := make([]Event, 0, strings.Count(body, "\n"))
	for line := range strings.Lines(body) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) < columns {
			return nil, fmt.Errorf("event %d has %d fields, not %d", first+uint64(len(out)), len(f), columns)
		}
		e := Event{Sequence: first + uint64(len(out)), Time: at, Kind: Kind(f[0]), Account: f[1], Pool: f[2], Job: f[3], ID: f[4], State: f[5], Allocation: f[6],
			Previous: f[7], Node: f[8], Result: f[9], Code: f[10]}
		if f[11] != "" {
			n, err := strconv.Atoi(f[11])
			if err != nil {
				return nil, fmt.Errorf("event %d: %w", e.Sequence, err)
			}
			e.Exit = &n
		}
		var err error
		if e.Attempt, err = strconv.Atoi(f[12]); err != nil {
			return nil, fmt.Errorf("event %d: %w", e.Sequence, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// CloudEvent is an event as CloudEvents 1.0 writes it in JSON; its id is the
// sequence.
type CloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            any       `json:"data"`
}

// MarshalJSON keeps a CloudEvent's time in RFC 3339 with microseconds at most.
func (e CloudEvent) MarshalJSON() ([]byte, error) {
	type bare CloudEvent
	e.Time = e.Time.Truncate(time.Microsecond)
	return json.Marshal(bare(e))
}

type data struct {
	Kind       Kind   `json:"kind"`
	ID         string `json:"id"`
	State      string `json:"state"`
	Allocation string `json:"allocationState,omitempty"`
	Previous   string `json:"previousState,omitempty"`
	Pool       string `json:"poolId,omitempty"`
	Job        string `json:"jobId,omitempty"`
	Node       string `json:"nodeId,omitempty"`
	Attempt    int    `json:"attempt,omitempty"`
	Result     string `json:"result,omitempty"`
	Exit       *int   `json:"exitCode,omitempty"`
	Code       string `json:"failureCode,omitempty"`
}

// Cloud is the event in the words of CloudEvents; source is the account's
// address.
func (e Event) Cloud(source string) CloudEvent {
	return CloudEvent{SpecVersion: "1.0", ID: strconv.FormatUint(e.Sequence, 10), Source: source, Type: "millpond.batch." + string(e.Kind) + "." + e.State,
		Subject: e.Subject(), Time: e.Time.UTC(), DataContentType: "application/json",
		Data: data{Kind: e.Kind, ID: e.ID, State: e.State, Allocation: e.Allocation, Previous: e.Previous, Pool: e.Pool, Job: e.Job, Node: e.Node, Attempt: e.Attempt,
			Result: e.Result, Exit: e.Exit, Code: e.Code}}
}

// Lost is the event that tells a reader that events between are gone: what it
// knows must be listed again. Its id is the sequence to go on from.
func Lost(source string, last uint64, now time.Time) CloudEvent {
	return CloudEvent{SpecVersion: "1.0", ID: strconv.FormatUint(last, 10), Source: source, Type: "millpond.batch.reset", Time: now.UTC(), DataContentType: "application/json",
		Data: map[string]string{"reason": "Events after the one that was asked for are no longer kept. List what you follow again, then go on from this id."}}
}

// Filter narrows what a reader sees. An empty list lets everything through; ids
// are compared without regard to case.
type Filter struct {
	Account millpond.AccountName `json:"-"`
	Kinds   []Kind               `json:"kinds,omitempty"`
	Pools   []string             `json:"poolIds,omitempty"`
	Jobs    []string             `json:"jobIds,omitempty"`
	IDs     []string             `json:"ids,omitempty"`
	States  []string             `json:"states,omitempty"`
}

// Match says whether a reader sees an event. A pool counts as its own pool and a
// job as its own job.
func (f Filter) Match(e Event) bool {
	if !strings.EqualFold(string(f.Account), e.Account) {
		return false
	}
	pool, job := e.Pool, e.Job
	switch e.Kind {
	case Pool:
		pool = e.ID
	case Job:
		job = e.ID
	}
	return (len(f.Kinds) == 0 || slices.Contains(f.Kinds, e.Kind)) && among(f.Pools, pool) && among(f.Jobs, job) && among(f.IDs, e.ID) && among(f.States, e.State)
}

func among(list []string, v string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(x string) bool { return strings.EqualFold(x, v) })
}
