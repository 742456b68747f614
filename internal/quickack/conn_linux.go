package quickack

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// conn embeds the interface, not the type: with TCPConn's own WriteTo, io.Copy
// would go around Read.
type conn struct {
	net.Conn
	raw syscall.RawConn
}

func newConn(c *net.TCPConn) net.Conn {
	raw, err := c.SyscallConn()
	if err != nil {
		return c
	}
	out := &conn{c, raw}
	out.arm()
	return out
}

// arm asks for immediate acknowledgement. The kernel forgets it now and then, so
// it is asked again after each read; failure only costs time.
func (c *conn) arm() {
	_ = c.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		c.arm()
	}
	return n, err
}

// CloseWrite ends the writing half.
func (c *conn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }
