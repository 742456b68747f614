// Package pool holds the verbs of pools, the allocator that brings each pool to
// its size, the evaluation of formulas, and rollouts. A verb writes what is wanted
// and wakes; the allocator plans purely, then creates and retires node rows. It
// launches nothing and speaks no HTTP: package node owns the machines, package
// batchapi calls the verbs.
package pool

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Images is what pools need of the galleries.
type Images interface {
	// ResolveForPool finds the exact version that a pool of acct would boot now,
	// and refuses with Azure's error when the caller or the image does not do.
	ResolveForPool(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, ref millpond.ImageReference, nodeAgentSKU string) (millpond.BootImage, error)
}

// Machines is what the allocator needs of the launcher.
type Machines interface {
	List(ctx context.Context) ([]launch.Status, error)
	Capacity(ctx context.Context) (launch.Capacity, error)
}

// Subnets is what pools need of virtual networks.
type Subnets interface {
	// AdmitSubnet refuses a subnet that a pool of acct, added by caller, may not use,
	// and returns its id as it is written in its network.
	AdmitSubnet(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, subnet string) (string, error)
	// FreeAddresses is how many more machines fit into a subnet.
	FreeAddresses(tx *sqlite.Tx, subnet string) (int, error)
	// GiveAddresses gives new nodes their addresses in the transaction that writes
	// their rows, with which they end; given is how many still found one.
	GiveAddresses(tx *sqlite.Tx, subnet string, acct millpond.BatchAccount, pool millpond.PoolID, nodes []millpond.NodeID) (given int, err error)
}

// Accounts finds Batch accounts by name.
type Accounts interface {
	Account(ctx context.Context, name millpond.AccountName) (millpond.BatchAccount, error)
}

// Wakes are the loops that verbs and the allocator wake.
type Wakes struct{ Allocator, Nodes, Scheduler, Jobs, AutoScale, Rollouts *wake.Signal }

// Config are the limits that an operator may change; zero values get defaults.
type Config struct {
	// NodesPerReplica is the ratio above which a pool gets a warning; 600.
	NodesPerReplica int
	// TimeoutPer1000 is the resize timeout advised per 1000 nodes; 15 min.
	TimeoutPer1000 time.Duration
	// Every is the allocator's timer, a safety net behind the wakes; 30 s.
	Every time.Duration
	// ImageCheck is the time between looks for a newer version of an image that is
	// to be rolled out by itself; 5 min.
	ImageCheck time.Duration
	// Notice is how long the tasks of a low-priority node have when its room is
	// needed; 30 s. Rest is how long a preempted node waits for room at least; 30 s.
	Notice, Rest time.Duration
	// SamplePeriod is the time between samples for formulas; 30 s.
	SamplePeriod time.Duration
	// IntervalOnly keeps pools from growing between their intervals, when tasks
	// arrive.
	IntervalOnly bool
}

// Deps are the parts that a Service is made of. Accounts, Machines, Images and
// DB must be set.
type Deps struct {
	DB       *sqlite.DB
	Clock    clock.Clock
	Log      *slog.Logger
	Images   Images
	Machines Machines
	Accounts Accounts
	// Sizes finds a VM size; nil is millpond.FindVMSize.
	Sizes func(name string) (millpond.VMSize, bool)
	// Packages refuses application packages that nodes could not install; nil
	// refuses all.
	Packages func(ctx context.Context, acct millpond.BatchAccount, refs []millpond.PackageReference) error
	// Subnets is nil when there are no virtual networks.
	Subnets Subnets
	// Identities is nil when there are no managed identities.
	Identities Identities
	// NewID gives random hexadecimal text for node ids.
	NewID func() string
	// WakeSession makes a node's session look at its rows; may be nil.
	WakeSession func(millpond.NodeID)
	// Blocked counts the tasks for a pool that wait for other tasks; nil is none.
	Blocked func(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID) (int, error)
	// Usage is what a node's machine used of late, for formulas; nil is nothing.
	Usage func(millpond.NodeID) (millpond.NodeUsage, bool)
	// Rand is a random number from 0 to 1, for formulas.
	Rand   func() float64
	Wakes  Wakes
	Config Config
}

