package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"millpond.dev/millpond/internal/baseimage"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/datadir"
	"millpond.dev/millpond/internal/diskformat"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/rawfile"
	"millpond.dev/millpond/internal/inspect"
)

// ImageCmd works on image files. It needs no server, only a data folder.
type ImageCmd struct {
	Build       ImageBuildCmd       `cmd:"" help:"Build a base image: tiny or debian-12."`
	Export      ImageExportCmd      `cmd:"" help:"Write a disk, snapshot, image or image version of the server, or a file of any format (raw, VHD, VHDX, qcow2), as a fixed VHD or raw."`
	Upload      ImageUploadCmd      `cmd:"" help:"Upload an image of any format (raw, VHD, VHDX, qcow2) to a disk's SAS URL as a fixed VHD, without its zeros."`
	List        ImageListCmd        `cmd:"" help:"List the base images that were built in the data folder."`
	Replication ImageReplicationCmd `cmd:"" help:"Show in which regions a gallery image version is, and how far; --watch goes on until it is everywhere."`
	Check       ImageCheckCmd       `cmd:"" help:"Say whether an image would become a node, and how to mend it."`
	GC          ImageGCCmd          `cmd:"" name:"gc" help:"Give back the space of chunks that no image uses; also while the server runs."`
	Verify      ImageVerifyCmd      `cmd:"" help:"Read every chunk of the stores and compare it with its digest; exit code 2 if damage is left."`
	DU          ImageDUCmd          `cmd:"" name:"du" help:"Say what each store keeps, shares, compresses, and could give back."`
	Inspect     ImageInspectCmd     `cmd:"" help:"Say what a machine would find on an image: partitions, firmware, operating system."`
}

// interruptible is a context that ends with Ctrl-C or a termination signal.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// ImageBuildCmd builds a base image.
type ImageBuildCmd struct {
	Name         string   `arg:"" help:"What to build: tiny or debian-12."`
	OSRelease    string   `name:"os-release" help:"What the tiny image says that it is, such as ubuntu-20.04." placeholder:"RELEASE"`
	Package      []string `help:"A Debian package to install into debian-12 as well; may be given more than once." placeholder:"NAME"`
	Out          string   `help:"File to write; by default in the data folder." type:"path" placeholder:"FILE"`
	WithoutAgent bool     `help:"Leave the agent out; the boot seed then has to bring it."`
	Cache        string   `help:"Folder for what can be used again by later builds; by default in the data folder." type:"path" placeholder:"DIR"`
	Agent        string   `help:"The agent's binary; by default millpond-agent beside this program." type:"path" placeholder:"FILE" env:"MILLPOND_AGENT"`
}

// baseImagePath is where a build goes by default: NAME[-RELEASE][+PACKAGE…][-noagent].raw.
func baseImagePath(data datadir.Dir, c *ImageBuildCmd) string {
	name := c.Name
	if c.OSRelease != "" && c.OSRelease != c.Name {
		name += "-" + strings.ToLower(c.OSRelease)
	}
	for _, p := range c.Package {
		name += "+" + filepath.Base(p)
	}
	if c.WithoutAgent {
		name += "-noagent"
	}
	return filepath.Join(data.BaseImages(), name+".raw")
}

// agentBinary finds millpond-agent beside this program.
func agentBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	p := filepath.Join(filepath.Dir(self), "millpond-agent")
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("there is no millpond-agent beside %s; build both with 'make build', or name it with --agent", self)
	}
	return p, nil
}

// Run builds and prints each step with its time.
func (c *ImageBuildCmd) Run(g *Globals) error {
	ctx, stop := interruptible()
	defer stop()
	o := baseimage.Options{
		Name: c.Name, Out: c.Out, OSRelease: c.OSRelease, Packages: c.Package, WithoutAgent: c.WithoutAgent, AgentPath: c.Agent,
		CacheDir: filepath.Join(g.Data.Cache(), "base-images"), Clock: clock.System{},
		Progress: func(s baseimage.Step) {
			fmt.Printf("%-22s %6.1f s  %s\n", s.Name, s.Duration.Seconds(), s.Note)
		},
	}
	if c.Cache != "" {
		o.CacheDir = c.Cache
	}
	if o.Out == "" {
		o.Out = baseImagePath(g.Data, c)
	}
	if o.AgentPath == "" && !o.WithoutAgent {
		p, err := agentBinary()
		if err != nil {
			return err
		}
		o.AgentPath = p
	}
	r, err := baseimage.Build(ctx, o)
	if err != nil {
		return err
	}
	word := "built"
	if r.Cached {
		word = "unchanged"
	}
	fmt.Printf("%s: %s, %s, %s (%s allocated), boots by BIOS and UEFI, %s in %.1f s\n",
		r.Path, r.PrettyName, agentWord(r.Agent), mebibytes(r.Size), mebibytes(r.Stored), word, r.Duration.Seconds())
	return nil
}

func agentWord(has bool) string {
	if has {
		return "with agent"
	}
	return "without agent"
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }

// ImageListCmd lists what was built.
type ImageListCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

type builtImage struct {
	File string `json:"file"`
	baseimage.Description
}

// Run prints a table, newest builds last by name.
func (c *ImageListCmd) Run(g *Globals) error {
	files, err := filepath.Glob(filepath.Join(g.Data.BaseImages(), "*.raw"))
	if err != nil {
		return err
	}
	all := []builtImage{}
	for _, f := range files {
		d, err := baseimage.ReadDescription(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a build that never ended
		}
		if err != nil {
			return err
		}
		all = append(all, builtImage{f, d})
	}
	if c.JSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	}
	if len(all) == 0 {
		fmt.Println("No base image has been built. Build one with: millpond image build tiny")
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tOS\tAGENT\tSIZE\tALLOCATED\tBUILT")
	for _, i := range all {
		agent := "no"
		if i.Agent {
			agent = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", i.File, i.PrettyName, agent, mebibytes(i.Size), mebibytes(i.Stored), i.BuiltAt.Local().Format(time.DateTime))
	}
	return w.Flush()
}

// openDisk opens the disk in a file of any format that is read here.
func openDisk(path string) (image.Source, func() error, error) {
	f, err := rawfile.Open(path)
	if err != nil {
		return nil, nil, err
	}
	d, err := diskformat.Open(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return d.Source, f.Close, nil
}

// ImageInspectCmd prints a report.
type ImageInspectCmd struct {
	File string `arg:"" help:"An image: raw, VHD, VHDX or qcow2." type:"existingfile"`
	SKU  string `name:"node-agent-sku" help:"Also say whether this node agent is for the image." placeholder:"SKU"`
}

// Run prints the report as JSON; a node agent that does not fit is an error.
func (c *ImageInspectCmd) Run(*Globals) error {
	ctx, stop := interruptible()
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	src, done, err := openDisk(c.File)
	if err != nil {
		return err
	}
	defer done()
	r, err := inspect.Inspect(ctx, src, src.Size())
	if err != nil {
		return err
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	if c.SKU == "" {
		return nil
	}
	if ok, why := inspect.MatchesNodeAgentSKU(r, c.SKU); !ok {
		return errors.New(why)
	}
	return nil
}
