package batchapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/events"
)

// Events is the sequence of events, as package events has it.
type Events interface {
	Read(ctx context.Context, after uint64) ([]events.Event, <-chan struct{}, error)
	// First and Last are the oldest that is kept and the newest.
	First() uint64
	Last() uint64
	// Closed is closed when the server stops.
	Closed() <-chan struct{}
}

// Limits of event streams.
const (
	heartbeat    = 15 * time.Second // default time between comments
	minHeartbeat = time.Second
	// writeLimit is how long a reader may take no bytes before its connection
	// is cut.
	writeLimit = 30 * time.Second
	maxWait    = 60 * time.Second
	maxEvents  = 1000
)

// rightOf is the right that reading a kind of thing needs.
func rightOf(k events.Kind) string {
	switch k {
	case events.Pool, events.Node:
		return actPoolsRead
	case events.Schedule:
		return actSchedRead
	}
	return actJobsRead
}

// eventQuery is what a request for events asks for.
type eventQuery struct {
	filter events.Filter
	// after is the sequence to go on from; given tells that the request has one.
	after     uint64
	given     bool
	heartbeat time.Duration
	wait      time.Duration
	most      int
}

// getEvents answers with everything that the caller may read; the right of the
// route is that of jobs.
func (e *Edge) getEvents(w http.ResponseWriter, r *request) error {
	return e.serveEvents(w, r, events.Kinds())
}

// getPoolEvents answers with pools and nodes alone.
func (e *Edge) getPoolEvents(w http.ResponseWriter, r *request) error {
	return e.serveEvents(w, r, []events.Kind{events.Pool, events.Node})
}

func (e *Edge) serveEvents(w http.ResponseWriter, r *request, among []events.Kind) error {
	q, err := e.eventQuery(r, among)
	if err != nil {
		return err
	}
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return e.streamEvents(w, r, q)
	}
	return e.listEvents(w, r, q)
}

// badQuery refuses a value of a query parameter.
func badQuery(name, value, format string, args ...any) error {
	return millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", format, args...).
		With("QueryParameterName", name).With("QueryParameterValue", azwire.Clip(value))
}

