package nodeproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// NewLocalClient speaks to an agent of this process, whose handler is called
// without a connection and without HTTP/2: that alone is most of what an idle node
// costs. The session lasts until ctx ends, whose values the handler sees, or until
// the client is closed.
func NewLocalClient(ctx context.Context, agent http.Handler) *Client {
	ctx, end := context.WithCancel(ctx)
	return &Client{AgentClient: newAgentClient(&local{ctx: ctx, agent: agent}), ctx: ctx, end: func() error {
		end()
		return nil
	}}
}

// local calls a handler as if over a connection that lasts as long as ctx.
type local struct {
	ctx   context.Context
	agent http.Handler
}

// errEnded is what calls get that are under way when the session ends.
var errEnded = errors.New("the session with the agent has ended")

// Do implements connect.HTTPClient. It returns when the handler has ended, or at
// its first Flush; what it writes from then on is the body as it is read.
func (l *local) Do(q *http.Request) (*http.Response, error) {
	if l.ctx.Err() != nil {
		return nil, errEnded
	}
	ctx, cancel := context.WithCancel(l.ctx)
	unbind := context.AfterFunc(q.Context(), cancel)
	r := q.WithContext(ctx)
	r.Proto, r.ProtoMajor, r.ProtoMinor, r.RequestURI, r.RemoteAddr = "HTTP/2.0", 2, 0, q.URL.RequestURI(), "local"
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := &localAnswer{header: http.Header{}, ready: make(chan struct{}), cancel: cancel}
	go func() {
		defer cancel()
		defer unbind()
		l.agent.ServeHTTP(w, r)
		_ = r.Body.Close()
		w.finish()
	}()
	select {
	case <-w.ready:
	case <-ctx.Done():
		select {
		case <-w.ready: // it had ended well, which cancels too
		default:
			if err := q.Context().Err(); err != nil {
				return nil, err
			}
			return nil, errEnded
		}
	}
	a := &http.Response{Status: http.StatusText(w.status), StatusCode: w.status, Proto: r.Proto, ProtoMajor: 2, Header: w.sent, ContentLength: -1, Request: q, Body: io.NopCloser(&w.buffer)}
	if w.stream != nil {
		// An agent that does not heed its context must not hold its reader.
		context.AfterFunc(ctx, func() { _ = w.writer.CloseWithError(net.ErrClosed) })
		a.Body = w
	}
	return a, nil
}

// localAnswer is the handler's http.ResponseWriter and, once it streams, the
// caller's body.
type localAnswer struct {
	header http.Header
	cancel context.CancelFunc
	// The handler writes these until ready is closed; the caller reads them then.
	ready  chan struct{}
	status int
	sent   http.Header
	buffer bytes.Buffer
	stream *io.PipeReader
	writer *io.PipeWriter
}

func (w *localAnswer) Header() http.Header { return w.header }

func (w *localAnswer) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.sent = status, w.header.Clone()
	}
}

func (w *localAnswer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.writer != nil {
		return w.writer.Write(b)
	}
	return w.buffer.Write(b)
}

// Flush implements http.Flusher: from the first on the answer is a stream.
func (w *localAnswer) Flush() {
	if w.writer != nil {
		return
	}
	w.WriteHeader(http.StatusOK)
	w.stream, w.writer = io.Pipe()
	close(w.ready)
	if w.buffer.Len() > 0 {
		_, _ = w.writer.Write(w.buffer.Bytes()) // the next write tells
		w.buffer = bytes.Buffer{}
	}
}

func (w *localAnswer) finish() {
	if w.writer != nil {
		_ = w.writer.Close()
		return
	}
	w.WriteHeader(http.StatusOK)
	close(w.ready)
}

func (w *localAnswer) Read(b []byte) (int, error) { return w.stream.Read(b) }

// Close ends the handler of a stream.
func (w *localAnswer) Close() error {
	w.cancel()
	return w.stream.Close()
}

var (
	_ http.Flusher       = (*localAnswer)(nil)
	_ nodev1.AgentClient = (*Client)(nil)
)
