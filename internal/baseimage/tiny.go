package baseimage

import (
	"archive/tar"
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// recipeFiles are what we put into images ourselves.
//
//go:embed all:files
var recipeFiles embed.FS

// recipeVersion changes when the layout of images changes in code only.
const recipeVersion = 1

const (
	tinySize = 192 * mib
	tinyESP  = 40 * mib // the least that is valid FAT32 with 512-byte clusters, and some
)

// tinyPackages are what the tiny image takes files from.
func tinyPackages() []string {
	return []string{kernelPackage, "busybox-static", "bash", "coreutils", "libc6", "libtinfo6", "systemd-boot-efi"}
}

// bootModules are what the initramfs can load: what it takes to find the root on
// any kind of disk that a VM may have (NVMe is built in; this kernel has no SATA),
// and the agent's port.
var bootModules = [...]string{"virtio_pci", "virtio_blk", "virtio_console", "virtio_scsi", "sd_mod"}

// tinyModules are what the running system loads or may load.
var tinyModules = [...]string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "virtio_net", "virtio_console", "virtio_rng",
	"virtio_balloon", "button", "evdev", "isofs", "vfat", "nls_cp437", "nls_ascii", "overlay", "fuse", "virtiofs",
}

func (b *build) tinySteps() []namedStep {
	return []namedStep{
		{"download packages", b.fetch},
		{"unpack kernel", b.unpackKernel},
		{"make root file system", b.tinyRoot},
		{"make initramfs", b.tinyInitramfs},
		{"assemble disk", b.tinyDisk},
	}
}

func (b *build) fetch(ctx context.Context) error {
	n, err := fetchDebs(ctx, b.CacheDir, b.debs)
	if n > 0 {
		b.note = fmt.Sprintf("%d packages", n)
	} else {
		b.note = "all in the cache"
	}
	return err
}

// debFile is the cached archive of the package whose name has the prefix.
func (b *build) debFile(prefix string) (string, error) {
	for _, d := range b.debs {
		if d.name() == prefix || strings.HasSuffix(prefix, "-") && strings.HasPrefix(d.name(), prefix) {
			return filepath.Join(debDir(b.CacheDir), d.File), nil
		}
	}
	return "", fmt.Errorf("no package %s among those resolved", prefix)
}

func (b *build) unpackKernel(ctx context.Context) error {
	file, err := b.debFile("linux-image-")
	if err != nil {
		return err
	}
	if b.kernel, err = readKernel(ctx, file); err != nil {
		return err
	}
	b.note = b.kernel.Version
	return os.WriteFile(filepath.Join(b.work, "vmlinuz"), b.kernel.Image, 0o644)
}

// extract copies files of a package into the tree, under usr/ whatever the
// package says (merged /usr). pick says which, by the path below usr/.
func (b *build) extract(ctx context.Context, t tree, pkg string, pick func(string) bool) error {
	file, err := b.debFile(pkg)
	if err != nil {
		return err
	}
	return walkDeb(ctx, file, func(h *tar.Header, r io.Reader) error {
		name := strings.TrimPrefix(h.Name, "usr/")
		if !pick(name) {
			return nil
		}
		switch h.Typeflag {
		case tar.TypeReg:
			data, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			return t.file("usr/"+name, fs.FileMode(h.Mode&0o777), data)
		case tar.TypeSymlink:
			return t.link("usr/"+name, h.Linkname)
		}
		return nil
	})
}

