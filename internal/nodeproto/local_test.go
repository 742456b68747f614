package nodeproto

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// deaf answers Hello, streams two events, and then heeds nothing but its context.
type deaf struct {
	nodev1.UnimplementedAgentHandler
}

type deafKey struct{}

func (deaf) Hello(ctx context.Context, q *connect.Request[nodev1.HelloRequest]) (*connect.Response[nodev1.HelloResponse], error) {
	name, _ := ctx.Value(deafKey{}).(string)
	return connect.NewResponse(&nodev1.HelloResponse{BootId: name + q.Msg.GetNodeId()}), nil
}

func (deaf) Watch(ctx context.Context, _ *connect.Request[nodev1.WatchRequest], s *connect.ServerStream[nodev1.Event]) error {
	for i := range 2 {
		if err := s.Send(&nodev1.Event{Sequence: uint64(i + 1)}); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestLocalClient(t *testing.T) {
	ctx := context.WithValue(context.Background(), deafKey{}, "boot of ")
	c := NewLocalClient(ctx, NewHandler(deaf{}))
	h, err := c.Hello(context.Background(), connect.NewRequest(&nodev1.HelloRequest{NodeId: "n"}))
	if err != nil || h.Msg.GetBootId() != "boot of n" {
		t.Fatalf("%v, %v", h, err)
	}
	if _, err := c.Freeze(context.Background(), connect.NewRequest(&nodev1.FreezeRequest{})); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Fatalf("what the agent does not have: %v", err)
	}
	stream, err := c.Watch(context.Background(), connect.NewRequest(&nodev1.WatchRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if !stream.Receive() || stream.Msg().GetSequence() != uint64(i+1) {
			t.Fatalf("event %d: %v, %v", i, stream.Msg(), stream.Err())
		}
	}
	ended := make(chan error, 1)
	go func() {
		stream.Receive()
		ended <- stream.Err()
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a stream ended well with the session")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a stream goes on after the session")
	}
	<-c.Done()
	if _, err := c.Hello(context.Background(), connect.NewRequest(&nodev1.HelloRequest{})); err == nil {
		t.Error("a call after the end is answered")
	}
}

// TestLocalCallEndsWithItsContext: whoever has given up is not held by an agent.
func TestLocalCallEndsWithItsContext(t *testing.T) {
	c := NewLocalClient(context.Background(), NewHandler(deaf{}))
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.Watch(ctx, connect.NewRequest(&nodev1.WatchRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for stream.Receive() {
	}
	if connect.CodeOf(stream.Err()) != connect.CodeCanceled {
		t.Errorf("%v", stream.Err())
	}
}
