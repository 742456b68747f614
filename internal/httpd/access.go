package httpd

import (
	"bufio"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"

	"millpond.dev/millpond/internal/azwire"
)

// ServeHTTP is the path of every request: id, edge, guard, log.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := s.clock.Now()
	id, err := uuid.NewRandomFromReader(s.rand)
	if err != nil {
		http.Error(w, "no randomness", http.StatusInternalServerError)
		return
	}
	t := s.handlers.find(r)
	t.front.ID = id.String()
	header(w, r, t.front.ID)
	rec := &recorder{ResponseWriter: w}
	defer func() {
		// A hijacked connection is logged when it ends, with the status it began with.
		s.finish(rec, r, t.front.ID, begin, recover())
	}()
	r = r.WithContext(azwire.WithFront(r.Context(), t.front))
	r, err = stripped(r, t.front.Prefix)
	if err != nil {
		nothing("The path is not properly encoded.").ServeHTTP(rec, r)
		return
	}
	t.handler.ServeHTTP(rec, r)
}

// header sets what every answer carries. The Resource Manager's clients read
// x-ms-request-id, those of Batch and Graph request-id.
func header(w http.ResponseWriter, r *http.Request, id string) {
	h := w.Header()
	h.Set("x-ms-request-id", id)
	h.Set("request-id", id)
	h.Set("X-Content-Type-Options", "nosniff")
	if c := r.Header.Get("x-ms-correlation-request-id"); c != "" {
		h.Set("x-ms-correlation-request-id", c)
	} else {
		h.Set("x-ms-correlation-request-id", id)
	}
	if c := r.Header.Get("x-ms-client-request-id"); c != "" {
		h.Set("x-ms-client-request-id", c)
	}
	if c := r.Header.Get("client-request-id"); c != "" && strings.EqualFold(r.Header.Get("return-client-request-id"), "true") {
		h.Set("client-request-id", c)
	}
}

func (s *Server) finish(w *recorder, r *http.Request, id string, begin time.Time, panicked any) {
	if panicked != nil && panicked != http.ErrAbortHandler {
		s.log.Error("a handler panicked", "request", id, "panic", panicked, "stack", string(debug.Stack()))
		if w.status == 0 && !w.hijacked {
			azwire.WriteJSON(w, http.StatusInternalServerError, map[string]any{"error": map[string]string{"code": "InternalError",
				"message": "The server met an error that it did not expect. The log of the server has the cause under request id " + id + "."}})
			panicked = nil
		}
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	level := slog.LevelInfo
	switch {
	case w.status >= 500:
		level = slog.LevelWarn
	case r.URL.Path == "/healthz" || r.URL.Path == "/metrics":
		level = slog.LevelDebug
	}
	// The path without its query: a query may carry a signature that is a right.
	s.log.Log(r.Context(), level, "served", "request", id, "method", r.Method, "host", r.Host, "path", r.URL.Path,
		"status", w.status, "bytes", w.bytes, "duration", s.clock.Now().Sub(begin), "from", r.RemoteAddr)
	if panicked != nil {
		// The answer is half written: only a broken connection tells the client.
		panic(http.ErrAbortHandler)
	}
}

// recorder notes what was answered, and keeps a body off answers that must not
// have one.
type recorder struct {
	http.ResponseWriter
	status   int
	bytes    int64
	hijacked bool
}

func (w *recorder) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		if w.status != 0 {
			return
		}
		w.status = status
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		// Clients that reuse the connection would wait for what these announce.
		w.Header().Del("Content-Length")
		w.Header().Del("Content-Type")
		w.Header().Del("Transfer-Encoding")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find what the connection can do.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack is for the node channel, which leaves HTTP after its first answer.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = err == nil
	if w.hijacked && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return c, rw, err
}
