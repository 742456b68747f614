// Package qemu turns the description of a VM into a command line of QEMU. It is
// a pure function: it starts nothing, opens nothing and looks nothing up. vmrun
// and accel call it; package qmp beside it talks to what the command line starts.
package qemu

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"millpond.dev/millpond/internal/nodeproto"
)

// Accel is how guest code is run.
type Accel string

const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

// cloneCodeMiB bounds what QEMU keeps of the code that it has translated for each
// processor of a clone: by default it keeps up to 1 GiB, which nobody has counted. A
// clone at rest has filled it, whatever it is. Programs that start at the same
// addresses each time, as agents see to, take no longer with it than with 48 MiB and
// random ones; with 24 MiB they take a fifth longer (decision 61). A boot runs more
// code once, and would translate much of it again and again.
const cloneCodeMiB = 32

// Args are the options for the acceleration of a machine that boots.
func (a Accel) Args() []string { return a.args(0) }

// args are the options for the acceleration and the CPU model that fits it. codeMiB
// bounds the translated code under emulation; 0 leaves it to QEMU.
func (a Accel) args(codeMiB int) []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	// Two features of max cost under emulation and give a guest nothing: with ERMS
	// it fills pages byte by byte, a loop here, where it would else take eight at
	// a time; with LA57 each page walk has one level more. Without them the tiny
	// image needs 14 % less processor time up to its agent.
	tcg := "tcg,thread=multi"
	if codeMiB > 0 {
		tcg += fmt.Sprintf(",tb-size=%d", codeMiB)
	}
	return []string{"-accel", tcg, "-cpu", "max,-erms,-la57"}
}

// Machine is one VM. Relative file names are relative to QEMU's directory.
type Machine struct {
	// Name shows in the process list.
	Name      string
	UUID      string
	Accel     Accel
	VCPUs     int
	MemoryMiB int
	// Memory is where the guest's memory lies; nil for the process's own.
	Memory *Memory
	// Incoming starts a machine that waits for the state of another one.
	Incoming bool
	// NoReboot ends QEMU when the machine is reset, by its guest or from outside.
	NoReboot bool
	// UEFI is nil for a BIOS machine.
	UEFI *UEFI
	// TPMFD, if not 0, is an inherited descriptor of the control socket of a TPM.
	TPMFD int
	// SCSI puts the data disks' controller in even if there are none yet.
	SCSI   bool
	Drives []Drive
	// DiskKey opens the encrypted drives; nil without any.
	DiskKey *DiskKey
	// Network is nil for a machine without one.
	Network *Network
	// ConsoleFD, QMPFD and AgentFD are inherited descriptors of connected sockets
	// for the serial console, QMP and the agent's port. There are
	// no socket files: nobody has to wait until QEMU has made one, no name can be
	// too long for a socket, and no other process can take the one connection
	// that QMP serves.
	ConsoleFD int
	QMPFD     int
	AgentFD   int
}

// Memory is a file with the guest's memory. Shared writes to it; else the file is
// the memory at the start, and what the guest writes is its own: the file must
// not change as long as the machine lives.
type Memory struct {
	File   string
	Shared bool
}

// DiskKey is what LUKS headers of drives are opened with. Both files have base64: Host
// is a key of AES-256, Wrapped what it has encrypted, in CBC mode
// with an initial vector of zeros: what is wrapped is random itself, and never wrapped twice.
type DiskKey struct{ Host, Wrapped string }

// UEFI is the firmware's code, shared and read-only, and this VM's own variables.
type UEFI struct {
	Code, Vars string
	// Secure says that Code keeps Vars from the guest, for which it needs system
	// management mode.
	Secure bool
}

// Format is a disk format that QEMU is told; it never probes.
type Format string

const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// Bus is how the guest sees a drive.
type Bus string

const (
	// VirtioBlk is for disks that need no address: the OS disk, the seed.
	VirtioBlk Bus = "virtio-blk"
	// SCSI is for data disks: the guest sees the LUN.
	SCSI Bus = "scsi"
)

