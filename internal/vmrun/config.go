package vmrun

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/lan"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/process"
	"millpond.dev/millpond/internal/qemu"
)

// configVersion is raised when an old supervisor would misread a new file.
const configVersion = 1

// Config is what a supervisor is told, once, by its launcher.
type Config struct {
	Version int         `json:"version"`
	Spec    launch.Spec `json:"spec"`
	Accel   qemu.Accel  `json:"accel"`
	// VCPUs and MemoryMiB are the spec's after the host's caps.
	VCPUs     int `json:"vcpus"`
	MemoryMiB int `json:"memoryMiB"`
	// Network is the VM's own island, at least a /29; invalid for no network.
	Network netip.Prefix `json:"network"`
	// LAN is the folder of the network that the card shares with other machines;
	// empty without one.
	LAN   string `json:"lan,omitempty"`
	Tools Tools  `json:"tools"`
	// CacheDir is shared by all VMs of the host: bases of temporary disks.
	CacheDir string `json:"cacheDir"`
	// AgentDisk is an ISO that brings the agent to images without one, or empty.
	AgentDisk string `json:"agentDisk,omitempty"`
	// HostKey is the file of the host's key, which the keys of encrypted disks are kept
	// under; empty for a host without one.
	HostKey string `json:"hostKey,omitempty"`
	// ImageSocket is where the image host serves contents and managed disks; empty
	// without one.
	ImageSocket string `json:"imageSocket,omitempty"`
	// Template is the folder of the template that the VM is a clone of; empty for a
	// boot of its own. The folder lies beside the VM's own and stays as long as it.
	Template string `json:"template,omitempty"`
	// Cold is why the VM has a boot of its own.
	Cold string `json:"cold,omitempty"`
	// Park makes the VM a spare: a clone that waits, before it is anybody's, until
	// the launcher has put a node's machine here and asks for it (OpAdopt).
	Park bool `json:"park,omitempty"`
	// Freeze makes the VM a template: it serves no node and ends when it is kept.
	Freeze bool `json:"freeze,omitempty"`
	// StopGrace is how long the guest may take to power off on SIGTERM.
	StopGrace time.Duration `json:"stopGrace"`
}

// Tools are the programs and firmware files of the host.
type Tools struct {
	QEMU     string `json:"qemu"`
	MkE2fs   string `json:"mke2fs"`
	OVMFCode string `json:"ovmfCode"`
	OVMFVars string `json:"ovmfVars"`
	// SecureCode and SecureVars are the firmware for secure boot, with Microsoft's keys.
	SecureCode string `json:"secureCode,omitempty"`
	SecureVars string `json:"secureVars,omitempty"`
	// SWTPM is the emulator of TPMs.
	SWTPM string `json:"swtpm,omitempty"`
}

// firmware is the code and the template of the variables that a UEFI machine gets.
func (c Config) firmware() (code, vars string) {
	if c.Spec.SecureBoot {
		return c.Tools.SecureCode, c.Tools.SecureVars
	}
	return c.Tools.OVMFCode, c.Tools.OVMFVars
}

// Save makes dir a VM's folder that Run can be started on.
func (c Config) Save(dir string) error {
	c.Version = configVersion
	if err := os.MkdirAll(filepath.Join(dir, diskFolder), 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(ConfigFile(dir), append(b, '\n'), 0o600)
}

// LoadConfig reads what Save wrote.
func LoadConfig(dir string) (Config, error) {
	var c Config
	if err := readJSON(ConfigFile(dir), &c); err != nil {
		return c, err
	}
	if c.Version != configVersion {
		return c, fmt.Errorf("%s has version %d; this build reads %d", configFile, c.Version, configVersion)
	}
	return c, nil
}

func readJSON(name string, into any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return nil
}

// uuid and mac are functions of the node, so that a reboot of the supervisor
// does not change the machine that the guest sees.
func (c Config) uuid() string {
	h := c.sum()
	h[6] = h[6]&0x0f | 0x80 // version 8: made up by us
	h[8] = h[8]&0x3f | 0x80
	s := hex.EncodeToString(h[:16])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// instanceID is what the seed disk calls the machine.
func (c Config) instanceID() string {
	if f := c.Spec.FirstBoot; f != nil {
		return f.InstanceID
	}
	return fmt.Sprintf("%s-%d", c.Spec.Hostname, c.Spec.Generation)
}

// LANPlace is where a machine is in a network that it shares: the folder below
// root, and its address. It is empty for a machine that shares none.
func LANPlace(root string, spec launch.Spec) (dir string, mac lan.MAC) {
	card := spec.Card
	if card == nil || card.LAN == "" || !card.Network.IsValid() {
		return "", mac
	}
	mac, _ = lan.ParseMAC(Config{Spec: spec}.mac())
	sum := sha256.Sum256([]byte(card.LAN))
	return filepath.Join(root, hex.EncodeToString(sum[:8])), mac
}

func (c Config) mac() string {
	if card := c.Spec.Card; card != nil && card.MAC != "" {
		return card.MAC
	}
	h := c.sum()
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[20], h[21], h[22])
}

// network is the VM's, nil for none.
func (c Config) network() *qemu.Network {
	if card := c.Spec.Card; card != nil && card.Network.IsValid() {
		n := &qemu.Network{Prefix: card.Network, Address: card.Address, MAC: c.mac()}
		if c.LAN != "" {
			n.CardFD, n.GatewayFD, n.Domain = cardFD, gatewayFD, launch.NetworkDomain
		}
		return n
	}
	if c.Network.IsValid() {
		return &qemu.Network{Prefix: c.Network, MAC: c.mac()}
	}
	return nil
}

func (c Config) sum() [32]byte { return sha256.Sum256([]byte("millpond node " + c.Spec.Node.Key())) }

// Handle names the processes of a VM.
type Handle struct {
	Version    int        `json:"version"`
	Supervisor process.ID `json:"supervisor"`
	// QEMU is zero until it has been started.
	QEMU process.ID `json:"qemu"`
}

const handleVersion = 1

// LoadHandle reads the handle in dir; the zero Handle if there is none yet.
func LoadHandle(dir string) (Handle, error) {
	var h Handle
	err := readJSON(filepath.Join(dir, handleFile), &h)
	if errors.Is(err, os.ErrNotExist) {
		return Handle{}, nil
	}
	if err == nil && h.Version != handleVersion {
		err = fmt.Errorf("%s has version %d; this build reads %d", handleFile, h.Version, handleVersion)
	}
	return h, err
}

func (h Handle) save(dir string) error {
	h.Version = handleVersion
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, handleFile), append(b, '\n'), 0o600)
}

// LoadStatus reads the status in dir.
func LoadStatus(dir string) (launch.Status, error) {
	var s launch.Status
	err := readJSON(StatusFile(dir), &s)
	return s, err
}

// SaveStatus replaces the status in dir. Only the supervisor writes it while it
// lives, and the launcher before and after.
func SaveStatus(dir string, s launch.Status) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return atomicfile.Write(StatusFile(dir), append(b, '\n'), 0o600)
}
