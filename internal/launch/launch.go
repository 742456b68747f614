// Package launch is the seam between the verbs and whatever runs machines: this
// host, the fake, later Nomad or Kubernetes. It holds the interface, its
// documents and its two error types, and knows no pools, jobs or SQL.
//
// Implementations live below it (launch/local, launch/fake) and are named by
// cmd/millpond only. Every implementation passes launch/launchtest.
package launch

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	millpond "millpond.dev/millpond"
)

// Launcher runs virtual machines that are named by node id. All methods are
// safe for concurrent use and idempotent by (node, generation).
type Launcher interface {
	// Launch makes the VM of spec exist and run. It returns as soon as the
	// launch is under way and durable; progress shows in List. Calling it again
	// for the same node and generation does nothing; for a higher generation it
	// replaces the VM, whose disks are lost (reimage).
	Launch(ctx context.Context, spec Spec) error
	// List tells the state of every VM that this launcher knows, also of those
	// that the caller has forgotten, so that orphans can be destroyed.
	List(ctx context.Context) ([]Status, error)
	// Reset restarts the VM in place, disks kept (reboot). One that has stopped is
	// started; a HostError of StepCapacity says that there is no room for it.
	Reset(ctx context.Context, node millpond.NodeID) error
	// Stop ends the VM by its power button, by force after grace; disks are kept.
	Stop(ctx context.Context, node millpond.NodeID, grace time.Duration) error
	// Destroy ends the VM at once and removes every trace of it. Unknown nodes
	// are no error.
	Destroy(ctx context.Context, node millpond.NodeID) error
	// Capacity tells what still fits.
	Capacity(ctx context.Context) (Capacity, error)
}

// Notifier is an optional ability: Changed is received from after any VM's
// status may have changed, so that nobody has to poll List.
type Notifier interface{ Changed() <-chan struct{} }

// Consoler is an optional ability: the last bytes that the VM wrote to its
// serial console, also after it has ended, until Destroy.
type Consoler interface {
	Console(ctx context.Context, node millpond.NodeID, tail int64) ([]byte, error)
}

// Porter is an optional ability: SetPorts replaces the host's ports that lead
// into a VM, and the filters of its card. It works on a running VM at once, and on
// one that is being started when it runs. Ports that cannot be opened are no
// error; Status tells them.
type Porter interface {
	SetPorts(ctx context.Context, node millpond.NodeID, ports []Port, filters Filters) error
}

// Attacher is an optional ability: to change the managed disks of a VM, at once
// if it runs, else from its next start on. Both are idempotent.
type Attacher interface {
	AttachDisk(ctx context.Context, node millpond.NodeID, d Disk) error
	DetachDisk(ctx context.Context, node millpond.NodeID, lun int) error
}

// Keeper is an optional ability: the launcher makes machines of its own, such as
// those that others are copied from. EndMaking ends that and begins no more.
type Keeper interface{ EndMaking() }

// Teller is an optional ability: what List says of one VM, for whoever wants to know
// of one among thousands. ok is false for a VM that is not there.
type Teller interface {
	Tell(ctx context.Context, node millpond.NodeID) (st Status, ok bool)
}

// Tell is that ability of a launcher, or a look at its list.
func Tell(ctx context.Context, l Launcher, node millpond.NodeID) (Status, bool, error) {
	if p, ok := l.(*Part); ok {
		l = p.Launcher
	}
	if t, ok := l.(Teller); ok {
		st, ok := t.Tell(ctx, node)
		return st, ok, nil
	}
	all, err := l.List(ctx)
	for _, st := range all {
		if st.Node.Key() == node.Key() {
			return st, true, err
		}
	}
	return Status{}, false, err
}

// AttacherOf is that ability of a launcher or of the one that it is a part of;
// nil without it.
func AttacherOf(l Launcher) Attacher {
	if p, ok := l.(*Part); ok {
		l = p.Launcher
	}
	a, _ := l.(Attacher)
	return a
}

// Spec is everything needed to run one VM. It contains no secret but Channel.Token.
type Spec struct {
	Node       millpond.NodeID `json:"node"`
	Generation int             `json:"generation"`
	// Labels are for people who look at processes: account, pool.
	Labels    map[string]string `json:"labels,omitempty"`
	VCPUs     int               `json:"vcpus"`
	MemoryMiB int               `json:"memoryMiB"`
	Firmware  Firmware          `json:"firmware"`
	OSDisk    Disk              `json:"osDisk"`
	DataDisks []Disk            `json:"dataDisks,omitempty"`
	// TempDiskMiB is the size of the empty temporary disk, 0 for none. It carries
	// an ext4 file system labelled TempDiskLabel.
	TempDiskMiB int64 `json:"tempDiskMiB"`
	// TempEncrypted is Disk.Encrypted of the temporary disk.
	TempEncrypted bool    `json:"tempEncrypted,omitempty"`
	Channel       Channel `json:"channel"`
	// Hostname is also the instance id of the boot seed.
	Hostname string `json:"hostname"`
	// Card is the machine's own network card; nil has the launcher choose one, in
	// a network that it chooses too.
	Card *Card `json:"card,omitempty"`
	// FirstBoot is for machines that are no nodes: who may use them.
	FirstBoot *FirstBoot `json:"firstBoot,omitempty"`
	// Cold has the VM boot by itself even where it could be copied from one that has.
	Cold bool `json:"cold,omitempty"`
	// SecureBoot has the firmware start signed boot loaders only, and TPM gives the VM
	// a TPM of its own; both are for UEFI.
	SecureBoot bool `json:"secureBoot,omitempty"`
	TPM        bool `json:"tpm,omitempty"`
	// Greeting is what the server would say to the machine's agent first, for a
	// launcher that can do so sooner; nil has the server say it.
	Greeting *Greeting `json:"greeting,omitempty"`
}

