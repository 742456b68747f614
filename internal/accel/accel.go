// Package accel decides how QEMU runs guest code on this host: with KVM or by
// emulation (TCG). An open /dev/kvm proves nothing, so auto boots a tiny guest
// under the very options that VMs get and believes what it sees. The launcher
// and `millpond doctor` call it; it never runs a user's VM.
package accel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/process"
	"millpond.dev/millpond/internal/qemu"
)

// Mode is what the operator asks for.
type Mode string

const (
	Auto Mode = "auto"
	KVM  Mode = "kvm"
	TCG  Mode = "tcg"
)

// ParseMode reads a configured mode; empty means Auto.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(strings.ToLower(s)); m {
	case "":
		return Auto, nil
	case Auto, KVM, TCG:
		return m, nil
	}
	return "", millpond.Errorf(millpond.Invalid, "InvalidConfiguration",
		"acceleration %q is not known; use auto, kvm or tcg", s)
}

// Verdict is the decision and what it rests on.
type Verdict struct {
	Accel qemu.Accel `json:"accel"`
	// Reason is a sentence for the operator.
	Reason string `json:"reason"`
	// Took is how long the proof ran; 0 when there was none.
	Took time.Duration `json:"took"`
	// Cached says that the proof was made earlier in this boot of the host.
	Cached bool `json:"-"`
}

// Prover proves KVM. The zero value of KVMDevice and Limit means the defaults.
type Prover struct {
	// QEMU is the program's path.
	QEMU string
	// CacheFile keeps the verdict until the host reboots or QEMU changes.
	CacheFile string
	// KVMDevice is /dev/kvm but for tests.
	KVMDevice string
	// Limit bounds the proof; a host that needs longer is no gain over TCG.
	Limit time.Duration
	// Program lets tests run something else than QEMU; nil means QEMU.
	Program func(ctx context.Context, args []string) *exec.Cmd
}

const defaultLimit = 3 * time.Second

// Decide turns a mode into an acceleration. TCG and KVM are taken at their
// word, but that KVM's device must open. Auto proves, once per boot and QEMU.
func (p Prover) Decide(ctx context.Context, m Mode) (Verdict, error) {
	device := p.KVMDevice
	if device == "" {
		device = "/dev/kvm"
	}
	if m == TCG {
		return Verdict{Accel: qemu.TCG, Reason: "configured"}, nil
	}
	if err := openable(device); err != nil {
		if m == KVM {
			return Verdict{}, millpond.Errorf(millpond.Invalid, "AccelerationUnavailable",
				"KVM is configured but %s cannot be opened (%v); load the kvm module, give this user the kvm group, or configure acceleration auto or tcg", device, err)
		}
		return Verdict{Accel: qemu.TCG, Reason: fmt.Sprintf("%s cannot be opened: %v", device, err)}, nil
	}
	if m == KVM {
		return Verdict{Accel: qemu.KVM, Reason: "configured"}, nil
	}
	key, err := p.key()
	if err != nil {
		return Verdict{}, err
	}
	if v, ok := p.cached(key); ok {
		return v, nil
	}
	v, err := p.prove(ctx)
	if err != nil {
		return Verdict{}, err
	}
	return v, p.store(key, v)
}

// Distrust records that a real VM did not run under KVM although the proof had
// succeeded, so that Auto chooses TCG until the host reboots.
func (p Prover) Distrust(reason string) error {
	key, err := p.key()
	if err != nil {
		return err
	}
	return p.store(key, Verdict{Accel: qemu.TCG, Reason: reason})
}

func openable(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return err
	}
	return f.Close()
}

