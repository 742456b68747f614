package main

import (
	"context"
	"os/signal"
	"runtime/debug"
	"syscall"

	"millpond.dev/millpond/internal/vmrun"
)

// VMRunCmd owns one virtual machine until it ends. The local launcher starts it;
// it outlives the server.
type VMRunCmd struct {
	Dir string `help:"The machine's folder." required:"" type:"path"`
}

func (c *VMRunCmd) Run() error {
	// There is one supervisor per node: what it does not give back is paid
	// hundreds of times.
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(24 << 20)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return vmrun.Run(ctx, c.Dir)
}
