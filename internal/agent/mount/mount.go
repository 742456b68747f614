// Package mount attaches the file systems of a pool to its node: NFS and SMB. It
// uses the image's own mount helpers where there are any, which know most; an
// image without them is served by the kernel alone. It decides nothing about
// what is mounted, and never unmounts: a node's mounts end with its boot.
// agent/guest calls it.
package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FileSystem is one mount.
type FileSystem struct {
	// Type is nfs or cifs.
	Type   string
	Source string
	// Target is an absolute path; it is made if it is not there.
	Target string
	// Options are words of the user's, as mount(8) takes them.
	Options            []string
	Username, Password string
	// Port is 0 for the usual one.
	Port int
}

// System is what a mount needs of the machine; the zero value is the real one.
type System struct {
	// Look finds a program, like exec.LookPath.
	Look func(name string) (string, error)
	// Run runs one with additional environment and gives its output.
	Run func(ctx context.Context, env []string, name string, args ...string) ([]byte, error)
	// Kernel is mount(2).
	Kernel func(source, target, fstype string, flags uintptr, data string) error
	// Resolve finds the address of a host.
	Resolve func(ctx context.Context, host string) (net.IP, error)
	// Mounts is the text of /proc/self/mounts.
	Mounts func() ([]byte, error)
}

// limit bounds one mount: an NFS client tries for minutes.
const limit = 90 * time.Second

func (s System) withDefaults() System {
	if s.Look == nil {
		s.Look = func(name string) (string, error) {
			for _, d := range []string{"/sbin", "/usr/sbin", "/bin", "/usr/bin"} {
				if p := filepath.Join(d, name); unix.Access(p, unix.X_OK) == nil {
					return p, nil
				}
			}
			return "", exec.ErrNotFound
		}
	}
	if s.Run == nil {
		s.Run = func(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
			cmd := exec.CommandContext(ctx, name, args...)
			cmd.Env = append(os.Environ(), env...)
			cmd.WaitDelay = time.Second
			return cmd.CombinedOutput()
		}
	}
	if s.Kernel == nil {
		s.Kernel = unix.Mount
	}
	if s.Resolve == nil {
		s.Resolve = func(ctx context.Context, host string) (net.IP, error) {
			list, err := net.DefaultResolver.LookupIP(ctx, "ip4", host)
			if err != nil {
				return nil, err
			}
			return list[0], nil
		}
	}
	if s.Mounts == nil {
		s.Mounts = func() ([]byte, error) { return os.ReadFile("/proc/self/mounts") }
	}
	return s
}

// Mount mounts f unless something is mounted at its target already. Its error
// says what the helper or the kernel said.
func (s System) Mount(ctx context.Context, f FileSystem) error {
	s = s.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	mounts, err := s.Mounts()
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if w := strings.Fields(line); len(w) > 1 && unescape(w[1]) == f.Target {
			return nil
		}
	}
	if err := os.MkdirAll(f.Target, 0o755); err != nil {
		return err
	}
	options, rest, err := parse(f.Options)
	if err != nil {
		return err
	}
	if f.Type == "cifs" {
		options = withDefault(withDefault(options, "file_mode", "0777"), "dir_mode", "0777")
	}
	if f.Port != 0 {
		options = withDefault(options, "port", strconv.Itoa(f.Port))
	}
	if _, err := s.Look("mount." + f.Type); err == nil {
		return s.byHelper(ctx, f, options, rest)
	}
	if len(rest) > 0 {
		return fmt.Errorf("the image has no mount.%s, and without it the words %s of mountOptions cannot be used; give options with -o", f.Type, strings.Join(rest, " "))
	}
	return s.byKernel(ctx, f, options)
}

