package httpd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/quickack"
)

// Config is what a server is made of.
type Config struct {
	Authority *Authority
	Handlers  Handlers
	Clock     clock.Clock
	// Rand is where request ids come from.
	Rand io.Reader
	Log  *slog.Logger
	// Grace is how long requests may go on after the end was asked for; 10 s if 0.
	Grace time.Duration
}

// Server serves requests until its context ends.
type Server struct {
	authority *Authority
	handlers  Handlers
	clock     clock.Clock
	rand      io.Reader
	log       *slog.Logger
	grace     time.Duration
}

// New makes a server; nothing listens before Run.
func New(c Config) *Server {
	if c.Grace == 0 {
		c.Grace = 10 * time.Second
	}
	return &Server{c.Authority, c.Handlers, c.Clock, c.Rand, c.Log, c.Grace}
}

// Run serves on l, which it closes, until ctx ends. Then it takes no new
// requests, lets those under way finish for the grace time, and cuts what is
// left. Handlers see their context end only then, not with ctx.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler:   s,
		TLSConfig: s.authority.TLS(),
		// Bodies may take as long as a disk upload takes; headers may not.
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		// Port scanners and clients that do not trust the CA yet end up here.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(quickack.Listener(l), "", "") }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	deadline, stop := context.WithTimeout(base, s.grace)
	defer stop()
	err := server.Shutdown(deadline)
	cut()
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("requests were cut at shutdown", "grace", s.grace)
		err = server.Close()
	}
	<-served
	return err
}
