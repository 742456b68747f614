package inspect

import (
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"
)

// System is what the file systems of an operating system say about the machine
// that they were taken from.
type System struct {
	// Architecture is x64, Arm64, x86 or another name of ELF; empty if nothing
	// could be read.
	Architecture string `json:"architecture,omitempty"`
	Hostname     string `json:"hostname,omitempty"`
	// MachineID, HostKeys, Users, Histories, Leases and CloudInit are what a
	// generalized image has not. Users are accounts of people with a way to sign
	// in; the others are paths.
	MachineID bool     `json:"machineId,omitempty"`
	HostKeys  []string `json:"hostKeys,omitempty"`
	Users     []string `json:"users,omitempty"`
	Histories []string `json:"histories,omitempty"`
	Leases    []string `json:"leases,omitempty"`
	// LUNNames: the image has the rules that name data disks by their LUN here.
	LUNNames   bool     `json:"lunNames,omitempty"`
	CloudInit  []string `json:"cloudInit,omitempty"`
	RandomSeed bool     `json:"randomSeed,omitempty"`
	// Extensions are folders that extensions of a VM left behind.
	Extensions []string `json:"extensions,omitempty"`
	Mounts     []Mount  `json:"mounts,omitempty"`
}

// tree is the root file system with those that its fstab mounts over it. A
// symbolic link that leads from one into another is not followed.
type tree struct {
	root fileSystem
	over []mounted // longest path first
}

type mounted struct {
	point string
	fs    fileSystem
}

func (t tree) at(name string) (fileSystem, string) {
	for _, m := range t.over {
		if rest, ok := strings.CutPrefix(name, m.point); ok && (rest == "" || rest[0] == '/') {
			return m.fs, "/" + strings.TrimPrefix(rest, "/")
		}
	}
	return t.root, name
}

func (t tree) readFile(name string, max int) ([]byte, error) {
	fs, name := t.at(name)
	return readPath(fs, name, max)
}

func (t tree) list(name string) ([]string, error) {
	fs, name := t.at(name)
	return listPath(fs, name)
}

// exists counts what cannot be read for absent; folders are there as well.
func (t tree) exists(name string) bool {
	if _, err := t.readFile(name, 0); err == nil {
		return true
	}
	_, err := t.list(name)
	return err == nil
}

// text is the beginning of a file, empty if it cannot be read.
func (t tree) text(name string) string {
	b, _ := t.readFile(name, maxFile)
	return string(b)
}

// mountAll puts the partitions of this disk that fstab names over the root.
func (d *disk) mountAll(r *Report, root fileSystem, mounts []Mount) tree {
	t := tree{root: root}
	for _, m := range mounts {
		if m.Point == "/" || !strings.HasPrefix(m.Point, "/") {
			continue
		}
		for _, p := range r.Partitions {
			if !m.names(p) || p.FileSystem != "ext4" && p.FileSystem != "xfs" {
				continue
			}
			d.guard(r, p.title(), func() error {
				fs, err := d.open(p)
				if err == nil && fs != nil {
					t.over = append(t.over, mounted{path.Clean(m.Point), fs})
				}
				return err
			})
		}
	}
	sort.Slice(t.over, func(i, j int) bool { return len(t.over[i].point) > len(t.over[j].point) })
	return t
}

// system looks for an operating system on a partition.
func (d *disk) system(r *Report, p Partition) error {
	switch p.FileSystem {
	case "lvm", "luks", "btrfs":
		r.Notes = append(r.Notes, fmt.Sprintf("%s holds %s, which preflight does not look into", p.title(), p.FileSystem))
		return nil
	case "ext4", "xfs":
	default:
		return nil
	}
	if r.OS.Family != "" {
		return nil
	}
	fs, err := d.open(p)
	if err != nil {
		return err
	}
	mounts := []Mount(nil)
	if b, err := readPath(fs, "/etc/fstab", maxFile); err == nil {
		mounts = parseFstab(string(b))
	}
	t := d.mountAll(r, fs, mounts)
	// /etc/os-release is a link to the first on most systems.
	var text []byte
	for _, name := range []string{"/usr/lib/os-release", "/etc/os-release"} {
		if text, err = t.readFile(name, maxFile); err == nil {
			break
		}
		if !errors.Is(err, errNotFound) {
			return err
		}
	}
	if err != nil {
		return nil // a file system without a system, such as /boot
	}
	r.OS = parseOSRelease(string(text))
	r.OS.Partition = p.Number
	r.Agent = t.exists("/usr/sbin/millpond-agent") || t.exists("/usr/local/sbin/millpond-agent")
	r.CloudInit = t.exists("/usr/bin/cloud-init")
	s := &System{Mounts: mounts}
	r.System = s
	s.Architecture = architecture(t)
	s.identity(t)
	s.people(t)
	s.leftovers(t)
	for _, list := range [][]string{s.HostKeys, s.Histories, s.Leases, s.CloudInit, s.Extensions} {
		for i := range list {
			list[i] = unquote(list[i]) // names come from the disk
		}
	}
	if s.MachineID {
		r.NotGeneralized = append(r.NotGeneralized, "/etc/machine-id")
	}
	if len(s.HostKeys) > 0 {
		r.NotGeneralized = append(r.NotGeneralized, "/etc/ssh/ssh_host_*_key")
	}
	return nil
}

