package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"millpond.dev/millpond/internal/nodeproto"
)

// noHostPause is slept after a read of 0 bytes, which the port gives at once
// while no host is connected. The driver offers nothing to wait on that does
// not also report that state without end, so this is a poll, the only one.
const noHostPause = 20 * time.Millisecond

// OpenPort finds and opens the channel's virtio-serial port. It waits for the
// port until ctx ends: the driver may be loading still. path, when not empty,
// is taken instead of searching; it may be a socket on which the host's end listens.
func OpenPort(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	loaded := false
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		p := path
		if p == "" {
			p = findPort("/sys/class/virtio-ports", "/dev")
		}
		var err error
		if info, e := os.Stat(p); e == nil && info.Mode().Type() == os.ModeSocket {
			var conn net.Conn
			if conn, err = new(net.Dialer).DialContext(ctx, "unix", p); err == nil {
				return conn, nil
			}
		} else if p != "" {
			var fd int
			// Blocking on purpose: the runtime's poller would take the hang-up,
			// which the port reports while no host is there, for readiness.
			fd, err = syscall.Open(p, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
			if err == nil {
				return &Port{f: os.NewFile(uintptr(fd), p)}, nil
			}
		} else {
			err = fmt.Errorf("no virtio-serial port named %s: the machine was started without one, or the driver virtio_console is missing", nodeproto.PortName)
			if !loaded {
				loaded = true
				_ = exec.CommandContext(ctx, "modprobe", "-q", "virtio_console").Run()
				continue
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// findPort looks through sysfs; it needs no udev. Without devtmpfs the node is
// not in /dev and nothing is found.
func findPort(class, dev string) string {
	names, _ := filepath.Glob(filepath.Join(class, "*", "name"))
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == nodeproto.PortName {
			p := filepath.Join(dev, filepath.Base(filepath.Dir(n)))
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	return ""
}

// Port is the device as a stream: Read waits while no host is connected.
type Port struct {
	f      *os.File
	closed atomic.Bool
}

func (p *Port) Read(b []byte) (int, error) {
	for {
		n, err := p.f.Read(b)
		if n > 0 || err != nil && err != io.EOF {
			return n, err
		}
		if p.closed.Load() {
			return 0, io.EOF
		}
		time.Sleep(noHostPause)
	}
}

func (p *Port) Write(b []byte) (int, error) { return p.f.Write(b) }

// Close marks the port as closed. A read that the device holds goes on until
// bytes come or the process ends; closing the file under it is not safe.
func (p *Port) Close() error {
	p.closed.Store(true)
	return nil
}
