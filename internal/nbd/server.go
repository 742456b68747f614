package nbd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/bits"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Config of a Server.
type Config struct {
	Exports Exports
	Log     *slog.Logger
	// ConnMemory bounds the bytes of requests and answers under way on one
	// connection, 0 means 8 MiB; Memory bounds all connections together, 0 means
	// 64 MiB. One request larger than a bound is taken alone.
	ConnMemory, Memory int64
	// InFlight bounds the requests under way on one connection; 0 means 32.
	InFlight int
}

const (
	defaultConnMemory = 8 << 20
	defaultMemory     = 64 << 20
	defaultInFlight   = 32
	// negotiationLimit is how long a client may take to choose an export.
	negotiationLimit = 30 * time.Second
	// stallLimit is how long a client may leave an answer unread or a payload
	// unfinished. Its requests hold memory that is everybody's.
	stallLimit = 2 * time.Minute
)

// Server serves Exports to any number of connections.
type Server struct {
	cfg    Config
	memory *semaphore.Weighted
	// buffers are free buffers by the power of two of their length.
	buffers [26]sync.Pool
}

// NewServer makes a server; Serve runs it.
func NewServer(cfg Config) *Server {
	if cfg.ConnMemory <= 0 {
		cfg.ConnMemory = defaultConnMemory
	}
	if cfg.Memory <= 0 {
		cfg.Memory = defaultMemory
	}
	if cfg.InFlight <= 0 {
		cfg.InFlight = defaultInFlight
	}
	return &Server{cfg: cfg, memory: semaphore.NewWeighted(cfg.Memory)}
}

// Serve accepts connections until the context ends, and returns when all of them
// are closed. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			cancel()
			if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		conns.Go(func() {
			if err := s.ServeConn(ctx, c); err != nil {
				s.cfg.Log.Warn("an NBD connection ended", "err", err)
			}
		})
	}
}

// ServeConn serves one connection and closes it. A client that leaves, politely
// or not, is no error.
func (s *Server) ServeConn(ctx context.Context, c net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()

	// The deadline ends a client that says nothing; memory conns of tests need
	// not have one.
	_ = c.SetDeadline(time.Now().Add(negotiationLimit))
	r := bufio.NewReaderSize(c, 64<<10)
	n := negotiation{ctx: ctx, r: r, w: c, exports: s.cfg.Exports}
	dev, release, err := n.run()
	if err != nil {
		return quiet(ctx, err)
	}
	defer release()
	_ = c.SetDeadline(time.Time{})

	t := &transmission{server: s, conn: c, r: r, dev: dev, size: dev.Size(), readOnly: dev.ReadOnly(),
		memory: semaphore.NewWeighted(s.cfg.ConnMemory), slots: make(chan struct{}, s.cfg.InFlight)}
	t.prompt, _ = dev.(Prompt)
	return quiet(ctx, t.run(ctx))
}

// quiet drops the errors that are ordinary ends.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, errDone) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || isGone(err) {
		return nil
	}
	return err
}

// buffer lends room for a reply's head and n bytes. Rounding up is done without
// the head, because most requests are of a power of two.
func (s *Server) buffer(n int) *[]byte {
	class := max(bits.Len(uint(max(n, 1)-1)), smallestBuffer)
	if class >= len(s.buffers) {
		b := make([]byte, replyLen+n)
		return &b
	}
	if b, ok := s.buffers[class].Get().(*[]byte); ok {
		*b = (*b)[:replyLen+n]
		return b
	}
	b := make([]byte, replyLen+n, replyLen+1<<class)
	return &b
}

// free takes a buffer back.
func (s *Server) free(b *[]byte) {
	class := bits.Len(uint(cap(*b)-replyLen)) - 1
	if class >= smallestBuffer && class < len(s.buffers) && cap(*b) == replyLen+1<<class {
		s.buffers[class].Put(b)
	}
}

// smallestBuffer is the power of two of the smallest buffer.
const smallestBuffer = 12
