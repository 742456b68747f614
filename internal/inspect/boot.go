package inspect

import (
	"context"
	"debug/elf"
	"errors"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// The programs that a Linux runs before its agent answers, and other files that
// they read. What an image does not have is passed over.
var (
	bootPrograms = []string{"/sbin/init", "/usr/sbin/millpond-agent", "/bin/sh", "/usr/bin/kmod", "/usr/lib/systemd/systemd-executor",
		"/usr/lib/systemd/systemd-journald", "/usr/bin/udevadm", "/usr/bin/mount", "/usr/bin/dbus-daemon"}
	bootFiles   = []string{"/etc/ld.so.cache", "/etc/passwd", "/etc/services", "/usr/lib/locale/C.utf8/LC_CTYPE"}
	bootFolders = []string{"/etc", "/usr/bin", "/usr/sbin", "/etc/systemd/system", "/usr/lib/systemd/system", "/usr/lib/systemd/system/sysinit.target.wants"}
	// modulesFiles are in the folder of each kernel's modules.
	modulesFiles = []string{"modules.dep.bin", "modules.alias.bin", "modules.symbols.bin", "modules.builtin.bin"}
	// loaderFiles tell boot loaders what to load, by paths of their own partition.
	loaderFiles = []string{"/syslinux.cfg", "/syslinux/syslinux.cfg", "/boot/syslinux/syslinux.cfg", "/extlinux/extlinux.conf", "/boot/extlinux/extlinux.conf",
		"/loader/entries/linux.conf", "/grub/grub.cfg", "/grub2/grub.cfg", "/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"}
	libraryFolders = []string{"/lib/x86_64-linux-gnu", "/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib"}
)

const generators = "/usr/lib/systemd/system-generators"

// Bounds of what a disk can make a reader of it fetch.
const (
	maxBootFiles = 400
	maxBootFile  = 64 << 20
	maxBootBytes = 128 << 20
)

// loads matches the lines by which a loader's file names a kernel or an initrd.
var loads = regexp.MustCompile(`(?mi)^\s*(?:linux|linux16|linuxefi|kernel|initrd|initrd16|initrdefi)\s+(/[^\s,]+)`)

var errEnough = errors.New("enough was found")

// BootReads finds what the Linux on a raw disk of size bytes reads when it boots:
// what its boot loader loads, and its first programs with the libraries that they
// are linked with. It calls want with places on the disk, in about the order of
// a boot: one at least in each granule bytes of those files, many of them twice. What
// it reads of src itself, folders above all, a boot reads as well.
//
// It is a guess that costs little, for whoever can fetch what will be needed. A
// disk that it does not understand has nothing to boot; errors are failed reads of
// src, what want returned, and an ended ctx.
func BootReads(ctx context.Context, src io.ReaderAt, size, granule int64, want func(off int64) error) error {
	d := newDisk(ctx, src, size)
	var r Report
	b := &bootReads{d: d, granule: granule, want: want, seen: map[string]bool{}}
	each := func(do func(fs bootPlace) error) {
		for _, p := range r.Partitions {
			d.guard(&r, p.title(), func() error {
				fs, err := d.open(p)
				if err != nil || fs == nil || b.failed != nil {
					return err
				}
				return do(bootPlace{fs, d.window(p)})
			})
		}
	}
	d.guard(&r, "the partition table", func() error { return d.table(&r) })
	for i := range r.Partitions {
		d.guard(&r, r.Partitions[i].title(), func() error { return d.identify(&r.Partitions[i]) })
	}
	each(b.loader)
	each(b.system)
	if b.failed != nil && !errors.Is(b.failed, errEnough) {
		return b.failed
	}
	if d.failed != nil {
		return d.failed
	}
	return ctx.Err()
}

// bootPlace is a file system with its place on the disk.
type bootPlace struct {
	fileSystem
	w window
}

type bootReads struct {
	d       *disk
	granule int64
	want    func(off int64) error
	seen    map[string]bool
	bytes   int64
	files   int
	// loaded: a kernel was found; the copies that other partitions have of it are
	// not what is booted.
	loaded bool
	failed error
}

// loader wants what the first boot loader's file on a partition names: the first
// kernel and its initrd.
func (b *bootReads) loader(fs bootPlace) error {
	for _, name := range loaderFiles {
		if b.loaded {
			return nil
		}
		text, err := readPath(fs, name, maxFile)
		if err != nil {
			continue
		}
		for i, m := range loads.FindAllSubmatch(text, 2) {
			f, err := b.file(fs, string(m[1]))
			b.loaded = b.loaded || f != nil && i == 0
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// system wants the first programs of a root file system.
func (b *bootReads) system(fs bootPlace) error {
	if _, err := find(fs, bootPrograms[0]); err != nil {
		return nil // not a root
	}
	if e, ok := fs.fileSystem.(*ext); ok {
		err := e.tables(func(at, n int64) error {
			if b.bytes += n; b.bytes > maxBootBytes {
				b.failed = errEnough
				return errEnough
			}
			for off := int64(0); off < n; off += b.granule {
				if err := b.wantPlace(fs, at+off); err != nil {
					return err
				}
			}
			return b.wantPlace(fs, at+n-1)
		})
		if err != nil {
			return err
		}
	}
	programs := slices.Clone(bootPrograms)
	for _, name := range append(slices.Clone(bootFolders), generators) {
		// The listing itself reads what is wanted.
		names, err := listPath(fs, name)
		if err == nil && name == generators {
			for _, n := range names {
				programs = append(programs, path.Join(generators, n))
			}
		}
	}
	for _, name := range programs {
		if err := b.program(fs, name, 0); err != nil {
			return err
		}
	}
	files := slices.Clone(bootFiles)
	kernels, _ := listPath(fs, "/usr/lib/modules")
	for _, k := range kernels {
		for _, name := range modulesFiles {
			files = append(files, path.Join("/usr/lib/modules", k, name))
		}
	}
	for _, name := range files {
		if _, err := b.file(fs, name); err != nil {
			return err
		}
	}
	return nil
}

// program wants a program, its interpreter and, to some depth, the libraries that
// it is linked with.
func (b *bootReads) program(fs bootPlace, name string, depth int) error {
	f, err := b.file(fs, name)
	if f == nil || err != nil || depth > maxLinks {
		return err
	}
	x, err := elf.NewFile(placedFile{fs.w, f})
	if err != nil {
		return b.failed // a script, or nothing that we know
	}
	for _, p := range x.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > maxFile {
			continue
		}
		text, err := io.ReadAll(p.Open())
		if err != nil {
			return b.failed
		}
		if _, err := b.file(fs, strings.TrimRight(string(text), "\x00")); err != nil {
			return err
		}
	}
	needed, _ := x.ImportedLibraries()
	var folders []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, _ := x.DynString(tag)
		for _, p := range paths {
			folders = append(folders, strings.Split(strings.ReplaceAll(p, "$ORIGIN", path.Dir(name)), ":")...)
		}
	}
	for _, lib := range needed {
		for _, folder := range slices.Concat(folders, libraryFolders) {
			at := path.Join("/", folder, lib)
			if b.seen[at] {
				break
			}
			if _, err := find(fs, at); err != nil {
				continue
			}
			if err := b.program(fs, at, depth+1); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// file wants a file once; nil if it is not there, has been wanted, or is none.
func (b *bootReads) file(fs bootPlace, name string) (placed, error) {
	if b.seen[name] {
		return nil, nil
	}
	b.seen[name] = true
	n, err := find(fs, name)
	if err != nil || n.isDir() {
		return nil, b.d.failed
	}
	f, ok := n.(placed)
	if !ok || f.size() <= 0 || f.size() > maxBootFile {
		return nil, nil
	}
	b.bytes += f.size()
	if b.files++; b.files > maxBootFiles || b.bytes > maxBootBytes {
		b.failed = errEnough
		return nil, errEnough
	}
	for off := int64(0); off < f.size(); off += b.granule {
		if err := b.wantAt(fs, f, off); err != nil {
			return nil, err
		}
	}
	return f, b.wantAt(fs, f, f.size()-1)
}

func (b *bootReads) wantAt(fs bootPlace, f placed, off int64) error {
	at, _, err := f.place(off)
	if err != nil {
		return err
	}
	return b.wantPlace(fs, at)
}

// wantPlace wants a place of a partition; a hole is none.
func (b *bootReads) wantPlace(fs bootPlace, at int64) error {
	if at < 0 || at >= fs.w.size {
		return nil
	}
	if err := b.want(fs.w.start + at); err != nil {
		b.failed = err
		return err
	}
	return nil
}
