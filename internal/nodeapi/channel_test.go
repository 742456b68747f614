package nodeapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// nodes is the node service of these tests.
type nodes struct {
	mu      sync.Mutex
	running map[millpond.NodeID]int
	most    int
	served  chan string
}

func newNodes() *nodes {
	return &nodes{running: map[millpond.NodeID]int{}, served: make(chan string, 100)}
}

func (*nodes) AuthenticateNode(_ context.Context, node millpond.NodeID, generation int, token string) error {
	switch {
	case node == "gone":
		return millpond.Errorf(millpond.NotFound, "NodeNotFound", "The node is gone.")
	case token != "token-of-"+string(node):
		return millpond.Errorf(millpond.Forbidden, "AuthenticationFailed", "Wrong token.")
	}
	return nil
}

func (s *nodes) Serve(ctx context.Context, node millpond.NodeID, generation int, c nodev1.AgentClient, said *nodev1.HelloResponse) error {
	s.mu.Lock()
	s.running[node]++
	s.most = max(s.most, s.running[node])
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running[node]--
		s.mu.Unlock()
	}()
	if said != nil {
		s.served <- "said " + said.GetBootId()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	hello, err := c.Hello(ctx, connect.NewRequest(&nodev1.HelloRequest{NodeId: string(node), Generation: int32(generation)}))
	if err != nil {
		s.served <- "no hello: " + err.Error()
		return err
	}
	s.served <- hello.Msg.GetBootId()
	<-ctx.Done()
	return context.Cause(ctx)
}

type handler struct {
	nodev1.UnimplementedAgentHandler
	name string
}

func (h handler) Hello(context.Context, *connect.Request[nodev1.HelloRequest]) (*connect.Response[nodev1.HelloResponse], error) {
	return connect.NewResponse(&nodev1.HelloResponse{BootId: h.name}), nil
}

func start(t *testing.T) (*nodes, *Handler, *httptest.Server) {
	n := newNodes()
	h := New(n, n, slog.New(slog.DiscardHandler))
	s := httptest.NewTLSServer(h)
	t.Cleanup(func() { h.Close(); s.Close() })
	return n, h, s
}

func dial(t *testing.T, s *httptest.Server) net.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// join is a node that comes; done is closed when its session has ended.
func join(t *testing.T, s *httptest.Server, node millpond.NodeID, name string) (conn net.Conn, done chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	conn, err := nodeproto.Upgrade(ctx, dial(t, s), "millpond.internal", node, 1, "token-of-"+string(node), nil)
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan struct{})
	go func() { defer close(done); nodeproto.ServeConn(ctx, conn, nodeproto.NewHandler(handler{name: name})) }()
	return conn, done
}

func (s *nodes) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-s.served:
		if got != want {
			t.Fatalf("served %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%q was never served", want)
	}
}

func ended(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the session does not end")
	}
}

func TestChannel(t *testing.T) {
	n, h, s := start(t)
	_, first := join(t, s, "n1", "first")
	n.expect(t, "first")
	_, second := join(t, s, "N1", "second") // ids compare without case; the token does not
	_ = second
	n.expect(t, "second")
	ended(t, first)
	other, otherDone := join(t, s, "n2", "other")
	n.expect(t, "other")
	if h.Open() != 2 {
		t.Fatal(h.Open(), "sessions are open")
	}
	other.Close()
	ended(t, otherDone)
	h.Close()
	ended(t, second)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.most != 1 {
		t.Fatal("two sessions of one node at once")
	}
	if h.Open() != 0 {
		t.Fatal(h.Open(), "sessions are left")
	}
}