// Drive is one disk.
type Drive struct {
	// ID names the drive for QMP: letters, digits and hyphens.
	ID       string
	File     string
	Format   Format
	ReadOnly bool
	Bus      Bus
	LUN      int
	// Boot makes it the first drive that the firmware tries; only one has it.
	Boot bool
	// NBD, if not nil, is where the disk is in the place of File; Format is Raw.
	NBD *NBD
	// Map, if not nil, is put in the place of the backing file that File names: a
	// QCOW2 disk over an export.
	Map *Map
	// Encrypted says that the QCOW2 file has a LUKS header; what lies below it is plain.
	Encrypted bool
	// Serial is what /dev/disk/by-id shows, at most 20 bytes.
	Serial string
}

// Map is a part of an export that lies in a file of this host: from Offset on File
// is a qcow2 image. What it does not have is read from the export.
type Map struct {
	File   string
	Offset int64
	Export NBD
}

// NBD is an export of a server on a unix socket. Writes to it outlive the VM, so
// flushes reach it; what the guest trims or fills with zeros is given back.
type NBD struct {
	Socket, Export string
	// ReconnectDelay is how many seconds requests wait for a server that has gone,
	// and OpenTimeout how many the first connection may take.
	ReconnectDelay, OpenTimeout int
}

// Network is a user-mode network that the VM has for itself.
type Network struct {
	// Prefix is at least a /29. The first address is the gateway, the second
	// the name server, the third the guest's by DHCP.
	Prefix netip.Prefix
	MAC    string
	// Address is the guest's, if it is not the third.
	Address netip.Addr
	// CardFD and GatewayFD, if not 0, are inherited descriptors of connected
	// datagram sockets: the frames of the guest's card and those of the gateway.
	// Whoever has their other ends carries frames between the two, and to others.
	CardFD, GatewayFD int
	// Domain, if not empty, is what the guest is told by DHCP to search names in.
	Domain string
}

// Gateway is the host's address as the guest sees it.
func (n Network) Gateway() netip.Addr { return n.at(1) }

// DNS is the name server's address as the guest sees it.
func (n Network) DNS() netip.Addr { return n.at(2) }

// Guest is the address that the guest gets by DHCP.
func (n Network) Guest() netip.Addr {
	if n.Address.IsValid() {
		return n.Address
	}
	return n.at(3)
}

// NetDevice is the id of the network's device for the monitor.
const NetDevice = "net0"

// OpenPort and ClosePort are the monitor's commands for a port of the host
// that leads to one of the guest; protocol is tcp or udp. They say nothing when all is well.
func (n Network) OpenPort(protocol string, host netip.AddrPort, guest uint16) string {
	return fmt.Sprintf("hostfwd_add %s %s:%s-%s:%d", NetDevice, protocol, host, n.Guest(), guest)
}

func (n Network) ClosePort(protocol string, host netip.AddrPort) string {
	return fmt.Sprintf("hostfwd_remove %s %s:%s", NetDevice, protocol, host)
}

func (n Network) at(i int) netip.Addr {
	a := n.Prefix.Masked().Addr()
	for range i {
		a = a.Next()
	}
	return a
}

