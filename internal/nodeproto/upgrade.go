package nodeproto

import (
	"bufio"
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"strconv"
	"time"

	millpond "millpond.dev/millpond"
)

// How a supervisor asks the server for the channel: POST ChannelPath with
// Upgrade: ChannelUpgrade, the node's credential as a bearer token, and the two
// headers. After 101 the connection is the session's bytes; the server speaks
// HTTP/2 on it as the client.
const (
	ChannelPath      = "/node/v1/channel"
	ChannelUpgrade   = "millpond-node/1"
	HeaderNode       = "Millpond-Node"
	HeaderGeneration = "Millpond-Generation"
	// HeaderHello is, in base64, the HelloResponse that the agent has given to its
	// supervisor; without it the server says Hello itself.
	HeaderHello = "Millpond-Hello"
)

// Upgrade asks for the channel on conn and returns the connection to use from
// then on. A refusal is a *millpond.Error whose Kind tells a wrong credential
// (Forbidden) and a node that is gone (NotFound) from the rest. hello may be nil; host is for the
// Host header. On an error the caller closes conn.
func Upgrade(ctx context.Context, conn net.Conn, host string, node millpond.NodeID, generation int, token string, hello []byte) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	q, err := http.NewRequest(http.MethodPost, "https://"+host+ChannelPath, nil)
	if err != nil {
		return nil, err
	}
	q.Header.Set("Connection", "Upgrade")
	q.Header.Set("Upgrade", ChannelUpgrade)
	q.Header.Set("Authorization", "Bearer "+token)
	q.Header.Set(HeaderNode, string(node))
	q.Header.Set(HeaderGeneration, strconv.Itoa(generation))
	if hello != nil {
		q.Header.Set(HeaderHello, base64.StdEncoding.EncodeToString(hello))
	}
	if err := q.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, q)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body.Close()
		kind := millpond.Unavailable
		switch resp.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			kind = millpond.Forbidden
		case http.StatusGone, http.StatusNotFound:
			kind = millpond.NotFound
		}
		return nil, millpond.Errorf(kind, "ChannelRefused", "The server answered the request for the node channel with %s.", resp.Status)
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return ReadAhead(conn, r), nil
}

// ReadAhead is conn some of whose bytes r has read already.
func ReadAhead(conn net.Conn, r *bufio.Reader) net.Conn {
	if r.Buffered() == 0 {
		return conn
	}
	return &readAhead{Conn: conn, r: r}
}

type readAhead struct {
	net.Conn
	r *bufio.Reader
}

func (c *readAhead) Read(b []byte) (int, error) { return c.r.Read(b) }