// prove boots the sector under KVM. An error is only ever ctx's or the disk's:
// whatever QEMU does is part of the verdict.
func (p Prover) prove(ctx context.Context) (Verdict, error) {
	dir, err := os.MkdirTemp("", "millpond-accel-")
	if err != nil {
		return Verdict{}, err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, bootSector(), 0o600); err != nil {
		return Verdict{}, err
	}
	// A BIOS disk of one sector has no geometry; give it a floppy's size.
	if err := os.Truncate(disk, 1440<<10); err != nil {
		return Verdict{}, err
	}
	limit := p.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	run, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := proofArgs(qemu.KVM, disk)
	var cmd *exec.Cmd
	if p.Program != nil {
		cmd = p.Program(run, args)
	} else {
		cmd = exec.CommandContext(run, p.QEMU, args...)
	}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	cmd.WaitDelay = time.Second
	started := time.Now()
	err = cmd.Run()
	took := time.Since(started)
	if ctx.Err() != nil {
		return Verdict{}, ctx.Err()
	}
	ok, why := judge(out.String(), stderr.String(), cmd.ProcessState, run.Err() != nil, limit, err)
	v := Verdict{Accel: qemu.TCG, Reason: why, Took: took}
	if ok {
		v.Accel = qemu.KVM
	}
	return v, nil
}

// exitCode is what isa-debug-exit makes of the 0x2A that the guest writes.
const exitCode = 0x2A<<1 | 1

// proofArgs runs the sector with the acceleration and CPU model of real VMs.
func proofArgs(a qemu.Accel, disk string) []string {
	drive, _ := json.Marshal(map[string]any{
		"driver": "raw", "node-name": "disk", "read-only": true,
		"file": map[string]any{"driver": "file", "filename": disk},
	})
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-m", "64"}
	args = append(args, a.Args()...)
	return append(args, "-machine", "q35",
		"-blockdev", string(drive), "-device", "virtio-blk-pci,drive=disk",
		"-chardev", "file,id=said,path=/dev/stdout", "-device", "isa-debugcon,chardev=said",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1")
}

// judge says whether the guest did all that was asked, and if not, how far it came.
func judge(said, complaint string, state *os.ProcessState, late bool, limit time.Duration, err error) (bool, string) {
	if said == "TPL" && state != nil && state.ExitCode() == exitCode {
		return true, "a test guest took timer interrupts and ran 64-bit code"
	}
	stage := "it ran no code at all"
	switch {
	case strings.HasPrefix(said, "TPL"):
		stage = "it did not end as told"
	case strings.HasPrefix(said, "TP"):
		stage = "it got timer interrupts but came to a stop, or to a crawl, in 64-bit code"
	case strings.HasPrefix(said, "T"):
		stage = "it got no timer interrupts"
	}
	how := fmt.Sprintf("within %s", limit)
	if !late {
		how = fmt.Sprintf("(%v)", err)
		if line := lastLine(complaint); line != "" {
			how = fmt.Sprintf("(%v: %s)", err, line)
		}
	}
	return false, fmt.Sprintf("/dev/kvm opens, but a test guest failed %s: %s", how, stage)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// record is the cache file.
type record struct {
	Key     string  `json:"key"`
	Verdict Verdict `json:"verdict"`
}

// key changes with each boot and with each change of the QEMU program. Its size
// and time stand for its version, which would cost a process to ask for.
func (p Prover) key() (string, error) {
	boot, err := process.BootID()
	if err != nil {
		return "", err
	}
	path, err := exec.LookPath(p.QEMU)
	if err != nil {
		return "", millpond.Errorf(millpond.Unavailable, "QemuNotFound",
			"the program %q was not found; install QEMU (Debian: apt install qemu-system-x86) or configure its path", p.QEMU).Because(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("v2 %s %s %d %d", boot, path, st.Size(), st.ModTime().UnixNano()), nil
}

func (p Prover) cached(key string) (Verdict, bool) {
	b, err := os.ReadFile(p.CacheFile)
	if err != nil {
		return Verdict{}, false
	}
	var r record
	if json.Unmarshal(b, &r) != nil || r.Key != key {
		return Verdict{}, false
	}
	r.Verdict.Cached = true
	return r.Verdict, true
}

func (p Prover) store(key string, v Verdict) error {
	if p.CacheFile == "" {
		return nil
	}
	b, err := json.MarshalIndent(record{Key: key, Verdict: v}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.CacheFile), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(p.CacheFile, append(b, '\n'), 0o600)
}
