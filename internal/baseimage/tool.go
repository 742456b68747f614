package baseimage

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	millpond "millpond.dev/millpond"
)

// tool is a program of the host and the Debian package that brings it.
type tool struct{ name, pkg string }

// Tools that the recipes run, with the package to install for each.
func (b *build) needed() []tool {
	t := []tool{
		{"apt-get", "apt"}, {"dpkg-deb", "dpkg"}, {"sfdisk", "fdisk"}, {"mkfs.vfat", "dosfstools"},
		{"mmd", "mtools"}, {"mcopy", "mtools"}, {"syslinux", "syslinux"}, {"mke2fs", "e2fsprogs"},
	}
	if b.Name == Debian12 {
		t = append(t, tool{"mmdebstrap", "mmdebstrap"}, tool{"tar", "tar"})
	}
	return t
}

// gptBootCode is syslinux's boot code for a GPT's first sector, of the package
// syslinux-common.
const gptBootCode = "/usr/lib/syslinux/mbr/gptmbr.bin"

// tools checks that everything is there before anything is done.
func (b *build) tools() error {
	var missing []string
	pkgs := map[string]bool{}
	var install []string
	miss := func(name, pkg string) {
		missing = append(missing, name)
		if !pkgs[pkg] {
			pkgs[pkg] = true
			install = append(install, pkg)
		}
	}
	for _, t := range b.needed() {
		if _, err := findTool(t.name); err != nil {
			miss(t.name, t.pkg)
		}
	}
	if _, err := os.Stat(gptBootCode); err != nil {
		miss(gptBootCode, "syslinux-common")
	}
	if len(missing) > 0 {
		return millpond.Errorf(millpond.Unavailable, "ToolsMissing",
			"Building the image %s needs %s, which this host does not have. Install them with: apt-get install %s",
			b.Name, strings.Join(missing, ", "), strings.Join(install, " "))
	}
	if b.Name == Debian12 && os.Geteuid() != 0 {
		return millpond.Errorf(millpond.Unavailable, "RootNeeded",
			"Building the image %s unpacks a system with its owners and modes and needs root. Run the command as root, or build 'tiny', which does not need it.", b.Name)
	}
	return nil
}

// findTool looks in PATH and in the folders for administrators, which are often
// missing from a user's PATH.
func findTool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if p, err := exec.LookPath(dir + "/" + name); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}

// command is one run of a tool.
type command struct {
	name  string
	args  []string
	env   []string
	dir   string
	stdin string
}

// output runs a tool and returns what it printed. A failure carries the end of
// its stderr.
func (c command) output(ctx context.Context) ([]byte, error) {
	path, err := findTool(c.name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, c.args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Dir = c.dir
	if c.stdin != "" {
		cmd.Stdin = strings.NewReader(c.stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// The tool's children end with it when the build is cancelled.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s: %w: %s", c.name, err, tail(stderr.String()+stdoutIfNoStderr(&stdout, &stderr)))
	}
	return stdout.Bytes(), nil
}

func (c command) run(ctx context.Context) error {
	_, err := c.output(ctx)
	return err
}

func stdoutIfNoStderr(stdout, stderr *bytes.Buffer) string {
	if strings.TrimSpace(stderr.String()) == "" {
		return stdout.String()
	}
	return ""
}

// tail is the last lines of a tool's output, at most 2,000 characters.
func tail(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 2000 {
		s = "…" + s[len(s)-2000:]
	}
	lines := strings.Split(s, "\n")
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return strings.Join(lines, "\n")
}

// checkStatic says why a file cannot run in a guest that has no libraries.
func checkStatic(name string) error {
	f, err := elf.Open(name)
	if err != nil {
		return fmt.Errorf("it is no ELF program (%w)", err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("it is built for %s, not for x86-64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("it is linked dynamically")
		}
	}
	return nil
}

// allocated is how many bytes of a file are not holes.
func allocated(st os.FileInfo) int64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return st.Size()
}
