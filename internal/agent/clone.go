package agent

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Cloner is an optional ability of a Machine: to be kept as the template of
// others, and to become one of its own after having been copied from one.
type Cloner interface {
	// Settle returns when the machine has finished its start, has given up what
	// must be each clone's own, and has nothing left to do. state is what its init
	// says of the start, empty if it says nothing.
	Settle(ctx context.Context) (state string, stages []*nodev1.Stage, err error)
	// Personalise makes a clone a machine of its own. An error leaves one that must
	// not be used.
	Personalise(ctx context.Context, q *nodev1.PersonaliseRequest) ([]*nodev1.Stage, error)
}

// maxSettle bounds how long a machine's start may take.
const maxSettle = 15 * time.Minute

func (a *Agent) Settle(ctx context.Context, q *connect.Request[nodev1.SettleRequest]) (*connect.Response[nodev1.SettleResponse], error) {
	c, err := a.cloner()
	if err != nil {
		return nil, err
	}
	limit := q.Msg.GetLimit().AsDuration()
	if limit <= 0 || limit > maxSettle {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("the limit must be above 0 and at most "+maxSettle.String()))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	state, stages, serr := c.Settle(ctx)
	if serr != nil {
		return nil, connect.NewError(connect.CodeInternal, serr)
	}
	return connect.NewResponse(&nodev1.SettleResponse{State: state, Stages: stages}), nil
}

func (a *Agent) Personalise(ctx context.Context, q *connect.Request[nodev1.PersonaliseRequest]) (*connect.Response[nodev1.PersonaliseResponse], error) {
	c, err := a.cloner()
	if err != nil {
		return nil, err
	}
	stages, perr := c.Personalise(ctx, q.Msg)
	if perr != nil {
		return nil, connect.NewError(connect.CodeInternal, perr)
	}
	return connect.NewResponse(&nodev1.PersonaliseResponse{Stages: stages}), nil
}

// cloner is the machine's ability; a machine that is a node already has it no more.
func (a *Agent) cloner() (Cloner, *connect.Error) {
	c, ok := a.cfg.Machine.(Cloner)
	if !ok {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("this machine cannot be copied while it runs"))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hello != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this machine is node "+a.hello.GetNodeId()+" already"))
	}
	return c, nil
}
