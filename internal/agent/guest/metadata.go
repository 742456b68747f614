package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/agent/managed"
)

// serveMetadata answers for Azure's instance metadata service, once, for as long as
// the agent lives. The address is one of the loopback interface: it exists in no
// network, and nobody else reaches it. A node without identities does without it:
// the socket keeps programs of its tasks from listening on port 80 of all addresses.
// mu is held.
func (m *Machine) serveMetadata() error {
	at := m.cfg.Metadata
	if m.answers || m.cfg.Tokens == nil || at == "" && !m.cfg.Privileged {
		return nil
	}
	if at == "" {
		at = managed.Address
		host, _, err := net.SplitHostPort(at)
		if err != nil {
			return err
		}
		if err := addLoopback(net.ParseIP(host)); err != nil {
			return fmt.Errorf("give the loopback interface the address %s: %w", host, err)
		}
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	m.answers = true
	s := &http.Server{Handler: managed.Handler(m.cfg.Tokens, m.cfg.Log), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	go func() { _ = s.Serve(l) }()
	return nil
}

// addLoopback gives the loopback interface an IPv4 address of its own; it may have it
// already. The tool ip is not in every image.
func addLoopback(ip net.IP) error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return err
	}
	if err := unix.Sendto(fd, addressMessage(lo.Index, ip.To4()), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel gave no answer")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 && unix.Errno(-code) != unix.EEXIST {
		return unix.Errno(-code)
	}
	return nil
}

// addressMessage is a request of rtnetlink for a /32 address: header, ifaddrmsg, and
// the address as IFA_LOCAL and IFA_ADDRESS.
func addressMessage(index int, ip4 net.IP) []byte {
	const attribute = 8
	b := make([]byte, 0, unix.SizeofNlMsghdr+unix.SizeofIfAddrmsg+2*attribute)
	e := binary.NativeEndian
	b = e.AppendUint32(b, uint32(cap(b)))
	b = e.AppendUint16(b, unix.RTM_NEWADDR)
	b = e.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b = e.AppendUint32(b, 1) // sequence
	b = e.AppendUint32(b, 0) // port
	b = append(b, unix.AF_INET, 32, 0, unix.RT_SCOPE_HOST)
	b = e.AppendUint32(b, uint32(index))
	for _, kind := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		b = e.AppendUint16(b, attribute)
		b = e.AppendUint16(b, kind)
		b = append(b, ip4...)
	}
	return b
}