// byHelper runs mount(8). A password goes by the environment, where no other
// user sees it.
func (s System) byHelper(ctx context.Context, f FileSystem, options, rest []string) error {
	program, err := s.Look("mount")
	if err != nil {
		return errors.New("the image has no program mount")
	}
	var env []string
	if f.Type == "cifs" {
		options = withDefault(options, "username", f.Username)
		env = append(env, "PASSWD="+f.Password)
	}
	args := append([]string{"-t", f.Type}, rest...)
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	out, err := s.Run(ctx, env, program, append(args, f.Source, f.Target)...)
	if err != nil {
		return fmt.Errorf("mount: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// flags are the options that the kernel takes as bits.
var flags = map[string]uintptr{"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"sync": unix.MS_SYNCHRONOUS, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME}

// opposites are the options that take a bit away again which one before them set.
var opposites = map[string]uintptr{"rw": unix.MS_RDONLY, "suid": unix.MS_NOSUID, "dev": unix.MS_NODEV, "exec": unix.MS_NOEXEC,
	"async": unix.MS_SYNCHRONOUS, "atime": unix.MS_NOATIME, "diratime": unix.MS_NODIRATIME}

// forMount8 are options that only mount(8) itself understands.
var forMount8 = map[string]bool{"defaults": true, "auto": true, "noauto": true, "user": true, "nouser": true, "_netdev": true, "nofail": true}

// byKernel does what the helpers do: it finds the server's address and writes the
// options as the file system's driver wants them.
func (s System) byKernel(ctx context.Context, f FileSystem, options []string) error {
	var bits uintptr
	var data []string
	for _, o := range options {
		// An option is in one of the two at most, and 0 changes nothing.
		on, off := flags[o], opposites[o]
		bits = bits&^off | on
		if on == 0 && off == 0 && !forMount8[o] && o != "" {
			data = append(data, o)
		}
	}
	host, source := "", f.Source
	switch f.Type {
	case "nfs":
		var ok bool
		if host, _, ok = strings.Cut(f.Source, ":/"); !ok {
			return fmt.Errorf("the source %q is not of the form host:/path", f.Source)
		}
	case "cifs":
		share, ok := strings.CutPrefix(strings.ReplaceAll(f.Source, `\`, "/"), "//")
		if host, _, _ = strings.Cut(share, "/"); !ok || host == "" {
			return fmt.Errorf("the source %q is not of the form //host/share", f.Source)
		}
		source = "//" + share
	}
	ip, err := s.Resolve(ctx, host)
	if err != nil {
		return fmt.Errorf("find the address of %s: %w", host, err)
	}
	switch f.Type {
	case "nfs":
		// mount.nfs asks the server which versions it has; the kernel alone takes the
		// oldest, and that one needs more than one port of the server.
		if !slices.ContainsFunc(data, func(o string) bool {
			k, _, _ := strings.Cut(o, "=")
			return k == "vers" || k == "nfsvers" || k == "minorversion" || k == "v2" || k == "v3" || strings.HasPrefix(k, "v4")
		}) {
			data = append(data, "vers=4.2")
		}
		data = withDefault(data, "addr", ip.String())
	case "cifs":
		data = withDefault(data, "ip", ip.String())
		data = append(data, "unc="+strings.ReplaceAll(source, "/", `\`))
		data = withDefault(data, "username", f.Username)
		// A comma in a password is written twice.
		data = append(data, "password="+strings.ReplaceAll(f.Password, ",", ",,"))
	}
	done := make(chan error, 1)
	// The call cannot be taken back; one that never returns keeps its goroutine.
	go func() { done <- s.Kernel(source, f.Target, f.Type, bits, strings.Join(data, ",")) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		return fmt.Errorf("mount of %s: no answer within %s", f.Source, limit)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the image's kernel has no file system %s: install the module %s, or the package that has mount.%s", f.Type, f.Type, f.Type)
	}
	return fmt.Errorf("mount of %s by the kernel (the image has no mount.%s): %w%s", f.Source, f.Type, err, hint(f.Type, err))
}

func hint(fstype string, err error) string {
	switch {
	case errors.Is(err, unix.EINVAL):
		return "; check mountOptions"
	case errors.Is(err, unix.EACCES) && fstype == "cifs":
		return "; check username and password"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "; the server does not export the path to this node"
	case errors.Is(err, unix.ENETUNREACH):
		return "; the node has no network yet, or none at all: see its console"
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EHOSTUNREACH):
		return "; is the server reachable from the node, and on that port?"
	}
	return ""
}

// parse divides the user's words into options and words that only a helper
// understands.
func parse(words []string) (options, rest []string, err error) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "-o":
			if i++; i == len(words) {
				return nil, nil, errors.New("mountOptions end with -o")
			}
			options = append(options, strings.Split(words[i], ",")...)
		case strings.HasPrefix(w, "-o"):
			options = append(options, strings.Split(w[2:], ",")...)
		case w == "-r" || w == "--read-only":
			options = append(options, "ro")
		case strings.HasPrefix(w, "-"):
			rest = append(rest, w)
		default:
			options = append(options, strings.Split(w, ",")...)
		}
	}
	return options, rest, nil
}

// withDefault adds name=value unless the user has given the name.
func withDefault(options []string, name, value string) []string {
	for _, o := range options {
		if k, _, _ := strings.Cut(o, "="); k == name {
			return options
		}
	}
	if value == "" {
		return options
	}
	return append(options, name+"="+value)
}

// unescape undoes what the kernel does to paths in its list.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
