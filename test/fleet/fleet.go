// Package fleet is the service above the launch seam with the fake launcher below
// it, in one process and without a listener: pools of thousands whose nodes boot as
// a model says. In a bubble of testing/synctest its time costs nothing, so that a
// pool that takes an hour is seen in seconds, with the processor time and memory
// that it really takes. Tests of large pools and the benchmarks are its callers.
package fleet

import (
	"context"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/batchapi"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/launch/fake"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/nodeapi"
	"millpond.dev/millpond/internal/pool"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sched"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/usage"
	"millpond.dev/millpond/internal/wake"
)

// Fleet is the running service.
type Fleet struct {
	t     testing.TB
	Pools *pool.Service
	Nodes *node.Service
	Edge  *batchapi.Edge
	Fake  *fake.Launcher
	// End stops everything and waits for it.
	End func()
}

// Options is what a fleet is made with.
type Options struct {
	// Dir is where the database lies.
	Dir string
	// Replicas is how many replicas the image of all pools has.
	Replicas int
	Fake     fake.Config
	Node     node.Config
	// Dial has each node speak HTTP/2, as real ones do.
	Dial bool
}

// Account has the pool.
var Account = millpond.BatchAccount{Name: "bench", Region: "westus2", PoolQuota: 100, CoreQuota: 1_000_000}

// image is an image with as many replicas as it says.
type image struct{ replicas int }

func (f image) ResolveForPool(context.Context, millpond.Caller, millpond.BatchAccount, millpond.ImageReference, string) (millpond.BootImage, error) {
	return millpond.BootImage{VersionID: "/v/1.0.0", HyperV: "V1", OSDisk: millpond.BootDisk{Content: "c", SizeBytes: 1 << 20}, Replicas: f.replicas}, nil
}

// ChooseReplicas spreads nodes over the replicas as the galleries do.
func (f image) ChooseReplicas(_ context.Context, _ millpond.BatchAccount, b millpond.BootImage, n millpond.NodeID) (millpond.BootImage, error) {
	h := fnv.New32a()
	h.Write([]byte(n.Key()))
	first := int(h.Sum32() % uint32(f.replicas))
	for i := range f.replicas {
		b.OSDisk.Stores = append(b.OSDisk.Stores, millpond.StorePlace{Name: fmt.Sprint("replica-", (first+i)%f.replicas)})
	}
	return b, nil
}

func (image) Account(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return Account, nil
}

func (image) Lookup(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return Account, nil
}

func (image) Authorize(context.Context, millpond.Caller, string, string) error { return nil }

// Start starts the service.
func Start(t testing.TB, o Options) *Fleet {
	cfg := o.Fake
	ctx, cancel := context.WithCancel(context.Background())
	clk := clock.System{}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	db, err := sqlite.Open(ctx, filepath.Join(o.Dir, "state.db"), clk)
	if err != nil {
		t.Fatal(err)
	}
	allocator, nodes, scheduler, jobs := wake.New(), wake.New(), wake.New(), wake.New()
	img := image{o.Replicas}
	rng := rand.NewChaCha8([32]byte{1})
	random := func(p []byte) (int, error) { return rng.Read(p) }
	var channel *nodeapi.Handler
	cfg.Clock, cfg.Log = clk, log
	cfg.Join = func(ctx context.Context, node millpond.NodeID, generation int, token string, agent http.Handler) error {
		return channel.Join(ctx, node, generation, token, agent)
	}
	if o.Dial {
		cfg.Join, cfg.Dial = nil, func(ctx context.Context, node millpond.NodeID, generation int, token string) (net.Conn, error) {
			return channel.Dial(ctx, node, generation, token)
		}
	}
	machines := fake.New(cfg)
	n := node.New(node.Deps{DB: db, Clock: clk, Log: log, Launcher: machines, Images: img, Accounts: img, Random: random,
		Wakes: node.Wakes{Allocator: allocator, Nodes: nodes, Scheduler: scheduler, Jobs: jobs}, Config: o.Node})
	channel = nodeapi.New(n, n, log)
	p := pool.New(pool.Deps{DB: db, Clock: clk, Log: log, Images: img, Machines: machines, Accounts: img, WakeSession: n.Wake,
		NewID: func() string { var r [8]byte; _, _ = random(r[:]); return hex.EncodeToString(r[:]) },
		Wakes: pool.Wakes{Allocator: allocator, Nodes: nodes, Scheduler: scheduler, Jobs: jobs}})
	j := job.New(job.Deps{DB: db, Clock: clk, Log: log, WakeSession: n.Wake, Wakes: job.Wakes{Jobs: jobs, Scheduler: scheduler, Nodes: nodes}})
	s := sched.New(db, log, n, scheduler)
	d := reconcile.NewDriver(clk, log)
	for _, l := range []reconcile.Loop{p.Allocator(), n.Machines(), n.Cleanup(), j.Loop(), s.Loop()} {
		d.Start(ctx, l)
	}
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		n.Forward(ctx)
	}()
	edge := batchapi.New(batchapi.Options{Accounts: img, Authz: img, Pools: p, Nodes: n, Jobs: j, Schedules: j, Stats: &usage.Service{DB: db, Clock: clk}, Clock: clk, Rand: rng, Log: log,
		Verify: func(context.Context, string) (millpond.Caller, error) {
			return millpond.Caller{Method: millpond.AuthToken, Object: "o"}, nil
		}})
	return &Fleet{t: t, Pools: p, Nodes: n, Edge: edge, Fake: machines, End: func() {
		cancel()
		d.Wait()
		<-forwarded
		_ = channel.Close()
		_ = machines.Close()
		_ = db.Close()
	}}
}

// Add adds the pool "p" of n nodes to Account.
func (f *Fleet) Add(n int, timeout time.Duration) {
	f.t.Helper()
	_, err := f.Pools.Add(context.Background(), millpond.Caller{Method: millpond.AuthToken, Object: "o"}, Account, millpond.PoolSpec{ID: "p", VMSize: "Standard_D1_v2", NodeAgentSKU: "batch.node.debian 12", Image: millpond.ImageReference{ResourceID: "/x"}},
		pool.Targets{Dedicated: &n, ResizeTimeout: &timeout})
	if err != nil {
		f.t.Fatal(err)
	}
}

// Counts are the pool's nodes by state, and whether its resize is over.
func (f *Fleet) Counts() (millpond.NodeCounts, millpond.Pool) {
	ctx := context.Background()
	all, _, err := f.Pools.NodeCounts(ctx, "bench", millpond.ListQuery[millpond.PoolNodeCounts]{})
	if err != nil {
		f.t.Fatal(err)
	}
	p, err := f.Pools.Get(ctx, "bench", "p")
	if err != nil {
		f.t.Fatal(err)
	}
	return all[0].Dedicated, p
}

// Used is the processor time of this process.
func Used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Resident is the memory of this process, and the most that it had, in MiB.
func Resident(t testing.TB) (now, most float64) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			now = kib / 1024
		case "VmHWM:":
			most = kib / 1024
		}
	}
	return now, most
}
