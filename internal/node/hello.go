package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// rows are the session's node and that node's pool as they are now.
func (x *session) rows(ctx context.Context) (n millpond.Node, p millpond.Pool, err error) {
	err = x.svc.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if n, err = tx.Node(x.node); err != nil {
			return err
		}
		p, err = readPool(tx, n.Account, n.Pool)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		err = errNoNode()
	}
	return n, p, err
}

// hello gives the node its identity and brings its row to what booted.
func (x *session) hello(ctx context.Context) (*nodev1.HelloResponse, millpond.Node, error) {
	n, p, err := x.rows(ctx)
	if err != nil {
		return nil, n, err
	}
	if n.Generation != x.generation {
		return nil, n, millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "The node is of generation %d now, not %d.", n.Generation, x.generation)
	}
	acct, err := x.svc.Accounts.Account(ctx, n.Account)
	if err != nil {
		return nil, n, fmt.Errorf("find the account of node %s: %w", n.ID, err)
	}
	x.svc.mu.Lock()
	x.acct, x.url, x.pool = n.Account, "https://"+acct.Host()+"/", n.Pool.Key()
	x.svc.mu.Unlock()
	h := x.said
	if h == nil {
		if h, err = x.say(ctx, p, n); err != nil {
			return nil, n, err
		}
	}
	x.svc.heard(x.node)
	var machine launch.Status
	told := false
	if outran(n) {
		// A quick one's agent speaks before the loop of the machines has seen it.
		if machine, told, err = launch.Tell(ctx, x.svc.Launcher, n.ID); err != nil {
			return nil, n, fmt.Errorf("ask for the machine of node %s: %w", n.ID, err)
		}
	}
	lost := 0
	err = x.svc.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		n, err = tx.Node(x.node)
		if err != nil {
			return err
		}
		if n.Generation != x.generation {
			return errNoNode()
		}
		if told && outran(n) {
			noteLaunched(&n, &machine, tx.Now)
		}
		lost, err = x.register(tx, book, &n, h)
		return err
	})
	if lost > 0 {
		x.svc.Log.Warn("tasks lost with the boot they ran in; queued again", "node", n.ID, "tasks", lost)
	}
	return h, n, err
}

// say says Hello to the agent.
func (x *session) say(ctx context.Context, p millpond.Pool, n millpond.Node) (*nodev1.HelloResponse, error) {
	q := x.svc.greeting(p, n)
	q.Entropy = make([]byte, 64)
	if _, err := x.svc.Random(q.Entropy); err != nil {
		return nil, err
	}
	q.Now = timestamppb.New(x.svc.Clock.Now())
	q.HostAddress, q.ServerAddress = n.HostAddress, launch.ServerAddress(x.svc.Config.Listener, n.HostAddress)
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := x.client.Hello(call, connect.NewRequest(q))
	if err != nil {
		return nil, fmt.Errorf("say hello to node %s: %w", n.ID, err)
	}
	return answer.Msg, nil
}

// greeting is a Hello without what is new each time, and without what only the
// launcher knows before the machine runs.
func (s *Service) greeting(p millpond.Pool, n millpond.Node) *nodev1.HelloRequest {
	q := &nodev1.HelloRequest{
		NodeId: string(n.ID), Generation: int32(n.Generation), Hostname: hostname(n.ID),
		PoolId: string(n.Pool), AccountName: string(n.Account), ServerVersion: s.Config.Version, LastSequence: n.LastSequence,
		ServerCa: s.Config.ServerCA, AzureHosts: s.Config.AzureHosts, Identities: len(p.Spec.Identities) > 0,
	}
	if c := card(p, n); c.LAN != "" {
		q.NetworkAddress, q.NetworkDomain = c.Address.String(), launch.NetworkDomain
	}
	return q
}

