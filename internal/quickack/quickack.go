// Package quickack makes TCP connections acknowledge what they receive at once.
// Python's HTTP client sends the head and the body of a request in two segments
// and holds the second until the first is acknowledged; the kernel waits up to
// 40 ms with that. Over a loopback those 40 ms are most of a request's time.
//
// It changes nothing else about a connection. httpd and execproxy wrap the
// connections that they accept; on systems other than Linux it does nothing.
package quickack

import "net"

// Listener wraps the connections that l accepts.
func Listener(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return newConn(tcp), err
	}
	return c, err
}
