package vmrun

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
)

// TestTemplateKey: whatever a machine at rest depends on makes another kind of it, and
// nothing that is one node's own does.
func TestTemplateKey(t *testing.T) {
	// kind is a host with a node of its own files, for KVM and UEFI, which depend on most.
	kind := func(t *testing.T) (c Config, cpu string) {
		dir := t.TempDir()
		file := func(name string) string {
			p := filepath.Join(dir, name)
			if err := os.WriteFile(p, []byte(name), 0o700); err != nil {
				t.Fatal(err)
			}
			return p
		}
		return Config{
			Accel: qemu.KVM, VCPUs: 2, MemoryMiB: 512, Network: netip.MustParsePrefix("10.0.1.0/29"), AgentDisk: file("agent.iso"), CacheDir: dir,
			Tools: Tools{QEMU: file("qemu"), MkE2fs: "mke2fs", OVMFCode: file("code"), OVMFVars: file("vars")},
			Spec: launch.Spec{Node: "node-1", Generation: 1, Hostname: "host-1", Firmware: launch.UEFI, TempDiskMiB: 1024,
				OSDisk: launch.Disk{Backing: file("base"), SizeBytes: 1 << 30}, DataDisks: []launch.Disk{{LUN: 1, SizeBytes: 1 << 30}}}}, "model 1"
	}
	longer := func(t *testing.T, name string) {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("."); err != nil {
			t.Fatal(err)
		}
	}
	written := func(t *testing.T, name string) {
		then := time.Now().Add(time.Hour)
		if err := os.Chtimes(name, then, then); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		edit func(*testing.T, *Config, *string)
		same bool
	}{
		{"QEMU of another length", func(t *testing.T, c *Config, _ *string) { longer(t, c.Tools.QEMU) }, false},
		{"QEMU written anew", func(t *testing.T, c *Config, _ *string) { written(t, c.Tools.QEMU) }, false},
		{"QEMU elsewhere", func(_ *testing.T, c *Config, _ *string) { c.Tools.QEMU += "-2" }, false},
		{"agent of another length", func(t *testing.T, c *Config, _ *string) { longer(t, c.AgentDisk) }, false},
		{"agent written anew", func(t *testing.T, c *Config, _ *string) { written(t, c.AgentDisk) }, false},
		{"no agent", func(_ *testing.T, c *Config, _ *string) { c.AgentDisk = "" }, false},
		{"firmware written anew", func(t *testing.T, c *Config, _ *string) { written(t, c.Tools.OVMFCode) }, false},
		{"variables written anew", func(t *testing.T, c *Config, _ *string) { written(t, c.Tools.OVMFVars) }, false},
		{"BIOS", func(_ *testing.T, c *Config, _ *string) { c.Spec.Firmware = launch.BIOS }, false},
		{"another processor", func(_ *testing.T, _ *Config, cpu *string) { *cpu = "model 2" }, false},
		{"emulation", func(_ *testing.T, c *Config, _ *string) { c.Accel = qemu.TCG }, false},
		{"more processors", func(_ *testing.T, c *Config, _ *string) { c.VCPUs++ }, false},
		{"more memory", func(_ *testing.T, c *Config, _ *string) { c.MemoryMiB++ }, false},
		{"no network", func(_ *testing.T, c *Config, _ *string) { c.Network = netip.Prefix{} }, false},
		{"larger temporary disk", func(_ *testing.T, c *Config, _ *string) { c.Spec.TempDiskMiB++ }, false},
		{"no temporary disk", func(_ *testing.T, c *Config, _ *string) { c.Spec.TempDiskMiB = 0 }, false},
		{"another image", func(_ *testing.T, c *Config, _ *string) { c.Spec.OSDisk.Content = "other" }, false},
		{"image written anew", func(t *testing.T, c *Config, _ *string) { written(t, c.Spec.OSDisk.Backing) }, false},
		{"larger OS disk", func(_ *testing.T, c *Config, _ *string) { c.Spec.OSDisk.SizeBytes *= 2 }, false},
		{"larger data disk", func(_ *testing.T, c *Config, _ *string) { c.Spec.DataDisks[0].SizeBytes *= 2 }, false},
		{"data disk elsewhere", func(_ *testing.T, c *Config, _ *string) { c.Spec.DataDisks[0].LUN++ }, false},
		{"no data disk", func(_ *testing.T, c *Config, _ *string) { c.Spec.DataDisks = nil }, false},

		{"nothing", func(*testing.T, *Config, *string) {}, true},
		{"another node", func(_ *testing.T, c *Config, _ *string) { c.Spec.Node = "node-2" }, true},
		{"another generation", func(_ *testing.T, c *Config, _ *string) { c.Spec.Generation++ }, true},
		{"another host name", func(_ *testing.T, c *Config, _ *string) { c.Spec.Hostname = "host-2" }, true},
		{"another subnet of the host", func(_ *testing.T, c *Config, _ *string) { c.Network = netip.MustParsePrefix("10.0.2.0/29") }, true},
		{"labels, channel and ports", func(_ *testing.T, c *Config, _ *string) {
			c.Spec.Labels, c.Spec.Channel = map[string]string{"pool": "p"}, launch.Channel{Token: "t"}
			c.Spec.Card = &launch.Card{Ports: []launch.Port{{Host: netip.MustParseAddrPort("127.0.0.1:50000"), Guest: 22}}}
		}, true},
		{"a clone already", func(_ *testing.T, c *Config, _ *string) { c.Template = "t" }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, cpu := kind(t)
			host := func() string { return cpu }
			before, err := templateKey(cfg, host)
			if err != nil {
				t.Fatal(err)
			}
			c.edit(t, &cfg, &cpu)
			after, err := templateKey(cfg, host)
			if err != nil {
				t.Fatal(err)
			}
			if same := before == after; same != c.same {
				t.Errorf("the same kind: %t", same)
			}
		})
	}
	// What a guest sees of the processor under emulation is QEMU's own.
	cfg, _ := kind(t)
	cfg.Accel = qemu.TCG
	a, errA := templateKey(cfg, func() string { return "model 1" })
	b, errB := templateKey(cfg, func() string { return "model 2" })
	if errA != nil || errB != nil || a != b {
		t.Errorf("under emulation the host's processor matters: %v %v", errA, errB)
	}
}

