package agent

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Cloner is an optional ability of a Machine: to be kept as the template of
// others, and to become one of its own after having been copied from one.
type Cloner interface {
	// Settle returns when the machine has finished its start, has given up what
	// must be each clone's own, and has nothing left to do. state is what its init
	// says of the start, empty if it says nothing.
	Settle(ctx context.Context) (state string, stages []*nodev1.Stage, err error)
	// Personalise makes a clone a machine of its own as far as programs can see that
	// run at once; rest does what else there is, for which whatever its user runs has
	// to wait. An error of either leaves one that must not be used.
	Personalise(q *nodev1.PersonaliseRequest) (stages []*nodev1.Stage, rest func() error, err error)
}

// maxSettle bounds how long a machine's start may take.
const maxSettle = 15 * time.Minute

// Settle implements nodev1.AgentHandler.
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
	return connect.NewResponse(&nodev1.SettleResponse{State: state, Stages: stages, Births: true}), nil
}

// Birth is a nodeproto.Birth: it makes a clone a machine of its own and, if the
// request says so, the node that it is to be.
func (a *Agent) Birth(q []byte) ([]byte, func() error) {
	answer, rest, err := a.birth(q)
	if err != nil {
		answer, rest = &nodev1.BirthResponse{Error: err.Error()}, nil
	}
	b, err := proto.Marshal(answer)
	if err != nil { // a text that is not UTF-8
		a.cfg.Log.Error("a birth was not answered", "error", err)
		b, rest = nil, nil
	}
	return b, rest
}

func (a *Agent) birth(b []byte) (*nodev1.BirthResponse, func() error, error) {
	q := new(nodev1.BirthRequest)
	if err := proto.Unmarshal(b, q); err != nil {
		return nil, nil, err
	}
	c, cerr := a.cloner()
	if cerr != nil {
		return nil, nil, cerr
	}
	stages, rest, err := c.Personalise(q.GetPersonalise())
	if err != nil {
		return nil, nil, err
	}
	answer := &nodev1.BirthResponse{Stages: stages}
	if q.GetHello() != nil {
		if answer.Hello, cerr = a.adoptAs(context.Background(), q.GetHello()); cerr != nil {
			return nil, nil, cerr
		}
	}
	return answer, rest, nil
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