// Args is the command line without the program.
//
// No disk is flushed to the host's platter (no-flush): a VM does not outlive a
// crash of its host, so its flushes need to reach no further than the host's
// page cache, and first boots are full of them.
func (m Machine) Args() ([]string, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	machine := "q35,graphics=off,vmport=off"
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-name", "guest=" + m.Name,
		"-uuid", m.UUID,
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	code := 0
	if m.Incoming {
		code = cloneCodeMiB * m.VCPUs
	}
	args = append(args, m.Accel.args(code)...)
	args = append(args, "-smp", strconv.Itoa(m.VCPUs), "-m", strconv.Itoa(m.MemoryMiB))
	if m.UEFI != nil && m.UEFI.Secure {
		machine += ",smm=on"
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	if m.UEFI != nil {
		machine += ",pflash0=fwcode,pflash1=fwvars"
		args = append(args,
			"-blockdev", blockdev("fwcode", m.UEFI.Code, Raw, true, false, ""),
			"-blockdev", blockdev("fwvars", m.UEFI.Vars, Raw, false, false, ""))
	}
	if m.Memory != nil {
		share := "off"
		if m.Memory.Shared {
			share = "on"
		}
		machine += ",memory-backend=memory"
		args = append(args, "-object", fmt.Sprintf("memory-backend-file,id=memory,size=%dM,mem-path=%s,share=%s",
			m.MemoryMiB, escape(m.Memory.File), share))
	}
	if m.Incoming {
		args = append(args, "-incoming", "defer")
	}
	if m.NoReboot {
		args = append(args, "-no-reboot")
	}
	args = append(args, "-machine", machine,
		// graphics=off above makes SeaBIOS speak on the serial port; without it
		// "No bootable device" would be said to a screen that does not exist.
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", m.ConsoleFD),
		"-serial", "chardev:console",
		"-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
		"-device", "virtio-serial-pci,id=serial0,max_ports=2",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", m.AgentFD),
		"-device", "virtserialport,bus=serial0.0,chardev=agent,name="+nodeproto.PortName)
	if m.TPMFD != 0 {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=tpm,fd=%d", m.TPMFD),
			"-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	if k := m.DiskKey; k != nil {
		args = append(args,
			"-object", "secret,id=hostkey,format=base64,file="+escape(k.Host),
			"-object", "secret,id="+diskSecret+",format=base64,keyid=hostkey,iv="+wrapIV+",file="+escape(k.Wrapped))
	}
	args = append(args, m.driveArgs()...)
	if n := m.Network; n != nil {
		user := fmt.Sprintf("user,id=%s,ipv6=off,net=%s,host=%s,dns=%s,dhcpstart=%s", NetDevice, n.Prefix.Masked(), n.Gateway(), n.DNS(), n.Guest())
		if n.Domain != "" {
			user += ",domainname=" + n.Domain
		}
		args = append(args, "-netdev", user)
		card := NetDevice
		if n.CardFD != 0 {
			// A hub of two ports is how two devices that both carry frames are joined
			// without a card.
			card = "card0"
			args = append(args,
				"-netdev", fmt.Sprintf("dgram,id=out0,local.type=fd,local.str=%d", n.GatewayFD),
				"-netdev", "hubport,id=hub0,hubid=0,netdev="+NetDevice,
				"-netdev", "hubport,id=hub1,hubid=0,netdev=out0",
				"-netdev", fmt.Sprintf("dgram,id=card0,local.type=fd,local.str=%d", n.CardFD))
		}
		args = append(args, "-device", "virtio-net-pci,netdev="+card+",romfile=,guest_announce=off,mac="+n.MAC)
	}
	return append(args,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", m.QMPFD),
		"-mon", "chardev=qmp,mode=control"), nil
}

// diskSecret is the id of the secret that opens encrypted drives.
const diskSecret = "diskkey"

// wrapIV is 16 zeros.
const wrapIV = "AAAAAAAAAAAAAAAAAAAAAA=="

// escape is a file's name in an option that is not JSON.
func escape(name string) string { return strings.ReplaceAll(name, ",", ",,") }

func (m Machine) driveArgs() []string {
	var args []string
	scsi := m.SCSI
	if scsi {
		args = append(args, "-device", "virtio-scsi-pci,id=scsi0")
	}
	for _, d := range m.Drives {
		if d.Map != nil {
			args = append(args, "-blockdev", d.Map.blockdev(d.below()))
		}
		args = append(args, "-blockdev", d.blockdev())
		var dev string
		if d.Bus == SCSI {
			if !scsi {
				args = append(args, "-device", "virtio-scsi-pci,id=scsi0")
				scsi = true
			}
			dev = fmt.Sprintf("scsi-hd,bus=scsi0.0,scsi-id=0,lun=%d,drive=%s", d.LUN, d.ID)
		} else {
			dev = "virtio-blk-pci,drive=" + d.ID
		}
		dev += ",id=dev-" + d.ID
		if d.Serial != "" {
			dev += ",serial=" + d.Serial
		}
		if d.Boot {
			dev += ",bootindex=1"
		}
		args = append(args, "-device", dev)
	}
	return args
}

// Node and Device are the arguments of blockdev-add and device_add for a data disk
// over NBD that a running VM gets.
func (d Drive) Node() map[string]any { return d.NBD.node(d.ID) }

func (d Drive) Device() map[string]any {
	return map[string]any{"driver": "scsi-hd", "bus": "scsi0.0", "scsi-id": 0, "lun": d.LUN, "drive": d.ID, "id": "dev-" + d.ID, "serial": d.Serial}
}

// blockdev is the drive's -blockdev.
func (d Drive) blockdev() string {
	if d.NBD == nil {
		return blockdev(d.ID, d.File, d.Format, d.ReadOnly, d.Encrypted, d.below())
	}
	b, err := json.Marshal(d.NBD.node(d.ID))
	if err != nil {
		panic(err) // plain data
	}
	return string(b)
}

// node is the block node id over the export, for the command line and blockdev-add.
func (n *NBD) node(id string) map[string]any {
	return map[string]any{"driver": "raw", "node-name": id, "discard": "unmap", "detect-zeroes": "unmap",
		"file": map[string]any{"driver": "nbd", "server": map[string]any{"type": "unix", "path": n.Socket}, "export": n.Export,
			"reconnect-delay": n.ReconnectDelay, "open-timeout": n.OpenTimeout, "discard": "unmap"}}
}

// below names the node that is put below the drive's file; empty for what the file
// says itself.
func (d Drive) below() string {
	if d.Map == nil {
		return ""
	}
	return d.ID + "-map"
}

// Remapped are the arguments of blockdev-reopen by which a running VM goes over from
// d.Map to m, which has all that d.Map has at the same places of the same file. QEMU
// forgets the tables that it has read of d.Map.
func (d Drive) Remapped(m *Map) map[string]any {
	n := m.node(d.below())
	n["backing"] = d.below() + "-export"
	return map[string]any{"options": []any{n}}
}

// blockdev is the map as the node id over the export, on the command line.
func (m *Map) blockdev(id string) string {
	n := m.node(id)
	n["backing"] = map[string]any{"driver": "raw", "node-name": id + "-export", "read-only": true, "file": map[string]any{"driver": "nbd", "read-only": true,
		"server": map[string]any{"type": "unix", "path": m.Export.Socket}, "export": m.Export.Export, "reconnect-delay": m.Export.ReconnectDelay, "open-timeout": m.Export.OpenTimeout}}
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // plain data
	}
	return string(b)
}

