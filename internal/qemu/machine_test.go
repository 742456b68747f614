package qemu

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

func tiny() Machine {
	return Machine{
		Name: "node-1", UUID: "00000000-0000-4000-8000-000000000001", Accel: TCG,
		VCPUs: 1, MemoryMiB: 256, ConsoleFD: 3, QMPFD: 4, AgentFD: 5,
		Drives: []Drive{{ID: "os", File: "disks/os.qcow2", Format: QCOW2, Bus: VirtioBlk, Boot: true, Serial: "millpond-os"}},
	}
}

func full() Machine {
	m := tiny()
	m.Accel, m.VCPUs, m.MemoryMiB = KVM, 4, 16384
	m.UEFI = &UEFI{Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: "disks/vars.fd"}
	m.Drives = append(m.Drives,
		Drive{ID: "temp", File: "disks/temp.qcow2", Format: QCOW2, Bus: VirtioBlk, Serial: "millpond-temp"},
		Drive{ID: "data-0", File: "disks/data-0.qcow2", Format: QCOW2, Bus: SCSI, LUN: 0, Serial: "millpond-data-0"},
		Drive{ID: "data-63", File: `od,d "name".qcow2`, Format: QCOW2, Bus: SCSI, LUN: 63},
		Drive{ID: "seed", File: "disks/seed.iso", Format: Raw, ReadOnly: true, Bus: VirtioBlk, Serial: "millpond-seed"})
	m.Network = &Network{Prefix: netip.MustParsePrefix("10.77.1.8/29"), MAC: "52:54:00:01:02:03"}
	return m
}

// mapped is tiny on a content of which a part lies in the host's cache.
func mapped() Machine {
	m := tiny()
	m.Drives[0].Map = &Map{File: `a "cache"/slab`, Offset: 8 << 20, Export: NBD{Socket: "nbd.sock", Export: "c0ffee", ReconnectDelay: 300, OpenTimeout: 30}}
	return m
}

// encrypted is tiny with disks that have a key.
func encrypted() Machine {
	m := tiny()
	m.DiskKey = &DiskKey{Host: "/a,b/disks.key", Wrapped: "disks/key"}
	m.Drives[0].Encrypted = true
	m.Drives = append(m.Drives, Drive{ID: "seed", File: "disks/seed.iso", Format: Raw, ReadOnly: true, Bus: VirtioBlk})
	return m
}

// trusted is full with secure boot and a TPM.
func trusted() Machine {
	m := full()
	m.UEFI.Secure, m.TPMFD = true, 8
	return m
}

func TestArgsGolden(t *testing.T) {
	for name, m := range map[string]Machine{"bios-tcg": tiny(), "uefi-kvm": full(), "mapped": mapped(), "encrypted": encrypted(), "trusted": trusted()} {
		args, err := m.Args()
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(args, "\n") + "\n"
		file := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs; run with -update and read the diff\n%s", file, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, spoil := range map[string]func(*Machine){
		"TPM without UEFI":        func(m *Machine) { m.TPMFD, m.UEFI = 8, nil },
		"encrypted without a key": func(m *Machine) { m.Drives[0].Encrypted = true },
		"name with a comma":       func(m *Machine) { m.Name = "a,debug-threads=on" },
		"no UUID":                 func(m *Machine) { m.UUID = "" },
		"acceleration":            func(m *Machine) { m.Accel = "xen" },
		"no CPU":                  func(m *Machine) { m.VCPUs = 0 },
		"no memory":               func(m *Machine) { m.MemoryMiB = 1 },
		"descriptor twice":        func(m *Machine) { m.QMPFD = m.AgentFD },
		"console":                 func(m *Machine) { m.ConsoleFD = 1 },
		"small network":           func(m *Machine) { m.Network.Prefix = netip.MustParsePrefix("10.0.0.0/30") },
		"guest is gateway":        func(m *Machine) { m.Network.Address = m.Network.Gateway() },
		"guest elsewhere":         func(m *Machine) { m.Network.Address = netip.MustParseAddr("10.9.9.9") },
		"MAC":                     func(m *Machine) { m.Network.MAC = "52:54" },
		"drive twice":             func(m *Machine) { m.Drives[1].ID = "os" },
		"drive id":                func(m *Machine) { m.Drives[1].ID = "a,b" },
		"no file":                 func(m *Machine) { m.Drives[1].File = "" },
		"probed format":           func(m *Machine) { m.Drives[1].Format = "" },
		"bus":                     func(m *Machine) { m.Drives[1].Bus = "ide" },
		"LUN twice":               func(m *Machine) { m.Drives[3].LUN = 0 },
		"LUN too high":            func(m *Machine) { m.Drives[3].LUN = 256 },
		"serial too long":         func(m *Machine) { m.Drives[0].Serial = strings.Repeat("a", 21) },
		"two boot drives":         func(m *Machine) { m.Drives[1].Boot = true },
		"serial with equals":      func(m *Machine) { m.Drives[0].Serial = "a,b=c" },
	} {
		m := full()
		spoil(&m)
		if _, err := m.Args(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNetworkAddresses(t *testing.T) {
	n := Network{Prefix: netip.MustParsePrefix("10.77.255.248/29")}
	if n.Gateway().String() != "10.77.255.249" || n.DNS().String() != "10.77.255.250" || n.Guest().String() != "10.77.255.251" {
		t.Errorf("%s %s %s", n.Gateway(), n.DNS(), n.Guest())
	}
	n = Network{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Address: netip.MustParseAddr("10.0.0.4")}
	host := netip.MustParseAddrPort("127.64.1.2:22")
	if got := n.OpenPort("tcp", host, 22); got != "hostfwd_add net0 tcp:127.64.1.2:22-10.0.0.4:22" {
		t.Error(got)
	}
	if got := n.ClosePort("tcp", host); got != "hostfwd_remove net0 tcp:127.64.1.2:22" {
		t.Error(got)
	}
}

// A map that QEMU goes over to is the node that it was started with, from another
// offset on: what the options do not name would become what it is by default.
func TestRemapped(t *testing.T) {
	d := Drive{ID: "os", File: "os.qcow2", Format: QCOW2, Boot: true, Map: &Map{File: "slab", Offset: 8 << 20, Export: NBD{Socket: "s", Export: "x"}}}
	var first map[string]any
	if err := json.Unmarshal([]byte(d.Map.blockdev(d.below())), &first); err != nil {
		t.Fatal(err)
	}
	below := first["backing"].(map[string]any)["node-name"]
	first["backing"] = below
	first["file"].(map[string]any)["offset"] = float64(12 << 20)
	b, err := json.Marshal(d.Remapped(&Map{File: "slab", Offset: 12 << 20}))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string][]map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(got["options"]) != 1 || !reflect.DeepEqual(got["options"][0], first) || below != "os-map-export" {
		t.Errorf("%v\nwant %v", got, first)
	}
}
