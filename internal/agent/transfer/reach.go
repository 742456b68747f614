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

// serves is the server's address if it answers for a host, and what to trust
// there; else empty.
func (r *Reach) serves(host string) (string, *x509.CertPool) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.address == "" {
		return "", nil
	}
	for _, h := range r.hosts {
		if host == h || strings.HasPrefix(h, ".") && strings.HasSuffix(host, h) {
			return r.address, r.trusted()
		}
	}
	return "", nil
}

// trusted is the server's CA beside the system's; mu is held. It is read when it is
// first wanted: the system's are some hundred certificates, which cost a second
// under emulation, at a time when a node is waited for.
func (r *Reach) trusted() *x509.CertPool {
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
		if at, _ := r.serves(host); at != "" {
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
	_, roots := r.serves(host)
	raw, err := r.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, &tls.Config{ServerName: host, RootCAs: roots, NextProtos: []string{"http/1.1"}})
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// Transport sends requests by this way. stall bounds the wait for an answer's
// headers.
func (r *Reach) Transport(stall time.Duration) *http.Transport {
	return &http.Transport{
		Proxy: func(q *http.Request) (*url.URL, error) {
			if at, _ := r.serves(q.URL.Hostname()); at != "" {
				return nil, nil
			}
			return http.ProxyFromEnvironment(q)
		},
		DialContext:           r.dial,
		DialTLSContext:        r.dialTLS,
		ResponseHeaderTimeout: stall,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true, // the file is the bytes as they are stored
	}
}
