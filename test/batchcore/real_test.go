package batchcore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	millpond "millpond.dev/millpond"
	guestagent "millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/agent/container"
	"millpond.dev/millpond/internal/agent/guest"
	"millpond.dev/millpond/internal/agent/managed"
	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// bootReal runs the agent of the product for a machine until ctx ends, once the one
// of the boot before has gone: a reset takes a machine's agent with it. Its commands
// are processes of this machine.
func (m *machine) bootReal(ctx context.Context, boot string, before <-chan struct{}, gone chan<- struct{}) {
	defer close(gone)
	if before != nil {
		<-before
	}
	root := m.root()
	m.hall.mu.Lock()
	disk := m.hall.disk
	m.hall.mu.Unlock()
	if disk != nil {
		disk(root)
	}
	log := slog.New(slog.DiscardHandler)
	engine := func() *container.Engine { return container.Find(m.hall.engine, m.hall.engine) }
	reach := &transfer.Reach{}
	tokens := managed.NewBroker(clock.System{})
	g := guest.New(guest.Config{Tokens: tokens, Metadata: m.hall.metadata, Root: root, Accounts: m.accounts(), Homes: filepath.Join(m.accounts(), "home"), Reach: reach, Engine: engine, Clock: clock.System{}, Log: log, Runner: func(root string) guestagent.Runner {
		return proc.New(proc.Config{Root: root, SameUser: true, Engine: engine, Clock: clock.System{}, Log: log, Reach: reach, Tokens: tokens.File})
	}})
	a := guestagent.New(guestagent.Config{Version: "test", Machine: booted{g, m, boot}, Clock: clock.System{}, Log: log, Heartbeat: time.Second, Tokens: tokens})
	m.connect(ctx, a)
	_ = a.Close()
}

// booted is a machine with a boot id of its own in place of this one's, and with a
// power button.
type booted struct {
	*guest.Machine
	of *machine
	id string
}

// Shutdown returns before the machine goes down, as that of a real one.
func (b booted) Shutdown(reboot bool) error {
	if !reboot {
		return errors.New("no test switches real agents off")
	}
	h := b.of.hall
	h.mu.Lock()
	shut := h.shut
	h.mu.Unlock()
	go func() {
		if shut != nil {
			<-shut
		}
		h.reset(b.of)
	}()
	return nil
}

func (b booted) Adopt(ctx context.Context, q *nodev1.HelloRequest) (guestagent.Place, *nodev1.HelloResponse, error) {
	place, answer, err := b.Machine.Adopt(ctx, q)
	if answer != nil {
		answer.BootId = b.id
	}
	return place, answer, err
}

// root is the folder of a machine's files; a reimage makes another.
func (m *machine) root() string {
	return filepath.Join(m.hall.real, fmt.Sprintf("%s-%d", m.spec.Node.Key(), m.spec.Generation))
}

// root is that of the machine that a node has now.
func (h *hall) root(id millpond.NodeID) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.machines[id.Key()].root()
}

// accounts is the folder of a machine's passwd; a reimage makes another.
func (m *machine) accounts() string {
	dir := filepath.Join(m.hall.real, fmt.Sprintf("etc-%s-%d", m.spec.Node.Key(), m.spec.Generation))
	if os.MkdirAll(dir, 0o755) == nil {
		for name, text := range map[string]string{"passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n", "shadow": "root:*:1::::::\n"} {
			if f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
				_, _ = f.WriteString(text)
				_ = f.Close()
			}
		}
	}
	return dir
}

// reboot restarts a node and waits until it is back.
func (c *core) reboot(pool string, id millpond.NodeID) {
	c.t.Helper()
	before, err := c.nodes.Get(ctx, acct.Name, millpond.PoolID(pool), id)
	c.must(err)
	c.must(c.nodes.Reboot(ctx, acct.Name, millpond.PoolID(pool), id, millpond.DeallocateRequeue))
	c.wait("the node is back", func() bool {
		n, err := c.nodes.Get(ctx, acct.Name, millpond.PoolID(pool), id)
		return err == nil && n.BootID != before.BootID && n.State == millpond.NodeIdle
	})
}
