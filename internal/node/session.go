package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/wake"
)

// session is the contact with one agent. One goroutine lives in it, which reads
// what the agent says. The rest are errands: to apply the agent's events, to tell it
// what the rows want, to acknowledge, to keep what tasks wrote.
type session struct {
	svc        *Service
	node       millpond.NodeID
	generation int
	client     nodev1.AgentClient
	said       *nodev1.HelloResponse // before the session, nil if nothing was
	// acct and url are the account's name and address, known after hello, as is
	// the pool's key; Service.mu guards acct and pool until then.
	acct   millpond.AccountName
	url    string
	pool   string
	cancel context.CancelCauseFunc
	done   chan struct{}
	wake   errand // tell
	acks   errand // acknowledge
	apply  errand
	// keeps asks for what tasks wrote to be kept; the signal tells keep, which waits
	// for quiet, of each time.
	keeps  errand
	kept   *wake.Signal
	synced atomic.Bool // the events that were kept at Hello are applied
	// ready: Hello is answered; Service.mu guards it.
	ready bool

	// look asks for a look at the rows; stale says that what was read of the pool
	// may be old; blocked that the end of an attempt lets another go on.
	look, stale, blocked atomic.Bool

	// noticed is the notice that the agent was given last, want what the rows wanted
	// when they were read last, and stopped the attempts that were told to stop; only
	// tell uses them.
	noticed time.Time
	want    wanted
	stopped map[attempt]bool
	// instances says that the agent knows instances of multi-instance tasks;
	// proceeded are the primaries that were told to go on. Both belong to serve and
	// to what it starts for telling.
	instances bool
	// knowsCertificates says that the agent installs certificates for attempts.
	knowsCertificates bool
	proceeded         map[attempt]bool

	mu sync.Mutex
	// offers are tasks that commits gave to this node since the last round.
	offers []millpond.Task
	// running are the attempts that the agent runs as far as is known.
	running map[attempt]bool
	// ended are attempts whose end was reported in this session: a plan made
	// from older rows must not start them again.
	ended map[attempt]ending
	round int
	// logins is held while the agent is told of accounts.
	logins sync.Mutex

	// through is the last event up to which the rows know everything.
	through uint64
	// events wait to be applied; room is waked when they became fewer. last is the
	// last event that was kept at Hello.
	events []*nodev1.Event
	room   *wake.Signal
	last   uint64
}

// attempt is one run of a task. job is a key and empty for the start task.
type attempt struct {
	job, task string
	number    int
}

// ending is the round in which an attempt's end was reported, or after the
// commit, in which it landed in the rows.
type ending struct {
	round     int
	committed bool
}

// offer takes a task that was given to this node; Service.mu is held.
func (x *session) offer(t millpond.Task) {
	x.mu.Lock()
	x.offers = append(x.offers, t)
	x.mu.Unlock()
	x.wake.Wake()
}

// startTaskID is the task id under which start tasks run.
const startTaskID = "startup"

// callLimit bounds one call of an agent that does no work worth waiting for.
const callLimit = 30 * time.Second

// Serve runs the session with a node's agent until ctx ends, contact is lost, or
// another session of the same node begins. The caller has authenticated it. said is
// what the agent has answered to the greeting of its machine's spec; nil if Hello is
// yet to be said.
func (s *Service) Serve(ctx context.Context, id millpond.NodeID, generation int, client nodev1.AgentClient, said *nodev1.HelloResponse) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := &session{svc: s, node: id, generation: generation, client: client, said: said, cancel: cancel, done: make(chan struct{}), kept: wake.New(), room: wake.New(),
		running: map[attempt]bool{}, ended: map[attempt]ending{}, proceeded: map[attempt]bool{}, stopped: map[attempt]bool{}}
	defer close(x.done)
	if err := s.enter(ctx, x); err != nil {
		return err
	}
	defer s.leave(x)
	err := x.serve(ctx)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}