// words splits a list of a query parameter.
func words(v string) (out []string) {
	for _, w := range strings.Split(v, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}

func seconds(r *request, name string, def, least, most time.Duration) (time.Duration, error) {
	v := r.QueryValue(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if d := time.Duration(n) * time.Second; err == nil && d >= least && d <= most {
		return d, nil
	}
	return 0, badQuery(name, v, "%s is a number of seconds from %d to %d.", name, int(least.Seconds()), int(most.Seconds()))
}

// eventQuery reads the parameters. Kinds that are named must all be readable for
// the caller; without a name it gets those that are.
func (e *Edge) eventQuery(r *request, among []events.Kind) (q eventQuery, err error) {
	q.filter = events.Filter{Account: r.acct.Name, Pools: words(r.QueryValue("pool")), Jobs: words(r.QueryValue("job")), IDs: words(r.QueryValue("id")), States: words(r.QueryValue("state"))}
	kinds, unknown := events.KindsOf(words(r.QueryValue("kind")))
	if len(unknown) > 0 {
		return q, badQuery("kind", unknown[0], "%q is no kind of thing that has events; the kinds are pool, node, job, task and jobschedule.", azwire.Clip(unknown[0]))
	}
	for _, k := range kinds {
		if len(among) < len(events.Kinds()) && rightOf(k) != rightOf(among[0]) {
			return q, badQuery("kind", string(k), "Events of the kind %s are at /millpond/events.", k)
		}
		if err := e.mayRead(r, k); err != nil {
			return q, err
		}
	}
	if len(kinds) == 0 {
		for _, k := range among {
			err := e.mayRead(r, k)
			if err == nil {
				kinds = append(kinds, k)
			} else if millpond.KindOf(err) != millpond.Forbidden {
				return q, err
			}
		}
	}
	q.filter.Kinds = kinds
	after := r.Header.Get("Last-Event-ID")
	if v := r.QueryValue("after"); after == "" {
		after = v
	}
	if after != "" {
		q.given = true
		if q.after, err = strconv.ParseUint(after, 10, 63); err != nil {
			return q, badQuery("after", after, "after, or the header Last-Event-ID, is the id of an event, or 0 for the oldest that is kept.")
		}
	}
	if q.heartbeat, err = seconds(r, "heartbeat", heartbeat, minHeartbeat, 5*time.Minute); err != nil {
		return q, err
	}
	if q.wait, err = seconds(r, "wait", 0, 0, maxWait); err != nil {
		return q, err
	}
	q.most, err = azwire.MaxResults(r.Request, maxEvents)
	return q, err
}

func (e *Edge) mayRead(r *request, k events.Kind) error {
	if err := e.Authz.Authorize(r.Context(), r.Caller, rightOf(k), r.acct.ID.String()); err != nil {
		return recoded(err)
	}
	return nil
}

// source is the account's address, as CloudEvents name where an event is from.
func source(acct millpond.BatchAccount) string { return "https://" + acct.Host() + "/" }

// readEvents reads on from a query's place; 0 stands for everything that is kept.
func (e *Edge) readEvents(ctx context.Context, q eventQuery) ([]events.Event, <-chan struct{}, error) {
	list, more, err := e.Events.Read(ctx, q.after)
	if q.after == 0 && errors.Is(err, events.ErrGone) {
		return e.Events.Read(ctx, e.Events.First()-1)
	}
	return list, more, err
}

// listEvents answers with those that are there; with wait it waits for the
// first.
func (e *Edge) listEvents(w http.ResponseWriter, r *request, q eventQuery) error {
	value := []any{}
	lost := false
	until := time.NewTimer(q.wait)
	defer until.Stop()
	// A list ends even while others write faster than it is read.
	through := e.Events.Last()
	for len(value) < q.most {
		list, more, err := e.readEvents(r.Context(), q)
		if errors.Is(err, events.ErrGone) {
			lost, q.after = true, e.Events.Last()
			break
		}
		if err != nil {
			return err
		}
		for _, ev := range list {
			if len(value) == q.most {
				break
			}
			q.after = ev.Sequence
			if q.filter.Match(ev) {
				value = append(value, ev.Cloud(source(r.acct)))
			}
		}
		if len(list) > 0 && (len(value) == 0 && q.wait > 0 || q.after < through) {
			continue
		}
		if len(value) > 0 || q.wait == 0 {
			break
		}
		select {
		case <-more:
			continue
		case <-until.C:
		case <-e.Events.Closed():
		case <-r.Context().Done():
			return r.Context().Err()
		}
		break
	}
	e.writeJSON(w, r, http.StatusOK, map[string]any{"value": value, "lastEventId": strconv.FormatUint(q.after, 10), "reset": lost})
	return nil
}

// streamEvents answers with server-sent events until the client goes away, is
// too slow, loses its right, or the server stops.
func (e *Edge) streamEvents(w http.ResponseWriter, r *request, q eventQuery) error {
	out := newLiveWriter(w)
	defer out.close()
	lost := false
	if !q.given {
		q.after = e.Events.Last()
	} else if _, _, err := e.readEvents(r.Context(), q); errors.Is(err, events.ErrGone) {
		lost, q.after = true, e.Events.Last()
	} else if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	out.text("retry: 1000\n")
	if lost {
		out.event("reset", q.after, events.Lost(source(r.acct), q.after, e.Clock.Now()))
	} else {
		out.event("ready", q.after, map[string]any{"kinds": q.filter.Kinds})
	}
	beat := time.NewTicker(q.heartbeat)
	defer beat.Stop()
	end := func(code, why string) error {
		out.event("end", q.after, map[string]string{"code": code, "reason": why})
		out.flush()
		return nil
	}
	for out.err == nil {
		list, more, err := e.readEvents(r.Context(), q)
		switch {
		case errors.Is(err, events.ErrGone):
			return end("ReaderTooSlow", "Events came faster than they were read, and those that come next are no longer kept. List what you follow again, then connect anew.")
		case err != nil:
			e.Log.Info("an event stream ended", "request", r.ID, "error", err)
			return end("InternalError", "The events could not be read. Connect again.")
		}
		for _, ev := range list {
			q.after = ev.Sequence
			if q.filter.Match(ev) {
				out.event(string(ev.Kind), ev.Sequence, ev.Cloud(source(r.acct)))
			}
			if out.err != nil {
				return nil
			}
		}
		out.flush()
		select {
		case <-more:
		case <-beat.C:
			for _, k := range q.filter.Kinds {
				if err := e.mayRead(r, k); err != nil {
					return end("InsufficientAccountPermissions", "The right to read these events is gone: "+millpond.AsError(err).Message)
				}
			}
			// Its id lets a quiet reader come back without reading all that others
			// did meanwhile.
			out.text(fmt.Sprintf(": %s\nid: %d\n\n", e.Clock.Now().UTC().Format(time.RFC3339), q.after))
			out.flush()
		case <-e.Events.Closed():
			return end("ServerStopping", "The server stops. Connect again with the last id.")
		case <-r.Context().Done():
			return nil
		}
	}
	return nil
}

// liveWriter writes an answer that goes on while a client reads it: events, or a
// file that grows. After the first error it does nothing.
type liveWriter struct {
	w       io.Writer
	control *http.ResponseController
	err     error
}

// newLiveWriter must be closed when the answer ends.
func newLiveWriter(w http.ResponseWriter) *liveWriter {
	return &liveWriter{w: w, control: http.NewResponseController(w)}
}

// close takes the deadline away: the connection may carry other requests.
func (o *liveWriter) close() { _ = o.control.SetWriteDeadline(time.Time{}) }

func (o *liveWriter) write(b []byte) {
	if o.err != nil {
		return
	}
	// Not every writer has deadlines; those of the listener do.
	_ = o.control.SetWriteDeadline(time.Now().Add(writeLimit))
	_, o.err = o.w.Write(b)
}

func (o *liveWriter) text(s string) { o.write([]byte(s)) }

func (o *liveWriter) event(name string, id uint64, data any) {
	body, err := json.Marshal(data)
	if err != nil {
		o.err = err
		return
	}
	o.text(fmt.Sprintf("event: %s\nid: %d\ndata: %s\n\n", name, id, body))
}

func (o *liveWriter) flush() {
	if o.err == nil {
		o.err = o.control.Flush()
	}
}
