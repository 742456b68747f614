package nodeproto

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// maxMessage bounds one message, so that a guest cannot make the server keep
// any amount of memory.
const maxMessage = 32 << 20

// Client is the server's end of one session. Its methods are safe for
// concurrent use. It ends when its connection does.
type Client struct {
	nodev1.AgentClient
	ctx context.Context // ended with the session
	end func() error
}

// NewClient starts HTTP/2 as the client on conn and owns conn. ctx bounds the
// start only.
func NewClient(ctx context.Context, conn net.Conn) (*Client, error) {
	w := watch(conn)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{
		Protocols: &protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return w, nil
		},
		DisableCompression: true,
		HTTP2: &http.HTTP2Config{
			// A guest that is frozen or cut off is noticed within a minute; an
			// overloaded one under emulation must not be.
			SendPingTimeout: 30 * time.Second,
			PingTimeout:     30 * time.Second,
		},
	}
	c, err := t.NewClientConn(ctx, "http", "node:80")
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Client{AgentClient: newAgentClient(roundTripper{c}), ctx: w.ctx, end: func() error {
		err := c.Close()
		return errors.Join(err, w.Close())
	}}, nil
}

// Done is closed when the session has ended, for whatever reason.
func (c *Client) Done() <-chan struct{} { return c.ctx.Done() }

// Context ends with the session; it saves its waiters a goroutine each.
func (c *Client) Context() context.Context { return c.ctx }

// Close ends the session; calls under way fail.
func (c *Client) Close() error { return c.end() }

type roundTripper struct{ c *http.ClientConn }

func (r roundTripper) Do(q *http.Request) (*http.Response, error) { return r.c.RoundTrip(q) }

// watchedConn tells when it is closed, which the HTTP/2 client does on any
// failure of it.
type watchedConn struct {
	net.Conn
	once sync.Once
	ctx  context.Context // ended by Close
	end  context.CancelFunc
	err  error
}

func watch(conn net.Conn) *watchedConn {
	w := &watchedConn{Conn: conn}
	w.ctx, w.end = context.WithCancel(context.Background())
	return w
}

func (w *watchedConn) Close() error {
	w.once.Do(func() {
		w.err = w.Conn.Close()
		w.end()
	})
	return w.err
}

// NewHandler makes what Serve answers with. It is not small (30 KiB), so that
// who serves many agents makes one whose methods find the agent by context.
func NewHandler(h nodev1.AgentHandler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(nodev1.NewAgentHandler(h, connect.WithReadMaxBytes(maxMessage), connect.WithCompression("gzip", nil, nil)))
	return mux
}

// Serve answers h on every session of l until ctx ends or l fails. It closes l.
// The requests' contexts come from ctx.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{
		Handler:     h,
		Protocols:   &protocols,
		BaseContext: func(net.Listener) context.Context { return ctx },
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 1000},
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err := s.Serve(l)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// ServeConn answers h on the one connection until it or ctx ends.
func ServeConn(ctx context.Context, conn net.Conn, h http.Handler) error {
	w := watch(conn)
	l := &oneConn{conn: w, given: make(chan struct{}, 1)}
	l.given <- struct{}{}
	return Serve(ctx, l, h)
}

// oneConn is a listener that yields one connection and ends with it.
type oneConn struct {
	conn  *watchedConn
	given chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case <-l.given:
		return l.conn, nil
	case <-l.conn.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { return l.conn.Close() }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
