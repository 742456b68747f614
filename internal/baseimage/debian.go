package baseimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	debianSuite = "bookworm"
	debianSize  = 4096 * mib
	debianESP   = 128 * mib
)

// debianIncluded is what goes into the system beside the essential packages.
var debianIncluded = [...]string{
	kernelPackage, "initramfs-tools", "zstd", "kmod", "systemd-sysv", "udev", "dbus", "systemd-resolved", "libnss-resolve",
	"openssh-server", "sudo", "cloud-init", "cloud-guest-utils", "iproute2", "netbase", "ca-certificates", "curl",
	"procps", "psmisc", "less", "e2fsprogs", "dosfstools",
}

// debianPackages are the packages whose versions decide whether the image is
// still current: what is included, what the user adds, and the boot loader.
func debianPackages(added []string) []string {
	all := append([]string(nil), debianIncluded[:]...)
	for _, p := range added {
		if !slices.Contains(all, p) && p != "systemd-boot-efi" {
			all = append(all, p)
		}
	}
	return append(all, "systemd-boot-efi")
}

// maskedUnits do nothing useful on a node and cost time at boot, or would start
// at the same moment on all clones of one image.
var maskedUnits = [...]string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	"systemd-firstboot.service", "systemd-networkd-wait-online.service", "systemd-pstore.service",
}

// maskedGenerators are programs that systemd would run before its first unit, the
// agent's too. They look for what these images do not have (partitions to guess a
// use for, a hibernated system, dm-integrity, dm-verity, offline updates, commands
// on the kernel's command line); cloud-init's work is done by a unit, see
// cloud-init-wanted. Who needs one removes its link in /etc/systemd/system-generators.
var maskedGenerators = [...]string{
	"cloud-init-generator", "systemd-gpt-auto-generator", "systemd-hibernate-resume-generator", "systemd-integritysetup-generator",
	"systemd-run-generator", "systemd-system-update-generator", "systemd-veritysetup-generator",
}

// enabledUnits: unit -> the target that wants it.
var enabledUnits = map[string]string{
	"cloud-init.target":         "multi-user.target",
	"systemd-networkd.service":  "multi-user.target",
	"systemd-networkd.socket":   "sockets.target",
	"systemd-resolved.service":  "sysinit.target",
	"millpond-hostkeys.service": "multi-user.target",
	"millpond-temp.service":     "local-fs.target",
}

func (b *build) debianSteps() []namedStep {
	return []namedStep{
		{"download boot loader", b.fetchBootLoader},
		{"install Debian", b.debianInstall},
		{"unpack system", b.debianUnpack},
		{"generalize system", b.debianConfigure},
		{"assemble disk", b.debianDisk},
	}
}

func (b *build) fetchBootLoader(ctx context.Context) error {
	for _, d := range b.debs {
		if d.name() == "systemd-boot-efi" {
			_, err := fetchDebs(ctx, b.CacheDir, []deb{d})
			return err
		}
	}
	return fmt.Errorf("no package systemd-boot-efi among those resolved")
}

// systemTar is the installed system without agent, kept in the cache; one for
// each set of added packages.
func (b *build) systemTar() string {
	return filepath.Join(b.CacheDir, b.systemStem()+b.system[:16]+".tar")
}

func (b *build) systemStem() string {
	if len(b.Packages) == 0 {
		return Debian12 + "-"
	}
	sum := sha256.Sum256([]byte(strings.Join(b.Packages, " ")))
	return Debian12 + "+" + hex.EncodeToString(sum[:4]) + "-"
}

// debianInstall makes the system with mmdebstrap, unless the cache has it. The
// agent is not in it, so that a new agent does not cost a new installation.
func (b *build) debianInstall(ctx context.Context) error {
	if _, err := os.Stat(b.systemTar()); err == nil {
		b.note = "in the cache"
		return nil
	}
	early := filepath.Join(b.work, "early")
	if err := (tree{early}).recipe("files/debian-early"); err != nil {
		return err
	}
	tmp := b.systemTar() + ".part"
	defer os.Remove(tmp)
	args := []string{
		"--quiet", "--format=tar", "--variant=minbase", "--architectures=amd64", "--components=main",
		"--include=" + strings.Join(append(debianIncluded[:], b.Packages...), ","),
		// The initramfs is made while the kernel is installed; what shapes it has to
		// be there before.
		"--essential-hook=cp -a " + shellQuote(early) + "/. \"$1\"",
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--aptopt=Acquire::Languages \"none\"", "--aptopt=APT::Install-Recommends \"false\"",
		debianSuite, tmp,
	}
	if err := (command{name: "mmdebstrap", args: args, env: []string{"TMPDIR=" + b.work}}).run(ctx); err != nil {
		return fmt.Errorf("%w\nCheck the network and that the host reaches its Debian mirror", err)
	}
	old, err := filepath.Glob(filepath.Join(b.CacheDir, b.systemStem()+"*.tar"))
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := os.Remove(o); err != nil {
			return err
		}
	}
	return os.Rename(tmp, b.systemTar())
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (b *build) debianUnpack(ctx context.Context) error {
	root := tree{filepath.Join(b.work, "root")}
	if err := root.folder(".", 0o755); err != nil {
		return err
	}
	return command{name: "tar", args: []string{"--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*",
		"-xpf", b.systemTar(), "-C", root.dir}}.run(ctx)
}