// architecture is that of the first program, by its ELF header (e_machine).
func architecture(t tree) string {
	for _, name := range []string{"/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/bin/busybox", "/bin/sh"} {
		b, err := t.readFile(name, 64)
		if err != nil || len(b) < 20 || string(b[:4]) != elf.ELFMAG {
			continue
		}
		m := elf.Machine(uint16(b[18]) | uint16(b[19])<<8)
		if b[5] == byte(elf.ELFDATA2MSB) {
			m = elf.Machine(uint16(b[19]) | uint16(b[18])<<8)
		}
		switch m {
		case elf.EM_X86_64:
			return "x64"
		case elf.EM_AARCH64:
			return "Arm64"
		case elf.EM_386:
			return "x86"
		}
		return strings.TrimPrefix(m.String(), "EM_")
	}
	return ""
}

// identity finds what tells one machine from another.
func (s *System) identity(t tree) {
	if id, err := t.readFile("/etc/machine-id", 64); err == nil {
		s.MachineID = len(strings.TrimSpace(string(id))) == 32
	}
	s.Hostname = unquote(strings.TrimSpace(t.text("/etc/hostname")))
	s.HostKeys = t.matching("/etc/ssh", "ssh_host_*_key")
	s.RandomSeed = t.exists("/var/lib/systemd/random-seed")
	for _, l := range []struct{ dir, pattern string }{
		{"/var/lib/dhcp", "*.leases"}, {"/var/lib/dhcp3", "*.leases"}, {"/var/lib/dhclient", "*.lease*"}, {"/var/lib/NetworkManager", "*.lease"}, {"/var/lib/dhcpcd", "*.lease"},
	} {
		for _, name := range t.matching(l.dir, l.pattern) {
			if b, err := t.readFile(name, 1); err == nil && len(b) > 0 {
				s.Leases = append(s.Leases, name)
			}
		}
	}
	if t.exists("/etc/udev/rules.d/70-persistent-net.rules") {
		s.Leases = append(s.Leases, "/etc/udev/rules.d/70-persistent-net.rules")
	}
	s.LUNNames = t.exists("/usr/lib/udev/rules.d/66-millpond-disks.rules") || t.exists("/etc/udev/rules.d/66-millpond-disks.rules")
	for _, name := range []string{"/var/lib/cloud/instance", "/var/lib/cloud/data/instance-id"} {
		if t.exists(name) {
			s.CloudInit = append(s.CloudInit, name)
		}
	}
	if all, err := t.list("/var/lib/cloud/instances"); err == nil {
		for _, n := range all[:min(len(all), 5)] {
			s.CloudInit = append(s.CloudInit, "/var/lib/cloud/instances/"+n)
		}
	}
}

// matching are the files of a folder that a pattern names, by path.
func (t tree) matching(dir, pattern string) []string {
	all, _ := t.list(dir)
	var out []string
	for _, n := range all {
		if ok, err := path.Match(pattern, n); err == nil && ok && len(out) < 50 {
			out = append(out, dir+"/"+n)
		}
	}
	sort.Strings(out)
	return out
}

// people finds accounts that the image's maker left: those with a user id from
// 1000 on and a password or keys, and keys and shell histories of root.
func (s *System) people(t tree) {
	passwords := map[string]bool{}
	for _, line := range strings.Split(t.text("/etc/shadow"), "\n") {
		f := strings.Split(line, ":")
		if len(f) > 1 && f[1] != "" && f[1][0] != '*' && f[1][0] != '!' {
			passwords[f[0]] = true
		}
	}
	n := 0
	for _, line := range strings.Split(t.text("/etc/passwd"), "\n") {
		f := strings.Split(line, ":")
		if len(f) < 7 || !strings.HasPrefix(f[5], "/") {
			continue
		}
		uid, err := strconv.Atoi(f[2])
		if err != nil || uid != 0 && (uid < 1000 || uid >= 60000) {
			continue
		}
		if n++; n > 100 {
			break
		}
		home := path.Clean(f[5])
		for _, h := range []string{".bash_history", ".zsh_history", ".ash_history"} {
			if t.exists(home + "/" + h) {
				s.Histories = append(s.Histories, home+"/"+h)
			}
		}
		keys := strings.TrimSpace(t.text(home + "/.ssh/authorized_keys"))
		switch name := unquote(f[0]); {
		case keys != "" && passwords[f[0]]:
			s.Users = append(s.Users, name+" (password, SSH keys)")
		case keys != "":
			s.Users = append(s.Users, name+" (SSH keys)")
		case passwords[f[0]]:
			s.Users = append(s.Users, name+" (password)")
		}
	}
}

// leftovers finds what extensions of a VM and Azure's Batch agent leave. The
// agent of Azure keeps an extension in a folder named publisher.type-version.
func (s *System) leftovers(t tree) {
	if all, err := t.list("/var/lib/waagent"); err == nil {
		for _, n := range all {
			name, version, ok := strings.Cut(n, "-")
			if ok && strings.Contains(name, ".") && version != "" && version[0] >= '0' && version[0] <= '9' && !strings.HasSuffix(n, ".xml") && !strings.HasPrefix(n, "WALinuxAgent") {
				s.Extensions = append(s.Extensions, "/var/lib/waagent/"+n)
			}
		}
	}
	if all, err := t.list("/var/log/azure"); err == nil {
		for _, n := range all {
			if strings.Contains(n, ".") && !strings.HasSuffix(n, ".log") {
				s.Extensions = append(s.Extensions, "/var/log/azure/"+n)
			}
		}
	}
	for _, n := range []string{"/opt/azbatch", "/var/lib/waagent/custom-script"} {
		if t.exists(n) {
			s.Extensions = append(s.Extensions, n)
		}
	}
	sort.Strings(s.Extensions)
	s.Extensions = s.Extensions[:min(len(s.Extensions), 50)]
}