// enter makes x the node's session after the one before has ended.
func (s *Service) enter(ctx context.Context, x *session) error {
	for {
		s.mu.Lock()
		old := s.sessions[x.node.Key()]
		if old == nil {
			s.sessions[x.node.Key()] = x
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		old.cancel(errors.New("another session of the node began"))
		select {
		case <-old.done:
			// leave has removed it, or is about to.
			s.mu.Lock()
			if s.sessions[x.node.Key()] == old {
				delete(s.sessions, x.node.Key())
			}
			s.mu.Unlock()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Service) leave(x *session) {
	s.mu.Lock()
	if s.sessions[x.node.Key()] == x {
		delete(s.sessions, x.node.Key())
	}
	s.mu.Unlock()
	// A node that is to reboot or leave may be dealt with now.
	s.Wakes.Nodes.Wake()
}

func (x *session) serve(ctx context.Context) error {
	var hello *nodev1.HelloResponse
	var n millpond.Node
	err := aside(func() (err error) {
		hello, n, err = x.hello(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for _, k := range hello.GetRunning() {
		x.running[attemptOf(k)] = true
	}
	x.through, x.instances, x.knowsCertificates = n.LastSequence, hello.GetInstances(), hello.GetCertificates()
	x.svc.mu.Lock()
	x.ready = true
	x.svc.mu.Unlock()
	x.svc.heard(x.node)
	x.svc.Log.Info("node speaks", "pool", n.Pool, "node", x.node, "generation", x.generation, "boot", hello.GetBootId(), "state", n.State)

	// Before any task: one may run as such an account and want its keys.
	if err := aside(func() error { return x.beginLogins(ctx) }); err != nil {
		return err
	}

	w := newWork(ctx)
	x.acks.begin(w, x.acknowledge)
	x.apply.begin(w, x.applySome)
	x.wake.begin(w, x.tell)
	if x.svc.Kept != nil {
		x.keeps.begin(w, x.keep)
	}
	// What failed to be prepared has made the node unusable: another boot tries it
	// once more, not another session, and not that of a boot that is about to end.
	if n.State == millpond.NodeStarting {
		if n.Preparing {
			w.start(func(ctx context.Context) error { return x.prepare(ctx, hello.GetBootId()) })
		}
		if n.Installing {
			w.start(x.install)
		}
	}
	x.keepSoon()
	x.look.Store(true)
	x.wake.Wake()
	x.svc.Wakes.Scheduler.Wake()
	x.svc.Wakes.Nodes.Wake()
	x.svc.Wakes.Allocator.Wake()
	err = x.listen(w, hello.GetLastSequence())
	if failed := w.end(); failed != nil {
		return failed
	}
	return err
}

// mostEvents is how many events wait at most to be applied, perTake how many are
// applied together.
const mostEvents, perTake = 512, 256

// mostTokens is how many tokens one node is given at the same time.
const mostTokens = 8

// listen takes the agent's events as they come. It runs ahead of what applies
// them, so that events that come together are applied together.
func (x *session) listen(w *work, kept uint64) error {
	ctx := w.ctx
	x.mu.Lock()
	after := x.through
	x.last = kept
	x.mu.Unlock()
	if kept <= after {
		x.sync()
	}
	stream, err := x.client.Watch(ctx, connect.NewRequest(&nodev1.WatchRequest{After: after, Bundles: true}))
	if err != nil {
		return fmt.Errorf("watch node %s: %w", x.node, err)
	}
	defer stream.Close()
	silence := time.AfterFunc(x.svc.Config.Silence, func() { x.cancel(fmt.Errorf("nothing was heard of node %s for %s", x.node, x.svc.Config.Silence)) })
	defer silence.Stop()
	tokens := make(chan struct{}, mostTokens)
	for stream.Receive() {
		silence.Reset(x.svc.Config.Silence)
		x.svc.heard(x.node)
		if q := stream.Msg().GetTokenWanted(); q != nil {
			// Who asks for more waits: a node whose root is somebody else's asks as it likes.
			select {
			case tokens <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			w.start(func(ctx context.Context) error {
				defer func() { <-tokens }()
				x.giveToken(ctx, q)
				return nil
			})
			continue
		}
		if stream.Msg().GetSequence() == 0 {
			x.svc.noteBeat(x.node, stream.Msg().GetHeartbeat())
			continue
		}
		if err := x.hand(ctx, append([]*nodev1.Event{stream.Msg()}, stream.Msg().GetMore()...)); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("watch node %s: %w", x.node, err)
	}
	return fmt.Errorf("node %s ended the session", x.node)
}

// sync lets tell begin: an attempt that ended out of contact must not be started
// again.
func (x *session) sync() {
	x.synced.Store(true)
	x.wake.Wake()
}

// hand has events applied; it waits while there are too many.
func (x *session) hand(ctx context.Context, events []*nodev1.Event) error {
	x.mu.Lock()
	x.events = append(x.events, events...)
	full := len(x.events) > mostEvents
	x.mu.Unlock()
	x.apply.Wake()
	for full {
		select {
		case <-x.room.C():
		case <-ctx.Done():
			return ctx.Err()
		}
		x.mu.Lock()
		full = len(x.events) > mostEvents
		x.mu.Unlock()
	}
	return nil
}

// applySome applies what has been handed.
func (x *session) applySome(ctx context.Context) error {
	for {
		x.mu.Lock()
		n := min(len(x.events), perTake)
		batch := x.events[:n:n]
		if x.events = x.events[n:]; len(x.events) == 0 {
			x.events = nil
		}
		x.mu.Unlock()
		if n == 0 {
			return nil
		}
		x.room.Wake()
		through, err := x.take(ctx, batch)
		if err != nil {
			return err
		}
		if through >= x.last && !x.synced.Load() {
			x.sync()
		}
	}
}

// take applies a batch of events and has them acknowledged. That an attempt
// began changes no row; it is acknowledged with the next end.
func (x *session) take(ctx context.Context, batch []*nodev1.Event) (uint64, error) {
	var ends []*nodev1.Event
	var keys []attempt
	var through, known uint64
	for _, e := range batch {
		through = max(through, e.GetSequence())
		if e.GetTaskCoordinated() != nil {
			ends, known = append(ends, e), max(known, e.GetSequence())
		}
		if c := e.GetTaskCompleted(); c != nil {
			ends, keys, known = append(ends, e), append(keys, attemptOf(c.GetKey())), max(known, e.GetSequence())
		}
	}
	if len(ends) == 0 {
		return through, nil
	}
	x.mu.Lock()
	for _, k := range keys {
		x.ended[k] = ending{round: x.round}
	}
	x.mu.Unlock()
	if err := x.svc.reports.apply(ctx, x, ends); err != nil {
		return 0, err
	}
	x.mu.Lock()
	for _, k := range keys {
		x.ended[k] = ending{round: x.round, committed: true}
		delete(x.running, k)
	}
	x.through = max(x.through, known)
	x.mu.Unlock()
	x.acks.Wake()
	x.keepSoon()
	if x.blocked.Swap(false) {
		x.look.Store(true)
		x.wake.Wake()
	}
	return through, nil
}

// gather is how long an acknowledgement waits for more to acknowledge. At full
// speed acknowledgements were half of all calls; an agent keeps far more events
// than come in this time.
const gather = 300 * time.Millisecond

// acknowledge lets the agent forget what was applied, off the way of the
// events themselves.
func (x *session) acknowledge(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(gather):
	}
	x.mu.Lock()
	through := x.through
	x.mu.Unlock()
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := x.client.Acknowledge(call, connect.NewRequest(&nodev1.AcknowledgeRequest{Through: through})); err != nil {
		return fmt.Errorf("acknowledge to node %s: %w", x.node, err)
	}
	return nil
}
