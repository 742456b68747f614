package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/datadir"
)

// ServeCmd runs the service in the foreground.
type ServeCmd struct {
	Listen             string `help:"Address to listen on, host:port; port 0 takes a free one. (default 127.0.0.1:8443)" placeholder:"ADDR"`
	Launcher           string `help:"What runs the nodes: local (QEMU on this host) or fake (no machines). (default local)" placeholder:"NAME"`
	Config             string `help:"Configuration file. (default: millpond.yaml in the data folder, if there is one)" placeholder:"FILE" type:"path"`
	BlobService        string `name:"blob-service" help:"The blob service behind storage accounts, such as http://127.0.0.1:10000/devstoreaccount1. (default: none, and no storage accounts)" placeholder:"URL"`
	BlobServiceKeyFile string `name:"blob-service-key-file" help:"File with the key of the blob service's account; not needed for Azurite's own." placeholder:"FILE" type:"path"`
	OnStop             string `help:"What SIGTERM does with running VMs: keep them for the next serve, or stop them. (default keep)" placeholder:"keep|stop"`
	LogLevel           string `help:"debug, info, warn or error. (default info)" placeholder:"LEVEL"`
	LogFormat          string `help:"text or json. (default text)" placeholder:"FORMAT"`
}

// Run is the server's life: configuration, lock, parts, ready, end.
func (c *ServeCmd) Run(g *Globals) error {
	if os.Getenv("GOGC") == "" {
		// Little lives long here, and requests and tasks leave much behind. At 300 a
		// task took an eighth less of the processor than at 100.
		debug.SetGCPercent(200)
	}
	cfg, err := c.configuration(g)
	if err != nil {
		return err
	}
	log, err := newLogger(cfg)
	if err != nil {
		return err
	}
	// The port first: a server that cannot have it leaves no folder behind.
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return noPort(g.Data, cfg.Listen, err)
	}
	release, err := g.Data.Lock()
	if err != nil {
		listener.Close()
		return err
	}
	defer release()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	addr := listener.Addr().String()
	s, err := newServer(ctx, cfg, g.Data, addr, log)
	if err != nil {
		listener.Close()
		return err
	}
	// The endpoint is written last: whoever reads it finds a server that answers.
	serving := s.start(ctx, listener)
	if err := atomicfile.Write(g.Data.Endpoint(), []byte(addr+"\n"), 0o644); err != nil {
		return errors.Join(err, s.stop(cfg.OnStop))
	}
	fmt.Printf("millpond %s is ready at https://%s; the administrator's credentials are in %s\n", version, addr, g.Data.Credentials())
	log.Info("ready", "address", addr, "version", version, "launcher", cfg.Launcher)

	select {
	case <-ctx.Done():
		log.Info("stopping", "vms", cfg.OnStop)
	case err = <-serving:
		log.Error("the listener ended", "err", err)
	}
	// A second signal ends the process at once; what it was doing is taken up by
	// the next start.
	stop()
	err = errors.Join(err, s.stop(cfg.OnStop))
	if rm := os.Remove(g.Data.Endpoint()); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	log.Info("stopped")
	return err
}

// noPort is the error of an address that cannot be had. Most often the folder's own
// server has it, which is the better thing to say.
func noPort(data datadir.Dir, address string, err error) error {
	if data.Check() == nil {
		release, taken := data.Lock()
		if errors.Is(taken, datadir.ErrInUse) {
			return taken
		}
		if taken == nil {
			release()
		}
	}
	return fmt.Errorf("listen on %s (choose another address with --listen): %w", address, err)
}

func (c *ServeCmd) configuration(g *Globals) (config.Config, error) {
	cfg, err := loadConfig(g, c.Config)
	if err != nil {
		return cfg, err
	}
	for _, o := range []struct {
		flag string
		into *string
	}{{c.Listen, &cfg.Listen}, {c.Launcher, &cfg.Launcher}, {c.OnStop, &cfg.OnStop}, {c.LogLevel, &cfg.LogLevel}, {c.LogFormat, &cfg.LogFormat}, {c.BlobService, &cfg.BlobService.URL}, {c.BlobServiceKeyFile, &cfg.BlobService.KeyFile}} {
		if o.flag != "" {
			*o.into = o.flag
		}
	}
	return cfg, cfg.Check()
}

// loadConfig reads the file that was named, or that of the data folder if it has one.
func loadConfig(g *Globals, named string) (config.Config, error) {
	if named != "" {
		return config.Load(named, true)
	}
	return config.Load(g.Data.Config(), false)
}

func newLogger(cfg config.Config) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return nil, err
	}
	o := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
}

// exitCode is 1, or what the error says.
func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 1
}
