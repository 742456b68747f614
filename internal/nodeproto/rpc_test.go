package nodeproto

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// agent answers a few calls; the rest are unimplemented.
type agent struct {
	nodev1.UnimplementedAgentHandler
}

func (agent) Hello(_ context.Context, q *connect.Request[nodev1.HelloRequest]) (*connect.Response[nodev1.HelloResponse], error) {
	return connect.NewResponse(&nodev1.HelloResponse{BootId: "boot of " + q.Msg.GetNodeId()}), nil
}

func (agent) ReadFile(_ context.Context, q *connect.Request[nodev1.ReadFileRequest], s *connect.ServerStream[nodev1.FileChunk]) error {
	for range q.Msg.GetLength() {
		if err := s.Send(&nodev1.FileChunk{Data: bytes.Repeat([]byte("x"), 64<<10)}); err != nil {
			return err
		}
	}
	return nil
}

func TestRPCOverThePort(t *testing.T) {
	d := newDevice()
	g := NewGuest(d.guest(), nil)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, g, NewHandler(agent{})) }()
	h := NewHost(d.host())
	defer h.Close()
	for range 5 {
		conn, err := h.Open(within(t))
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewClient(within(t), conn)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Hello(within(t), connect.NewRequest(&nodev1.HelloRequest{NodeId: "n"}))
		if err != nil {
			t.Fatal(err)
		}
		if got.Msg.GetBootId() != "boot of n" {
			t.Fatalf("got %v", got.Msg)
		}
		stream, err := c.ReadFile(within(t), connect.NewRequest(&nodev1.ReadFileRequest{Length: 40}))
		if err != nil {
			t.Fatal(err)
		}
		// The session is cut in the middle of a download by the next one.
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
	}
	cancel()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not end")
	}
}

func TestClientEndsWithItsConnection(t *testing.T) {
	a, b := net.Pipe()
	go ServeConn(within(t), b, NewHandler(agent{}))
	c, err := NewClient(within(t), a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hello(within(t), connect.NewRequest(&nodev1.HelloRequest{})); err != nil {
		t.Fatal(err)
	}
	b.Close()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the client does not notice")
	}
	if _, err := c.Hello(within(t), connect.NewRequest(&nodev1.HelloRequest{})); err == nil {
		t.Fatal("a call on an ended session succeeded")
	}
	c.Close()
}
