package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/image/bucket"
	"millpond.dev/millpond/internal/image/chunkstore"
)

// DoctorCmd says whether this host is fit for the local launcher.
type DoctorCmd struct {
	Listen string `help:"Address that the server would listen on." default:"127.0.0.1:8443"`
}

// finding is one thing that the doctor looked at.
type finding struct {
	name  string
	ok    bool
	fatal bool // the service cannot work without it
	seen  string
	mend  string
}

// Run prints the findings; the error says how many are fatal.
func (d *DoctorCmd) Run(g *Globals) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	findings := []finding{
		tool(ctx, "QEMU", true, "qemu-system-x86", "qemu-system-x86_64", "--version"),
		tool(ctx, "qemu-img", true, "qemu-utils", "qemu-img", "--version"),
		file("UEFI firmware", "ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd"),
		tool(ctx, "swtpm", false, "swtpm", "swtpm", "--version"),
		tool(ctx, "mke2fs", true, "e2fsprogs", "mke2fs", "-V"),
		tool(ctx, "mmdebstrap", false, "mmdebstrap", "mmdebstrap", "--version"),
		d.acceleration(ctx, g),
		memory(),
		disk(string(g.Data)),
		d.port(g),
		stores(ctx, g),
		tool(ctx, "az", false, "azure-cli", "az", "version"),
	}
	fatal := 0
	for _, f := range findings {
		mark := "ok  "
		if !f.ok && f.fatal {
			mark, fatal = "FAIL", fatal+1
		} else if !f.ok {
			mark = "warn"
		}
		fmt.Printf("%s  %-14s %s\n", mark, f.name, f.seen)
		if !f.ok && f.mend != "" {
			fmt.Printf("      %-14s → %s\n", "", f.mend)
		}
	}
	if fatal > 0 {
		return fmt.Errorf("%d thing(s) must be mended before nodes can run here", fatal)
	}
	return nil
}

func tool(ctx context.Context, name string, fatal bool, pkg, bin string, args ...string) finding {
	f := finding{name: name, fatal: fatal, mend: "apt-get install " + pkg}
	if _, err := exec.LookPath(bin); err != nil {
		f.seen = bin + " is not on the PATH"
		return f
	}
	out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput()
	if err != nil {
		f.seen = fmt.Sprintf("%s does not run: %v", bin, err)
		return f
	}
	first, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	f.ok, f.seen = true, strings.TrimSpace(string(first))
	if strings.HasPrefix(f.seen, "{") {
		f.seen = "runs"
	}
	return f
}

func file(name, pkg string, candidates ...string) finding {
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return finding{name: name, ok: true, seen: c}
		}
	}
	return finding{name: name, seen: "not found; images of generation V2 cannot boot", mend: "apt-get install " + pkg}
}

func memory() finding {
	data, err := os.ReadFile("/proc/meminfo")
	f := finding{name: "memory"}
	if err != nil {
		f.seen = err.Error()
		return f
	}
	for _, line := range strings.Split(string(data), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemAvailable:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64)
			f.ok, f.seen = kib > 2<<20, fmt.Sprintf("%.1f GiB available", float64(kib)/(1<<20))
			f.mend = "close something, or run few and small nodes (local.memoryCapMiB)"
		}
	}
	return f
}

func disk(dir string) finding {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	f := finding{name: "disk", mend: "free some room, or choose another folder with --data"}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		f.seen = err.Error()
		return f
	}
	free := st.Bavail * uint64(st.Bsize)
	f.ok, f.seen = free > 5<<30, fmt.Sprintf("%.1f GiB free under %s", float64(free)/(1<<30), dir)
	return f
}

// stores asks those of the configuration's stores that are services.
func stores(ctx context.Context, g *Globals) finding {
	f := finding{name: "image stores", mend: "see that the service runs, that the bucket or container is there, and that its credentials are in the environment"}
	cfg, err := config.Load(g.Data.Config(), false)
	if err != nil {
		f.seen, f.mend = err.Error(), "correct "+g.Data.Config()
		return f
	}
	var all []regionStores
	n := 0
	for _, r := range cfg.Regions {
		here := regionStores{region: r.Name}
		for i, place := range r.Stores {
			p, err := bucket.ParsePlace(place)
			if err == nil && p.Dir != "" {
				continue
			}
			var s *chunkstore.Store
			if err == nil {
				s, err = chunkstore.Open(ctx, storeName(r.Name, i), place)
			}
			if err != nil {
				f.seen = err.Error()
				return f
			}
			here.stores = append(here.stores, s)
			n++
		}
		all = append(all, here)
	}
	defer closeStores(all)
	wrong := checkStores(ctx, all)
	if f.ok = len(wrong) == 0; f.ok {
		f.seen = "folders of this host"
		if n > 0 {
			f.seen = fmt.Sprintf("%d in services, all of which answer", n)
		}
		return f
	}
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(wrong)) {
		texts = append(texts, wrong[name].Error())
	}
	f.seen = strings.Join(texts, "; ")
	return f
}

func (d *DoctorCmd) port(g *Globals) finding {
	f := finding{name: "port", mend: "choose another address with serve --listen"}
	if addr, err := os.ReadFile(g.Data.Endpoint()); err == nil {
		if c, err := net.DialTimeout("tcp", strings.TrimSpace(string(addr)), time.Second); err == nil {
			c.Close()
			f.ok, f.seen = true, "a server of this data folder listens on "+strings.TrimSpace(string(addr))
			return f
		}
	}
	l, err := net.Listen("tcp", d.Listen)
	if err != nil {
		f.seen = fmt.Sprintf("%s cannot be listened on: %v", d.Listen, err)
		return f
	}
	l.Close()
	f.ok, f.seen = true, d.Listen+" is free"
	return f
}
