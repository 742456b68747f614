package vmrun

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/inotify"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
)

const (
	// serverName is in the server's certificate, whatever its address is.
	serverName = "millpond.internal"

	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Second
	// unwantedRetry is for a node that the server does not want any more: it
	// destroys the VM through its launcher, not through here.
	unwantedRetry = 15 * time.Second
	dialLimit     = 10 * time.Second
)

// unwanted says that the server refuses this node or generation.
func unwanted(err error) bool {
	kind := millpond.KindOf(err)
	return kind == millpond.Forbidden || kind == millpond.NotFound
}

// channel carries bytes between the agent and the server, both of which come
// and go. It understands none of them.
type channel struct {
	spec launch.Spec
	log  *slog.Logger
	// heard is called each time the agent has opened a session.
	heard func()
	// hello is what the agent of a clone has said to the server already, for the
	// first channel; nil if it has not.
	hello []byte
}

// run opens a session with the agent, then dials the server and joins the two;
// when either ends, again. It returns when ctx or the port has ended. The agent
// comes first: nothing is dialled for a guest that does not boot. One that has said
// hello is known to live, and the server hears of it first.
func (c *channel) run(ctx context.Context, host *nodeproto.Host) {
	defer host.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var server net.Conn
	if c.hello != nil {
		var err error
		if server, err = c.reach(ctx); err != nil {
			return
		}
		c.hello = nil
	}
	for {
		session, err := host.Open(ctx)
		if err != nil {
			if server != nil {
				server.Close()
				server = nil
			}
			if ctx.Err() != nil || host.Err() != nil {
				return
			}
			c.log.Warn("the agent's session did not open", "err", err)
			continue
		}
		c.heard()
		if server == nil {
			if server, err = c.reach(ctx); err != nil {
				session.Close()
				return
			}
		}
		c.log.Info("channel joined", "server", server.RemoteAddr().String())
		why := join(ctx, session, server)
		c.log.Info("channel ended", "why", why)
		server = nil
	}
}

// reach dials until the server takes the channel; its error is ctx's. A server that
// comes back says where it is in the endpoint's file, and is dialled then; the waits
// between are for servers that say so and do not answer yet.
func (c *channel) reach(ctx context.Context) (net.Conn, error) {
	wait, last := firstRetry, ""
	var told <-chan struct{}
	for first := true; ; first = false {
		conn, err := c.dial(ctx)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if text := err.Error(); text != last {
			c.log.Warn("the server was not reached; trying again", "err", err)
			last = text
		}
		if first {
			w, err := inotify.Watch(c.spec.Channel.EndpointFile)
			if err == nil {
				defer w.Close()
				told = w.Changed()
				continue // the server may have come back before anybody watched
			}
			c.log.Warn("the server is looked for once a second only", "err", err)
		}
		if unwanted(err) {
			wait = unwantedRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-told:
			timer.Stop()
			wait = firstRetry
			continue
		case <-timer.C:
		}
		wait = min(wait*2, lastRetry)
	}
}

// dial makes one attempt. The endpoint and the CA are read each time, because a
// restarted server may have others.
func (c *channel) dial(ctx context.Context) (net.Conn, error) {
	ch := c.spec.Channel
	endpoint, err := os.ReadFile(ch.EndpointFile)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(ch.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", ch.CAFile)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	// No ALPN: with h2 the request below would not be understood.
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13}}
	conn, err := d.DialContext(ctx, "tcp", strings.TrimSpace(string(endpoint)))
	if err != nil {
		return nil, err
	}
	up, err := nodeproto.Upgrade(ctx, conn, serverName, c.spec.Node, c.spec.Generation, ch.Token, c.hello)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return up, nil
}

// join copies both ways until one side ends, closes both, and says which.
func join(ctx context.Context, agent, server net.Conn) string {
	stop := context.AfterFunc(ctx, func() { agent.Close(); server.Close() })
	defer stop()
	ends := make(chan string, 2)
	var copies sync.WaitGroup
	for _, c := range []struct {
		to, from net.Conn
		who      string
	}{{server, agent, "agent"}, {agent, server, "server"}} {
		copies.Add(1)
		go func() {
			defer copies.Done()
			_, err := io.Copy(c.to, c.from)
			if err == nil {
				err = io.EOF
			}
			ends <- fmt.Sprintf("%s's side: %v", c.who, err)
			agent.Close()
			server.Close()
		}()
	}
	copies.Wait()
	return <-ends
}