// Service is the verbs of pools. It is safe for concurrent use.
type Service struct {
	Deps
	scaler scaler
	// rolling is set while a pool has a rollout under way.
	rolling atomic.Bool
	// looked is when the loop of rollouts last looked for a newer image of a pool;
	// only that loop uses it.
	looked map[poolKey]time.Time
	pace   reconcile.Pace // of allocate
}

// New makes a Service.
func New(d Deps) *Service {
	if d.Sizes == nil {
		d.Sizes = millpond.FindVMSize
	}
	if d.WakeSession == nil {
		d.WakeSession = func(millpond.NodeID) {}
	}
	if d.Config.NodesPerReplica == 0 {
		d.Config.NodesPerReplica = 600
	}
	if d.Config.TimeoutPer1000 == 0 {
		d.Config.TimeoutPer1000 = 15 * time.Minute
	}
	if d.Config.Every == 0 {
		d.Config.Every = 30 * time.Second
	}
	if d.Config.SamplePeriod == 0 {
		d.Config.SamplePeriod = 30 * time.Second
	}
	if d.Blocked == nil {
		d.Blocked = func(context.Context, millpond.AccountName, millpond.PoolID) (int, error) { return 0, nil }
	}
	if d.Rand == nil {
		d.Rand = rand.Float64
	}
	if d.Wakes.AutoScale == nil {
		d.Wakes.AutoScale = wake.New()
	}
	if d.Wakes.Rollouts == nil {
		d.Wakes.Rollouts = wake.New()
	}
	d.Config.Notice, d.Config.Rest = cmp.Or(d.Config.Notice, 30*time.Second), cmp.Or(d.Config.Rest, 30*time.Second)
	d.Config.ImageCheck = cmp.Or(d.Config.ImageCheck, 5*time.Minute)
	s := &Service{Deps: d, scaler: scaler{pools: map[poolKey]*scaled{}}, looked: map[poolKey]time.Time{}}
	if d.DB != nil {
		// Reading nothing, it cannot fail.
		_ = d.DB.Follow(context.Background(), nil, s.follow)
	}
	return s
}

// Targets is the size that a pool is to get; nil leaves a part as it is.
type Targets struct {
	Dedicated, LowPriority *int
	ResizeTimeout          *time.Duration
	// AutoScale, for a new pool, sizes it by a formula instead.
	AutoScale *AutoScale
}

// AutoScale is what a request says of a formula; nil leaves a part as it is.
type AutoScale struct {
	Formula  *string
	Interval *time.Duration
}

// Add makes a pool and begins to allocate its nodes. It refuses with
// InvalidPropertyValue, MissingRequiredProperty, PoolExists, PoolQuotaReached,
// and with what Images says of the image.
func (s *Service) Add(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, spec millpond.PoolSpec, t Targets) (millpond.Pool, error) {
	var none millpond.Pool
	size, err := s.checkSpec(&spec)
	if err != nil {
		return none, err
	}
	if err := checkTargets(t); err != nil {
		return none, err
	}
	scale, err := newAutoScale(t)
	if err != nil {
		return none, err
	}
	// A pool that is there is told before anything slow or secret is looked at.
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error { return s.admit(tx, acct, spec.ID) })
	if err != nil {
		return none, err
	}
	if err := s.checkPackages(ctx, acct, spec.Packages); err != nil {
		return none, err
	}
	if spec.Subnet, err = s.admitSubnet(ctx, caller, acct, spec.Subnet); err != nil {
		return none, err
	}
	if spec.Identities, err = s.admitIdentities(ctx, caller, spec.Identities, nil); err != nil {
		return none, err
	}
	boot, err := s.Images.ResolveForPool(ctx, caller, acct, spec.Image, spec.NodeAgentSKU)
	if err != nil {
		return none, err
	}
	if err := checkDisks(spec, boot, size); err != nil {
		return none, err
	}
	now := s.Clock.Now()
	p := millpond.Pool{
		Account: acct.Name, Spec: spec,
		State: millpond.PoolActive, StateTransition: now,
		Allocation: millpond.AllocationSteady, AllocationTransition: now,
		ResizeTimeout: millpond.DefaultResizeTimeout, Deallocation: millpond.DeallocateRequeue,
		Boot: boot, Creator: caller, Created: now, LastModified: now, Version: 1, AutoScale: scale,
	}
	if scale != nil {
		scale.Set = now
	}
	t.apply(&p)
	if p.TargetDedicated+p.TargetLowPriority > 0 {
		p.Allocation, p.ResizeStarted, p.ResizeRequest = millpond.AllocationResizing, now, millpond.RequestOf(ctx)
	}
	s.warn(&p)
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if err := s.admit(tx, acct, spec.ID); err != nil {
			return err
		}
		if err := checkCertificates(tx, acct.Name, spec.Certificates); err != nil {
			return err
		}
		if err := s.stillThere(tx, spec.Subnet); err != nil {
			return err
		}
		return tx.InsertPool(p)
	})
	if err != nil {
		return none, err
	}
	s.Log.Info("pool added", "account", acct.Name, "pool", spec.ID, "dedicated", p.TargetDedicated, "lowPriority", p.TargetLowPriority, "image", boot.VersionID)
	s.Wakes.Allocator.Wake()
	if scale != nil {
		s.Wakes.AutoScale.Wake()
	}
	return p, nil
}

