package guest

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// hostName is how tasks call the host of their node.
const hostName = "host.millpond.internal"

// The ends of our own lines in /etc/hosts: the machine's own name in a network,
// and the nodes of a multi-instance task.
const (
	ownMark  = "\t# millpond"
	taskMark = "\t# millpond task"
)

// setHostname names the running machine and the next boot of it. What has the name
// already is left alone: the kernel wakes each service that watches the name also when
// it stays the same, and under emulation that costs more than all else of a Hello.
func setHostname(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil || unix.ByteSliceToString(u.Nodename[:]) != name {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return err
		}
	}
	// ext4 begins to write a file that was truncated as soon as it is closed, and
	// whoever truncates it again waits for that: a clone is named twice.
	if old, err := os.ReadFile("/etc/hostname"); err == nil && string(old) == name+"\n" {
		return nil
	}
	return os.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644)
}

// hostsFile is /etc/hosts, of which some lines are ours.
type hostsFile struct {
	mu   sync.Mutex
	path string
}

// ownHosts are the machine's own name, which sudo and many others want to resolve,
// and its host's address, if it has one. address is the machine's in a network
// that it shares: MPI wants its name to be there and not on the loopback, where
// the other nodes would look for it in vain.
type ownHosts struct{ name, host, address, domain string }

func (h *hostsFile) own(o ownHosts) error {
	return h.edit(func(old string) string { return o.lines(old) })
}

// peers makes the nodes of a multi-instance task known, in the place of those of
// the one before.
func (h *hostsFile) peers(list []*nodev1.Host) error {
	if len(list) == 0 {
		return nil
	}
	return h.edit(func(old string) string { return peerLines(old, list) })
}

func (h *hostsFile) edit(fn func(string) string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	old, err := os.ReadFile(h.path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	text := fn(string(old))
	if text == string(old) {
		return nil
	}
	return os.WriteFile(h.path, []byte(text), 0o644)
}

// without are the lines that drop does not name, each with its end.
func without(old string, drop func(line string) bool) string {
	var b strings.Builder
	for line := range strings.Lines(old) {
		if line = strings.TrimSuffix(line, "\n"); !drop(line) {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func (o ownHosts) lines(old string) string {
	text := without(old, func(line string) bool {
		return strings.HasPrefix(line, "127.0.1.1") || strings.HasSuffix(line, "\t"+hostName) || strings.HasSuffix(line, ownMark)
	})
	switch {
	case o.address != "" && o.domain != "":
		text += o.address + "\t" + o.name + "." + o.domain + "\t" + o.name + ownMark + "\n"
	case o.address != "":
		text += o.address + "\t" + o.name + ownMark + "\n"
	default:
		text += "127.0.1.1\t" + o.name + "\n"
	}
	if o.host != "" {
		text += o.host + "\t" + hostName + "\n"
	}
	return text
}

func peerLines(old string, list []*nodev1.Host) string {
	text := without(old, func(line string) bool { return strings.HasSuffix(line, taskMark) })
	for _, h := range list {
		// A name with a space or a line's end in it would be more than a name.
		if _, err := netip.ParseAddr(h.GetAddress()); err == nil && h.GetName() != "" && !strings.ContainsAny(h.GetName(), " \t\r\n#") {
			text += h.GetAddress() + "\t" + h.GetName() + taskMark + "\n"
		}
	}
	return text
}

// resolvedConf is a part of systemd-resolved's configuration until the next boot.
const resolvedConf = "/run/systemd/resolved.conf.d/millpond.conf"

// askForShortNames has systemd-resolved ask the name server for names without a
// dot too, as other resolvers do: in a network of nodes it knows them. A machine
// without systemd is left alone.
func askForShortNames(path string) error {
	const text = "[Resolve]\nResolveUnicastSingleLabel=yes\n"
	if _, err := os.Stat(filepath.Dir(filepath.Dir(path))); err != nil {
		return nil
	}
	if b, err := os.ReadFile(path); err == nil && string(b) == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	// One that has not started yet reads it anyway; and nobody waits for it here.
	go func() { _ = exec.Command("systemctl", "try-restart", "--no-block", "systemd-resolved.service").Run() }()
	return nil
}
