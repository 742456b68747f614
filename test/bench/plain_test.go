//go:build bench

package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/batchapi"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/events"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/nodeapi"
	"millpond.dev/millpond/internal/pool"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sched"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/usage"
	"millpond.dev/millpond/internal/wake"
)

// plain is the Batch service over HTTP whose nodes are the real agent without a
// machine around it: a process each, and each command one of its own.
type plain struct {
	db     *sqlite.DB
	server *httptest.Server
	agents *agents
}

var plainAccount = millpond.BatchAccount{Name: "bench", Region: "westus2", PoolQuota: 100, CoreQuota: 100_000}

type neighbours struct{}

func (neighbours) ResolveForPool(context.Context, millpond.Caller, millpond.BatchAccount, millpond.ImageReference, string) (millpond.BootImage, error) {
	return millpond.BootImage{VersionID: "/v/1.0.0", HyperV: "V2", OSDisk: millpond.BootDisk{Content: "c", SizeBytes: 1 << 20}, Replicas: 1}, nil
}

func (neighbours) ChooseReplicas(_ context.Context, _ millpond.BatchAccount, b millpond.BootImage, _ millpond.NodeID) (millpond.BootImage, error) {
	return b, nil
}

func (neighbours) Account(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return plainAccount, nil
}

func (neighbours) Lookup(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return plainAccount, nil
}

func (neighbours) Authorize(context.Context, millpond.Caller, string, string) error { return nil }

// startPlain runs the service until the benchmark's end.
func startPlain(b testing.TB) *plain {
	debug.SetGCPercent(200) // as the server does
	ctx, cancel := context.WithCancel(context.Background())
	clk := clock.System{}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	dir := b.TempDir()
	db, err := sqlite.Open(ctx, filepath.Join(dir, "state.db"), clk)
	if err != nil {
		b.Fatal(err)
	}
	changes, err := events.Open(ctx, db, clk, log, events.Config{})
	if err != nil {
		b.Fatal(err)
	}
	allocator, nodes, scheduler, jobs := wake.New(), wake.New(), wake.New(), wake.New()
	var channel *nodeapi.Handler
	machines := &agents{ctx: ctx, dir: dir, log: log, all: map[string]*process{}, changed: make(chan struct{}, 1),
		serve: func(spec launch.Spec, conn net.Conn) error {
			return channel.Serve(ctx, spec.Node, spec.Generation, spec.Channel.Token, conn)
		}}
	n := node.New(node.Deps{DB: db, Clock: clk, Log: log, Launcher: machines, Images: neighbours{}, Accounts: neighbours{}, Random: rand.Read,
		Wakes: node.Wakes{Allocator: allocator, Nodes: nodes, Scheduler: scheduler, Jobs: jobs}})
	channel = nodeapi.New(n, n, log)
	p := pool.New(pool.Deps{DB: db, Clock: clk, Log: log, Images: neighbours{}, Machines: machines, Accounts: neighbours{}, WakeSession: n.Wake,
		NewID: func() string { var r [8]byte; _, _ = rand.Read(r[:]); return hex.EncodeToString(r[:]) },
		Wakes: pool.Wakes{Allocator: allocator, Nodes: nodes, Scheduler: scheduler, Jobs: jobs}})
	j := job.New(job.Deps{DB: db, Clock: clk, Log: log, WakeSession: n.Wake, Wakes: job.Wakes{Jobs: jobs, Scheduler: scheduler, Nodes: nodes}})
	s := sched.New(db, log, n, scheduler)
	d := reconcile.NewDriver(clk, log)
	for _, l := range []reconcile.Loop{p.Allocator(), n.Machines(), n.Cleanup(), j.Loop(), s.Loop(), changes.Forget()} {
		d.Start(ctx, l)
	}
	go n.Forward(ctx)
	server := httptest.NewServer(batchapi.New(batchapi.Options{Accounts: neighbours{}, Authz: neighbours{}, Pools: p, Nodes: n, Jobs: j, Schedules: j, Stats: &usage.Service{DB: db, Clock: clk}, Events: changes, Clock: clk, Rand: rand.Reader, Log: log,
		Verify: func(context.Context, string) (millpond.Caller, error) {
			return millpond.Caller{Method: millpond.AuthToken, Object: "o"}, nil
		}}))
	b.Cleanup(func() {
		server.Close()
		changes.Close()
		cancel()
		d.Wait()
		_ = channel.Close()
		machines.wg.Wait()
		_ = db.Close()
	})
	return &plain{db, server, machines}
}

// client speaks to the service; what a benchmark asks of a lab's client works.
func (p *plain) client(b testing.TB) *client {
	return &client{b: b, base: p.server.URL + "/batch/bench.westus2", http: p.server.Client(), token: "x"}
}

// addPool adds a pool and waits until its nodes are idle.
func (c *client) addPool(id string, nodes, slots int) {
	c.must(201, "POST", "/pools", map[string]any{"id": id, "vmSize": "Standard_D4s_v3", "targetDedicatedNodes": nodes, "taskSlotsPerNode": slots,
		"virtualMachineConfiguration": map[string]any{"imageReference": map[string]any{"virtualMachineImageId": "/x"}, "nodeAgentSKUId": "batch.node.debian 12"}})
	deadline := time.Now().Add(time.Minute)
	for {
		_, data := c.do("GET", "/nodecounts?$filter=poolId+eq+'"+id+"'", nil)
		if bytesContain(data, fmt.Sprintf(`"idle":%d,`, nodes)) {
			return
		}
		if time.Now().After(deadline) {
			c.b.Fatalf("the nodes are not idle: %s", data)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
