// Package nodeapi is the edge for nodes: it turns the request of a supervisor
// for the node channel into a session with the agent behind it. It checks the
// node's credential through Authenticator, speaks HTTP/2 as the client on the
// upgraded connection, and hands the agent to Sessions.
//
// What a clone's agent has said to its supervisor already comes in a header of the
// request, and is handed on with the session. Beyond that it never interprets what an
// agent says, and holds no state of nodes but which sessions are open: one per node,
// the newest. httpd mounts Handler at
// /node/v1/channel; package node implements the two interfaces.
package nodeapi

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Authenticator checks the credential of a node's channel.
type Authenticator interface {
	// AuthenticateNode compares in constant time. Errors are *millpond.Error:
	// Forbidden for a wrong token, NotFound for a node that is gone or a
	// generation that has been replaced.
	AuthenticateNode(ctx context.Context, node millpond.NodeID, generation int, token string) error
}

// Sessions takes the agents.
type Sessions interface {
	// Serve runs a session and returns when ctx ends, which it does when the
	// connection is lost, or when it wants the session to end. It is not called
	// for a node while an earlier call for it has not returned. said is what the agent
	// has answered to the node's greeting already; nil if it was not greeted.
	Serve(ctx context.Context, node millpond.NodeID, generation int, client nodev1.AgentClient, said *nodev1.HelloResponse) error
}

// startLimit bounds the start of HTTP/2 on an upgraded connection.
const startLimit = 30 * time.Second

// Handler is the edge. Make it with New.
type Handler struct {
	auth     Authenticator
	sessions Sessions
	log      *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[string]*session // by node key
}

// session is one that runs or waits for its forerunner to end.
type session struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	old    *session
	done   chan struct{} // closed by leave
	leave  func()
}

var (
	errNewer = errors.New("a newer session of the node has begun")
	errLost  = errors.New("the connection is lost")
)

// New makes a Handler. Close ends its sessions.
func New(auth Authenticator, sessions Sessions, log *slog.Logger) *Handler {
	h := &Handler{auth: auth, sessions: sessions, log: log, open: map[string]*session{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// ServeHTTP admits a node's machine by its credential and holds its session until one
// of the two ends it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, generation, said, err := h.admit(r)
	if err != nil {
		refuse(w, err)
		return
	}
	if !h.enter() {
		refuse(w, stopping())
		return
	}
	defer h.wg.Done()
	// The server's timeouts for requests are not for a channel that lasts days.
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, millpond.Errorf(millpond.Invalid, "InvalidRequest", "The node channel needs HTTP/1.1.").Because(err))
		return
	}
	// Before the answer: who asks after having got it, is the newer one.
	c := h.claim(node)
	conn.SetDeadline(time.Now().Add(startLimit))
	if _, err := conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + nodeproto.ChannelUpgrade + "\r\n\r\n")); err != nil {
		conn.Close()
		c.leave()
		return
	}
	conn.SetDeadline(time.Time{})
	h.serve(nodeproto.ReadAhead(conn, rw.Reader), node, generation, c, said)
}

// admit checks a request's form and credential.
func (h *Handler) admit(r *http.Request) (millpond.NodeID, int, *nodev1.HelloResponse, error) {
	if r.Method != http.MethodPost {
		return "", 0, nil, millpond.Errorf(millpond.MethodNotAllowed, "UnsupportedHttpVerb", "The node channel is opened with POST.")
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), nodeproto.ChannelUpgrade) || !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") {
		return "", 0, nil, millpond.Errorf(millpond.Invalid, "InvalidHeaderValue", "The node channel needs the headers Connection: Upgrade and Upgrade: %s.", nodeproto.ChannelUpgrade)
	}
	node := millpond.NodeID(r.Header.Get(nodeproto.HeaderNode))
	generation, err := strconv.Atoi(r.Header.Get(nodeproto.HeaderGeneration))
	if node == "" || err != nil || generation < 0 {
		return "", 0, nil, millpond.Errorf(millpond.Invalid, "InvalidHeaderValue", "The node channel needs the headers %s and %s.", nodeproto.HeaderNode, nodeproto.HeaderGeneration)
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return "", 0, nil, millpond.Errorf(millpond.Forbidden, "AuthenticationFailed", "The node channel needs the node's own bearer token.")
	}
	said, err := heard(r.Header.Get(nodeproto.HeaderHello))
	if err != nil {
		return "", 0, nil, err
	}
	return node, generation, said, h.auth.AuthenticateNode(r.Context(), node, generation, token)
}