// TestSerialsNameRoles: a disk's serial says what the disk is for. It is another one for
// each disk of a machine, and for each role the same on all machines, as the names below
// /dev/disk/by-id that images and start tasks use are made of it (decision 50).
func TestSerialsNameRoles(t *testing.T) {
	serials := func(node millpond.NodeID, template string) map[string]string {
		c := Config{AgentDisk: "/agent.iso", Template: template, Spec: launch.Spec{Node: node, Hostname: string(node), OSDisk: launch.Disk{Backing: "/base"}, TempDiskMiB: 1}}
		for lun := range 64 {
			c.Spec.DataDisks = append(c.Spec.DataDisks, launch.Disk{LUN: lun})
		}
		out, roles := map[string]string{}, map[string]bool{}
		for _, d := range (&disks{cfg: c}).drives() {
			if d.Serial == "" || len(d.Serial) > 20 { // what virtio-blk has room for
				t.Errorf("%s has the serial %q", d.ID, d.Serial)
			}
			if roles[d.Serial] {
				t.Errorf("two disks of a machine have the serial %s", d.Serial)
			}
			roles[d.Serial], out[d.ID] = true, d.Serial
		}
		return out
	}
	one, other := serials("node-1", ""), serials("node-2", "/template")
	if len(one) != 64+4 {
		t.Errorf("%d disks", len(one))
	}
	for id, serial := range one {
		if other[id] != serial {
			t.Errorf("%s is %s on one node and %s on another", id, serial, other[id])
		}
	}
	if one["os"] != "millpond-os" || one["temp"] != launch.TempDiskLabel || one["data-7"] != "millpond-data-7" {
		t.Errorf("%v", one)
	}
}
