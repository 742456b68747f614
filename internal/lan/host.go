package lan

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"millpond.dev/millpond/internal/atomicfile"
)

// hostSuffix ends the name of the file that says which machine has an address:
// MAC.host, with "ADDRESS NAME\n" in it.
const hostSuffix = ".host"

// announce writes the machine's own file.
func (c Config) announce() error {
	return atomicfile.Write(filepath.Join(c.Dir, c.MAC.name()+hostSuffix), fmt.Appendf(nil, "%s %s\n", c.Address, c.Name), 0o600)
}

// host is one machine as the others know it.
type host struct {
	mac     MAC
	address netip.Addr
	name    string // in small letters
}

// hosts are the machines of a network.
type hosts struct {
	byName    map[string]host
	byAddress map[netip.Addr]host
}

// anew is known as of now.
func (p *Port) anew() *hosts {
	p.mu.Lock()
	p.listed = time.Time{}
	p.mu.Unlock()
	return p.known()
}

// known are the machines of the network, this one too, as of a moment ago.
func (p *Port) known() *hosts {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list()
	if p.hosts != nil {
		return p.hosts
	}
	h := &hosts{byName: map[string]host{}, byAddress: map[netip.Addr]host{}}
	for _, m := range append([]MAC{p.cfg.MAC}, p.others...) {
		b, err := os.ReadFile(filepath.Join(p.cfg.Dir, m.name()+hostSuffix))
		if err != nil {
			continue // it has just left
		}
		x, ok := parseHost(m, string(b))
		if !ok {
			continue
		}
		h.byAddress[x.address] = x
		if x.name != "" {
			h.byName[x.name] = x
		}
	}
	p.hosts = h
	return h
}

func parseHost(m MAC, line string) (host, bool) {
	address, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	a, err := netip.ParseAddr(address)
	return host{mac: m, address: a, name: strings.ToLower(name)}, err == nil && a.Is4()
}
