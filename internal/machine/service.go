// Package machine holds the verbs of Microsoft.Compute/virtualMachines and the
// loop that makes the launcher run what the rows say: create, start, stop,
// deallocate, restart, generalize, delete, disks and cards, scripts and
// extensions in the guest.
//
// A verb writes intent and wakes the loop; the loop reads rows and the
// launcher's list, decides purely (decide) and acts, so that a crash anywhere
// only means that the loop looks again. Machines live on the launcher of the
// pools' nodes, under names of their own, and outlive this process as nodes do.
//
// It knows no HTTP and no QEMU, and of disks and networks only what the
// interfaces here say. The edge armapi calls the verbs, nodeapi the sessions.
package machine

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Resources is what machine needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	Begin(tx *sqlite.Tx, id millpond.ResourceID, verb string) (millpond.Operation, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
}

// Authorizer says whether a caller may do something.
type Authorizer interface {
	Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error
}

// Disks are the verbs of disks that machines need.
type Disks interface {
	// Make creates a disk, or returns the one that is there; it may be Creating
	// still. The caller has the rights on what it is made from.
	Make(ctx context.Context, d millpond.Disk, sizeGB int32) (*millpond.Disk, error)
	Delete(ctx context.Context, id millpond.ResourceID) (bool, error)
	// Event moves a disk's state for the machine that has it, within a verb.
	// Repeated for the same machine it changes nothing.
	Event(tx *sqlite.Tx, id millpond.ResourceID, e millpond.DiskEvent, machine millpond.ResourceID) error
}

// Networks are the verbs of network interfaces that machines need.
type Networks interface {
	// Claim gives interfaces to a machine and takes those back that it does not name.
	Claim(tx *sqlite.Tx, machine millpond.ResourceID, location string, cards []millpond.ResourceID) error
	Release(tx *sqlite.Tx, machine millpond.ResourceID) error
	// Card is what an interface comes to now, with the ports that are open to it.
	Card(ctx context.Context, id millpond.ResourceID) (launch.Card, error)
	Delete(ctx context.Context, id millpond.ResourceID) (bool, error)
}

// BaseImage is a built image that Marketplace references resolve to.
type BaseImage struct {
	Name    string
	Size    int64
	HyperV  string // V1 or V2; empty: it boots as either
	Release millpond.OSRelease
	Built   time.Time
}

// Images are where new OS disks come from.
type Images interface {
	// Latest resolves a definition to its latest version in a region.
	Latest(ctx context.Context, definition millpond.ResourceID, region string) (millpond.ResourceID, error)
	// Usable refuses a version or managed image that no machine may be made of, with
	// disks of the SKUs from it, and tells what there is to say against one that may
	// be used.
	Usable(ctx context.Context, image millpond.ResourceID, skus []string) ([]millpond.Finding, error)
	// Bases lists the built base images.
	Bases(ctx context.Context) ([]BaseImage, error)
}

// Deps are what a Service needs. Networks may be nil where there are none.
type Deps struct {
	DB       *sqlite.DB
	Clock    clock.Clock
	Log      *slog.Logger
	Launcher launch.Launcher
	// Changed is received from when a machine may have changed; nil: it is polled.
	Changed   <-chan struct{}
	Resources Resources
	Auth      Authorizer
	Disks     Disks
	Networks  Networks
	Images    Images
	Sizes     func(name string) (millpond.VMSize, bool)
	Random    func([]byte) (int, error)
	Config    Config
}

// Config has the times; zero values are the product's.
type Config struct {
	EndpointFile, CAFile, Version string
	// Grace is how long a guest may take to power off.
	Grace time.Duration
	// Provision is how long a first boot may take until the agent has its user: 20 min.
	Provision time.Duration
	// AgentWait is how long a script waits for the agent to speak: 10 min.
	AgentWait time.Duration
	// Script is how long a script may run: 90 min.
	Script time.Duration
}

// Service is safe for concurrent use.
type Service struct {
	Deps
	wake  *wake.Signal
	holds launch.Holds

	mu       sync.Mutex
	working  map[string]bool // keys of machines that a goroutine works on
	sessions map[string]*session
	// plugging are machines whose data disks somebody changes; the channel is closed
	// at the end.
	plugging map[string]chan struct{}
	wg       sync.WaitGroup
}

// New makes a Service.
func New(d Deps) *Service {
	or := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	or(&d.Config.Grace, 60*time.Second)
	or(&d.Config.Provision, 20*time.Minute)
	or(&d.Config.AgentWait, 10*time.Minute)
	or(&d.Config.Script, 90*time.Minute)
	return &Service{Deps: d, wake: wake.New(), working: map[string]bool{}, sessions: map[string]*session{}, plugging: map[string]chan struct{}{}}
}

// Wake is the loop's signal; networks wake it when a card may have changed.
func (s *Service) Wake() *wake.Signal { return s.wake }

// Held is why a machine that runs stands still; false if it does not.
func (s *Service) Held(v *millpond.VirtualMachine) (launch.Hold, bool) { return s.holds.Of(v.Node()) }

// Wait joins work in progress, after the loop's context has ended.
func (s *Service) Wait() { s.wg.Wait() }

