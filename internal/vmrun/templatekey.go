package vmrun

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
)

// keyVersion is raised when machines of older templates would not do any more for a
// reason that the key does not see, such as what Settle leaves in them.
const keyVersion = 1

// Unclonable is why a VM of the spec has a boot of its own whatever the host can;
// empty for one that may be a clone.
func Unclonable(s launch.Spec) string {
	switch {
	case s.Cold:
		return "Its pool asks for boots."
	case s.Card != nil && s.Card.LAN != "" && s.FirstBoot == nil:
		// The address in the network is that of the card that booted.
		return "The nodes of its pool share a network."
	case s.FirstBoot != nil || s.Card != nil && s.Card.Network.IsValid():
		return "It is a machine of its own and no node."
	}
	if s.TPM || s.SecureBoot {
		return "It has trusted launch: its firmware and its TPM are to see a boot of its own."
	}
	for _, d := range append([]launch.Disk{s.OSDisk}, s.DataDisks...) {
		if d.Managed != "" {
			return "It writes to a managed disk."
		}
		if d.FullCopy {
			return "Its image is copied whole for each node."
		}
	}
	return ""
}

// TemplateKey names the template that a VM of c can be a clone of: two VMs have
// the same one if their machines, their images and what runs them are the same.
func TemplateKey(c Config) (string, error) {
	return templateKey(c, processor)
}

// templateKey is TemplateKey on a host whose processor is host's answer.
func templateKey(c Config, host func() string) (string, error) {
	c.Template, c.Freeze = "", false
	c.Spec.Node, c.Spec.Generation, c.Spec.Hostname = "template", 0, "template"
	if c.Network.IsValid() {
		c.Network = netip.MustParsePrefix("10.0.0.0/29")
	}
	m := (&disks{cfg: c}).machine(consoleFD, qmpFD, agentFD)
	args, err := m.Args()
	if err != nil {
		return "", err
	}
	about := []string{fmt.Sprint(keyVersion), strings.Join(args, "\x00")}
	for _, d := range append([]launch.Disk{c.Spec.OSDisk}, c.Spec.DataDisks...) {
		about = append(about, fmt.Sprintf("disk %d %s %d", d.LUN, d.Content, d.SizeBytes), fileState(d.Backing))
	}
	about = append(about, fmt.Sprint(c.Spec.TempDiskMiB), fileState(c.Tools.QEMU), fileState(c.AgentDisk))
	if c.Spec.Firmware == launch.UEFI {
		about = append(about, fileState(c.Tools.OVMFCode), fileState(c.Tools.OVMFVars))
	}
	if c.Accel == qemu.KVM {
		about = append(about, host())
	}
	b, err := json.Marshal(about)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12]), nil
}

// fileState is what tells that a file is another one: where it lies, its length
// and when it was changed.
func fileState(name string) string {
	if name == "" {
		return ""
	}
	if !strings.Contains(name, "/") { // a program that is found by its name
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			if p := filepath.Join(dir, name); fileThere(p) {
				name = p
				break
			}
		}
	}
	st, err := os.Stat(name)
	if err != nil {
		return name
	}
	return fmt.Sprintf("%s %d %d", name, st.Size(), st.ModTime().UnixNano())
}

func fileThere(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular()
}

// processor is the model and the abilities of the host's processor, which guests
// under KVM see.
func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line == "\n" {
			break // the first one's are everybody's
		}
		if key, value, ok := strings.Cut(line, ":"); ok {
			switch strings.TrimSpace(key) {
			case "model name", "flags", "microcode":
				out = append(out, strings.TrimSpace(value))
			}
		}
	}
	return strings.Join(out, "\n")
}

// Fresh says that the VM in dir has not been started yet.
func Fresh(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, osDisk))
	return os.IsNotExist(err)
}
