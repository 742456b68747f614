// Package lan carries Ethernet frames between the virtual machines of one host
// that share a network. There is no switch process: each machine's supervisor
// has a Port, which is a datagram socket in the network's folder, named by the
// machine's address, and sends a frame to the socket of whoever it is for. Who
// is not in the folder cannot be reached, so networks are apart from each other
// as folders are; and whoever dies takes nothing with it but its own socket.
//
// Beside its socket a machine's name and address lie in the folder. From these a
// port answers questions for names (resolver.go) and carries packets between the
// subnets of one network (router.go); what it takes for its machine, its filters
// say (filter.go).
//
// It knows no QEMU and no pools. Package vmrun opens the ports, launch/local
// names the folders.
package lan

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/launch"
)

// Config is what a Port is made of. All members are needed but the last three.
type Config struct {
	// Dir is the network's folder; it is made if it is not there.
	Dir string
	// MAC is the machine's address.
	MAC MAC
	// Gateway and DNS are the addresses of the machine's own way out.
	Gateway, DNS netip.Addr
	// Address is the machine's own, and Name the host name by which the others
	// find it; without one it has none.
	Address netip.Addr
	Name    string
	// Domain is what all names may end with, a dot between.
	Domain string
	// Filters are the first of Filter.
	Filters launch.Filters
}

// Port is one machine's place in a network.
type Port struct {
	cfg Config
	// dir keeps the folder open: a socket's name may have 108 bytes only, and
	// /proc/self/fd/N/NAME is short however deep the folder lies.
	dir    *os.File
	socket int
	wake   [2]int // a pipe whose end ends the reader of socket
	done   chan struct{}
	filter filter

	mu sync.Mutex
	// slow are peers that did not take a frame in time, with how many more they
	// must take at once before they are waited for again.
	slow map[MAC]int
	// others are the peers as of listed; hosts is nil until somebody asks. Both were
	// read at read, when the folder had last changed at changed.
	others                []MAC
	hosts                 *hosts
	listed, read, changed time.Time
}

const (
	// maxFrame is more than any frame that QEMU sends has, in bytes.
	maxFrame = 64 << 10
	// patience is how long a frame waits for a receiver whose queue is full. A
	// queue may have as few as 10 places, and a burst of TCP has more frames.
	patience = 30 * time.Millisecond
	// trust is how many frames a slow receiver must take at once to be waited for.
	trust = 64
	// stale is how long a list of peers is used without a look at the folder.
	stale = 500 * time.Millisecond
	// grain is more than two changes of a folder can be apart and have one time.
	grain = 100 * time.Millisecond
)

// Open takes the machine's place. A place that a dead supervisor left is taken
// over; two living ones with one address must not be.
func Open(cfg Config) (*Port, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(cfg.Dir)
	if err != nil {
		return nil, err
	}
	p := &Port{cfg: cfg, dir: dir, slow: map[MAC]int{}, done: make(chan struct{}), filter: filter{rules: cfg.Filters}}
	p.socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		dir.Close()
		return nil, err
	}
	err = os.Remove(filepath.Join(cfg.Dir, cfg.MAC.name()))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = unix.Bind(p.socket, p.address(cfg.MAC))
	}
	if err == nil {
		if err = cfg.announce(); err == nil {
			err = unix.Pipe2(p.wake[:], unix.O_CLOEXEC)
		}
		if err != nil {
			err = errors.Join(err, Leave(cfg.Dir, cfg.MAC))
		}
	}
	if err != nil {
		unix.Close(p.socket)
		dir.Close()
		return nil, fmt.Errorf("take the machine's place in the network: %w", err)
	}
	return p, nil
}

// Leave removes the place of a machine whose supervisor can no more do so.
func Leave(dir string, m MAC) error {
	var errs []error
	for _, name := range []string{m.name() + hostSuffix, m.name()} {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (p *Port) address(m MAC) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(p.dir.Fd())) + "/" + m.name()}
}

// Carry moves frames until Close: guest is the machine's card, out its gateway,
// both connected datagram sockets with a frame in each datagram. It returns at
// once; Close waits for what it started.
func (p *Port) Carry(guest, out *net.UnixConn) {
	var wg sync.WaitGroup
	wg.Go(func() { p.fromGuest(guest, out) })
	wg.Go(func() { p.fromGateway(out, guest) })
	wg.Go(func() { p.fromPeers(guest) })
	go func() {
		wg.Wait()
		close(p.done)
	}()
}

// Close gives the place up. guest and out of Carry must have been closed; with
// carried false Carry was never called.
func (p *Port) Close(carried bool) error {
	unix.Close(p.wake[1])
	if carried {
		<-p.done
	}
	unix.Close(p.wake[0])
	unix.Close(p.socket)
	err := Leave(p.cfg.Dir, p.cfg.MAC)
	return errors.Join(err, p.dir.Close())
}