// heard is what an agent said in a header.
func heard(text string) (*nodev1.HelloResponse, error) {
	if text == "" {
		return nil, nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	m := new(nodev1.HelloResponse)
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err == nil && m.GetBootId() == "" {
		err = errors.New("it has no boot id")
	}
	if err != nil {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidHeaderValue", "The header %s is not an agent's answer.", nodeproto.HeaderHello).Because(err)
	}
	return m, nil
}

// Dial opens a session within this process, for launchers whose nodes live
// here too. It checks the credential as a request would; the returned
// connection is the agent's side.
func (h *Handler) Dial(ctx context.Context, node millpond.NodeID, generation int, token string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	run, err := h.accept(ctx, node, generation, token, ours)
	if err != nil {
		return nil, err
	}
	go run()
	return theirs, nil
}

// Serve runs a session over a connection to an agent, for launchers that hold it in
// this process, and returns when that has ended. It checks the credential as a
// request would; conn is closed unless that is an error.
func (h *Handler) Serve(ctx context.Context, node millpond.NodeID, generation int, token string, conn net.Conn) error {
	run, err := h.accept(ctx, node, generation, token, conn)
	if err == nil {
		run()
	}
	return err
}

// accept makes a session over conn the node's; the caller runs it.
func (h *Handler) accept(ctx context.Context, node millpond.NodeID, generation int, token string, conn net.Conn) (run func(), err error) {
	if err := h.auth.AuthenticateNode(ctx, node, generation, token); err != nil {
		return nil, err
	}
	if !h.enter() {
		return nil, stopping()
	}
	c := h.claim(node)
	return func() {
		defer h.wg.Done()
		h.serve(conn, node, generation, c, nil)
	}, nil
}

// Join is Dial without a connection: it runs a session with an agent of this
// process, whose handler is called directly, and returns when that has ended. ctx
// ends it, and its values are those of the agent's requests.
func (h *Handler) Join(ctx context.Context, node millpond.NodeID, generation int, token string, agent http.Handler) error {
	// On a goroutine of its own: the database wants a deep stack, and this one stays
	// as long as the session.
	known := make(chan error, 1)
	go func() { known <- h.auth.AuthenticateNode(ctx, node, generation, token) }()
	if err := <-known; err != nil {
		return err
	}
	if !h.enter() {
		return stopping()
	}
	defer h.wg.Done()
	s := h.claim(node)
	defer s.leave()
	if !s.follows() {
		return errNewer
	}
	client := nodeproto.NewLocalClient(ctx, agent)
	defer client.Close()
	h.talk(client, node, generation, s, nil)
	return nil
}

// follows waits for the session's forerunner; false when it has ended itself by then.
func (s *session) follows() bool {
	if s.old != nil {
		<-s.old.done
		s.old = nil // or every session would hold on to all before it
	}
	return s.ctx.Err() == nil
}

// serve runs a session over conn, which it owns.
func (h *Handler) serve(conn net.Conn, node millpond.NodeID, generation int, s *session, said *nodev1.HelloResponse) {
	defer s.leave()
	if !s.follows() {
		conn.Close()
		return
	}
	start, stop := context.WithTimeout(s.ctx, startLimit)
	client, err := nodeproto.NewClient(start, conn)
	stop()
	if err != nil {
		h.log.Warn("node channel: no HTTP/2 with the agent", "node", node, "generation", generation, "error", err)
		return
	}
	defer client.Close()
	h.talk(client, node, generation, s, said)
}

// talk runs a session with a client that has just begun.
func (h *Handler) talk(client *nodeproto.Client, node millpond.NodeID, generation int, s *session, said *nodev1.HelloResponse) {
	unwatch := context.AfterFunc(client.Context(), func() { s.cancel(errLost) })
	defer unwatch()
	h.log.Debug("node channel: open", "node", node, "generation", generation)
	err := h.sessions.Serve(s.ctx, node, generation, client, said)
	h.log.Debug("node channel: closed", "node", node, "generation", generation, "reason", context.Cause(s.ctx), "error", err)
}

// claim makes a new session the node's and ends the one before.
func (h *Handler) claim(node millpond.NodeID) *session {
	s := &session{done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(h.ctx)
	s.leave = func() {
		s.cancel(nil)
		h.mu.Lock()
		if h.open[node.Key()] == s {
			delete(h.open, node.Key())
		}
		h.mu.Unlock()
		close(s.done)
	}
	h.mu.Lock()
	s.old = h.open[node.Key()]
	h.open[node.Key()] = s
	h.mu.Unlock()
	if s.old != nil {
		s.old.cancel(errNewer)
	}
	return s
}

// Open counts the sessions.
func (h *Handler) Open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.open)
}

func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.wg.Add(1)
	return true
}

// Close ends every session and waits for the calls of Serve. What runs on the
// nodes goes on.
func (h *Handler) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.wg.Wait()
	return nil
}

func stopping() *millpond.Error {
	return millpond.Errorf(millpond.Unavailable, "ServerBusy", "The server is stopping. Try again.")
}
