package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func connected(t *testing.T, ctx context.Context, up net.Conn) (net.Conn, *bufio.Reader) {
	t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { Join(ctx, w, up) }))
	t.Cleanup(proxy.Close)
	c, err := net.Dial("tcp", proxy.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	// Some clients send the first bytes of the tunnel with the request.
	fmt.Fprint(c, "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\nhello ")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	return c, r
}

// What a server says after its client has said all still arrives.
func TestJoin(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c)
		_, _ = c.Write(bytes.ToUpper(all))
	}()
	up, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, r := connected(t, t.Context(), up)
	fmt.Fprint(c, "world")
	_ = c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(r); err != nil || string(got) != "HELLO WORLD" {
		t.Errorf("%q %v", got, err)
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	up, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithCancel(t.Context())
	_, r := connected(t, ctx, up)
	cancel()
	if _, err := io.ReadAll(far); err != nil {
		t.Error(err)
	}
	_, _ = io.ReadAll(r) // ends
}

func TestBundle(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, []byte("cas"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Bundle(filepath.Join(dir, "none"), file); string(got) != "cas\n" {
		t.Errorf("%q", got)
	}
}