func load[T any, P interface {
	*T
	sqlite.Noun
}](s *Service, tx *sqlite.Tx, id millpond.ResourceID) (*T, error) {
	n, err := sqlite.Load[T, P](tx, id.Key())
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil, s.Resources.NotFound(tx, id)
	}
	return n, err
}

// Get returns one machine.
func (s *Service) Get(ctx context.Context, id millpond.ResourceID) (v *millpond.VirtualMachine, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		v, err = load[millpond.VirtualMachine](s, tx, id)
		return err
	})
	return v, err
}

// List lists machines by key.
func (s *Service) List(ctx context.Context, q sqlite.Query) (out []*millpond.VirtualMachine, err error) {
	q.Type = millpond.TypeVM
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[millpond.VirtualMachine](tx, q)
		return err
	})
	return out, err
}

// Live says whether a machine's agent can be spoken to.
func (s *Service) Live(v *millpond.VirtualMachine) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[v.Node().Key()]
	return x != nil && x.ready
}

// byNode finds the machine of a name at the launcher.
func byNode(tx *sqlite.Tx, node millpond.NodeID) (*millpond.VirtualMachine, error) {
	all, err := sqlite.List[millpond.VirtualMachine](tx, sqlite.Query{Type: millpond.TypeVM})
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.Node().Key() == node.Key() {
			return v, nil
		}
	}
	return nil, sqlite.ErrNoRow
}

// AuthenticateNode checks the credential of a machine's channel. Whatever is
// wrong, the answer is the same.
func (s *Service) AuthenticateNode(ctx context.Context, node millpond.NodeID, generation int, token string) error {
	refused := millpond.Errorf(millpond.Unauthenticated, "AuthenticationFailed", "The machine's credential is not valid.")
	var v *millpond.VirtualMachine
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		v, err = byNode(tx, node)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return refused
	}
	if err != nil {
		return err
	}
	if v.Generation != generation || !launch.IsToken(token, v.TokenHash) {
		return refused
	}
	return nil
}

// move applies an event to a machine's row; the caller writes it. A refusal
// comes in Azure's words.
func move(v *millpond.VirtualMachine, e millpond.VMEvent, now time.Time) (millpond.Outcome, error) {
	return moveAs(v, e, string(e), now)
}

// moveAs is move for an operation that has another name than its event.
func moveAs(v *millpond.VirtualMachine, e millpond.VMEvent, operation string, now time.Time) (millpond.Outcome, error) {
	if v.Generalized && (e == millpond.VMStart || e == millpond.VMRestart || e == millpond.VMChange || e == millpond.VMCommand) {
		return millpond.Refused, millpond.Errorf(millpond.Conflict, "OperationNotAllowed",
			"Operation '%s' is not allowed on VM '%s' since the VM is generalized. Make an image of it, az image create --source %s, and create machines from that.", operation, v.ID.Name(), v.ID.Name())
	}
	next, outcome, reason := millpond.VMTransition(v.Power, e)
	switch {
	case outcome == millpond.Refused:
		return outcome, millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "Operation '%s' is not allowed on VM '%s': %s (its state is %s). See it with: az vm get-instance-view --ids %s",
			operation, v.ID.Name(), reason, v.Power, v.ID)
	case outcome == millpond.Accepted && next != v.Power:
		v.Power, v.Began = next, now
	}
	return outcome, nil
}

// settled says whether nothing is under way that an operation waits for.
func settled(v *millpond.VirtualMachine) bool {
	switch v.Power {
	case millpond.VMRunning:
		return v.Provisioned
	case millpond.VMStopped:
		return !v.Restart
	case millpond.VMDeallocated:
		return true
	}
	return false
}

// finish writes a machine and, if nothing is under way any more, ends what waits
// for it.
func finish(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
	if settled(v) && v.Base().State != millpond.StateFailed {
		v.Base().State = millpond.StateSucceeded
	}
	if err := tx.Put(v); err != nil {
		return err
	}
	if !settled(v) {
		return nil
	}
	return tx.EndOperations(v.ID.Key(), nil)
}

// failed notes why a machine is not what was asked for and ends what waits.
func failed(tx *sqlite.Tx, v *millpond.VirtualMachine, code, message string) error {
	v.Base().State, v.FailureCode, v.Failure = millpond.StateFailed, code, message
	if err := tx.Put(v); err != nil {
		return err
	}
	return tx.EndOperations(v.ID.Key(), millpond.Errorf(millpond.Conflict, code, "%s", message))
}

func (s *Service) mayRead(ctx context.Context, caller millpond.Caller, id millpond.ResourceID) error {
	return s.mayUse(ctx, caller, id.Type()+"/read", id)
}

// mayUse checks a right on what a request links to.
func (s *Service) mayUse(ctx context.Context, caller millpond.Caller, action string, id millpond.ResourceID) error {
	if s.Auth == nil {
		return nil
	}
	return millpond.Linked(s.Auth.Authorize(ctx, caller, action, id.String()))
}

func same(a, b string) bool { return strings.EqualFold(strings.Trim(a, "/"), strings.Trim(b, "/")) }
