package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestOpenPortTakesASocket: it is waited for, as a device is, and its end is the
// port's.
func TestOpenPortTakesASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "port")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	type opened struct {
		port io.ReadWriteCloser
		err  error
	}
	done := make(chan opened, 1)
	go func() {
		port, err := OpenPort(ctx, path)
		done <- opened{port, err}
	}()
	select {
	case o := <-done:
		t.Fatalf("nobody listens yet: %+v", o)
	case <-time.After(50 * time.Millisecond): // a moment in which it finds nothing
	}
	host, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	o := <-done
	if o.err != nil {
		t.Fatal(o.err)
	}
	defer o.port.Close()
	conn, err := host.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if b, err := io.ReadAll(o.port); string(b) != "x" || err != nil {
		t.Errorf("%q, %v", b, err)
	}

	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := OpenPort(ended, filepath.Join(t.TempDir(), "none")); !errors.Is(err, context.Canceled) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with nobody there: %v", err)
	}
}
