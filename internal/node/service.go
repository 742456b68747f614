// Package node holds the verbs of compute nodes, the loop that makes machines
// match node rows, and the sessions with the agents in them. It tells the launcher
// what spares pools want, gives agents the tokens of their pool's identities, and
// turns boots into traces and metrics. It decides no pool's size and no task's place;
// packages pool and sched do.
package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/kept"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Images is what nodes need of the galleries.
type Images interface {
	// ChooseReplicas fills in the Stores of each disk of boot, spread over the
	// replicas of the account's region, or the Backing of a base image.
	ChooseReplicas(ctx context.Context, acct millpond.BatchAccount, boot millpond.BootImage, node millpond.NodeID) (millpond.BootImage, error)
}

// Accounts finds Batch accounts by name.
type Accounts interface {
	Account(ctx context.Context, name millpond.AccountName) (millpond.BatchAccount, error)
}

// Wakes are the loops that nodes wake.
type Wakes struct{ Allocator, Nodes, Scheduler, Jobs *wake.Signal }

// Config are the limits that an operator may change; zero values get defaults.
type Config struct {
	// BootLimit is how long a machine may run before its agent speaks; 5 min.
	BootLimit time.Duration
	// Silence is how long a node may be out of contact before it is unknown; 60 s.
	Silence time.Duration
	// StopGrace is how long a reboot or reimage waits for tasks to stop; 15 s.
	StopGrace time.Duration
	// LaunchTries is how often the host may fail to launch one machine; 3.
	LaunchTries int
	// BootsPerReplica is how many nodes may boot from one replica of an image at the
	// same time while boots are quick; a quarter of it may from the beginning. 400.
	BootsPerReplica int
	// Spares is how many machines a pool that does not say has kept ready; 0.
	Spares int
	// Relaunches is how often in a row a node gets a new machine after its own died; 3.
	Relaunches int
	// Every is the loop's timer, a safety net behind the wakes; 15 s.
	Every time.Duration
	// LogDir keeps consoles of nodes that are gone; empty keeps none.
	LogDir string
	// LogRetention is how long they are kept; 7 days.
	LogRetention time.Duration
	// KeepDelay is how long a node must be quiet before what its tasks wrote is
	// kept; 2 s. KeepPart is how much of each end of a file; 1 MiB.
	KeepDelay time.Duration
	KeepPart  int64
	// Version is the server's own, told to agents.
	Version string
	// Listener is host:port of the server, and ServerCA its CA as PEM: what nodes
	// call for AzureHosts, which are names, or ends of names with a dot first.
	Listener   string
	ServerCA   []byte
	AzureHosts []string
	// EndpointFile and CAFile are how supervisors reach the server.
	EndpointFile, CAFile string
}

// Networks is what nodes need of virtual networks.
type Networks interface {
	// NodePlace is the card of a node of a pool in a subnet, without MAC and ports;
	// ok is false for one of a pool in no subnet.
	NodePlace(tx *sqlite.Tx, node millpond.NodeID) (card launch.Card, ok bool, err error)
}

// Deps are the parts that a Service is made of.
type Deps struct {
	DB       *sqlite.DB
	Clock    clock.Clock
	Log      *slog.Logger
	Launcher launch.Launcher
	Images   Images
	Accounts Accounts
	// Links is nil when there are no storage accounts, and Networks when there are no
	// virtual networks.
	Links    Links
	Networks Networks
	// Identities is nil when there are no managed identities.
	Identities Identities
	// Sizes finds a VM size; nil is millpond.FindVMSize.
	Sizes func(name string) (millpond.VMSize, bool)
	// Random fills its argument with random bytes, such as crypto/rand.Read.
	Random func([]byte) (int, error)
	// Tracer gets a span for each boot of a node; nil for none.
	Tracer trace.Tracer
	// Kept has what tasks and nodes wrote, after they are gone; nil keeps nothing.
	Kept   *kept.Store
	Wakes  Wakes
	Config Config
}

// Service is the verbs of nodes. It is safe for concurrent use.
type Service struct {
	Deps
	started time.Time
	reports reporter
	phases  *prometheus.HistogramVec
	parts   *prometheus.HistogramVec
	// keeping bounds the nodes that are asked for outputs at once.
	keeping chan struct{}
	pace    reconcile.Pace    // of match
	windows map[string]Window // of match
	spares  *wake.Signal
	holds   launch.Holds

	mu       sync.Mutex
	sessions map[string]*session
	// settings are the settings of jobs, by account and job key, as far as
	// sessions asked for them.
	settings map[[2]string]jobSettings
	// jobChanges counts what follow saw of jobs.
	jobChanges int
	contact    map[string]time.Time // when a node was last heard, by key
	asked      map[string]time.Time // when a node was asked to reboot, by key
	// dropped are places in Kept that are to be forgotten.
	dropped map[kept.Place]struct{}
	// beats are the last heartbeats of nodes, by key.
	beats map[string]beats
	// unspared are pools whose spares the launcher was not told of, by spareOwner.
	unspared map[string]millpond.Spares
}

