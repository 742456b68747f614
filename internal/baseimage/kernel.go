package baseimage

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"strings"
)

// kernel is an unpacked Debian kernel package.
type kernel struct {
	// Version is uname -r.
	Version string
	Image   []byte
	// modules by name, with '-' written as '_' as the kernel does.
	modules map[string]module
}

type module struct {
	// path is relative to the version's folder: kernel/drivers/block/virtio_blk.ko
	path string
	data []byte
}

func readKernel(ctx context.Context, file string) (kernel, error) {
	k := kernel{modules: map[string]module{}}
	err := walkDeb(ctx, file, func(h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		if v, ok := strings.CutPrefix(h.Name, "boot/vmlinuz-"); ok {
			var err error
			k.Version = v
			k.Image, err = io.ReadAll(r)
			return err
		}
		name := strings.TrimPrefix(h.Name, "usr/")
		rest, ok := strings.CutPrefix(name, "lib/modules/")
		if !ok || !strings.HasSuffix(rest, ".ko") {
			return nil
		}
		_, rel, _ := strings.Cut(rest, "/")
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		k.modules[moduleName(rel)] = module{path: rel, data: b}
		return nil
	})
	if err != nil {
		return kernel{}, err
	}
	if k.Image == nil || len(k.modules) == 0 {
		return kernel{}, fmt.Errorf("%s holds no kernel with uncompressed modules", path.Base(file))
	}
	return k, nil
}

func moduleName(p string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(p), ".ko"), "-", "_")
}

// closure lists the modules and all that they depend on, dependencies first.
// Names that the package lacks are taken for built in.
func (k kernel) closure(names ...string) ([]string, error) {
	var order []string
	state := map[string]int{}
	var visit func(string) error
	visit = func(n string) error {
		m, ok := k.modules[n]
		if !ok || state[n] == 2 {
			return nil
		}
		if state[n] == 1 {
			return fmt.Errorf("the module %s depends on itself", n)
		}
		state[n] = 1
		deps, err := moduleDepends(m.data)
		if err != nil {
			return fmt.Errorf("module %s: %w", n, err)
		}
		for _, d := range deps {
			if err := visit(d); err != nil {
				return err
			}
		}
		state[n] = 2
		order = append(order, n)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// depFile is the text of modules.dep for the given modules.
func (k kernel) depFile(names []string) (string, error) {
	var b strings.Builder
	for _, n := range names {
		all, err := k.closure(n)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s:", k.modules[n].path)
		// Nearest dependency first, as depmod writes it.
		for i := len(all) - 2; i >= 0; i-- {
			fmt.Fprintf(&b, " %s", k.modules[all[i]].path)
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// moduleDepends reads the "depends=" entry of a module's .modinfo section.
func moduleDepends(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for _, e := range bytes.Split(info, []byte{0}) {
		if v, ok := strings.CutPrefix(string(e), "depends="); ok && v != "" {
			d := strings.Split(v, ",")
			for i := range d {
				d[i] = strings.ReplaceAll(d[i], "-", "_")
			}
			return d, nil
		}
	}
	return nil, nil
}
