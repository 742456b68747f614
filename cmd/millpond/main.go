// Command millpond is the server and the tools around it. It is the only place
// where the parts are wired together.
package main

import (
	"fmt"
	"os"

	"github.com/alecthomas/kong"

	"millpond.dev/millpond/internal/datadir"
)

// version is stamped by make build.
var version = "dev"

// Globals are the flags of every command.
type Globals struct {
	Data datadir.Dir `help:"The server's data folder." placeholder:"DIR" env:"MILLPOND_DATA"`
}

type commands struct {
	Globals
	Serve       ServeCmd       `cmd:"" help:"Run the service."`
	Exec        ExecCmd        `cmd:"" help:"Run a program for Azure, unchanged, against the service."`
	Status      StatusCmd      `cmd:"" help:"Show accounts, pools and nodes, with what is wrong and how long it took."`
	Events      EventsCmd      `cmd:"" help:"Print the changes of pools, nodes, jobs and tasks, and follow them."`
	Job         JobCmd         `cmd:"" help:"Wait for jobs."`
	Logs        LogsCmd        `cmd:"" help:"Print what a task wrote, and follow it while it runs."`
	Node        NodeCmd        `cmd:"" help:"Look into nodes, also after they are gone."`
	Pool        PoolCmd        `cmd:"" help:"Look into how pools size themselves and what their machines use."`
	Webhook     WebhookCmd     `cmd:"" help:"Have events posted to other services."`
	Image       ImageCmd       `cmd:"" help:"Build, export, upload and look into machine images."`
	CloudConfig CloudConfigCmd `cmd:"" help:"Print the file for az cloud register, for use without exec."`
	Doctor      DoctorCmd      `cmd:"" help:"Say whether this host is fit: QEMU, acceleration, disk, memory, ports, clients."`
	Version     VersionCmd     `cmd:"" help:"Print the version."`
	VMRun       VMRunCmd       `cmd:"" name:"vm-run" help:"Own one virtual machine (started by the server)." hidden:""`
	ImageHost   ImageHostCmd   `cmd:"" name:"image-host" help:"Serve images to this host's machines (started by the server)." hidden:""`
}

// VersionCmd prints the stamp of the build.
type VersionCmd struct{}

func (VersionCmd) Run() error {
	fmt.Println("millpond", version)
	return nil
}

// usageOnError shows the whole help to who gave no command, and to others, whose
// mistake it would push out of sight, where to find it.
func usageOnError() kong.Option {
	if len(os.Args) < 2 {
		return kong.UsageOnError()
	}
	return kong.ShortUsageOnError()
}

func main() {
	var c commands
	parser := kong.Parse(&c, kong.Name("millpond"),
		kong.Description("A batch-computing service that you run yourself and that speaks the Azure Batch and Azure Compute Gallery APIs."),
		usageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if c.Data == "" {
		data, err := datadir.Default()
		parser.FatalIfErrorf(err)
		c.Data = data
	}
	if err := parser.Run(&c.Globals, &c); err != nil {
		fmt.Fprintln(os.Stderr, "millpond:", err)
		os.Exit(exitCode(err))
	}
}
