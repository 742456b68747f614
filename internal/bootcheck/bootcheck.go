// Package bootcheck boots an image once, in a folder of its own that goes
// afterwards, by the supervisor that nodes have, and says how far it came. It is
// what `millpond image check --boot` does beyond reading the disk.
//
// The image is never written to, no server is needed or told, and no machine is
// left behind: QEMU ends with this process.
package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
	"millpond.dev/millpond/internal/vmrun"
)

// Disk is one disk of the image.
type Disk struct {
	LUN int
	// Raw is the path of a raw file, which is read in place; without one Source is
	// copied into the folder first.
	Raw    string
	Source image.Source
}

// Options are what a boot needs.
type Options struct {
	// Scratch is an empty folder; the caller removes it.
	Scratch  string
	Firmware launch.Firmware
	OS       Disk
	Data     []Disk
	Tools    vmrun.Tools
	Accel    qemu.Accel
	// AgentDisk brings the agent to images without one; may be empty.
	AgentDisk        string
	VCPUs, MemoryMiB int
	// Limit is how long the agent may take to answer.
	Limit time.Duration
	Now   func() time.Time
}

// Result is how the boot went.
type Result struct {
	Stage Stage         `json:"stage"`
	Took  time.Duration `json:"took"`
	Accel string        `json:"accel"`
	// Failure is nil if the agent was heard.
	Failure *launch.Failure `json:"failure,omitempty"`
	// Console is the tail of what the machine said, without control codes.
	Console string `json:"console"`
}

// CodeSilent is the failure of a machine whose agent was not heard in time.
const CodeSilent = "AgentNotHeard"

// tempMiB is the size of the temporary disk, which images may mount.
const tempMiB = 1024

// endLimit is how long a machine that is told to end may take.
const endLimit = 20 * time.Second

// Run boots the image and returns when the agent has answered, the boot has
// failed, or the limit has passed. An error means that the host was in the way.
func Run(ctx context.Context, o Options) (Result, error) {
	dir := filepath.Join(o.Scratch, "vm")
	spec := launch.Spec{Node: "boot-check", Generation: 1, VCPUs: o.VCPUs, MemoryMiB: o.MemoryMiB, Firmware: o.Firmware, TempDiskMiB: tempMiB, Hostname: "boot-check",
		// Nobody is to be reached: that the agent answers is all that is asked of it.
		Channel: launch.Channel{EndpointFile: filepath.Join(o.Scratch, "no-endpoint"), CAFile: filepath.Join(o.Scratch, "no-ca")}}
	var err error
	if spec.OSDisk, err = o.OS.place(ctx, filepath.Join(o.Scratch, "os.raw")); err != nil {
		return Result{}, err
	}
	for _, d := range o.Data {
		disk, err := d.place(ctx, filepath.Join(o.Scratch, fmt.Sprintf("data-%d.raw", d.LUN)))
		if err != nil {
			return Result{}, err
		}
		spec.DataDisks = append(spec.DataDisks, disk)
	}
	cfg := vmrun.Config{Spec: spec, Accel: o.Accel, VCPUs: o.VCPUs, MemoryMiB: o.MemoryMiB, Network: netip.MustParsePrefix("10.78.0.0/29"), Tools: o.Tools,
		CacheDir: filepath.Join(o.Scratch, "cache"), AgentDisk: o.AgentDisk, StopGrace: 0}
	if err := cfg.Save(dir); err != nil {
		return Result{}, err
	}
	began := o.Now()
	heard := make(chan struct{})
	var once sync.Once
	ended := make(chan error, 1)
	go func() {
		ended <- vmrun.Watch(ctx, dir, func(st launch.Status) {
			if !st.Heard.IsZero() {
				once.Do(func() { close(heard) })
			}
		})
	}()
	limit := time.NewTimer(o.Limit)
	defer limit.Stop()
	late := false
	select {
	case <-heard:
	case <-limit.C:
		late = true
	case err := <-ended:
		ended <- err
	}
	took := o.Now().Sub(began)
	if err := end(ctx, dir, ended); err != nil {
		return Result{}, err
	}
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	st, err := vmrun.LoadStatus(dir)
	if err != nil {
		return Result{}, err
	}
	out := Result{Took: took, Accel: string(o.Accel), Failure: st.Err, Console: vmrun.Said(dir)}
	out.Stage = Reached(st, out.Console)
	switch {
	case out.Stage == Agent:
		out.Failure = nil
	case st.Err != nil && st.Err.Host:
		return out, st.Err
	case late:
		out.Failure = &launch.Failure{Code: CodeSilent, Message: fmt.Sprintf("The agent was not heard in %s.", o.Limit),
			Suggestion: "The console's last lines tell how far it came. Without any sign of an error it may only be slow: give it longer with --boot-limit. The agent needs the virtio console port org.millpond.agent and a unit that starts it."}
	case st.Err == nil:
		out.Failure = &launch.Failure{Code: "PoweredOff", Message: "The machine switched itself off before its agent was heard.",
			Suggestion: "The console's last lines tell why."}
	}
	return out, nil
}

// end kills the machine and joins its supervisor.
func end(ctx context.Context, dir string, ended chan error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	// A supervisor that is just ending may fail the call; what counts is its end.
	_, failed := vmrun.Call(ctx, dir, vmrun.Request{Op: vmrun.OpKill})
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("the machine of the boot check did not end: %w", ctx.Err()), failed)
	}
}

// place makes the disk a raw file that an overlay can lie on.
func (d Disk) place(ctx context.Context, name string) (launch.Disk, error) {
	if d.Raw != "" {
		path, err := filepath.Abs(d.Raw)
		if err != nil {
			return launch.Disk{}, err
		}
		st, err := os.Stat(path)
		if err != nil {
			return launch.Disk{}, err
		}
		return launch.Disk{LUN: d.LUN, Backing: path, SizeBytes: st.Size()}, nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return launch.Disk{}, err
	}
	size := d.Source.Size()
	err = f.Truncate(size)
	if err == nil {
		err = image.CopySparse(ctx, f, d.Source, nil)
	}
	return launch.Disk{LUN: d.LUN, Backing: name, SizeBytes: size}, errors.Join(err, f.Close())
}
