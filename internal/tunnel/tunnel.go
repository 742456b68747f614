// Package tunnel is what the two proxies have in common that lead programs to
// Millpond under Azure's names: that of `millpond exec` on a host (execproxy) and
// that of tasks on a node (agent/transfer). It joins a client that sent CONNECT to
// where its proxy says, and finds the system's CAs, which a program shall trust
// beside Millpond's.
//
// It decides nothing about hosts, dials nobody and writes no file.
package tunnel

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Join answers a CONNECT request and carries bytes both ways between its client and
// up until both have said all they have to say, or ctx ends. It closes both.
func Join(ctx context.Context, w http.ResponseWriter, up net.Conn) {
	defer up.Close()
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer down.Close()
	stop := context.AfterFunc(ctx, func() { up.Close(); down.Close() })
	defer stop()
	_ = down.SetDeadline(time.Time{})
	if _, err := io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	// The reader that came with the connection may hold bytes already.
	both.Go(func() { carry(up, buffered.Reader) })
	both.Go(func() { carry(down, up) })
	both.Wait()
}

// carry copies until the source ends, then closes the writing half, so that an
// answer that is still on its way the other way arrives.
func carry(to net.Conn, from io.Reader) {
	_, _ = io.Copy(to, from)
	if c, ok := to.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// systemBundles are where systems keep their CAs as one file.
func systemBundles() []string {
	return []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"}
}

// Bundle is the first of the files that can be read, or else the system's CAs, with
// a line's end at its own; empty without any.
func Bundle(files ...string) []byte {
	for _, f := range append(files, systemBundles()...) {
		if text, err := os.ReadFile(f); err == nil {
			if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
				text = append(text, '\n')
			}
			return text
		}
	}
	return nil
}