// New makes a Service.
func New(d Deps) *Service {
	if d.Sizes == nil {
		d.Sizes = millpond.FindVMSize
	}
	if d.Links == nil {
		d.Links = noLinks{}
	}
	c := &d.Config
	c.BootLimit = orDefault(c.BootLimit, 5*time.Minute)
	c.Silence = orDefault(c.Silence, time.Minute)
	c.StopGrace = orDefault(c.StopGrace, 15*time.Second)
	c.LaunchTries = orDefault(c.LaunchTries, 3)
	c.BootsPerReplica = max(4, orDefault(c.BootsPerReplica, bootsPerReplica))
	c.Relaunches = orDefault(c.Relaunches, 3)
	c.Every = orDefault(c.Every, 15*time.Second)
	c.LogRetention = orDefault(c.LogRetention, 7*24*time.Hour)
	c.KeepDelay = orDefault(c.KeepDelay, 2*time.Second)
	c.KeepPart = orDefault(c.KeepPart, 1<<20)
	s := &Service{Deps: d, started: d.Clock.Now(), phases: newPhases(), parts: newParts(), spares: wake.New(), keeping: make(chan struct{}, keepAtOnce), sessions: map[string]*session{}, settings: map[[2]string]jobSettings{},
		contact: map[string]time.Time{}, asked: map[string]time.Time{}, dropped: map[kept.Place]struct{}{}, beats: map[string]beats{}}
	s.reports.svc = s
	// Reading nothing, it cannot fail.
	_ = d.DB.Follow(context.Background(), nil, s.follow)
	return s
}

// follow hands what a commit assigned to the sessions of its nodes, so that
// they need not look for it. Everything else they are waked for.
func (s *Service) follow(c sqlite.Changes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobChanges += len(c.Jobs)
	for _, j := range c.Jobs {
		delete(s.settings, [2]string{j.Job.Account.Key(), j.Job.Spec.ID.Key()})
	}
	if len(c.Pools) > 0 {
		s.spares.Wake()
	}
	for _, p := range c.Pools {
		for _, x := range s.sessions {
			if x.pool == p.Pool.Spec.ID.Key() && x.acct.Key() == p.Pool.Account.Key() {
				x.stale.Store(true)
			}
		}
	}
	for _, t := range c.Tasks {
		if t.Gone {
			s.dropKept(t.Task)
		}
		if !t.Gone && t.Task.Gang != nil {
			for _, v := range instancesToBegin(t.Task) {
				if x := s.sessions[v.Node.Key()]; x != nil {
					x.offer(v)
				}
			}
			continue
		}
		if t.Gone || t.Task.State != millpond.TaskRunning || t.Task.Stopping != "" {
			continue
		}
		if x := s.sessions[t.Task.Node.Key()]; x != nil {
			x.offer(t.Task)
		}
	}
}

// jobSettings is what tasks are told of their job.
type jobSettings struct {
	environment []millpond.NameValue
	// prepared is the directory of the preparation task, empty without one.
	prepared string
}

func settingsOf(j millpond.Job) jobSettings {
	s := jobSettings{environment: j.Spec.Environment}
	if t := j.Spec.Preparation; t != nil {
		s.prepared = ledger.Directory(j.Spec.ID, t.ID)
	}
	return s
}

// settingsOf are a job's settings.
func (s *Service) settingsOf(ctx context.Context, acct millpond.AccountName, job millpond.JobID) (jobSettings, error) {
	k := [2]string{acct.Key(), job.Key()}
	s.mu.Lock()
	known, have := s.settings[k]
	changes := s.jobChanges
	s.mu.Unlock()
	if have {
		return known, nil
	}
	var j millpond.Job
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		j, err = tx.Job(acct, job)
		return err
	})
	if err != nil {
		if errors.Is(err, sqlite.ErrNoRow) {
			err = nil
		}
		return jobSettings{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// What was read may be older than a change that was followed meanwhile.
	if changes == s.jobChanges {
		if len(s.settings) > 1000 {
			clear(s.settings)
		}
		s.settings[k] = settingsOf(j)
	}
	return settingsOf(j), nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// update runs fn with a ledger in a write transaction and wakes afterwards.
func (s *Service) update(ctx context.Context, fn func(*sqlite.Tx, *ledger.Book) error) error {
	var effects ledger.Effects
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		book := ledger.Open(tx)
		if err := fn(tx, book); err != nil {
			return err
		}
		if err := book.Close(); err != nil {
			return err
		}
		effects = book.Effects
		return nil
	})
	if err == nil {
		s.apply(effects)
	}
	return err
}

