package millpond

import (
	"strings"
	"time"
)

// VirtualMachine is a machine of its own, outside of pools. Its disks are disks
// of the group, which outlive it unless their DeleteOption says otherwise.
type VirtualMachine struct {
	Resource `json:"-"`
	// VMID is the GUID that a machine keeps for life; the guest sees it too.
	VMID  string
	Power VMState
	// Generation grows with each power-on; the channel's credential is of one.
	Generation int
	TokenHash  string `json:",omitempty"`
	// Restart: when it is down, it starts again.
	Restart bool `json:",omitempty"`
	// Generalized machines can become images and never run again.
	Generalized bool `json:",omitempty"`
	// Provisioned: the guest has its user and name; it is not asked twice.
	Provisioned bool     `json:",omitempty"`
	Size        string   // the VM size's name
	Zones       []string `json:",omitempty"`
	OSType      string   // Linux or Windows
	HyperV      string   // V1 (BIOS) or V2 (UEFI)
	// Image is what the OS disk was made from, as asked for, and ExactVersion
	// what that was at the time; empty for an attached disk.
	Image        ImageReference `json:",omitzero"`
	ExactVersion string         `json:",omitempty"`
	// Specialized machines have the users that are on their disk.
	Specialized bool     `json:",omitempty"`
	OSDisk      VMDisk   `json:",omitzero"`
	DataDisks   []VMDisk `json:",omitempty"`
	// Cards are network interfaces by id; the first one is the primary.
	Cards   []VMCard   `json:",omitempty"`
	Profile *VMProfile `json:",omitempty"`
	// Priority, License and Diagnostics are shown as they were given.
	Priority    string           `json:",omitempty"`
	License     string           `json:",omitempty"`
	Diagnostics *BootDiagnostics `json:",omitempty"`
	// Failure is why it is not what was asked for: code and sentence.
	FailureCode string `json:",omitempty"`
	Failure     string `json:",omitempty"`
	// Warnings are what does not work though it runs, such as a public port that
	// this host does not let it have.
	Warnings []string `json:",omitempty"`
	// Findings are what preflight had to say of the image that it was made from.
	Findings []Finding `json:",omitempty"`
	// What the agent said when it was last heard.
	Agent VMAgent `json:",omitzero"`
	// Began is when the present state began; Started the last power-on.
	Began   time.Time `json:",omitzero"`
	Started time.Time `json:",omitzero"`
	// Commands are the last scripts that were run by action, the newest last.
	Commands []GuestCommand `json:",omitempty"`
}

// Node is the machine's name at the launcher and on the channel.
func (v *VirtualMachine) Node() NodeID { return NodeID(vmNodePrefix + strings.ToLower(v.VMID)) }

// vmNodePrefix tells machines from nodes, whose ids begin with tvm.
const vmNodePrefix = "vm-"

// IsVM says whether a name at the launcher is a virtual machine's and no node's.
func (n NodeID) IsVM() bool { return strings.HasPrefix(n.Key(), vmNodePrefix) }

// VMDisk is a disk as a machine has it.
type VMDisk struct {
	LUN int32 `json:",omitempty"`
	// ID is the disk's resource id.
	ID     string
	Option CreateOption // FromImage, Empty or VMAttach
	// ImageLUN is the data disk of the image that it is made from.
	ImageLUN *int32 `json:",omitempty"`
	SizeGB   int32  `json:",omitempty"`
	SKU      string `json:",omitempty"`
	Caching  string `json:",omitempty"`
	// Delete says that it goes with the machine.
	Delete bool `json:",omitempty"`
}

// BasePrefix begins the name of a base image where an image's id could stand.
const BasePrefix = "base:"

// CreateAttach is the option of a machine's disk that was there before.
const CreateAttach CreateOption = "Attach"

// VMCard is a network interface as a machine has it.
type VMCard struct {
	ID      string
	Primary bool `json:",omitempty"`
	Delete  bool `json:",omitempty"`
}