// Greeting is a server's first word to an agent.
type Greeting struct {
	// Hello is a nodev1.HelloRequest without what only the launcher knows: where the
	// guest finds its host and the server.
	Hello []byte `json:"hello"`
	// Listener is the server's own address, host:port.
	Listener string `json:"listener"`
}

// ServerAddress is where a guest reaches the server of g; host is where it reaches
// its host, empty if it cannot.
func (g *Greeting) ServerAddress(host string) string { return ServerAddress(g.Listener, host) }

// ServerAddress is where a guest reaches a server that listens at listener: a guest
// that has its host's loopback at an address of its own finds it there.
func ServerAddress(listener, host string) string {
	name, port, err := net.SplitHostPort(listener)
	if err != nil {
		return ""
	}
	ip := net.ParseIP(name)
	if name != "" && name != "localhost" && (ip == nil || !ip.IsLoopback() && !ip.IsUnspecified()) {
		return listener
	}
	if host != "" {
		return net.JoinHostPort(host, port)
	}
	if name == "" || ip != nil && ip.IsUnspecified() {
		name = "127.0.0.1"
	}
	return net.JoinHostPort(name, port)
}

// Card is a network card whose addresses were given out by somebody else.
type Card struct {
	MAC string `json:"mac"`
	// Network is the subnet; its first address is the gateway, the second the
	// name server. Address is the machine's own, not below the fourth. Without
	// them, and without a MAC, the launcher chooses.
	Network netip.Prefix `json:"network"`
	Address netip.Addr   `json:"address"`
	// LAN names the network whose machines reach each other on this host; empty
	// for a card that is alone in its network.
	LAN string `json:"lan,omitempty"`
	// Filters say what the machine takes from the others of its LAN.
	Filters Filters `json:"filters,omitempty"`
	// Ports are open on the host as long as the machine runs.
	Ports []Port `json:"ports,omitempty"`
}

// NetworkDomain is what the names of the machines of one LAN end with, as in
// Azure; without it they are found as well.
const NetworkDomain = "internal.cloudapp.net"

// Port leads from a port of the host to one of the guest.
type Port struct {
	Host  netip.AddrPort `json:"host"`
	Guest uint16         `json:"guest"`
	// UDP makes both ports UDP's.
	UDP bool `json:"udp,omitempty"`
}

// PortStatus is a port that was asked for; Err says why it is not open.
type PortStatus struct {
	Port
	Err string `json:"err,omitempty"`
}

// FirstBoot is what a machine is told when it boots for the first time.
type FirstBoot struct {
	// InstanceID stays the same for all boots of a machine.
	InstanceID string `json:"instanceId"`
	// Admin is empty for a machine that keeps the users on its disk.
	Admin string `json:"admin,omitempty"`
	// PasswordHash is of the form of crypt(3); empty locks the password.
	PasswordHash string `json:"passwordHash,omitempty"`
	// Keys are lines for the administrator's authorized_keys.
	Keys          []string `json:"keys,omitempty"`
	PasswordLogin bool     `json:"passwordLogin,omitempty"`
	// CustomData is the user's own data for cloud-init.
	CustomData []byte `json:"customData,omitempty"`
}

// TempDiskLabel is the file-system label of the temporary disk.
const TempDiskLabel = "millpond-temp"

// Firmware is how a disk boots itself: BIOS for hyperVGeneration V1, UEFI for V2.
type Firmware string

