package batchapi

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/events"
)

// connection is a response whose connection has a deadline for writes.
type connection struct {
	*httptest.ResponseRecorder
	deadline time.Time
	sets     int
}

func (c *connection) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	c.sets++
	return nil
}

// quiet are events of which none comes.
type quiet struct{ Events }

func (quiet) Closed() <-chan struct{} { return nil }

// The connection carries the client's next requests, which no deadline may cut.
func TestFollowLeavesNoDeadline(t *testing.T) {
	e, s := newEdge(t)
	s.files["startup/stdout.txt"] = []byte("hello")
	s.nodes["n1"] = sampleNode(s.now())
	e.Events = quiet{}
	w := &connection{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest("GET", "/pools/mypool/nodes/n1/files/startup/stdout.txt?follow=true&api-version=2024-07-01.20.0", nil)
	r.Host = testHost
	r.Header.Set("Authorization", "Bearer admin")
	e.ServeHTTP(w, r)
	if w.Code != 200 || w.Body.String() != "hello" || w.Header().Get(followHeader) != "true" {
		t.Fatalf("%d %q %v", w.Code, w.Body, w.Header())
	}
	if w.sets < 2 || !w.deadline.IsZero() {
		t.Errorf("%d deadlines, the last %s", w.sets, w.deadline)
	}
}

// early are events of which one comes while the first look at the task is under way.
type early struct {
	quiet
	last uint64
}

func (e *early) Last() uint64 { return e.last }

func (e *early) Read(_ context.Context, after uint64) ([]events.Event, <-chan struct{}, error) {
	if after < e.last {
		return make([]events.Event, e.last-after), nil, nil
	}
	return nil, nil, nil
}

// starting has a task that waits when it is looked at first, and is gone then.
type starting struct {
	Jobs
	events *early
	looks  int
}

func (s *starting) GetTask(context.Context, millpond.AccountName, millpond.JobID, millpond.TaskID) (millpond.Task, error) {
	if s.looks++; s.looks > 1 {
		return millpond.Task{}, millpond.Errorf(millpond.NotFound, "TaskNotFound", "gone")
	}
	s.events.last++
	return millpond.Task{State: millpond.TaskActive}, nil
}

// What happens between the look at a task and the wait for the next event is not
// waited for once more.
func TestFollowMissesNoEvent(t *testing.T) {
	e, _ := newEdge(t)
	came := &early{last: 7}
	jobs := &starting{events: came}
	e.Events, e.Jobs = came, jobs
	r := httptest.NewRequest("GET", "/jobs/j/tasks/t/files/stdout.txt?follow=true&api-version=2024-07-01.20.0", nil)
	r.Host = testHost
	r.Header.Set("Authorization", "Bearer admin")
	w := httptest.NewRecorder()
	begin := time.Now()
	e.ServeHTTP(w, r)
	if w.Code != 404 || jobs.looks != 2 {
		t.Fatalf("%d after %d looks", w.Code, jobs.looks)
	}
	if took := time.Since(begin); took >= turn {
		t.Errorf("the second look came after %s", took)
	}
}
