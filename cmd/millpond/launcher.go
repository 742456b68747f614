package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/accel"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/launch/fake"
	"millpond.dev/millpond/internal/launch/local"
	"millpond.dev/millpond/internal/vmrun"
)

// machines is a launcher with the end that main gives it.
type machines interface {
	launch.Launcher
	launch.Notifier
	launch.Consoler
	Close() error
}

// tools are where Debian's packages put the programs and firmware.
func tools() vmrun.Tools {
	return vmrun.Tools{QEMU: "qemu-system-x86_64", MkE2fs: "mke2fs",
		OVMFCode:   firstFile("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/edk2/x64/OVMF_CODE.4m.fd"),
		OVMFVars:   firstFile("/usr/share/OVMF/OVMF_VARS_4M.fd", "/usr/share/OVMF/OVMF_VARS.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
		SecureCode: firstFile("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_CODE.secboot.fd"),
		SecureVars: firstFile("/usr/share/OVMF/OVMF_VARS_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"), SWTPM: "swtpm"}
}

func firstFile(paths ...string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// openLauncher makes the configured launcher.
func (s *server) openLauncher() (machines, error) {
	switch s.cfg.Launcher {
	case "fake":
		return fake.New(fake.Config{Clock: s.clock, Log: s.log,
			Join: func(ctx context.Context, node millpond.NodeID, generation int, token string, agent http.Handler) error {
				return s.sessions.Join(ctx, node, generation, token, agent)
			},
			Behaviour: fake.Behaviour{BootDelay: time.Duration(s.cfg.Fake.BootDelay), FailBoot: s.cfg.Fake.FailureRate},
			Model: fake.Model{Boot: time.Duration(s.cfg.Fake.Boot), Spread: s.cfg.Fake.BootSpread, ImageMiB: s.cfg.Fake.ImageMiB, ReplicaMiBps: s.cfg.Fake.ReplicaMiBps,
				NodeMiBps: s.cfg.Fake.NodeMiBps, AtOnce: s.cfg.Fake.BootsAtOnce},
			Speed: s.cfg.Fake.Speed, VMs: s.cfg.Fake.MaxVMs}), nil
	case "local":
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		mode, err := accel.ParseMode(s.cfg.Local.Accel)
		if err != nil {
			return nil, err
		}
		// Without an agent binary, images that have none fail to become nodes, and
		// say so; images with one work.
		agent, err := agentBinary()
		if err != nil {
			s.log.Warn("images without an agent will not work", "err", err)
		}
		if s.images, err = openImages(s.data.ImageHost(), self, s.cfg.Local.ImageCacheMiB, s.log); err != nil {
			return nil, err
		}
		return local.Open(local.Config{Images: s.images, Dir: s.data.VMs(), CacheDir: s.data.Cache(), HostKey: cmp.Or(s.cfg.Local.DisksKey, s.data.DisksKey()), Supervisor: []string{self, "vm-run"}, Tools: tools(), AgentBinary: agent,
			Accel: mode, VCPUCap: s.cfg.Local.VCPUCap, MemoryCapMiB: s.cfg.Local.MemoryCapMiB, MaxVMs: s.cfg.Local.MaxVMs, MemoryMiB: s.cfg.Local.MemoryMiB,
			Templates: local.Templates{Off: s.cfg.Local.Clones == "off", MaxMiB: s.cfg.Local.TemplatesMiB},
			Managed:   s.data.Disks(), ManagedStores: s.stores, Clock: s.clock, Log: s.log})
	}
	return nil, fmt.Errorf("there is no launcher %q", s.cfg.Launcher)
}

// acceleration proves KVM as the launcher would.
func (d *DoctorCmd) acceleration(ctx context.Context, g *Globals) finding {
	f := finding{name: "acceleration", mend: "nodes run under emulation, correct but slower; for KVM load kvm_intel or kvm_amd and let this user open /dev/kvm"}
	dir, err := os.MkdirTemp("", "millpond-doctor-")
	if err != nil {
		f.seen = err.Error()
		return f
	}
	defer os.RemoveAll(dir)
	v, err := accel.Prover{QEMU: tools().QEMU, CacheFile: dir + "/accel.json"}.Decide(ctx, accel.Auto)
	if err != nil {
		f.seen = err.Error()
		return f
	}
	f.ok, f.seen = string(v.Accel) == "kvm", fmt.Sprintf("%s: %s", v.Accel, v.Reason)
	return f
}