func (p *Port) fromGuest(guest, out *net.UnixConn) {
	buf := make([]byte, maxFrame)
	gateway, card := &end{conn: out}, &end{conn: guest}
	for {
		n, err := guest.Read(buf)
		if err != nil {
			if again(err) {
				continue
			}
			return
		}
		frame := buf[:n]
		q, sound := parsePacket(frame)
		switch where, to := route(frame, p.cfg.MAC, p.cfg.Address, p.cfg.Gateway, p.cfg.DNS); where {
		case toGateway:
			if !sound {
				gateway.put(frame)
			} else if reply := p.answer(frame, q); reply != nil {
				card.put(reply)
			} else if peer, onward := p.onward(frame, q); onward {
				p.filter.sent(q, time.Now())
				p.send(peer, frame)
			} else {
				gateway.put(frame)
			}
		case toPeer:
			if sound { // its answer passes the filters
				p.filter.sent(q, time.Now())
			}
			p.send(to, frame)
		case toAll:
			for _, m := range p.peers() {
				p.send(m, frame)
			}
		}
	}
}

func (p *Port) fromGateway(out, guest *net.UnixConn) {
	buf := make([]byte, maxFrame)
	card := &end{conn: guest}
	for {
		n, err := out.Read(buf)
		if err != nil {
			if again(err) {
				continue
			}
			return
		}
		card.put(buf[:n])
	}
}

func (p *Port) fromPeers(guest *net.UnixConn) {
	buf := make([]byte, maxFrame)
	card := &end{conn: guest}
	fds := []unix.PollFd{{Fd: int32(p.socket), Events: unix.POLLIN}, {Fd: int32(p.wake[0]), Events: unix.POLLIN}}
	for {
		n, err := unix.Read(p.socket, buf)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
				return
			}
			if fds[1].Revents != 0 {
				return
			}
		case err != nil:
			return
		case admits(buf[:n], p.cfg.MAC):
			if q, ok := parsePacket(buf[:n]); !ok || p.filter.admits(q, time.Now()) {
				card.put(buf[:n])
			}
		}
	}
}

// again tells an error that says nothing about the next frame: the other end of
// a datagram socket had closed it for a moment, or the frame was too large.
func again(err error) bool {
	return errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINTR) || errors.Is(err, os.ErrDeadlineExceeded)
}

// end is a socket of QEMU's as one goroutine writes to it.
type end struct {
	conn *net.UnixConn
	slow bool
}

// put hands a frame to QEMU and waits a little if it is busy. A frame that is
// not taken is lost, as on any wire.
func (e *end) put(frame []byte) {
	wait := patience
	if e.slow {
		wait = time.Millisecond
	}
	_ = e.conn.SetWriteDeadline(time.Now().Add(wait))
	_, err := e.conn.Write(frame)
	e.slow = errors.Is(err, os.ErrDeadlineExceeded)
}

// send hands a frame to another machine's port. Who is not there, hears nothing.
func (p *Port) send(to MAC, frame []byte) {
	err := unix.Sendto(p.socket, frame, unix.MSG_DONTWAIT, p.address(to))
	if err != unix.EAGAIN {
		p.took(to)
		return
	}
	if p.isSlow(to) {
		return
	}
	// There is no waiting for room in a queue that is not connected; it is tried
	// again at intervals that are short beside the time that a frame takes.
	for end := time.Now().Add(patience); time.Now().Before(end); {
		time.Sleep(200 * time.Microsecond)
		if err = unix.Sendto(p.socket, frame, unix.MSG_DONTWAIT, p.address(to)); err != unix.EAGAIN {
			return
		}
	}
	p.mu.Lock()
	p.slow[to] = trust
	p.mu.Unlock()
}

// took notes that a peer took a frame at once.
func (p *Port) took(m MAC) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.slow) == 0 {
		return
	}
	if p.slow[m]--; p.slow[m] <= 0 {
		delete(p.slow, m)
	}
}

// isSlow says whether a peer is known to be slow, and that it was again.
func (p *Port) isSlow(m MAC) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, slow := p.slow[m]
	if slow {
		p.slow[m] = trust
	}
	return slow
}

// peers are the other machines of the network.
func (p *Port) peers() []MAC {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list()
	return p.others
}

// list reads the folder anew when what is known of it is old; the lock is held.
func (p *Port) list() {
	if time.Since(p.listed) < stale {
		return
	}
	info, err := p.dir.Stat()
	if err != nil {
		return
	}
	now := time.Now()
	if at := info.ModTime(); at.Equal(p.changed) && p.read.Sub(at) > grain {
		p.listed = now
		return
	}
	names, err := os.ReadDir(p.cfg.Dir)
	if err != nil {
		return
	}
	p.others, p.hosts, p.listed, p.read, p.changed = p.others[:0:0], nil, now, now, info.ModTime()
	for _, e := range names {
		if m, ok := ParseMAC(e.Name()); ok && m != p.cfg.MAC {
			p.others = append(p.others, m)
		}
	}
}