// debianConfigure puts our files in and takes out what must not be the same on
// two machines, or what is the builder's.
func (b *build) debianConfigure(context.Context) error {
	t := tree{filepath.Join(b.work, "root")}
	if err := t.recipe("files/debian"); err != nil {
		return err
	}
	units := map[string]string{}
	for u, target := range enabledUnits {
		units[u] = target
	}
	if !b.WithoutAgent {
		agent, err := os.ReadFile(b.AgentPath)
		if err != nil {
			return err
		}
		if err := t.file("usr/sbin/millpond-agent", 0o755, agent); err != nil {
			return err
		}
		if err := t.link("usr/sbin/waagent", "millpond-agent"); err != nil {
			return err
		}
		units["millpond-agent.service"] = "sysinit.target"
	} else if err := os.Remove(t.at("usr/lib/systemd/system/millpond-agent.service")); err != nil {
		return err
	}
	for u, target := range units {
		if !t.has("usr/lib/systemd/system/"+u) && !t.has("lib/systemd/system/"+u) {
			return fmt.Errorf("the system has no unit %s", u)
		}
		if err := t.link("etc/systemd/system/"+target+".wants/"+u, "/lib/systemd/system/"+u); err != nil {
			return err
		}
	}
	for _, u := range maskedUnits {
		if err := t.link("etc/systemd/system/"+u, "/dev/null"); err != nil {
			return err
		}
	}
	for _, g := range maskedGenerators {
		if !t.has("usr/lib/systemd/system-generators/"+g) && !t.has("lib/systemd/system-generators/"+g) {
			return fmt.Errorf("the system has no generator %s", g)
		}
		if err := t.link("etc/systemd/system-generators/"+g, "/dev/null"); err != nil {
			return err
		}
	}
	for _, pattern := range []string{"etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/apt/lists/*_*", "var/cache/apt/*.bin",
		"var/log/*.log", "var/log/apt/*", "var/log/journal", "etc/*-", "var/lib/systemd/random-seed", "root/.bash_history", "boot/*.old", "initrd.img*", "vmlinuz*"} {
		hits, err := filepath.Glob(t.at(pattern))
		if err != nil {
			return err
		}
		for _, h := range hits {
			if err := os.RemoveAll(h); err != nil {
				return err
			}
		}
	}
	fstab := fmt.Sprintf("UUID=%s / ext4 defaults,noatime 0 1\nPARTUUID=%s /boot/efi vfat noauto,umask=0077 0 0\n", b.uuid("root"), b.uuid("esp"))
	if err := t.file("etc/fstab", 0o644, []byte(fstab)); err != nil {
		return err
	}
	// Empty, not missing: systemd then makes an id and does not take the boot for
	// the first after an installation.
	if err := t.file("etc/machine-id", 0o444, nil); err != nil {
		return err
	}
	if err := t.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"); err != nil {
		return err
	}
	return b.takeBootFiles(t)
}

// takeBootFiles copies kernel and initramfs to where the boot partition gets
// them from.
func (b *build) takeBootFiles(t tree) error {
	for pattern, name := range map[string]string{"boot/vmlinuz-*": "vmlinuz", "boot/initrd.img-*": "initrd"} {
		hits, err := filepath.Glob(t.at(pattern))
		if err != nil {
			return err
		}
		if len(hits) != 1 {
			return fmt.Errorf("the system has %d files %s, not one", len(hits), pattern)
		}
		data, err := os.ReadFile(hits[0])
		if err != nil {
			return err
		}
		if name == "vmlinuz" {
			b.kernel.Version = strings.TrimPrefix(filepath.Base(hits[0]), "vmlinuz-")
		}
		if err := os.WriteFile(filepath.Join(b.work, name), data, fs.FileMode(0o644)); err != nil {
			return err
		}
	}
	b.note = b.kernel.Version
	return nil
}

func (b *build) debianDisk(ctx context.Context) error {
	efi, err := b.bootLoader(ctx)
	if err != nil {
		return err
	}
	return b.assemble(ctx, layout{
		size: debianSize, esp: debianESP, root: filepath.Join(b.work, "root"), title: "Debian 12",
		cmdline:  "rw rootfstype=ext4 console=tty0 console=ttyS0,115200 quiet loglevel=3 random.trust_cpu=on " + clockArgs,
		reserved: 1,
		files: map[string]string{
			"vmlinuz": filepath.Join(b.work, "vmlinuz"), "initrd": filepath.Join(b.work, "initrd"), "EFI/BOOT/BOOTX64.EFI": efi,
		},
	})
}