// tinyRoot makes the root file system: busybox, bash with the C library, what
// coreutils has and busybox lacks, modules, the agent and our own files.
func (b *build) tinyRoot(ctx context.Context) error {
	t := tree{filepath.Join(b.work, "root")}
	for _, d := range []string{"boot", "dev", "etc", "home", "mnt", "opt", "proc", "run", "srv", "sys", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local/bin", "usr/local/sbin", "usr/share", "var/lib", "var/log", "var/spool"} {
		if err := t.folder(d, 0o755); err != nil {
			return err
		}
	}
	for d, mode := range map[string]fs.FileMode{"tmp": 0o777 | fs.ModeSticky, "var/tmp": 0o777 | fs.ModeSticky, "root": 0o700} {
		if err := t.folder(d, mode); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run", "etc/os-release": "../usr/lib/os-release", "etc/mtab": "../proc/self/mounts"} {
		if err := t.link(name, target); err != nil {
			return err
		}
	}
	libc := func(n string) bool {
		base := path.Base(n)
		return (strings.HasPrefix(n, "lib/x86_64-linux-gnu/") && path.Dir(n) == "lib/x86_64-linux-gnu" || strings.HasPrefix(n, "lib64/")) && strings.Contains(base, ".so")
	}
	if err := b.extract(ctx, t, "libc6", libc); err != nil {
		return err
	}
	if err := b.extract(ctx, t, "libtinfo6", libc); err != nil {
		return err
	}
	if err := b.extract(ctx, t, "bash", func(n string) bool { return n == "bin/bash" }); err != nil {
		return err
	}
	if err := b.extract(ctx, t, "busybox-static", func(n string) bool { return n == "bin/busybox" }); err != nil {
		return err
	}
	applets, err := command{name: t.at("usr/bin/busybox"), args: []string{"--list-full"}}.output(ctx)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, a := range strings.Fields(string(applets)) {
		a = strings.TrimPrefix(a, "usr/")
		dir, base := path.Split(a)
		have[base] = true
		if dir != "bin/" && dir != "sbin/" || t.has("usr/"+a) {
			continue
		}
		if err := t.link("usr/"+a, "/bin/busybox"); err != nil {
			return err
		}
	}
	if err := b.extract(ctx, t, "coreutils", func(n string) bool { return path.Dir(n) == "bin" && !have[path.Base(n)] }); err != nil {
		return err
	}
	for _, a := range []string{"init", "swapon"} {
		if !t.has("usr/sbin/" + a) {
			if err := t.link("usr/sbin/"+a, "/bin/busybox"); err != nil {
				return err
			}
		}
	}
	if err := b.tinyKernelModules(t); err != nil {
		return err
	}
	// rcS copies them to /dev, all by one process.
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := t.link("usr/lib/millpond/dev/"+name, target); err != nil {
			return err
		}
	}
	if err := t.recipe("files/tiny"); err != nil {
		return err
	}
	if err := t.file("usr/lib/os-release", 0o644, []byte(b.release.File())); err != nil {
		return err
	}
	inittab, err := recipeFiles.ReadFile("files/tiny/etc/inittab")
	if err != nil {
		return err
	}
	if b.WithoutAgent {
		text := strings.ReplaceAll(string(inittab), "::respawn:/usr/sbin/millpond-agent\n", "")
		if err := t.file("etc/inittab", 0o644, []byte(text)); err != nil {
			return err
		}
	} else {
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
	}
	if err := t.file("etc/shadow", 0o640, []byte("root:*:20000:0:99999:7:::\nnobody:*:20000:0:99999:7:::\n")); err != nil {
		return err
	}
	return t.settle()
}

func (b *build) tinyKernelModules(t tree) error {
	all, err := b.kernel.closure(tinyModules[:]...)
	if err != nil {
		return err
	}
	dir := "usr/lib/modules/" + b.kernel.Version + "/"
	for _, n := range all {
		if err := t.file(dir+b.kernel.modules[n].path, 0o644, b.kernel.modules[n].data); err != nil {
			return err
		}
	}
	dep, err := b.kernel.depFile(all)
	if err != nil {
		return err
	}
	return t.file(dir+"modules.dep", 0o644, []byte(dep))
}