// VMProfile is what a generalized machine is told at its first boot.
type VMProfile struct {
	ComputerName string
	Admin        string
	// PasswordHash is of the crypt(3) form; empty for none.
	PasswordHash string  `json:",omitempty"`
	Keys         []VMKey `json:",omitempty"`
	// PasswordLogin lets ssh take passwords.
	PasswordLogin bool `json:",omitempty"`
	// CustomData is the user's own data for cloud-init, decoded.
	CustomData []byte `json:",omitempty"`
	// PatchMode and Assessment are shown as they were given; empty is ImageDefault.
	PatchMode  string `json:",omitempty"`
	Assessment string `json:",omitempty"`
}

// BootDiagnostics is where a machine's console is to be kept, which it is in any case
// on its host.
type BootDiagnostics struct {
	Enabled    bool
	StorageURI string `json:",omitempty"`
}

// VMKey is a public key in the file of a user.
type VMKey struct{ Path, Data string }

// VMAgent is what is known of the agent in a machine.
type VMAgent struct {
	Version, BootID, OSName, OSVersion string    `json:",omitempty"`
	Heard                              time.Time `json:",omitzero"`
}

// CommandState is how far a script in a guest has come.
type CommandState string

const (
	CommandPending   CommandState = "Pending"
	CommandRunning   CommandState = "Running"
	CommandSucceeded CommandState = "Succeeded"
	CommandFailed    CommandState = "Failed"
	CommandTimedOut  CommandState = "TimedOut"
	CommandCanceled  CommandState = "Canceled"
)

// Ended says whether nothing more happens to the command.
func (s CommandState) Ended() bool { return s != CommandPending && s != CommandRunning }

// GuestCommand is a script that the agent runs once, and what came of it.
type GuestCommand struct {
	// ID names it to the agent; each run has a new one.
	ID     string
	Script string `json:",omitempty"`
	// Args are given to the script as $1, $2 …; Env as variables.
	Args []string    `json:",omitempty"`
	Env  []NameValue `json:",omitempty"`
	// User is whom it runs as, an account that is there; empty for root.
	User string `json:",omitempty"`
	// Limit bounds its run.
	Limit time.Duration
	State CommandState
	Exit  int32 `json:",omitempty"`
	// Stdout and Stderr are the last bytes of each.
	Stdout string `json:",omitempty"`
	Stderr string `json:",omitempty"`
	// Message says why it did not run or end.
	Message string    `json:",omitempty"`
	Asked   time.Time `json:",omitzero"`
	Started time.Time `json:",omitzero"`
	Ended   time.Time `json:",omitzero"`
}

// VMExtension is an extension of a machine.
type VMExtension struct {
	Resource                 `json:"-"`
	Publisher, Type, Version string
	AutoUpgradeMinor         bool
	// AutoUpgrade is shown as it was given; nothing upgrades here.
	AutoUpgrade    *bool  `json:",omitempty"`
	ForceUpdateTag string `json:",omitempty"`
	// Settings is the public configuration as it was given; the protected one is
	// not kept longer than the command that needs it.
	Settings []byte `json:",omitempty"`
	// Removing: Command takes its traces out of the guest.
	Removing bool `json:",omitempty"`
	Command  GuestCommand
}

// VMRunCommand is a script that is a resource of its own.
type VMRunCommand struct {
	Resource `json:"-"`
	Async    bool
	// Timeout is the limit that was asked for, 0 for the server's own.
	Timeout time.Duration `json:",omitempty"`
	// Parameters and Protected are what was given; Command has both as arguments
	// and variables. The protected ones are not shown.
	Parameters []NameValue `json:",omitempty"`
	Protected  []NameValue `json:",omitempty"`
	Command    GuestCommand
}

// VMRunCommandPatch changes a script that is a resource; what is nil stays.
type VMRunCommandPatch struct {
	Tags                  map[string]string
	Script, User          *string
	Async                 *bool
	Timeout               *time.Duration
	Parameters, Protected []NameValue
}
