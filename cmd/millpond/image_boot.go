package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"millpond.dev/millpond/internal/accel"
	"millpond.dev/millpond/internal/bootcheck"
	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/diskformat"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/rawfile"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/seed"
	"millpond.dev/millpond/internal/vhd"
)

// bootFlags are the flags of a check that boots.
type bootFlags struct {
	Boot       bool          `help:"Also boot the image once on this host, in a scratch folder, and say how far it comes. The image is not changed."`
	BootLimit  time.Duration `help:"With --boot: how long the agent may take to answer." default:"5m"`
	BootMemory int           `name:"boot-memory-mib" help:"With --boot: the machine's memory." default:"1024"`
}

// boot boots what was checked and fills in how that went.
func (c *ImageCheckCmd) boot(ctx context.Context, g *Globals, checked gallery.Checked) (*bootcheck.Result, error) {
	cfg, err := config.Load(g.Data.Config(), false)
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "millpond-boot-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	o := bootcheck.Options{Scratch: scratch, Firmware: launch.BIOS, Tools: tools(), VCPUs: runtime.NumCPU(), MemoryMiB: c.BootMemory, Limit: c.BootLimit, Now: time.Now}
	generation := c.Generation
	if generation == "" {
		generation = checked.Generation
	}
	if generation == "V2" || generation == "" && checked.Report.UEFI && !checked.Report.BIOS {
		o.Firmware = launch.UEFI
	}
	mode, err := accel.ParseMode(cfg.Local.Accel)
	if err != nil {
		return nil, err
	}
	verdict, err := accel.Prover{QEMU: o.Tools.QEMU, CacheFile: filepath.Join(scratch, "accel.json")}.Decide(ctx, mode)
	if err != nil {
		return nil, err
	}
	o.Accel = verdict.Accel
	// Without an agent to bring, only images that have one come to the last stage.
	if agent, err := agentBinary(); err == nil {
		if o.AgentDisk, err = seed.AgentDisk(scratch, agent); err != nil {
			return nil, err
		}
	}
	done, err := c.disks(ctx, g, cfg, checked, &o)
	defer func() {
		for _, f := range done {
			_ = f()
		}
	}()
	if err != nil {
		return nil, err
	}
	r, err := bootcheck.Run(ctx, o)
	return &r, err
}

// disks opens the file, or the contents in the stores; what it returns closes them.
func (c *ImageCheckCmd) disks(ctx context.Context, g *Globals, cfg config.Config, checked gallery.Checked, o *bootcheck.Options) (done []func() error, err error) {
	if checked.Disks == nil {
		f, err := rawfile.Open(c.What)
		if err != nil {
			return nil, err
		}
		done = append(done, f.Close)
		d, err := diskformat.Open(f)
		if err != nil {
			return done, err
		}
		if o.OS.Source = d.Source; d.Format == vhd.Raw {
			o.OS.Raw = c.What
		}
		return done, nil
	}
	all, err := openRegionStores(ctx, cfg, g.Data)
	if err != nil {
		return nil, err
	}
	done = append(done, func() error { return closeStores(all) })
	for i, d := range checked.Disks {
		src, err := openContent(ctx, all, d)
		if err != nil {
			return done, err
		}
		done = append([]func() error{src.Close}, done...)
		if i == 0 {
			o.OS.Source = src
		} else {
			o.Data = append(o.Data, bootcheck.Disk{LUN: int(d.LUN), Source: src})
		}
	}
	return done, nil
}

func openContent(ctx context.Context, all []regionStores, d gallery.CheckedDisk) (image.ReadCloser, error) {
	for _, r := range all {
		for _, s := range r.stores {
			if s.Name() == d.Store {
				return s.Open(ctx, image.ContentID(d.Content))
			}
		}
	}
	return nil, fmt.Errorf("the store %s of the image is not in the configuration of this data folder", d.Store)
}

// errNoNode is the failure of a boot; what was seen has been printed.
var errNoNode = errors.New("the image did not become a node")

// printBoot prints how a boot went.
func printBoot(r *bootcheck.Result) {
	fmt.Printf("\nboot: stage reached: %s, after %.1f s (%s)\n", r.Stage, r.Took.Seconds(), r.Accel)
	for _, s := range bootcheck.Stages()[1:] {
		mark := "-"
		if bootcheck.AtLeast(r.Stage, s) {
			mark = "+"
		}
		fmt.Printf("  %s %s\n", mark, s)
	}
	if f := r.Failure; f != nil {
		fmt.Printf("\n%-8s %s\n  seen: %s\n  fix:  %s\n", "error", f.Code, f.Message, f.Suggestion)
		fmt.Printf("\nThe console's last words:\n%s\n", r.Console)
	}
}