// tinyInitramfs packs busybox, the modules of bootModules and a script that
// mounts the root.
func (b *build) tinyInitramfs(context.Context) error {
	root := tree{filepath.Join(b.work, "root")}
	a := newArchive()
	for _, d := range []string{"bin", "dev", "proc", "root"} {
		a.dir(d)
	}
	// The kernel opens it for the first process before anything is mounted.
	a.char("dev/console", 0o600, 5, 1)
	busybox, err := os.ReadFile(root.at("usr/bin/busybox"))
	if err != nil {
		return err
	}
	a.file("bin/busybox", 0o755, busybox)
	for _, n := range []string{"sh", "mount", "mkdir", "modprobe", "sleep", "switch_root", "cat", "poweroff"} {
		a.symlink("bin/"+n, "busybox")
	}
	script, err := recipeFiles.ReadFile("files/initramfs/init")
	if err != nil {
		return err
	}
	a.file("init", 0o755, script)
	a.file("etc/fstab", 0o644, []byte("proc /proc proc\ndev /dev devtmpfs\n"))
	order, err := b.kernel.closure(bootModules[:]...)
	if err != nil {
		return err
	}
	dir := "lib/modules/" + b.kernel.Version + "/"
	for _, n := range order {
		a.file(dir+b.kernel.modules[n].path, 0o644, b.kernel.modules[n].data)
	}
	dep, err := b.kernel.depFile(order)
	if err != nil {
		return err
	}
	a.file(dir+"modules.dep", 0o644, []byte(dep))
	// A window of 1 MiB: the kernel unpacks with little memory, and it is fast.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(mib), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	packed := enc.EncodeAll(a.bytes(), nil)
	b.note = fmt.Sprintf("%d modules, %d KiB", len(order), len(packed)/1024)
	return os.WriteFile(filepath.Join(b.work, "initrd"), packed, 0o644)
}

// tinyArgs leave out what costs a boot under emulation most and a trial image
// least; docs/adr/0010 has what each was measured to give. Self-tests, probing
// for keyboards, serial ports and BIOS disks that are not there, watchdogs,
// audit, zeroing of every page, waiting for unhurried grace periods; the 64 MiB
// of bounce buffers for devices that cannot address all memory, of which no
// machine here has one in use; and the shuffling of the kernel's own addresses.
const tinyArgs = "cryptomgr.notests i8042.noaux i8042.noprobe 8250.nr_uarts=1 nowatchdog audit=0 init_on_alloc=0 rcupdate.rcu_expedited=1 " +
	"swiotlb=noforce nokaslr edd=off"

func (b *build) tinyDisk(ctx context.Context) error {
	efi, err := b.bootLoader(ctx)
	if err != nil {
		return err
	}
	return b.assemble(ctx, layout{
		size: tinySize, esp: tinyESP, root: filepath.Join(b.work, "root"), title: "Millpond tiny",
		cmdline:  "rw console=tty0 console=ttyS0 quiet loglevel=3 random.trust_cpu=on " + tinyArgs + " " + clockArgs,
		reserved: 1,
		files: map[string]string{
			"vmlinuz": filepath.Join(b.work, "vmlinuz"), "initrd": filepath.Join(b.work, "initrd"), "EFI/BOOT/BOOTX64.EFI": efi,
		},
	})
}

// bootLoader unpacks systemd-boot, which needs no installation: a firmware runs
// EFI/BOOT/BOOTX64.EFI of a disk that it does not know.
func (b *build) bootLoader(ctx context.Context) (string, error) {
	file, err := b.debFile("systemd-boot-efi")
	if err != nil {
		return "", err
	}
	out := filepath.Join(b.work, "BOOTX64.EFI")
	found := false
	err = walkDeb(ctx, file, func(h *tar.Header, r io.Reader) error {
		if path.Base(h.Name) != "systemd-bootx64.efi" || h.Typeflag != tar.TypeReg {
			return nil
		}
		found = true
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return os.WriteFile(out, data, 0o644)
	})
	if err == nil && !found {
		err = fmt.Errorf("%s holds no systemd-bootx64.efi", filepath.Base(file))
	}
	return out, err
}
