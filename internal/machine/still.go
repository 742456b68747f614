package machine

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

const (
	// trimLimit bounds the trim before a freeze and the freeze itself.
	trimLimit = 2 * time.Minute
	// stillLimit is after what time the guest thaws by itself.
	stillLimit = 20 * time.Second
)

// Still makes the guest of a machine give its free blocks back and hold every
// write until thaw, which the caller calls in any case and soon: the error of
// thaw says that the guest did not hold that long. A machine that does not run
// is still by itself. One whose agent does not answer, or cannot, is an error;
// a disk of it can be captured as after a power cut.
func (s *Service) Still(ctx context.Context, id millpond.ResourceID) (thaw func() error, err error) {
	v, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if v.Power == millpond.VMDeallocated || v.Power == millpond.VMStopped {
		return func() error { return nil }, nil
	}
	s.mu.Lock()
	x := s.sessions[v.Node().Key()]
	ready := x != nil && x.ready
	s.mu.Unlock()
	if !ready {
		return nil, millpond.Errorf(millpond.Conflict, "VMAgentStatusCommunicationError", "VM '%s' has not reported status for VM agent or extensions.", v.ID.Name())
	}
	// Captures of two disks of one machine would thaw each other's guest.
	select {
	case x.still <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	call, cancel := context.WithTimeout(ctx, trimLimit)
	defer cancel()
	began := s.Clock.Now()
	a, err := x.client.Freeze(call, connect.NewRequest(&nodev1.FreezeRequest{Limit: durationpb.New(stillLimit)}))
	if err != nil {
		// It may have frozen all the same, and the answer be lost.
		go func() { _ = x.thaw(ctx); <-x.still }()
		return nil, millpond.Errorf(millpond.Conflict, "VMAgentStatusCommunicationError", "The agent of VM '%s' cannot hold its file systems still: %v", v.ID.Name(), err)
	}
	s.Log.Info("a guest holds still", "vm", v.ID.String(), "filesystems", a.Msg.GetFrozen(), "trimmed", a.Msg.GetTrimmed(), "took", s.Clock.Now().Sub(began))
	return func() error {
		defer func() { <-x.still }()
		return x.thaw(ctx)
	}, nil
}

// thaw ends what Still began, also when its caller has gone.
func (x *session) thaw(ctx context.Context) error {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), stillLimit)
	defer cancel()
	_, err := x.client.Thaw(call, connect.NewRequest(&nodev1.ThawRequest{}))
	return err
}