func (s *Service) checkPackages(ctx context.Context, acct millpond.BatchAccount, refs []millpond.PackageReference) error {
	if len(refs) == 0 {
		return nil
	}
	if s.Packages == nil {
		return millpond.Errorf(millpond.Conflict, "InvalidApplicationPackageReferences", "One or more of the specified application package references are invalid: there are no application packages.")
	}
	return s.Packages(ctx, acct, refs)
}

// checkCertificates refuses references to certificates that nodes could not get. It
// belongs into the transaction that writes the pool: who deletes a certificate relies
// on no pool beginning to refer to it meanwhile.
func checkCertificates(tx *sqlite.Tx, acct millpond.AccountName, refs []millpond.CertificateReference) error {
	seen := map[string]bool{}
	for _, r := range refs {
		c, err := tx.Certificate(acct, r.Thumbprint)
		why := ""
		switch {
		case errors.Is(err, sqlite.ErrNoRow):
			why = "it does not exist in the account. Add it first: az batch certificate create"
		case err != nil:
			return err
		case c.State != millpond.CertificateActive:
			why = "its state is " + string(c.State) + ". Cancel its deletion: az batch certificate delete --abort"
		case seen[r.Thumbprint]:
			why = "it is named twice."
		}
		if why != "" {
			return millpond.Errorf(millpond.Conflict, "InvalidCertificateReferences", "One or more of the specified certificate references are invalid. The certificate %s: %s", r.Thumbprint, why).
				With("CertificateReference", millpond.CertificateAlgorithm+"-"+r.Thumbprint)
		}
		seen[r.Thumbprint] = true
	}
	return nil
}

// stillThere looks for a subnet in the transaction that writes the pool: nothing
// deletes it from then on.
func (s *Service) stillThere(tx *sqlite.Tx, subnet string) error {
	if subnet == "" {
		return nil
	}
	_, err := s.Subnets.FreeAddresses(tx, subnet)
	if millpond.KindOf(err) == millpond.NotFound {
		return millpond.InvalidProperty("subnetId", subnet, "The subnet is being deleted.")
	}
	return err
}

// admitSubnet checks the subnet of a pool, if it is to be in one.
func (s *Service) admitSubnet(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, subnet string) (string, error) {
	if subnet == "" {
		return "", nil
	}
	if s.Subnets == nil {
		return "", millpond.InvalidProperty("subnetId", subnet, "There are no virtual networks here.")
	}
	return s.Subnets.AdmitSubnet(ctx, caller, acct, subnet)
}

func (s *Service) admit(tx *sqlite.Tx, acct millpond.BatchAccount, id millpond.PoolID) error {
	p, err := tx.Pool(acct.Name, id)
	if err == nil {
		if p.State == millpond.PoolDeleting {
			return millpond.Errorf(millpond.Conflict, "PoolBeingDeleted", "The specified pool is being deleted. Wait until it is gone; a pool of the same id can then be added.")
		}
		return millpond.Errorf(millpond.Conflict, "PoolExists", "The specified pool already exists.")
	}
	if !errors.Is(err, sqlite.ErrNoRow) {
		return err
	}
	n, err := tx.CountPools(acct.Name)
	if err != nil {
		return err
	}
	if acct.PoolQuota > 0 && n >= acct.PoolQuota {
		return millpond.Errorf(millpond.Conflict, "PoolQuotaReached", "The account has %d pools, which is its quota. Delete a pool, or raise the pool quota in the server's configuration.", n)
	}
	return nil
}