func (s *Service) apply(e ledger.Effects) {
	e.Wake(s.Wake, s.Wakes.Scheduler, s.Wakes.Jobs, s.Wakes.Nodes)
}

func errNoNode() error {
	return millpond.Errorf(millpond.NotFound, "NodeNotFound", "The specified node does not exist.")
}

func readNode(tx *sqlite.Tx, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (millpond.Node, error) {
	if _, err := readPool(tx, acct, pool); err != nil {
		return millpond.Node{}, err
	}
	n, err := tx.Node(id)
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && (n.Account.Key() != acct.Key() || n.Pool.Key() != pool.Key()) {
		return n, errNoNode()
	}
	return n, err
}

func readPool(tx *sqlite.Tx, acct millpond.AccountName, pool millpond.PoolID) (millpond.Pool, error) {
	p, err := tx.Pool(acct, pool)
	if errors.Is(err, sqlite.ErrNoRow) {
		return p, millpond.Errorf(millpond.NotFound, "PoolNotFound", "The specified pool does not exist.")
	}
	return p, err
}

// Get reads a node.
func (s *Service) Get(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (n millpond.Node, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		n, err = readNode(tx, acct, pool, id)
		return err
	})
	n.LastContact = s.lastContact(id)
	s.tellHold(&n)
	return n, err
}

// tellHold puts among a node's errors that its machine stands still. It is in no row:
// what holds a machine may keep rows from being written.
func (s *Service) tellHold(n *millpond.Node) {
	if h, held := s.holds.Of(n.ID); held {
		n.Errors = append(n.Errors, fault(h.Code, h.Message, "run: the machine stands still", h.Evidence, h.Suggestion, h.Since))
	}
}

// List lists the nodes of a pool by key. next is empty at the end.
func (s *Service) List(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, q millpond.ListQuery[millpond.Node]) (out []millpond.Node, next string, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := readPool(tx, acct, pool); err != nil {
			return err
		}
		out, next, err = q.Page(func(n millpond.Node) string { return n.ID.Key() }, func(after string, limit int) ([]millpond.Node, error) {
			return tx.Nodes(acct, pool, after, limit, q.States)
		})
		return err
	})
	for i := range out {
		s.tellHold(&out[i])
	}
	return out, next, err
}

// Reboot begins to restart a node; its files stay, its start task runs again.
func (s *Service) Reboot(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return s.interrupt(ctx, acct, pool, id, o, millpond.NodeReboot, "nodeRebootOption", "its node was rebooted")
}

// Reimage begins to give a node new disks from the pool's image.
func (s *Service) Reimage(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return s.interrupt(ctx, acct, pool, id, o, millpond.NodeReimage, "nodeReimageOption", "its node was reimaged")
}

// Deallocate begins to stop a node's machine; its id and its disks stay, and it
// takes no room on its host.
func (s *Service) Deallocate(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return s.interrupt(ctx, acct, pool, id, o, millpond.NodeDeallocate, "nodeDeallocateOption", "its node was deallocated")
}

// Start begins to start the machine of a deallocated node; the start task runs
// again.
func (s *Service) Start(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) error {
	err := s.update(ctx, func(tx *sqlite.Tx, _ *ledger.Book) error {
		n, err := readNode(tx, acct, pool, id)
		if err != nil {
			return err
		}
		if _, outcome, reason := millpond.NodeTransition(n.State, millpond.NodeStart); outcome != millpond.Accepted {
			return millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "The operation is not possible now: %s (its state is %s). Only a deallocated node can be started.", reason, n.State)
		}
		n.Enter(millpond.NodeStart, "asked by a user", tx.Now)
		n.Relaunches, n.NextLaunch, n.Errors = 0, time.Time{}, nil
		return tx.PutNode(n)
	})
	if err == nil {
		s.Wakes.Nodes.Wake()
	}
	return err
}