// register writes what an agent said in its Hello. A boot id that is new means
// that everything that ran is gone: tasks go back to the queue and the start
// task runs again. Reports that the agent kept from before that boot come later
// and find their tasks elsewhere; that costs a second run, never a wrong state.
func (x *session) register(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node, h *nodev1.HelloResponse) (lost int, err error) {
	booted := n.BootID != h.GetBootId()
	n.AgentVersion, n.RootDir, n.SSH = h.GetAgentVersion(), h.GetRootDir(), h.GetSshServer()
	p, err := readPool(tx, n.Account, n.Pool)
	if err != nil {
		return 0, err
	}
	// The address within a network that is shared is given, whatever other cards the
	// machine has.
	if c := card(p, *n); c.LAN != "" {
		n.Address = c.Address.String()
	} else if h.GetAddress() != "" {
		n.Address = h.GetAddress()
	}
	agree(n, h, booted)
	if !booted {
		if n.State == millpond.NodeUnknown {
			n.Enter(millpond.NodeFound, "contact again", tx.Now)
			x.svc.proceed(book, n, tx.Now)
		}
		return 0, x.svc.putNode(tx, book, *n)
	}
	if n.State == millpond.NodeRebooting && n.Pending != "" {
		// It booted by itself before it was told to, which is as good.
		n.Pending, n.PendingOption = "", ""
	}
	if n.State != millpond.NodeLeavingPool {
		if lost, err = book.LoseAll(n.ID); err != nil {
			return 0, err
		}
	}
	if n.BootID != "" {
		n.BootSteps = nil // those of the boot before
	}
	n.BootID, n.LastBoot, n.AgentUpdated = h.GetBootId(), h.GetBooted().AsTime(), tx.Now
	if h.GetBooted() == nil {
		n.LastBoot = tx.Now
	}
	if n.Allocated.IsZero() {
		n.Allocated = tx.Now
	}
	setPhase(n, millpond.PhaseBoot, tx.Now)
	for _, stage := range h.GetStages() {
		n.BootSteps = append(n.BootSteps, millpond.BootStep{Name: stage.GetName(), Duration: stage.GetDuration().AsDuration()})
	}
	if !n.Enter(millpond.NodeRegistered, "its agent spoke", tx.Now) {
		return lost, x.svc.putNode(tx, book, *n)
	}
	n.Installing = len(p.Spec.Packages) > 0
	n.Certificates = p.Spec.Certificates
	n.StartTask, n.StartRevision = p.Spec.StartTask, p.StartRevision
	if n.RolledBack && p.Rollout != nil {
		n.StartTask = p.Rollout.WasStart
	}
	n.Preparing = p.Spec.Prepared()
	if n.StartTask == nil {
		n.StartTaskInfo = nil
	} else {
		number := 1
		if n.StartTaskInfo != nil {
			number = n.StartTaskInfo.Attempt + 1
		}
		n.StartTaskInfo = &millpond.StartTaskInfo{State: "running", Attempt: number, StartTime: tx.Now}
	}
	x.svc.proceed(book, n, tx.Now)
	return lost, x.svc.putNode(tx, book, *n)
}

// agree brings the row's last event to numbers that the agent will get to: the
// session waits for the events that the agent kept, and must not wait for others.
func agree(n *millpond.Node, h *nodev1.HelloResponse, booted bool) {
	switch last := h.GetLastSequence(); {
	case h.GetForgotten() > n.LastSequence:
		// The row is older than what the agent was told to forget.
		n.LastSequence = h.GetForgotten()
	case last >= n.LastSequence:
	case booted:
		// An agent that does not know what the server knows, and lost the end of its
		// journal. What it keeps was seen; what ran is lost with the boot.
		n.LastSequence = last
	default:
		n.LastSequence = 0
	}
}

// putNode writes a row and lets the ledger settle idle, running and offline.
func (s *Service) putNode(tx *sqlite.Tx, book *ledger.Book, n millpond.Node) error {
	if err := tx.PutNode(n); err != nil {
		return err
	}
	return book.Refresh(n.ID)
}

// proceed takes a starting node as far as its start task allows.
func (s *Service) proceed(book *ledger.Book, n *millpond.Node, now time.Time) {
	if n.Installing {
		return // install goes on from here
	}
	i := n.StartTaskInfo
	switch {
	case n.Preparing:
	case n.StartTask == nil || i == nil || !n.StartTask.WaitForSuccess || i.Result == "success":
		was := n.State
		if n.Enter(millpond.NodeReady, "ready", now) {
			n.Errors = nil
			if was != n.State {
				s.observeParts(*n, now)
				s.traceBoot(n, now, "")
			}
			if _, timed := n.Phases[millpond.PhaseIdle]; !timed {
				setPhase(n, millpond.PhaseStartTask, now)
				if n.Phases == nil {
					n.Phases = map[string]time.Duration{}
				}
				n.Phases[millpond.PhaseIdle] = now.Sub(n.Created)
				s.observeBoot(n.Phases)
			}
			book.Scheduler = true
		}
	case i.State == "running":
		n.Enter(millpond.NodeStartTaskBegan, "its start task runs", now)
	default:
		if n.Enter(millpond.NodeStartTaskGaveUp, "its start task failed", now) {
			n.Errors = append(n.Errors, startTaskFault(i, now))
			s.traceBoot(n, now, "its start task failed")
		}
	}
}

// setPhase notes how long a phase of the first boot took: from the end of the
// phases before it until now.
func setPhase(n *millpond.Node, phase string, now time.Time) {
	if _, timed := n.Phases[phase]; timed {
		return
	}
	if n.Phases == nil {
		n.Phases = map[string]time.Duration{}
	}
	d := now.Sub(n.Created)
	for p, took := range n.Phases {
		if p != millpond.PhaseIdle {
			d -= took
		}
	}
	n.Phases[phase] = d
}