func (t Targets) apply(p *millpond.Pool) {
	if t.Dedicated != nil {
		p.TargetDedicated = *t.Dedicated
	}
	if t.LowPriority != nil {
		p.TargetLowPriority = *t.LowPriority
	}
	if t.ResizeTimeout != nil {
		p.ResizeTimeout = *t.ResizeTimeout
	}
}

func notFound(id millpond.PoolID) error {
	return millpond.Errorf(millpond.NotFound, "PoolNotFound", "The specified pool does not exist.").With("Pool", string(id))
}

// read reads a pool inside a transaction, without its current sizes.
func read(tx *sqlite.Tx, acct millpond.AccountName, id millpond.PoolID) (millpond.Pool, error) {
	p, err := tx.Pool(acct, id)
	if errors.Is(err, sqlite.ErrNoRow) {
		return p, notFound(id)
	}
	return p, err
}

// Get reads a pool.
func (s *Service) Get(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) (p millpond.Pool, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		p, err = tx.SizedPool(acct, id)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		err = notFound(id)
	}
	return p, err
}

// List lists pools by key. next is empty at the end.
func (s *Service) List(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.Pool]) (out []millpond.Pool, next string, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, next, err = q.Page(func(p millpond.Pool) string { return p.Spec.ID.Key() }, func(after string, limit int) ([]millpond.Pool, error) {
			return tx.Pools(acct, after, limit, q.States)
		})
		return err
	})
	return out, next, err
}

// change reads a pool, checks the condition, lets fn change it and writes it as
// a new version.
func (s *Service) change(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, fn func(*sqlite.Tx, *millpond.Pool) error) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		p, err := read(tx, acct, id)
		if err != nil {
			return err
		}
		if err := cond.Check(p, millpond.Write); err != nil {
			return err
		}
		if err := fn(tx, &p); err != nil {
			return err
		}
		p.Version++
		p.LastModified = tx.Now
		return tx.PutPool(p)
	})
}

// shift applies an event to a pool's phase and fails with the refusal.
func shift(p *millpond.Pool, ev millpond.PoolEvent, now time.Time) error {
	next, outcome, refusal := millpond.PoolTransition(p.Phase(), ev)
	if outcome == millpond.Refused {
		return refusal
	}
	if next.State != p.State {
		p.State, p.StateTransition = next.State, now
	}
	if next.Allocation != p.Allocation {
		p.Allocation, p.AllocationTransition = next.Allocation, now
	}
	return nil
}

// Delete begins to delete a pool: its nodes leave, then its row goes.
func (s *Service) Delete(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition) error {
	err := s.change(ctx, acct, id, cond, func(tx *sqlite.Tx, p *millpond.Pool) error {
		p.TargetDedicated, p.TargetLowPriority, p.ResizeErrors = 0, 0, nil
		p.ResizeStarted, p.Deallocation = tx.Now, millpond.DeallocateRequeue
		return shift(p, millpond.PoolDelete, tx.Now)
	})
	if err == nil {
		s.Log.Info("pool deleting", "account", acct, "pool", id)
		s.Wakes.Allocator.Wake()
	}
	return err
}

// Resize asks for another size. The pool must be steady.
func (s *Service) Resize(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, t Targets, o millpond.DeallocationOption) error {
	if t.Dedicated == nil && t.LowPriority == nil {
		return millpond.Errorf(millpond.Invalid, "MissingRequiredProperty", "A required property was not specified in the request body. Give targetDedicatedNodes, targetLowPriorityNodes or both.").
			With("PropertyName", "targetDedicatedNodes")
	}
	if err := checkTargets(t); err != nil {
		return err
	}
	option, err := o.Check("nodeDeallocationOption", true)
	if err != nil {
		return err
	}
	err = s.change(ctx, acct, id, cond, func(tx *sqlite.Tx, p *millpond.Pool) error {
		if p.AutoScale != nil && p.State != millpond.PoolDeleting {
			return millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "The pool sizes itself by a formula. Disable automatic scaling before you resize it, or change the formula.")
		}
		if err := shift(p, millpond.PoolResize, tx.Now); err != nil {
			return err
		}
		p.ResizeTimeout = millpond.DefaultResizeTimeout
		t.apply(p)
		p.Deallocation, p.ResizeStarted, p.ResizeErrors, p.ResizeRequest = option, tx.Now, nil, millpond.RequestOf(ctx)
		s.warn(p)
		return nil
	})
	if err == nil {
		s.Wakes.Allocator.Wake()
	}
	return err
}

