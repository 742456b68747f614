package main

import (
	"context"
	"os/signal"
	"syscall"

	"millpond.dev/millpond/internal/vmrun"
)

// VMRunCmd owns one virtual machine until it ends. The local launcher starts it;
// it outlives the server.
type VMRunCmd struct {
	Dir string `help:"The machine's folder." required:"" type:"path"`
}

func (c *VMRunCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return vmrun.Run(ctx, c.Dir)
}