func (s *Service) interrupt(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption, ev millpond.NodeEvent, property, why string) error {
	o, err := o.Check(property, true)
	if err != nil {
		return err
	}
	err = s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		n, err := readNode(tx, acct, pool, id)
		if err != nil {
			return err
		}
		if ev == millpond.NodeDeallocate {
			p, err := tx.Pool(n.Account, n.Pool)
			if err != nil {
				return err
			}
			if p.Spec.OSDisk.Placement != "" {
				return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The operation 'deallocate' is not supported on the node %s since its OS disk is ephemeral and would be lost. Reimage the node, or remove it from the pool.", n.ID)
			}
		}
		_, outcome, reason := millpond.NodeTransition(n.State, ev)
		if outcome == millpond.Accepted && n.Pending == millpond.NodePreempt {
			outcome, reason = millpond.Refused, "the node is about to be preempted"
		}
		if outcome != millpond.Accepted {
			return millpond.NodeRefusal(n.State, reason)
		}
		if err := book.StopAll(n.ID, o, why); err != nil {
			return err
		}
		n.Enter(ev, "asked by a user", tx.Now)
		n.Pending, n.PendingOption, n.Relaunches, n.Request = ev, o, 0, millpond.RequestOf(ctx)
		return tx.PutNode(n)
	})
	if err == nil {
		s.Wakes.Nodes.Wake()
	}
	return err
}

// DisableScheduling keeps new tasks off a node; it is offline once it is empty.
func (s *Service) DisableScheduling(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	o, err := o.Check("nodeDisableSchedulingOption", false)
	if err != nil {
		return err
	}
	return s.setScheduling(ctx, acct, pool, id, millpond.SchedulingDisabled, func(book *ledger.Book, n *millpond.Node, now time.Time) error {
		if err := book.StopAll(n.ID, o, "scheduling was disabled on its node"); err != nil {
			return err
		}
		if n.RunningTasks == 0 {
			n.Enter(millpond.NodeDisabled, "scheduling was disabled by a user", now)
		}
		return nil
	})
}

// EnableScheduling lets tasks onto a node again.
func (s *Service) EnableScheduling(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) error {
	err := s.setScheduling(ctx, acct, pool, id, millpond.SchedulingEnabled, func(_ *ledger.Book, n *millpond.Node, now time.Time) error {
		n.Enter(millpond.NodeEnabled, "scheduling was enabled by a user", now)
		return nil
	})
	s.Wakes.Scheduler.Wake()
	return err
}

func (s *Service) setScheduling(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, to millpond.SchedulingState, fn func(*ledger.Book, *millpond.Node, time.Time) error) error {
	return s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		n, err := readNode(tx, acct, pool, id)
		if err != nil {
			return err
		}
		if n.Scheduling == to {
			return millpond.Errorf(millpond.Conflict, "NodeAlreadyInTargetSchedulingState", "Scheduling is already %s on the specified node.", to)
		}
		if n.State == millpond.NodeLeavingPool {
			return millpond.NodeRefusal(n.State, "the node is leaving the pool")
		}
		n.Scheduling = to
		if err := fn(book, &n, tx.Now); err != nil {
			return err
		}
		return tx.PutNode(n)
	})
}

// AuthenticateNode checks the credential of a node's channel. It answers
// Unauthenticated for whatever is wrong, so that nothing can be learned from it.
func (s *Service) AuthenticateNode(ctx context.Context, id millpond.NodeID, generation int, token string) error {
	refused := millpond.Errorf(millpond.Unauthenticated, "AuthenticationFailed", "The node's credential is not valid.")
	var n millpond.Node
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		n, err = tx.Node(id)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return refused
	}
	if err != nil {
		return err
	}
	if n.Generation != generation || !launch.IsToken(token, n.TokenHash) {
		return refused
	}
	return nil
}

// Wake makes a node's session look at its rows.
func (s *Service) Wake(id millpond.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.sessions[id.Key()]; x != nil {
		x.look.Store(true)
		x.wake.Wake()
	}
}

// Live says whether a node's agent can be told something now.
func (s *Service) Live(id millpond.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[id.Key()]
	return x != nil && x.ready
}

func (s *Service) session(id millpond.NodeID) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.sessions[id.Key()]; x != nil && x.ready {
		return x
	}
	return nil
}

func (s *Service) heard(id millpond.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contact[id.Key()] = s.Clock.Now()
}

// lastContact is when a node was last heard by this server; zero for never.
func (s *Service) lastContact(id millpond.NodeID) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.contact[id.Key()]
}

// forget drops what is kept in memory of a node that is gone.
func (s *Service) forget(id millpond.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.contact, id.Key())
	delete(s.asked, id.Key())
	delete(s.beats, id.Key())
	if x := s.sessions[id.Key()]; x != nil {
		x.cancel(errNoNode())
	}
}

// Drop ends a node's session, which its supervisor begins anew.
func (s *Service) Drop(id millpond.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.sessions[id.Key()]; x != nil {
		x.cancel(errDropped)
	}
}

var errDropped = millpond.Errorf(millpond.Unavailable, "ServerBusy", "The session was ended by the server.")