// StopResize ends a resize at whatever size was reached.
func (s *Service) StopResize(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition) error {
	err := s.change(ctx, acct, id, cond, func(tx *sqlite.Tx, p *millpond.Pool) error {
		return shift(p, millpond.PoolStopResize, tx.Now)
	})
	if err == nil {
		s.Wakes.Allocator.Wake()
	}
	return err
}

// RemoveNodes takes exactly these nodes away and lowers the targets by them.
func (s *Service) RemoveNodes(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, nodes []millpond.NodeID, timeout *time.Duration, o millpond.DeallocationOption) error {
	if len(nodes) < 1 || len(nodes) > 100 {
		return millpond.InvalidProperty("nodeList", "", "The list must name 1 to 100 nodes.")
	}
	if err := checkTargets(Targets{ResizeTimeout: timeout}); err != nil {
		return err
	}
	option, err := o.Check("nodeDeallocationOption", true)
	if err != nil {
		return err
	}
	var effects ledger.Effects
	err = s.change(ctx, acct, id, cond, func(tx *sqlite.Tx, p *millpond.Pool) error {
		if err := shift(p, millpond.PoolResize, tx.Now); err != nil {
			return err
		}
		p.ResizeTimeout = millpond.DefaultResizeTimeout
		Targets{ResizeTimeout: timeout}.apply(p)
		p.Deallocation, p.ResizeStarted, p.ResizeErrors = option, tx.Now, nil
		book := ledger.Open(tx)
		for _, nodeID := range unique(nodes) {
			n, err := tx.Node(nodeID)
			if errors.Is(err, sqlite.ErrNoRow) || err == nil && (n.Pool.Key() != id.Key() || n.Account.Key() != acct.Key()) {
				return millpond.Errorf(millpond.NotFound, "NodeNotFound", "The specified node %s does not exist in the pool.", nodeID)
			}
			if err != nil {
				return err
			}
			if n.State == millpond.NodeLeavingPool {
				continue
			}
			if err := retire(tx, book, n, option, "removed by a user"); err != nil {
				return err
			}
			if n.Dedicated {
				p.TargetDedicated = max(0, p.TargetDedicated-1)
			} else {
				p.TargetLowPriority = max(0, p.TargetLowPriority-1)
			}
		}
		err = book.Close()
		effects = book.Effects
		return err
	})
	if err == nil {
		s.apply(effects)
		s.Wakes.Allocator.Wake()
		s.Wakes.Nodes.Wake()
	}
	return err
}

func unique(nodes []millpond.NodeID) []millpond.NodeID {
	seen := map[string]bool{}
	var out []millpond.NodeID
	for _, n := range nodes {
		if !seen[n.Key()] {
			seen[n.Key()] = true
			out = append(out, n)
		}
	}
	return out
}

func (s *Service) apply(e ledger.Effects) {
	e.Wake(s.WakeSession, s.Wakes.Scheduler, s.Wakes.Jobs, s.Wakes.Nodes)
}

// NodeCounts counts the nodes of each pool by state.
func (s *Service) NodeCounts(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.PoolNodeCounts]) (out []millpond.PoolNodeCounts, next string, err error) {
	limit := q.PageSize()
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		rows, err := tx.NodeCounts(acct, q.After, limit)
		if err != nil {
			return err
		}
		for _, c := range rows {
			if q.Wants(c) {
				out = append(out, c)
			}
		}
		if len(rows) == limit {
			next = rows[limit-1].Pool.Key()
		}
		return nil
	})
	return out, next, err
}
