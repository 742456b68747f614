package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
)

// transmission is the second phase of a connection: requests are read one after
// another, carried out at the same time, and answered in the order in which they
// are done.
type transmission struct {
	server   *Server
	conn     net.Conn
	r        *bufio.Reader
	dev      Device
	prompt   Prompt // nil if the device does not know
	size     int64
	readOnly bool
	memory   *semaphore.Weighted
	slots    chan struct{}
	running  sync.WaitGroup

	// mu is held while an answer is written; broken is set by the first that
	// could not be.
	mu     sync.Mutex
	broken error
}

// run serves until the client disconnects. When it returns nothing is under way
// on the device any more.
func (t *transmission) run(ctx context.Context) error {
	defer t.running.Wait()
	var head [requestLen]byte
	for {
		if _, err := io.ReadFull(t.r, head[:]); err != nil {
			return err
		}
		req, err := parseRequest(head[:])
		if err != nil {
			return err
		}
		if req.cmd == cmdDisconnect {
			return errDone
		}
		if err := t.take(ctx, req); err != nil {
			return err
		}
	}
}

// take reads the rest of a request and begins to carry it out. An error ends the
// connection.
func (t *transmission) take(ctx context.Context, req request) error {
	errno := req.check(t.size, t.readOnly)
	payload := 0
	switch req.cmd {
	case cmdWrite:
		if errno != 0 {
			// The payload is on its way whatever the answer will be. More than
			// any client may send is not waited for.
			if req.length > maxPayload {
				return fmt.Errorf("a write of %d bytes; %d are allowed", req.length, maxPayload)
			}
			if _, err := io.CopyN(io.Discard, t.r, int64(req.length)); err != nil {
				return err
			}
		}
		payload = int(req.length)
	case cmdRead:
		payload = int(req.length)
	}
	if errno != 0 {
		return t.answer(make([]byte, replyLen), errno, req.cookie)
	}

	// Backpressure: what is not read from the socket is the client's to keep.
	weight := min(int64(payload), t.server.cfg.ConnMemory)
	shared := min(int64(payload), t.server.cfg.Memory)
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := t.memory.Acquire(ctx, weight); err != nil {
		<-t.slots
		return err
	}
	if err := t.server.memory.Acquire(ctx, shared); err != nil {
		t.memory.Release(weight)
		<-t.slots
		return err
	}
	buf := t.server.buffer(payload)
	done := func() {
		t.server.free(buf)
		t.server.memory.Release(shared)
		t.memory.Release(weight)
		<-t.slots
	}
	if req.cmd == cmdWrite {
		// A client that stops in the middle of its data holds memory of all.
		_ = t.conn.SetReadDeadline(time.Now().Add(stallLimit))
		_, err := io.ReadFull(t.r, (*buf)[replyLen:])
		_ = t.conn.SetReadDeadline(time.Time{})
		if err != nil {
			done()
			return err
		}
	}
	carryOut := func() error {
		defer done()
		errno := t.do(req, (*buf)[replyLen:])
		answer := (*buf)[:replyLen]
		if req.cmd == cmdRead && errno == 0 {
			answer = *buf
		}
		return t.answer(answer, errno, req.cookie)
	}
	if req.cmd == cmdRead && t.prompt != nil && t.prompt.Prompt(int64(req.off), int64(req.length)) {
		return carryOut()
	}
	t.running.Go(func() {
		if err := carryOut(); err != nil {
			// The reader notices the closed connection and ends the rest.
			t.conn.Close()
		}
	})
	return nil
}

// do carries out a checked request.
func (t *transmission) do(req request, data []byte) Errno {
	off, n := int64(req.off), int64(req.length)
	var err error
	switch req.cmd {
	case cmdRead:
		var got int
		got, err = t.dev.ReadAt(data, off)
		if got == len(data) && errors.Is(err, io.EOF) {
			err = nil
		}
		if got != len(data) && err == nil {
			err = io.ErrUnexpectedEOF
		}
	case cmdWrite:
		_, err = t.dev.WriteAt(data, off)
	case cmdTrim:
		err = t.dev.Trim(off, n)
	case cmdWriteZeroes:
		err = t.dev.Clear(off, n, req.flags&cmdFlagNoHole == 0)
	case cmdFlush:
		err = t.dev.Flush()
	}
	if err == nil && req.flags&cmdFlagFUA != 0 && req.cmd != cmdRead && req.cmd != cmdFlush {
		err = t.dev.Flush()
	}
	if err != nil {
		t.server.cfg.Log.Warn("an NBD request failed", "command", req.cmd, "offset", off, "length", n, "err", err)
	}
	return errnoOf(err)
}

// answer sends b, whose first bytes become the reply's head.
func (t *transmission) answer(b []byte, errno Errno, cookie uint64) error {
	putReply(b, errno, cookie)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken != nil {
		return t.broken
	}
	_ = t.conn.SetWriteDeadline(time.Now().Add(stallLimit))
	_, t.broken = t.conn.Write(b)
	return t.broken
}

// isGone says that the other side has closed the connection without a word.
func isGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
