// Package transfer moves files between a node and blob containers, and knows
// how a node reaches Azure's names: the server answers for them, at an address
// that Hello tells. It lists containers, uploads output files, unpacks
// application packages, and runs the proxy by which tasks' own programs reach
// those names.
//
// It runs no commands and makes no accounts; agent/proc calls it. What it needs
// of a task comes as arguments.
package transfer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Reach is the way to the server for Azure's names. The zero value reaches
// everything as its name says. It is safe for concurrent use; a later Hello
// changes it.
type Reach struct {
	mu      sync.Mutex
	address string
	ca      []byte
	roots   *x509.CertPool
	hosts   []string
}

// Set replaces the way: address is host:port of the server as seen from here,
// empty for none; ca is PEM; hosts are names, or ends of names with a dot first.
func (r *Reach) Set(address string, ca []byte, hosts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !bytes.Equal(r.ca, ca) {
		r.roots = nil
	}
	r.address, r.ca, r.hosts = address, ca, hosts
}

// CA is the server's own CA; empty when the server is out of reach.
func (r *Reach) CA() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.address == "" {
		return nil
	}
	return r.ca
}

// serves is the server's address if it answers for a host; else empty.
func (r *Reach) serves(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.address == "" {
		return ""
	}
	for _, h := range r.hosts {
		if host == h || strings.HasPrefix(h, ".") && strings.HasSuffix(host, h) {
			return r.address
		}
	}
	return ""
}

// trusted is the server's CA beside the system's. It is read when it is first
// wanted: the system's are some hundred certificates, which cost a second under
// emulation, at a time when a node is waited for.
func (r *Reach) trusted() *x509.CertPool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.roots == nil {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		roots.AppendCertsFromPEM(r.ca)
		r.roots = roots
	}
	return r.roots
}

const dialTimeout = 30 * time.Second

// dial connects to an address, host:port, or to the server that answers for it.
func (r *Reach) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if host, port, err := net.SplitHostPort(address); err == nil && port == "443" {
		if at := r.serves(host); at != "" {
			address = at
		}
	}
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, network, address)
}

func (r *Reach) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var roots *x509.CertPool // the system's
	if r.serves(host) != "" {
		roots = r.trusted()
	}
	raw, err := r.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return secure(ctx, raw, host, roots)
}

// dialServer is dialTLS that connects to the server and nobody else.
func (r *Reach) dialServer(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	at := r.serves(host)
	if at == "" || port != "443" {
		return nil, outOfReach{}
	}
	d := net.Dialer{Timeout: dialTimeout}
	raw, err := d.DialContext(ctx, network, at)
	if err != nil {
		return nil, err
	}
	// What the system trusts besides does not prove the server.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.CA())
	return secure(ctx, raw, host, roots)
}

// secure is a connection over TLS to whoever proves to be host; it closes raw if
// that fails.
func secure(ctx context.Context, raw net.Conn, host string, roots *x509.CertPool) (net.Conn, error) {
	c := tls.Client(raw, &tls.Config{ServerName: host, RootCAs: roots, NextProtos: []string{"http/1.1"}})
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// outOfReach is the error of a request with a token for which there is no way to the
// server.
type outOfReach struct{}

func (outOfReach) Error() string {
	return "the node has no way to the server for this address, and a managed identity's token is sent nowhere else"
}

// NonRetriable has the vendor's clients not try again.
func (outOfReach) NonRetriable() {}

// OutOfReach says whether a request failed because it has a token and there is no
// way to the server for its address. Nothing was sent.
func OutOfReach(err error) bool {
	var o outOfReach
	return errors.As(err, &o)
}

// Transport sends requests by this way. stall bounds the wait for an answer's
// headers.
func (r *Reach) Transport(stall time.Duration) *http.Transport {
	t := transport(stall)
	t.Proxy = func(q *http.Request) (*url.URL, error) {
		if r.serves(q.URL.Hostname()) != "" {
			return nil, nil
		}
		return http.ProxyFromEnvironment(q)
	}
	t.DialContext, t.DialTLSContext = r.dial, r.dialTLS
	return t
}

// guarded is Transport for requests that carry a token. Its connections are its own
// and lead to the server: without a way there nothing is sent, whatever the name of
// the host would lead to.
func (r *Reach) guarded(stall time.Duration) *http.Transport {
	t := transport(stall)
	t.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, outOfReach{} }
	t.DialTLSContext = r.dialServer
	return t
}

func transport(stall time.Duration) *http.Transport {
	return &http.Transport{
		ResponseHeaderTimeout: stall,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true, // the file is the bytes as they are stored
	}
}
