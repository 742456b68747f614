//go:build bench

package bench

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

// fleet is the service above the launch seam with the fake launcher below it, in
// this process and without a listener: what a large pool costs can be seen in a
// profile, and its time may be synctest's.
type fleet struct {
	t     testing.TB
	db    *sqlite.DB
	pools *pool.Service
	nodes *node.Service
	edge  *batchapi.Edge
	fake  *fake.Launcher
	end   func()
}

var fleetAccount = millpond.BatchAccount{Name: "bench", Region: "westus2", PoolQuota: 100, CoreQuota: 1_000_000}

// fleetImage is an image with as many replicas as it says.
type fleetImage struct{ replicas int }

func (f fleetImage) ResolveForPool(context.Context, millpond.Caller, millpond.BatchAccount, millpond.ImageReference, string) (millpond.BootImage, error) {
	return millpond.BootImage{VersionID: "/v/1.0.0", HyperV: "V1", OSDisk: millpond.BootDisk{Content: "c", SizeBytes: 1 << 20}, Replicas: f.replicas}, nil
}

// ChooseReplicas spreads nodes over the replicas as the galleries do.
func (f fleetImage) ChooseReplicas(_ context.Context, _ millpond.BatchAccount, b millpond.BootImage, n millpond.NodeID) (millpond.BootImage, error) {
	h := fnv.New32a()
	h.Write([]byte(n.Key()))
	first := int(h.Sum32() % uint32(f.replicas))
	for i := range f.replicas {
		b.OSDisk.Stores = append(b.OSDisk.Stores, millpond.StorePlace{Name: fmt.Sprint("replica-", (first+i)%f.replicas)})
	}
	return b, nil
}

func (fleetImage) Account(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return fleetAccount, nil
}

func (fleetImage) Lookup(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return fleetAccount, nil
}

func (fleetImage) Authorize(context.Context, millpond.Caller, string, string) error { return nil }

// newFleet starts the service. end stops it and waits for everything.
func newFleet(t testing.TB, dir string, replicas int, cfg fake.Config, bootsPerReplica int) *fleet {
	ctx, cancel := context.WithCancel(context.Background())
	clk := clock.System{}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	db, err := sqlite.Open(ctx, filepath.Join(dir, "state.db"), clk)
	if err != nil {
		t.Fatal(err)
	}
	allocator, nodes, scheduler, jobs := wake.New(), wake.New(), wake.New(), wake.New()
	image := fleetImage{replicas}
	rng := rand.NewChaCha8([32]byte{1})
	random := func(p []byte) (int, error) { return rng.Read(p) }
	var channel *nodeapi.Handler
	cfg.Clock, cfg.Log = clk, log
	cfg.Join = func(ctx context.Context, node millpond.NodeID, generation int, token string, agent http.Handler) error {
		return channel.Join(ctx, node, generation, token, agent)
	}
	if os.Getenv("MILLPOND_DIAL") != "" { // each node over HTTP/2, as real ones are
		cfg.Join, cfg.Dial = nil, func(ctx context.Context, node millpond.NodeID, generation int, token string) (net.Conn, error) {
			return channel.Dial(ctx, node, generation, token)
		}
	}
	machines := fake.New(cfg)
	n := node.New(node.Deps{DB: db, Clock: clk, Log: log, Launcher: machines, Images: image, Accounts: image, Random: random,
		Wakes: node.Wakes{Allocator: allocator, Nodes: nodes, Scheduler: scheduler, Jobs: jobs}, Config: node.Config{BootsPerReplica: bootsPerReplica}})
	channel = nodeapi.New(n, n, log)
	p := pool.New(pool.Deps{DB: db, Clock: clk, Log: log, Images: image, Machines: machines, Accounts: image, WakeSession: n.Wake,
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
	edge := batchapi.New(batchapi.Options{Accounts: image, Authz: image, Pools: p, Nodes: n, Jobs: j, Schedules: j, Stats: &usage.Service{DB: db, Clock: clk}, Clock: clk, Rand: rng, Log: log,
		Verify: func(context.Context, string) (millpond.Caller, error) {
			return millpond.Caller{Method: millpond.AuthToken, Object: "o"}, nil
		}})
	return &fleet{t: t, db: db, pools: p, nodes: n, edge: edge, fake: machines, end: func() {
		cancel()
		d.Wait()
		<-forwarded
		_ = channel.Close()
		_ = machines.Close()
		_ = db.Close()
	}}
}

// add adds a pool of n nodes.
func (f *fleet) add(n int, timeout time.Duration) {
	f.t.Helper()
	_, err := f.pools.Add(context.Background(), millpond.Caller{Method: millpond.AuthToken, Object: "o"}, fleetAccount, millpond.PoolSpec{ID: "p", VMSize: "Standard_D1_v2", NodeAgentSKU: "batch.node.debian 12", Image: millpond.ImageReference{ResourceID: "/x"}},
		pool.Targets{Dedicated: &n, ResizeTimeout: &timeout})
	if err != nil {
		f.t.Fatal(err)
	}
}

// counts are the pool's nodes by state, and whether its resize is over.
func (f *fleet) counts() (millpond.NodeCounts, millpond.Pool) {
	ctx := context.Background()
	all, _, err := f.pools.NodeCounts(ctx, "bench", millpond.ListQuery[millpond.PoolNodeCounts]{})
	if err != nil {
		f.t.Fatal(err)
	}
	p, err := f.pools.Get(ctx, "bench", "p")
	if err != nil {
		f.t.Fatal(err)
	}
	return all[0].Dedicated, p
}

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the memory of this process, and the most that it had, in MiB.
func resident(t testing.TB) (now, most float64) {
	for _, line := range strings.Split(string(read(t, "/proc/self/status")), "\n") {
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
