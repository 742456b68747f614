package transfer

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/tunnel"
)

// Proxy lets the programs of tasks reach Azure's names: a task's environment
// names it as HTTPS_PROXY, as millpond exec does for programs on a host. It
// answers CONNECT only, hands Azure's names to the server and everything else to
// where it says. It listens on the guest's loopback alone.
type Proxy struct {
	reach *Reach
	dir   string

	once sync.Once
	err  error
	url  string

	mu     sync.Mutex
	bundle []byte
}

// NewProxy makes a proxy that starts when Environment is asked for the first
// time. dir is a directory that tasks may read and not write.
func NewProxy(reach *Reach, dir string) *Proxy { return &Proxy{reach: reach, dir: dir} }

// Environment are the variables by which a program uses the proxy and trusts
// the server; empty when the server is out of reach.
func (p *Proxy) Environment() (map[string]string, error) {
	ca := p.reach.CA()
	if len(ca) == 0 {
		return nil, nil
	}
	p.once.Do(p.start)
	if p.err != nil {
		return nil, p.err
	}
	bundle := p.dir + "/ca-bundle.pem"
	if err := p.write(bundle, ca); err != nil {
		return nil, err
	}
	const direct = "localhost,127.0.0.1,127.0.0.0/8,::1,169.254.169.254"
	return map[string]string{"HTTPS_PROXY": p.url, "https_proxy": p.url, "NO_PROXY": direct, "no_proxy": direct,
		"REQUESTS_CA_BUNDLE": bundle, "CURL_CA_BUNDLE": bundle, "SSL_CERT_FILE": bundle, "NODE_EXTRA_CA_CERTS": bundle}, nil
}

// write keeps the bundle: the system's CAs and the server's.
func (p *Proxy) write(file string, ca []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if string(p.bundle) == string(ca) {
		return nil
	}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(file, append(tunnel.Bundle(), ca...), 0o644); err != nil {
		return err
	}
	p.bundle = ca
	return nil
}

func (p *Proxy) start() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.err = err
		return
	}
	p.url = "http://" + l.Addr().String()
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(p.serve)}
	// It lives as long as the agent's process.
	go func() { _ = s.Serve(l) }()
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "this proxy answers CONNECT for https only", http.StatusForbidden)
		return
	}
	// A tunnel goes on when its client has said all, with which its request ends.
	ctx := context.WithoutCancel(r.Context())
	up, err := p.reach.dial(ctx, "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	tunnel.Join(ctx, w, up)
}
