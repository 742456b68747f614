package guest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

const (
	// networkLimit is how long after the first Hello mounts and attempts may have to
	// wait for the network. A machine whose network does not come up runs tasks all
	// the same. Debian on a busy host that emulates its processor was seen to need
	// more than 3 minutes from the agent's Hello to its address; tasks that did not
	// wait for it failed for their resource files.
	networkLimit = 10 * time.Minute
	networkTick  = 20 * time.Millisecond
)

// online is a runner whose first attempts wait for the machine's address. The
// agent speaks before the network is up, so that a node is known early; on
// Azure no task runs on a node without a network.
type online struct {
	agent.Runner
	// whole returns when the machine is its own, or with ctx: nothing runs before.
	whole func(ctx context.Context)
	// up says that there is nothing to wait for (any more).
	up    func() bool
	until time.Time
	log   *slog.Logger
	hosts *hostsFile
	// settled is set when waiting has ended, however it has.
	settled atomic.Bool
}

// Run implements agent.Runner. An attempt whose ctx ends while it waits is handed
// on too: the runner reports it as killed.
func (o *online) Run(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time)) *nodev1.TaskCompleted {
	o.wait(ctx)
	return o.Runner.Run(ctx, q, started)
}

// Install implements agent.Runner.
func (o *online) Install(ctx context.Context, packages []*nodev1.ApplicationPackage) *nodev1.Failure {
	o.wait(ctx)
	return o.Runner.Install(ctx, packages)
}

// RunInstance implements agent.Runner.
func (o *online) RunInstance(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time), coordinated func(), proceed <-chan struct{}) *nodev1.TaskCompleted {
	o.wait(ctx)
	if err := o.hosts.peers(q.GetInstance().GetHosts()); err != nil {
		o.log.Warn("the names of a task's nodes are left out", "error", err)
	}
	return o.Runner.RunInstance(ctx, q, started, coordinated, proceed)
}

// wait returns when the network is up, or is waited for no more, or with ctx.
func (o *online) wait(ctx context.Context) {
	if o.settled.Load() {
		return
	}
	if o.whole(ctx); ctx.Err() != nil {
		return
	}
	tick := time.NewTicker(networkTick)
	defer tick.Stop()
	for !o.settled.Load() {
		if o.up() {
			o.settled.Store(true)
			return
		}
		if !time.Now().Before(o.until) {
			if o.settled.CompareAndSwap(false, true) {
				o.log.Warn("the network is not up; tasks run without it", "waited", networkLimit)
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// networkUp says that the machine has an address or no card to have one on. Cards
// are looked for on the PCI bus, where the kernel knows them before any driver.
func networkUp() bool { return address() != "" || !hasCard("/sys/bus/pci/devices") }

// hasCard says that a PCI device is of the network class, 02.
func hasCard(devices string) bool {
	classes, _ := filepath.Glob(filepath.Join(devices, "*", "class"))
	for _, c := range classes {
		if b, err := os.ReadFile(c); err == nil && strings.HasPrefix(string(b), "0x02") {
			return true
		}
	}
	return false
}

var _ agent.Runner = (*online)(nil)
