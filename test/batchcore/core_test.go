// Package batchcore tests pools, nodes, jobs, tasks and the scheduler together,
// over a real database and scripted machines.
package batchcore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/certificate"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/events"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/kept"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/pool"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sched"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/usage"
	"millpond.dev/millpond/internal/wake"
)

var acct = millpond.BatchAccount{Name: "acct", Region: "westus2", PoolQuota: 20, CoreQuota: 1000}

// images and accounts are the neighbours of the core.
type images struct{ h *hall }

// ResolveForPool takes an id that ends in a version as it is, and any other for
// the newest, which the hall knows.
func (i images) ResolveForPool(_ context.Context, _ millpond.Caller, _ millpond.BatchAccount, ref millpond.ImageReference, _ string) (millpond.BootImage, error) {
	version := ref.ResourceID
	if !strings.Contains(version, "/versions/") {
		i.h.mu.Lock()
		version = cmp.Or(i.h.latest, "/v/1.0.0")
		i.h.mu.Unlock()
	}
	return millpond.BootImage{VersionID: version, HyperV: "V2", OSDisk: millpond.BootDisk{Content: "c", SizeBytes: 1 << 20}, Replicas: 1}, nil
}

func (images) ChooseReplicas(_ context.Context, _ millpond.BatchAccount, b millpond.BootImage, _ millpond.NodeID) (millpond.BootImage, error) {
	b.OSDisk.Backing = "/replica/c"
	return b, nil
}

type accounts struct{}

func (accounts) Account(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return acct, nil
}

// clockNow is a real clock that a test can push forward.
type core struct {
	t     *testing.T
	clock *shifted
	pools *pool.Service
	nodes *node.Service
	jobs  *job.Service
	certs *certificate.Service
	stats *usage.Service
	log   *events.Log
	stop  func()
	// address is where the edge of sdk listens.
	address string
}

// shifted is the machine's clock, moved on by what a test says.
type shifted struct{ manual *clock.Manual }

func newShifted() *shifted { return &shifted{clock.NewManual(time.Unix(1000, 0))} }

func (s *shifted) Now() time.Time {
	return clock.System{}.Now().Add(s.manual.Now().Sub(time.Unix(1000, 0)))
}

