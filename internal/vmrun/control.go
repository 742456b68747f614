package vmrun

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"millpond.dev/millpond/internal/launch"
)

// Request is one line to a supervisor's control socket; one a connection.
type Request struct {
	// Op is one of the constants below.
	Op string `json:"op"`
	// Grace bounds stop.
	Grace time.Duration `json:"grace,omitempty"`
	// Ports replace those that are open.
	Ports []launch.Port `json:"ports,omitempty"`
	// Filters come with Ports.
	Filters launch.Filters `json:"filters,omitempty"`
	// Disk is attached; only its LUN counts for detach.
	Disk launch.Disk `json:"disk"`
}

const (
	OpStatus = "status"
	OpStop   = "stop"
	OpKill   = "kill"
	OpReset  = "reset"
	OpPorts  = "ports"
	OpAttach = "attach"
	OpDetach = "detach"
	// OpAdopt makes a spare the machine of the node that its configuration names.
	OpAdopt = "adopt"
)

// Reply is the one line back. Stop and kill are answered when the VM has ended.
type Reply struct {
	Status launch.Status `json:"status"`
	Error  string        `json:"error,omitempty"`
}

// maxRequest bounds a line; the socket is the owner's alone, so this only
// catches mistakes.
const maxRequest = 4 << 20

// ErrNoSupervisor says that nobody listens on the VM's control socket.
var ErrNoSupervisor = errors.New("the VM has no supervisor")

// Call sends a request to the supervisor of the VM in dir.
func Call(ctx context.Context, dir string, req Request) (Reply, error) {
	var reply Reply
	path, release, err := shortPath(dir, controlSocket)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = ErrNoSupervisor
		}
		return reply, err
	}
	defer release()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %v", ErrNoSupervisor, err)
		}
		return reply, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	b, err := json.Marshal(req)
	if err != nil {
		return reply, err
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return reply, err
	}
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		if ctx.Err() != nil {
			return reply, ctx.Err()
		}
		// Between its last status and its end a supervisor just hangs up.
		return reply, fmt.Errorf("%w: %v", ErrNoSupervisor, err)
	}
	if reply.Error != "" {
		return reply, errors.New(reply.Error)
	}
	return reply, nil
}

// shortPath names a socket in dir by way of an open descriptor of dir, because
// the whole name of a socket may have only 108 bytes.
func shortPath(dir, name string) (string, func(), error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), name), func() { f.Close() }, nil
}

// control serves the socket. handle answers one request; it may take long.
type control struct {
	listener net.Listener
	release  func()
	loops    sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool
	closed   bool
}

func listenControl(dir string, handle func(context.Context, Request) Reply) (*control, error) {
	// The lock is ours, so a socket that is there is a dead supervisor's.
	if err := os.Remove(filepath.Join(dir, controlSocket)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	path, release, err := shortPath(dir, controlSocket)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		release()
		return nil, err
	}
	c := &control{listener: l, release: release, conns: map[net.Conn]bool{}}
	c.loops.Add(1)
	go func() { defer c.loops.Done(); c.accept(handle) }()
	return c, nil
}

func (c *control) accept(handle func(context.Context, Request) Reply) {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			conn.Close()
			return
		}
		c.conns[conn] = true
		c.loops.Add(1)
		c.mu.Unlock()
		go func() {
			defer c.loops.Done()
			c.serve(conn, handle)
			c.mu.Lock()
			delete(c.conns, conn)
			c.mu.Unlock()
		}()
	}
}

func (c *control) serve(conn net.Conn, handle func(context.Context, Request) Reply) {
	defer conn.Close()
	req, err := readRequest(conn)
	var reply Reply
	if err != nil {
		reply.Error = err.Error()
	} else {
		reply = handle(context.Background(), req)
	}
	if b, err := json.Marshal(reply); err == nil {
		conn.Write(append(b, '\n'))
	}
}

// readRequest reads one line.
func readRequest(r io.Reader) (Request, error) {
	var req Request
	line, err := bufio.NewReaderSize(io.LimitReader(r, maxRequest), maxRequest).ReadSlice('\n')
	if err != nil {
		return req, fmt.Errorf("read a request: %w", err)
	}
	if err := json.Unmarshal(line, &req); err != nil {
		return req, fmt.Errorf("read a request: %w", err)
	}
	if req.Grace < 0 {
		return req, errors.New("a grace below zero")
	}
	return req, nil
}

// close stops taking requests, hangs up on those who have not yet sent one, and
// lets those finish that are being answered.
func (c *control) close() {
	c.mu.Lock()
	c.closed = true
	for conn := range c.conns {
		conn.SetReadDeadline(time.Unix(1, 0))
	}
	c.mu.Unlock()
	c.listener.Close()
	c.loops.Wait()
	c.release()
}
