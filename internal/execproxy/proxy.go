package execproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/quickack"
	"millpond.dev/millpond/internal/tunnel"
)

// dialTimeout bounds a dial. A refusal must be quick: az waits for it at exit.
const dialTimeout = 5 * time.Second

// Proxy answers CONNECT for Azure's hosts.
type Proxy struct {
	// Server tells the server's address, host:port, anew for each connection: a
	// restarted server may listen elsewhere.
	Server func() (string, error)
	// AllowInternet lets connections to all other hosts through.
	AllowInternet bool
	// Notice gets one line for each host that was refused.
	Notice io.Writer

	mu      sync.Mutex
	refused map[string]bool
	tunnels sync.WaitGroup
}

// Serve answers on l, which it closes, until ctx ends; then it cuts the tunnels
// and waits for them.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second,
		// A tunnel must not hang on its request's context: that one ends as soon as
		// the client has said all it has to say, with the answer still to come.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(ctx, w, r) })}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(quickack.Listener(l))
	p.tunnels.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (p *Proxy) serve(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "millpond exec: this proxy answers CONNECT for https only", http.StatusForbidden)
		return
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		http.Error(w, "millpond exec: CONNECT needs host:port", http.StatusBadRequest)
		return
	}
	address := r.Host
	switch azwire.ServiceOf(host) {
	case azwire.NoService, azwire.ServiceOther:
		if !p.AllowInternet {
			p.refuse(w, host)
			return
		}
	default:
		if port != "443" {
			http.Error(w, "millpond exec: Azure's hosts are served on port 443 only", http.StatusForbidden)
			return
		}
		if address, err = p.Server(); err != nil {
			http.Error(w, "millpond exec: "+err.Error(), http.StatusBadGateway)
			return
		}
	}
	p.tunnel(ctx, w, address)
}

func (p *Proxy) refuse(w http.ResponseWriter, host string) {
	p.mu.Lock()
	if p.refused == nil {
		p.refused = map[string]bool{}
	}
	first := !p.refused[strings.ToLower(host)]
	p.refused[strings.ToLower(host)] = true
	p.mu.Unlock()
	if first && p.Notice != nil && !dispensable(host) {
		fmt.Fprintf(p.Notice, "millpond exec: refused a connection to %s, which Millpond does not serve; --allow-internet lets it through\n", host)
	}
	http.Error(w, "millpond exec: "+host+" is not served by Millpond", http.StatusForbidden)
}

// dispensable says whether a host is one that az looks at on its own account,
// for newer versions, telemetry and hints. Nobody misses an answer.
func dispensable(host string) bool {
	switch strings.ToLower(host) {
	case "azure.microsoft.com", "dc.services.visualstudio.com", "app.aladdin.microsoft.com", "go.microsoft.com":
		return true
	}
	return false
}

func (p *Proxy) tunnel(ctx context.Context, w http.ResponseWriter, address string) {
	dialer := net.Dialer{Timeout: dialTimeout}
	up, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		http.Error(w, "millpond exec: the server at "+address+" does not answer: "+err.Error(), http.StatusBadGateway)
		return
	}
	// Counted before the handler returns: Serve must not miss it.
	p.tunnels.Add(1)
	defer p.tunnels.Done()
	tunnel.Join(ctx, w, up)
}
