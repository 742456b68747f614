// Command millpond-agent is the guest's half of the node channel. It waits for
// its virtio-serial port, serves the Agent service on it, and runs tasks. It is
// static, needs no configuration, and runs as a service of systemd (with
// Delegate=yes or pids, so that tasks get cgroups) or of any init that restarts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/agent/container"
	"millpond.dev/millpond/internal/agent/guest"
	"millpond.dev/millpond/internal/agent/managed"
	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/agent/waagent"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto"
)

// version is set by the linker: -ldflags "-X main.version=1.2.3".
var version = "dev"

func main() {
	if filepath.Base(os.Args[0]) == "waagent" {
		os.Exit(asWaagent(os.Args[1:]...))
	}
	if len(os.Args) == 2 && os.Args[1] == proc.HoldArgument {
		proc.Hold()
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "millpond-agent:", err)
		os.Exit(1)
	}
}

func run() error {
	port := flag.String("port", "", "device of the channel, or a socket in its place; found by its name when empty")
	root := flag.String("root", "", "node root directory; /mnt/batch on the temporary disk or /opt/batch/data when empty")
	trial := flag.Bool("unprivileged", false, "leave clock, name, disks, accounts and power of this machine alone")
	show := flag.Bool("version", false, "print the version and exit")
	provision := flag.Bool("provision", false, "make the machine's user as the environment says, and exit")
	flag.Parse()
	if *provision {
		os.Exit(asWaagent("-provision"))
	}
	if *show {
		fmt.Println(version)
		return nil
	}
	// The agent is idle most of the time; a small guest's memory is its tasks'. Its heap
	// is so small that collecting it earlier was a twentieth of what a small task takes.
	debug.SetGCPercent(200)
	debug.SetMemoryLimit(96 << 20)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	reach, tokens := &transfer.Reach{}, managed.NewBroker(clock.System{})
	path, home := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "/root"
	if *trial {
		path, home = os.Getenv("PATH"), os.Getenv("HOME")
	}
	engine := func() *container.Engine { return container.Find(path, home) }
	self, err := os.Executable()
	if err != nil {
		return err
	}
	machine := guest.New(guest.Config{
		Reach:      reach,
		Tokens:     tokens,
		Root:       *root,
		Clock:      clock.System{},
		Log:        log,
		Privileged: !*trial,
		Engine:     engine,
		Runner: func(root string) agent.Runner {
			return proc.New(proc.Config{Root: root, SameUser: *trial, Engine: engine, Hold: self, Clock: clock.System{}, Log: log, Reach: reach, Tokens: tokens.File})
		},
	})
	a := agent.New(agent.Config{
		Version:   version,
		Machine:   machine,
		Clock:     clock.System{},
		Log:       log,
		Heartbeat: 5 * time.Second,
		Tokens:    tokens,
	})
	defer a.Close()
	device, err := guest.OpenPort(ctx, *port)
	if err != nil {
		return err
	}
	log.Info("waiting for the server", "version", version)
	err = a.Serve(ctx, nodeproto.NewGuest(device, a.Birth))
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// asWaagent is what this program does under the name of Azure's agent.
func asWaagent(args ...string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return waagent.Main(ctx, waagent.System{Root: "/", Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version,
		Listens: func(port int) bool {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		},
		Run: func(ctx context.Context, name string, args ...string) error {
			program, err := exec.LookPath(name)
			if err != nil {
				return nil // the machine has none, and needs none
			}
			cmd := exec.CommandContext(ctx, program, args...)
			cmd.Stderr = os.Stderr
			return cmd.Run()
		}}, args)
}
