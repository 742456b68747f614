package vmrun

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"millpond.dev/millpond/internal/launch"
)

// privilegedMend is what helps against the usual reason.
const privilegedMend = "Ports below 1024 need a right on this host: sysctl -w net.ipv4.ip_unprivileged_port_start=0, or run millpond with CAP_NET_BIND_SERVICE."

// replacePorts makes the open ports and the filters of a running VM those that are
// asked for.
func (s *supervisor) replacePorts(ctx context.Context, ports []launch.Port, filters launch.Filters) error {
	if s.now().Phase != launch.Running {
		return errors.New("the VM does not run yet, or not any more")
	}
	if s.cfg.network() == nil {
		return errors.New("the VM has no network card")
	}
	s.setPorts(ctx, ports)
	s.setFilters(filters)
	return s.change(func(*launch.Status) {})
}

// setPorts closes what is not wanted any more and opens what is not open. They
// are opened through the monitor and not on the command line, where one that is
// taken would keep the whole VM from starting. What cannot be opened is noted.
func (s *supervisor) setPorts(ctx context.Context, want []launch.Port) {
	s.portMu.Lock()
	defer s.portMu.Unlock()
	have := s.now().Ports
	network := s.cfg.network()
	if s.clones && !network.Address.IsValid() {
		// The first address is the template's, whose lease came with its state; a
		// clone has another card and so gets the next.
		network.Address = network.Guest().Next()
	}
	wanted := map[launch.Port]bool{}
	for _, p := range want {
		wanted[p] = true
	}
	open := map[launch.Port]bool{}
	var now []launch.PortStatus
	for _, p := range have {
		switch {
		case p.Err != "": // tried again below
		case wanted[p.Port]:
			open[p.Port] = true
		default:
			if _, err := s.monitor(ctx, network.ClosePort(protocol(p.Port), p.Host)); err != nil {
				s.log.Warn("a port was not closed", "port", p.Host.String(), "err", err)
			}
		}
	}
	for _, p := range want {
		st := launch.PortStatus{Port: p}
		if !open[p] {
			if st.Err = s.openPort(ctx, network.OpenPort(protocol(p), p.Host, p.Guest), p); st.Err != "" {
				s.log.Error("a port of the VM is not open", "port", p.Host.String(), "guest", p.Guest, "why", st.Err)
			}
		}
		now = append(now, st)
	}
	s.mu.Lock()
	s.status.Ports = now
	s.mu.Unlock()
}

// setFilters says what the machine takes from the others of its network.
func (s *supervisor) setFilters(filters launch.Filters) {
	if s.port == nil {
		return
	}
	s.port.Filter(filters)
	s.mu.Lock()
	s.status.Filters = filters
	s.mu.Unlock()
}

func protocol(p launch.Port) string {
	if p.UDP {
		return "udp"
	}
	return "tcp"
}

func (s *supervisor) openPort(ctx context.Context, command string, p launch.Port) string {
	said, err := s.monitor(ctx, command)
	if err != nil {
		return err.Error()
	}
	if said == "" {
		return ""
	}
	why := fmt.Sprintf("The host's port %s could not be opened (%s).", p.Host, said)
	if p.Host.Port() < 1024 {
		return why + " " + privilegedMend
	}
	return why + " Another program may have it: ss -ltnp"
}

// monitor runs a command of QEMU's human monitor and returns what it says.
func (s *supervisor) monitor(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, quitLimit)
	defer cancel()
	var said string
	err := s.qmp.Execute(ctx, "human-monitor-command", map[string]string{"command-line": command}, &said)
	return strings.TrimSpace(said), err
}
