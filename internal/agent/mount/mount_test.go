package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

type call struct {
	env, args []string
	kernel    string
}

func system(helpers bool, result error) (System, *[]call) {
	var calls []call
	return System{
		Look: func(name string) (string, error) {
			if !helpers && strings.HasPrefix(name, "mount.") {
				return "", exec.ErrNotFound
			}
			return "/sbin/" + name, nil
		},
		Run: func(_ context.Context, env []string, name string, args ...string) ([]byte, error) {
			calls = append(calls, call{env: env, args: append([]string{name}, args...)})
			return []byte("helper says\n"), result
		},
		Kernel: func(source, target, fstype string, flags uintptr, data string) error {
			calls = append(calls, call{kernel: fmt.Sprintf("%s %s %d %s", source, fstype, flags, data)})
			return result
		},
		Resolve: func(context.Context, string) (net.IP, error) { return net.IPv4(10, 0, 0, 2), nil },
		Mounts:  func() ([]byte, error) { return []byte("x /there\\040now nfs rw 0 0\n"), nil },
	}, &calls
}

func TestMount(t *testing.T) {
	dir := t.TempDir()
	nfs := FileSystem{Type: "nfs", Source: "host.millpond.internal:/data", Target: filepath.Join(dir, "a"), Options: []string{"-o", "vers=3,ro,nolock"}}
	smb := FileSystem{Type: "cifs", Source: `\\host\share`, Target: filepath.Join(dir, "b"), Options: []string{"vers=3.0"}, Username: "u", Password: "p,q", Port: 4455}
	for _, c := range []struct {
		name    string
		helpers bool
		f       FileSystem
		want    string
	}{
		{"nfs by helper", true, nfs, "[/sbin/mount -t nfs -o vers=3,ro,nolock host.millpond.internal:/data " + nfs.Target + "] []"},
		{"nfs by kernel", false, nfs, "host.millpond.internal:/data nfs 1 vers=3,nolock,addr=10.0.0.2"},
		{"nfs by kernel, any version", false, FileSystem{Type: "nfs", Source: "host.millpond.internal:/data", Target: filepath.Join(dir, "c"), Port: 20490}, "host.millpond.internal:/data nfs 0 port=20490,vers=4.2,addr=10.0.0.2"},
		{"the last of two opposites", false, FileSystem{Type: "nfs", Source: "h:/data", Target: filepath.Join(dir, "d"), Options: []string{"ro,noexec", "-o", "rw,nosuid,vers=3"}}, "h:/data nfs 10 vers=3,addr=10.0.0.2"},
		{"smb by helper", true, smb, "[/sbin/mount -t cifs -o vers=3.0,file_mode=0777,dir_mode=0777,port=4455,username=u \\\\host\\share " + smb.Target + "] [PASSWD=p,q]"},
		{"smb by kernel", false, smb, "//host/share cifs 0 vers=3.0,file_mode=0777,dir_mode=0777,port=4455,ip=10.0.0.2,unc=\\\\host\\share,username=u,password=p,,q"},
	} {
		s, calls := system(c.helpers, nil)
		if err := s.Mount(t.Context(), c.f); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := (*calls)[0].kernel
		if c.helpers {
			got = fmt.Sprint((*calls)[0].args, " ", (*calls)[0].env)
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestMountedAlready(t *testing.T) {
	s, calls := system(true, nil)
	if err := s.Mount(t.Context(), FileSystem{Type: "nfs", Source: "h:/x", Target: "/there now"}); err != nil || len(*calls) > 0 {
		t.Error(err, *calls)
	}
}

func TestFailuresSayWhy(t *testing.T) {
	f := FileSystem{Type: "nfs", Source: "h:/x", Target: filepath.Join(t.TempDir(), "a")}
	for _, c := range []struct {
		helpers bool
		f       func(FileSystem) FileSystem
		err     error
		want    string
	}{
		{false, nil, unix.ENODEV, "no file system nfs"},
		{false, nil, unix.ECONNREFUSED, "reachable"},
		{false, nil, unix.EACCES, "does not export"},
		{true, nil, errors.New("exit status 32"), "helper says"},
		{false, func(f FileSystem) FileSystem { f.Options = []string{"--bind"}; return f }, nil, "has no mount.nfs"},
		{false, func(f FileSystem) FileSystem { f.Options = []string{"-o"}; return f }, nil, "end with -o"},
		{false, func(f FileSystem) FileSystem { f.Source = "nonsense"; return f }, nil, "host:/path"},
	} {
		g := f
		if c.f != nil {
			g = c.f(f)
		}
		s, _ := system(c.helpers, c.err)
		if err := s.Mount(t.Context(), g); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
