package batchapi

import (
	"net/http/httptest"
	"testing"
	"time"
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