func start(t *testing.T, path string, h *hall, c *shifted, cfg node.Config) *core {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	db, err := sqlite.Open(ctx, path, c)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if os.Getenv("CORE_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	changes, err := events.Open(ctx, db, c, log, events.Config{})
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := kept.Open(ctx, filepath.Join(filepath.Dir(path), "kept.db"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.KeepDelay == 0 {
		cfg.KeepDelay = 50 * time.Millisecond
	}
	allocator, nodes, scheduler, jobs := wake.New(), wake.New(), wake.New(), wake.New()
	cfg.LogDir = filepath.Join(filepath.Dir(path), "consoles")
	n := node.New(node.Deps{DB: db, Clock: c, Log: log, Launcher: h, Images: images{h}, Accounts: accounts{}, Links: h.links, Identities: h.identities, Random: rand.Read, Kept: outputs,
		Wakes: node.Wakes{Allocator: allocator, Nodes: nodes, Scheduler: scheduler, Jobs: jobs}, Config: cfg})
	var placer *sched.Scheduler
	p := pool.New(pool.Deps{DB: db, Clock: c, Log: log, Images: images{h}, Machines: h, Accounts: accounts{}, WakeSession: n.Wake, Usage: n.Usage, Identities: anyIdentity{},
		Packages: func(context.Context, millpond.BatchAccount, []millpond.PackageReference) error { return nil },
		Blocked: func(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) (int, error) {
			return placer.Blocked(ctx, acct, id)
		}, Config: pool.Config{SamplePeriod: 50 * time.Millisecond, ImageCheck: 50 * time.Millisecond, Notice: 300 * time.Millisecond, Rest: 300 * time.Millisecond},
		NewID: func() string { b := make([]byte, 8); _, _ = rand.Read(b); return hex.EncodeToString(b) },
		Wakes: pool.Wakes{Allocator: allocator, Nodes: nodes, Scheduler: scheduler, Jobs: jobs}})
	j := job.New(job.Deps{DB: db, Clock: c, Log: log, WakeSession: n.Wake, Pools: p, Wakes: job.Wakes{Jobs: jobs, Scheduler: scheduler, Nodes: nodes}})
	placer = sched.New(db, log, n, scheduler)
	certs := certificate.New(db, log)
	d := reconcile.NewDriver(c, log)
	d.Start(ctx, j.AutoPools())
	for _, l := range []reconcile.Loop{p.Allocator(), p.AutoScaler(), p.Rollouts(), n.Machines(), n.Spares(), n.Cleanup(), j.Loop(), j.Schedules(), placer.Loop(), changes.Forget(), certs.Loop()} {
		if l.Name == "machines" || l.Name == "allocator" || l.Name == "rollouts" || l.Name == "job schedules" || l.Name == "cleanup" {
			l.Every = 200 * time.Millisecond // the test moves the clock, which wakes nobody
		}
		d.Start(ctx, l)
	}
	go n.Forward(ctx)
	h.mu.Lock()
	h.attach = func(sctx context.Context, id millpond.NodeID, generation int, token string, client nodev1.AgentClient) error {
		if err := n.AuthenticateNode(sctx, id, generation, token); err != nil {
			return err
		}
		sctx, stop := context.WithCancel(sctx)
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		return n.Serve(sctx, id, generation, client, nil)
	}
	h.mu.Unlock()
	core := &core{t: t, clock: c, pools: p, nodes: n, jobs: j, certs: certs, stats: &usage.Service{DB: db, Clock: c}, log: changes}
	core.stop = func() {
		changes.Close()
		h.mu.Lock()
		h.attach = nil
		h.mu.Unlock()
		cancel()
		d.Wait()
		time.Sleep(20 * time.Millisecond) // sessions end with ctx; nothing depends on it but the log
		outputs.Close()
		db.Close()
	}
	return core
}

func (c *core) wait(what string, fn func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !fn() {
		if time.Now().After(deadline) {
			c.dump()
			c.t.Fatalf("waited too long until %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *core) dump() {
	ctx := context.Background()
	pools, _, _ := c.pools.List(ctx, acct.Name, millpond.ListQuery[millpond.Pool]{})
	for _, p := range pools {
		c.t.Logf("pool %s %s/%s errors %v", p.Spec.ID, p.State, p.Allocation, p.ResizeErrors)
		nodes, _, _ := c.nodes.List(ctx, acct.Name, p.Spec.ID, millpond.ListQuery[millpond.Node]{})
		for _, n := range nodes {
			c.t.Logf("  node %s gen %d %s pending %q tasks %d errors %v history %v", n.ID, n.Generation, n.State, n.Pending, n.RunningTasks, n.Errors, n.History)
		}
	}
	jobs, _, _ := c.jobs.ListJobs(ctx, acct.Name, millpond.ListQuery[millpond.Job]{})
	for _, j := range jobs {
		c.t.Logf("job %s %s", j.Spec.ID, j.State)
		tasks, _, _ := c.jobs.ListTasks(ctx, acct.Name, j.Spec.ID, millpond.ListQuery[millpond.Task]{})
		for _, t := range tasks {
			c.t.Logf("  task %s %s attempt %d node %s stopping %q", t.Spec.ID, t.State, t.Attempt, t.Node, t.Stopping)
		}
	}
}

func (c *core) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *core) code(err error, code string) {
	c.t.Helper()
	if millpond.AsError(err).Code != code || err == nil {
		c.t.Fatalf("got %v, want %s", err, code)
	}
}

func ptr[T any](v T) *T { return &v }

func (c *core) addPool(id string, n int, mod func(*millpond.PoolSpec)) {
	c.t.Helper()
	spec := millpond.PoolSpec{ID: millpond.PoolID(id), VMSize: "standard_d2s_v3", NodeAgentSKU: "batch.node.debian 12", Image: millpond.ImageReference{ResourceID: "/x"}}
	if mod != nil {
		mod(&spec)
	}
	_, err := c.pools.Add(context.Background(), millpond.Caller{}, acct, spec, pool.Targets{Dedicated: &n})
	c.must(err)
}

func (c *core) list(id string) []millpond.Node {
	nodes, _, err := c.nodes.List(context.Background(), acct.Name, millpond.PoolID(id), millpond.ListQuery[millpond.Node]{})
	if err != nil {
		return nil
	}
	return nodes
}

func (c *core) inState(id string, s millpond.NodeState) (n int) {
	for _, v := range c.list(id) {
		if v.State == s {
			n++
		}
	}
	return n
}

func (c *core) steady(id string) millpond.Pool {
	c.t.Helper()
	var p millpond.Pool
	c.wait("pool "+id+" is steady", func() bool {
		var err error
		p, err = c.pools.Get(context.Background(), acct.Name, millpond.PoolID(id))
		return err == nil && p.Allocation == millpond.AllocationSteady
	})
	return p
}

func (c *core) idle(id string, n int) {
	c.t.Helper()
	c.wait(fmt.Sprintf("%d nodes of %s are idle", n, id), func() bool { return c.inState(id, millpond.NodeIdle) == n && len(c.list(id)) == n })
}

func (c *core) addJob(id, pool string, mod func(*millpond.JobSpec)) {
	c.t.Helper()
	spec := millpond.JobSpec{ID: millpond.JobID(id), Pool: millpond.PoolID(pool)}
	if mod != nil {
		mod(&spec)
	}
	_, err := c.jobs.AddJob(context.Background(), acct.Name, spec)
	c.must(err)
}

func (c *core) addTask(job, id, command string, mod func(*millpond.TaskSpec)) {
	c.t.Helper()
	spec := millpond.TaskSpec{ID: millpond.TaskID(id), CommandLine: command}
	if mod != nil {
		mod(&spec)
	}
	_, err := c.jobs.AddTask(context.Background(), acct.Name, millpond.JobID(job), spec)
	c.must(err)
}

func (c *core) task(job, id string) millpond.Task {
	c.t.Helper()
	t, err := c.jobs.GetTask(context.Background(), acct.Name, millpond.JobID(job), millpond.TaskID(id))
	c.must(err)
	return t
}

func (c *core) taskIn(job, id string, s millpond.TaskState) millpond.Task {
	c.t.Helper()
	c.wait("task "+id+" is "+string(s), func() bool { return c.task(job, id).State == s })
	return c.task(job, id)
}

func (c *core) jobIn(id string, s millpond.JobState) millpond.Job {
	c.t.Helper()
	var j millpond.Job
	c.wait("job "+id+" is "+string(s), func() bool {
		j, _ = c.jobs.GetJob(context.Background(), acct.Name, millpond.JobID(id))
		return j.State == s
	})
	return j
}

func setup(t *testing.T, cfg node.Config) (*core, *hall, func() *core) {
	t.Parallel()
	h, path, c := newHall(), filepath.Join(t.TempDir(), "state.db"), newShifted()
	current := start(t, path, h, c, cfg)
	t.Cleanup(func() {
		current.stop()
		h.close()
		if len(h.overlap) > 0 {
			t.Errorf("ran twice at once or wrongly: %v", h.overlap)
		}
	})
	return current, h, func() *core {
		current.stop()
		current = start(t, path, h, c, cfg)
		return current
	}
}

func jobPatch(onAll string) job.Patch { return job.Patch{OnAllTasksComplete: &onAll} }