const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Disk is one disk of a VM. At most one of Backing, Content and Managed is set;
// with none of them it is a blank disk of SizeBytes.
type Disk struct {
	// LUN is the data disk's logical unit; ignored for the OS disk.
	LUN int `json:"lun"`
	// Backing is the path of a raw file on this host that is the read-only base of
	// a private overlay: a built base image.
	Backing string `json:"backing,omitempty"`
	// Content is the image store's id of the read-only base of a private overlay,
	// and Stores are where it can be had, the one to be asked first in front.
	Content string  `json:"content,omitempty"`
	Stores  []Store `json:"stores,omitempty"`
	// FullCopy has all of Content copied into the VM's own folder before it boots,
	// and nothing read on demand: how pools from managed images work in Azure.
	FullCopy bool `json:"fullCopy,omitempty"`
	// Managed names a managed disk of this server, which the VM writes to itself:
	// it outlives the VM.
	Managed   string `json:"managed,omitempty"`
	SizeBytes int64  `json:"sizeBytes"`
	// Encrypted has all that the VM writes to the disk encrypted where it lies, with
	// a key of this VM and generation. It is not for managed disks.
	Encrypted bool `json:"encrypted,omitempty"`
}

// Store is an image store as another process can open it.
type Store struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Channel is how the supervisor reaches the server for this node.
type Channel struct {
	// EndpointFile holds the server's current address, host:port; it is read
	// anew before every dial because a restarted server may listen elsewhere.
	EndpointFile string `json:"endpointFile"`
	// CAFile is the PEM bundle that the server's certificate is checked against.
	CAFile string `json:"caFile"`
	// Token is the node's own credential, valid for this node and generation only.
	Token string `json:"token"`
}

// Phase is how far a VM has come.
type Phase string

const (
	// Preparing covers the supervisor's steps up to the start of QEMU.
	Preparing Phase = "preparing"
	// Running means that QEMU runs the guest.
	Running Phase = "running"
	// Stopped means that the VM ended as asked (Stop, or power-off by the guest).
	Stopped Phase = "stopped"
	// Failed means that it could not start or died; Err says why.
	Failed Phase = "failed"
)

// Status is one VM as the launcher sees it.
type Status struct {
	Node       millpond.NodeID `json:"node"`
	Generation int             `json:"generation"`
	Phase      Phase           `json:"phase"`
	// Step is the named step under way or the one that failed.
	Step string `json:"step,omitempty"`
	// Accel is the acceleration in use: kvm or tcg.
	Accel string `json:"accel,omitempty"`
	// Addr is the guest's private address.
	Addr string `json:"addr,omitempty"`
	// HostAddr is the address under which the guest reaches services on this
	// host's loopback; empty if there is none.
	HostAddr string    `json:"hostAddr,omitempty"`
	Started  time.Time `json:"started"`
	// Heard is when the agent first answered on its channel since the machine was
	// switched on or reset; zero while it has not.
	Heard   time.Time `json:"heard,omitzero"`
	Changed time.Time `json:"changed"`
	// Steps tells how long each step of the launch took.
	Steps []StepTime `json:"steps,omitempty"`
	// Clone is whether the VM was copied from one that had booted.
	Clone Clone `json:"clone,omitzero"`
	// Ports and Filters are those of Spec.Card while it runs.
	Ports   []PortStatus `json:"ports,omitempty"`
	Filters Filters      `json:"filters,omitempty"`
	// Managed are the managed data disks that it has, by LUN; nil if the launcher
	// does not say.
	Managed map[int]string `json:"managed,omitempty"`
	// Held is why a machine that runs stands still, and goes on by itself when that
	// is over; nil if it does not.
	Held *Failure `json:"held,omitempty"`
	Err  *Failure `json:"err,omitempty"`
}

// Clone says what a VM was made from: a template, or else, for the reason that
// Cold gives, a boot of its own.
type Clone struct {
	Template string `json:"template,omitempty"`
	Cold     string `json:"cold,omitempty"`
	// Spare: it was there before its node was asked for.
	Spare bool `json:"spare,omitempty"`
}

// StepTime is one finished step of a launch.
type StepTime struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration"`
}

// Failure is why a VM failed. Host tells a fault of this host or of Millpond
// (launching elsewhere or again may help) from a fault of the guest (the image
// did not boot); the two are never mixed up.
type Failure struct {
	Host    bool   `json:"host"`
	Code    string `json:"code"`
	Message string `json:"message"`
	// Evidence is the console's or QEMU's last lines.
	Evidence   string `json:"evidence,omitempty"`
	Suggestion string `json:"suggestion,omitempty"`
}

func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// Capacity is what a launcher can run in all and what is in use.
type Capacity struct {
	VMs, UsedVMs             int
	MemoryMiB, UsedMemoryMiB int64
}

// StepCapacity is the Step of a HostError that says that the host is full.
const StepCapacity = "capacity"

// HostError says that the host, not the guest, stood in the way.
type HostError struct {
	Step string
	Err  error
}

func (e *HostError) Error() string { return fmt.Sprintf("host: %s: %v", e.Step, e.Err) }
func (e *HostError) Unwrap() error { return e.Err }

// GuestError says that the guest stood in the way; Console is its last output.
type GuestError struct {
	Step    string
	Console string
	Err     error
}

func (e *GuestError) Error() string { return fmt.Sprintf("guest: %s: %v", e.Step, e.Err) }
func (e *GuestError) Unwrap() error { return e.Err }