func TestManyReconnects(t *testing.T) {
	n, _, s := start(t)
	var conns []chan struct{}
	for range 20 {
		_, done := join(t, s, "n1", "x")
		conns = append(conns, done)
	}
	for _, c := range conns[:19] {
		ended(t, c)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.most > 1 {
		t.Fatal("two sessions of one node at once")
	}
}

func TestRefusals(t *testing.T) {
	_, _, s := start(t)
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"method", func(r *http.Request) { r.Method = "GET" }, 405},
		{"no upgrade", func(r *http.Request) { r.Header.Del("Upgrade") }, 400},
		{"other upgrade", func(r *http.Request) { r.Header.Set("Upgrade", "websocket") }, 400},
		{"no node", func(r *http.Request) { r.Header.Del(nodeproto.HeaderNode) }, 400},
		{"bad generation", func(r *http.Request) { r.Header.Set(nodeproto.HeaderGeneration, "x") }, 400},
		{"no token", func(r *http.Request) { r.Header.Del("Authorization") }, 403},
		{"wrong token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer no") }, 403},
		{"gone", func(r *http.Request) { r.Header.Set(nodeproto.HeaderNode, "gone") }, 410},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, _ := http.NewRequest("POST", s.URL+nodeproto.ChannelPath, nil)
			q.Header.Set("Connection", "Upgrade")
			q.Header.Set("Upgrade", nodeproto.ChannelUpgrade)
			q.Header.Set("Authorization", "Bearer token-of-n1")
			q.Header.Set(nodeproto.HeaderNode, "n1")
			q.Header.Set(nodeproto.HeaderGeneration, "1")
			c.change(q)
			conn := dial(t, s)
			if err := q.Write(conn); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), q)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || !strings.Contains(string(body), `"error":{"code":"`) {
				t.Fatalf("%s: %s", resp.Status, body)
			}
		})
	}
	ctx := context.Background()
	if _, err := nodeproto.Upgrade(ctx, dial(t, s), "h", "n1", 1, "no", nil); millpond.KindOf(err) != millpond.Forbidden {
		t.Fatal(err)
	}
	if _, err := nodeproto.Upgrade(ctx, dial(t, s), "h", "gone", 1, "no", nil); millpond.KindOf(err) != millpond.NotFound {
		t.Fatal(err)
	}
}

// TestSaidBefore: what an agent has said to its supervisor is known from the start.
func TestSaidBefore(t *testing.T) {
	n, _, s := start(t)
	said, err := proto.Marshal(&nodev1.HelloResponse{BootId: "b"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := nodeproto.Upgrade(t.Context(), dial(t, s), "h", "n1", 1, "token-of-n1", said)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n.expect(t, "said b")
	if _, err := nodeproto.Upgrade(t.Context(), dial(t, s), "h", "n2", 1, "token-of-n2", []byte{0xff}); err == nil {
		t.Error("a header that is no answer was taken")
	}
}

// FuzzHeard: a header is an agent's answer with a boot id, or refused.
func FuzzHeard(f *testing.F) {
	f.Add("")
	f.Add("AAAA")
	f.Add("CgFi")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := heard(text)
		if err != nil && millpond.KindOf(err) != millpond.Invalid {
			t.Fatal(err)
		}
		if err == nil && text != "" && m.GetBootId() == "" {
			t.Errorf("%q has no boot id", text)
		}
	})
}

func TestDialInProcess(t *testing.T) {
	n, h, _ := start(t)
	ctx := context.Background()
	if _, err := h.Dial(ctx, "n1", 1, "wrong"); millpond.KindOf(err) != millpond.Forbidden {
		t.Fatal(err)
	}
	conn, err := h.Dial(ctx, "n1", 1, "token-of-n1")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		nodeproto.ServeConn(ctx, conn, nodeproto.NewHandler(handler{name: "inside"}))
	}()
	n.expect(t, "inside")
	h.Close()
	ended(t, done)
	var e *millpond.Error
	if _, err := h.Dial(ctx, "n1", 1, "token-of-n1"); !errors.As(err, &e) || e.Kind != millpond.Unavailable {
		t.Fatal(err)
	}
}

// A connection that a launcher holds in this process is a session like any other.
func TestServeConnection(t *testing.T) {
	n, h, _ := start(t)
	ctx := context.Background()
	ours, theirs := net.Pipe()
	if err := h.Serve(ctx, "n1", 1, "wrong", ours); millpond.KindOf(err) != millpond.Forbidden {
		t.Fatal(err)
	}
	served, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		nodeproto.ServeConn(ctx, theirs, nodeproto.NewHandler(handler{name: "held"}))
	}()
	go func() { served <- h.Serve(ctx, "n1", 1, "token-of-n1", ours) }()
	n.expect(t, "held")
	h.Close()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	ended(t, done)
	ours, _ = net.Pipe()
	if err := h.Serve(ctx, "n1", 1, "token-of-n1", ours); millpond.KindOf(err) != millpond.Unavailable {
		t.Fatal(err)
	}
}

// An agent that never speaks HTTP/2 must not keep its successor out.
func TestSilentAgentIsReplaced(t *testing.T) {
	n, _, s := start(t)
	ctx := context.Background()
	if _, err := nodeproto.Upgrade(ctx, dial(t, s), "h", "n1", 1, "token-of-n1", nil); err != nil {
		t.Fatal(err)
	}
	join(t, s, "n1", "second")
	for {
		select {
		case got := <-n.served:
			if got == "second" {
				return
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the second was never served")
		}
	}
}
