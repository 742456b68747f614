//go:build e2e && suites

package suites

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ubuntu is a release of Ubuntu as its own archive has it.
type ubuntu struct {
	version, codename string
	// packages are what an image of the Marketplace, or the user's own one, has
	// beside what it needs to boot.
	packages []string
}

// ubuntuBase is what a machine of Azure has at least.
var ubuntuBase = [...]string{
	"linux-image-virtual", "initramfs-tools", "systemd-sysv", "udev", "dbus", "cloud-init", "cloud-guest-utils", "netplan.io",
	"openssh-server", "sudo", "iproute2", "netbase", "ca-certificates", "curl", "e2fsprogs", "kmod", "procps",
}

// keyring is the package with the keys of Ubuntu's archive, and its SHA-256: what
// all else is trusted by. Debian has it no more.
const (
	keyring       = "pool/main/u/ubuntu-keyring/ubuntu-keyring_2021.03.26_all.deb"
	keyringSHA256 = "0d0e7ed6b112f5d03eabf3c7eb01ebdacf9c57714b279e90495cfc58c8c4520f"
)

// archive is the address of Ubuntu's archive or of a mirror of it, with a slash at its
// end, which MILLPOND_UBUNTU names; empty without one.
func archive() string {
	url := strings.TrimSuffix(os.Getenv("MILLPOND_UBUNTU"), "/")
	if url == "" {
		return ""
	}
	return url + "/"
}

// install puts a real Ubuntu into the server's Marketplace, or Debian in its place
// where no archive is named. The boot partition of
// a Debian of ours starts its kernel. The agent is in it as a service, and
// cloud-init, which would bring it from the seed, rests: that takes minutes of an
// emulated processor.
func (u ubuntu) install(t *testing.T, a account) {
	t.Helper()
	if archive() == "" {
		u.standIn(t, a)
		return
	}
	include := strings.Join(append(ubuntuBase[:], u.packages...), ",")
	sum := sha256.Sum256([]byte(include))
	name := "ubuntu-" + u.version
	built := filepath.Join(cache(t, name+"-"+hex.EncodeToString(sum[:4])), name+".raw")
	if _, err := os.Stat(built + ".json"); err != nil {
		u.build(t, a, include, built)
	}
	shelf, dir := filepath.Join(a.Data, "base-images"), t.TempDir()
	if err := os.MkdirAll(shelf, 0o700); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(shelf, name+".raw")
	command(t, "", nil, "cp", "--reflink=auto", "--sparse=always", built, disk)
	const units = "/etc/systemd/system/"
	var script strings.Builder
	for _, f := range []struct{ to, from, text string }{
		{to: "/usr/sbin/millpond-agent", from: filepath.Join(a.Root, "bin", "millpond-agent")},
		{to: units + "millpond-agent.service", from: filepath.Join(a.Root, "internal", "seed", "guest", "millpond-agent.service")},
		{to: "/etc/systemd/network/20-dhcp.network", text: "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n\n[DHCP]\nClientIdentifier=mac\n"},
		{to: "/etc/cloud/cloud-init.disabled", text: "\n"},
	} {
		if f.from == "" {
			f.from = filepath.Join(dir, filepath.Base(f.to))
			write(t, f.from, f.text)
		}
		fmt.Fprintf(&script, "write %s %s\n", f.from, f.to)
	}
	fmt.Fprintf(&script, "sif /usr/sbin/millpond-agent mode 0100755\n")
	fmt.Fprintf(&script, "symlink %smulti-user.target.wants/millpond-agent.service %smillpond-agent.service\n", units, units)
	fmt.Fprintf(&script, "symlink %smulti-user.target.wants/systemd-networkd.service /lib/systemd/system/systemd-networkd.service\n", units)
	write(t, filepath.Join(dir, "debugfs"), script.String())
	command(t, "", nil, "/sbin/debugfs", "-w", "-f", filepath.Join(dir, "debugfs"), fmt.Sprintf("%s?offset=%d", disk, partitions(t, disk)[1].Start*512))
	// The description last: without one the disk is not looked at.
	write(t, disk+".json", strings.Replace(read(t, built+".json"), `"debian-12"`, `"`+name+`"`, 1))
}

// partition is one of a disk's, in sectors.
type partition struct{ Start, Size int64 }

func partitions(t *testing.T, disk string) []partition {
	t.Helper()
	var table struct {
		PartitionTable struct{ Partitions []partition }
	}
	if err := json.Unmarshal([]byte(command(t, "", nil, "/sbin/sfdisk", "--json", disk)), &table); err != nil {
		t.Fatal(err)
	}
	return table.PartitionTable.Partitions
}

func (u ubuntu) build(t *testing.T, a account, include, out string) {
	t.Helper()
	archive, work := archive(), t.TempDir()
	disk, root := filepath.Join(work, "disk.raw"), filepath.Join(work, "root")
	if r := a.RunBin("image", "build", "debian-12", "--without-agent", "--cache", filepath.Join(a.Root, ".cache", "images"), "--out", disk); r.Code != 0 {
		t.Fatalf("image build: %s%s", r.Stdout, r.Stderr)
	}
	keys := filepath.Join(work, "keyring.deb")
	command(t, "", nil, "curl", "-sSf", "-o", keys, archive+keyring)
	if sum := sha256.Sum256([]byte(read(t, keys))); hex.EncodeToString(sum[:]) != keyringSHA256 {
		t.Fatalf("%s is not the file that it was", keyring)
	}
	command(t, "", nil, "dpkg-deb", "-x", keys, filepath.Join(work, "keys"))
	source := func(suite string) string {
		return "deb " + archive + " " + suite + " main universe"
	}
	command(t, "", nil, "mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase", "--architectures=amd64", "--keyring="+filepath.Join(work, "keys", "usr", "share", "keyrings", "ubuntu-archive-keyring.gpg"),
		"--include="+include, `--aptopt=APT::Install-Recommends "false"`, u.codename, root, source(u.codename), source(u.codename+"-updates"))

	parts := partitions(t, disk)
	esp, system := parts[0], parts[1]
	uuid := strings.TrimSpace(command(t, "", nil, "/sbin/blkid", "-p", "-O", fmt.Sprint(system.Start*512), "-s", "UUID", "-o", "value", disk))
	write(t, filepath.Join(root, "etc", "fstab"), "UUID="+uuid+" / ext4 defaults,noatime 0 1\n")
	write(t, filepath.Join(root, "etc", "machine-id"), "")
	write(t, filepath.Join(root, "etc", "hostname"), "localhost\n")
	for _, pattern := range []string{"etc/ssh/ssh_host_*", "etc/resolv.conf", "var/log/*.log", "var/lib/dbus/machine-id"} {
		found, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, f := range found {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(root, "etc", "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	for pattern, file := range map[string]string{"vmlinuz-*": "vmlinuz", "initrd.img-*": "initrd"} {
		found, _ := filepath.Glob(filepath.Join(root, "boot", pattern))
		if len(found) != 1 {
			t.Fatalf("Ubuntu %s has %d files %s in /boot", u.version, len(found), pattern)
		}
		command(t, "", []string{"MTOOLS_SKIP_CHECK=1"}, "mcopy", "-i", fmt.Sprintf("%s@@%d", disk, esp.Start*512), "-o", found[0], "::"+file)
	}
	command(t, "", nil, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-E", fmt.Sprintf("offset=%d,lazy_itable_init=1", system.Start*512), "-d", root, disk, fmt.Sprintf("%dk", system.Size/2))
	command(t, "", nil, "cp", "--sparse=always", disk, out)
	command(t, "", nil, "cp", disk+".json", out+".json")
}