// node is the map without what lies below it. Its file is written to by its owner, who
// does not touch what the map names.
func (m *Map) node(id string) map[string]any {
	type node = map[string]any
	return node{"driver": "qcow2", "node-name": id, "read-only": true,
		"file": node{"driver": "raw", "read-only": true, "offset": m.Offset, "file": node{"driver": "file", "filename": m.File, "read-only": true, "locking": "off"}}}
}

// blockdev is JSON, so that no character of a file's name has a meaning.
func blockdev(id, file string, f Format, readOnly, encrypted bool, below string) string {
	type crypt struct {
		Format string `json:"format"`
		Secret string `json:"key-secret"`
	}
	type node struct {
		Driver   string `json:"driver"`
		NodeName string `json:"node-name,omitempty"`
		Filename string `json:"filename,omitempty"`
		File     *node  `json:"file,omitempty"`
		ReadOnly bool   `json:"read-only"`
		Discard  string `json:"discard"`
		Backing  string `json:"backing,omitempty"`
		Encrypt  *crypt `json:"encrypt,omitempty"`
		Cache    struct {
			NoFlush bool `json:"no-flush"`
		} `json:"cache"`
	}
	proto := node{Driver: "file", Filename: file, ReadOnly: readOnly, Discard: "unmap"}
	top := node{Driver: string(f), NodeName: id, File: &proto, ReadOnly: readOnly, Discard: "unmap", Backing: below}
	if encrypted {
		top.Encrypt = &crypt{Format: "luks", Secret: diskSecret}
	}
	proto.Cache.NoFlush, top.Cache.NoFlush = !readOnly, !readOnly
	b, err := json.Marshal(top)
	if err != nil {
		panic(err) // plain data
	}
	return string(b)
}
