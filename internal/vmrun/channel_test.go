package vmrun

import (
	"bufio"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/qemu/qemutest"
)

// edge is the server's side of the channel: it takes upgrades and hands them out.
type edge struct {
	cert  tls.Certificate
	pem   []byte
	mu    sync.Mutex
	refus int
	seen  http.Header
	conns chan net.Conn
	// refusal is how it refuses, if not with 503.
	refusal string
	refused chan struct{}
	// quiet: the server says nothing of its own after the upgrade.
	quiet bool
}

func newEdge(t *testing.T) *edge {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{serverName}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &edge{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), conns: make(chan net.Conn, 1)}
}

// listen serves on a new port until the returned function is called.
func (e *edge) listen(t *testing.T) (addr string, closeAll func()) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{e.cert}})
	if err != nil {
		t.Fatal(err)
	}
	var loop sync.WaitGroup
	loop.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			loop.Go(func() { e.take(c) })
		}
	})
	return l.Addr().String(), func() { l.Close(); loop.Wait() }
}

func (e *edge) take(c net.Conn) {
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		c.Close()
		return
	}
	e.mu.Lock()
	e.seen = req.Header
	refuse := e.refus > 0
	if refuse {
		e.refus--
	}
	e.mu.Unlock()
	if refuse {
		io.WriteString(c, "HTTP/1.1 "+cmp.Or(e.refusal, "503 Service Unavailable")+"\r\nContent-Length: 0\r\n\r\n")
		c.Close()
		if e.refused != nil {
			e.refused <- struct{}{}
		}
		return
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + nodeproto.ChannelUpgrade + "\r\n\r\n"
	if !e.quiet {
		answer += "first " // the session's first bytes, in the same packet
	}
	io.WriteString(c, answer)
	e.conns <- c
}

// TestChannel takes the channel through a refusal, a server that restarts on
// another port, and a reset of the guest.
func TestChannel(t *testing.T) {
	e := newEdge(t)
	dir, cfg := newVM(t, qemutest.Agent)
	cfg.Spec.Channel.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(cfg.Spec.Channel.CAFile, e.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Save(dir); err != nil {
		t.Fatal(err)
	}
	// The first attempts find no endpoint at all.
	_, wait := start(t, dir)
	until(t, dir, "running", running)

	e.refus = 2
	var closeEdge func()
	for round := range 3 {
		addr, closeThis := e.listen(t)
		closeEdge = closeThis
		if err := os.WriteFile(cfg.Spec.Channel.EndpointFile, []byte(addr+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var conn net.Conn
		select {
		case conn = <-e.conns:
		case <-time.After(bound):
			t.Fatalf("round %d: the supervisor did not come", round)
		}
		// The stub's agent echoes.
		conn.SetDeadline(time.Now().Add(bound))
		if _, err := io.WriteString(conn, "second"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len("first second"))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "first second" {
			t.Fatalf("round %d: %q, %v", round, got, err)
		}
		e.mu.Lock()
		if e.seen.Get("Authorization") != "Bearer secret" || e.seen.Get(nodeproto.HeaderNode) != "Node-1" || e.seen.Get(nodeproto.HeaderGeneration) != "2" {
			t.Errorf("headers %v", e.seen)
		}
		e.mu.Unlock()
		conn.Close()
		closeEdge()
	}
	if _, err := Call(t.Context(), dir, Request{Op: OpKill}); err != nil {
		t.Error(err)
	}
	wait()
	b, err := os.ReadFile(SupervisorLog(dir))
	if err != nil {
		t.Fatal(err)
	}
	if string(b) == "" || contains(b, "secret") {
		t.Errorf("the log is empty or holds the token: %s", b)
	}
}

// TestTheServerIsDialledWhenItSaysWhereItIs: a node that was refused as unwanted would
// wait for longer than this test does.
func TestTheServerIsDialledWhenItSaysWhereItIs(t *testing.T) {
	e := newEdge(t)
	const refusals = 3
	e.refus, e.refusal, e.refused = refusals, "410 Gone", make(chan struct{}, refusals)
	addr, closeEdge := e.listen(t)
	dir := t.TempDir()
	spec := launch.Spec{Node: "Node-1", Generation: 2, Channel: launch.Channel{Token: "secret",
		CAFile: filepath.Join(dir, "ca.pem"), EndpointFile: filepath.Join(dir, "endpoint")}}
	for name, text := range map[string]string{spec.Channel.CAFile: string(e.pem), spec.Channel.EndpointFile: addr + "\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), unwantedRetry-5*time.Second)
	defer cancel()
	reached := make(chan error, 1)
	go func() {
		c := &channel{spec: spec, log: slog.New(slog.DiscardHandler)}
		conn, err := c.reach(ctx)
		if err == nil {
			conn.Close()
		}
		reached <- err
	}()
	for i := range refusals {
		select {
		case <-e.refused:
		case <-ctx.Done():
			t.Fatal("the server was not dialled")
		}
		// The second attempt is made whatever is said, the third is an answer to a word.
		if err := atomicfile.Write(spec.Channel.EndpointFile, []byte(addr+"\n"), 0o600); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := <-reached; err != nil {
		t.Fatal(err)
	}
	(<-e.conns).Close()
	closeEdge()
}

func contains(b []byte, s string) bool {
	for i := 0; i+len(s) <= len(b); i++ {
		if string(b[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

func TestUnwantedIsForbiddenOrGone(t *testing.T) {
	for status, want := range map[string]bool{"403 Forbidden": true, "410 Gone": true, "401 Unauthorized": true, "503 Service Unavailable": false, "200 OK": false} {
		here, there := net.Pipe()
		go func() {
			r := bufio.NewReader(there)
			if _, err := http.ReadRequest(r); err == nil {
				io.WriteString(there, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n")
			}
		}()
		_, err := nodeproto.Upgrade(t.Context(), here, serverName, "n", 1, "t", nil)
		if err == nil || unwanted(err) != want {
			t.Errorf("%s: %v", status, err)
		}
		here.Close()
		there.Close()
	}
}

// TestTheStatusTellsThatTheAgentWasHeard also without a server to join it to.
func TestTheStatusTellsThatTheAgentWasHeard(t *testing.T) {
	dir, _ := newVM(t, qemutest.Agent)
	start(t, dir)
	st := until(t, dir, "heard", func(st launch.Status) bool { return !st.Heard.IsZero() })
	if st.Heard.Before(st.Started) {
		t.Errorf("heard at %s, started at %s", st.Heard, st.Started)
	}
	r, err := Call(t.Context(), dir, Request{Op: OpReset})
	if err != nil || !r.Status.Heard.IsZero() {
		t.Errorf("after a reset: %+v, %v", r.Status, err)
	}
}
