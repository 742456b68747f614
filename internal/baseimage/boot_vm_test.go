//go:build vm

package baseimage

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/inspect"
)

// standIn answers on the agent's port: it says hello and then runs each line
// that it reads, so that a test can look around in the guest.
const standIn = `package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	for ; ; time.Sleep(50 * time.Millisecond) {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			b, _ := os.ReadFile(n)
			if strings.TrimSpace(string(b)) == "org.millpond.agent.0" {
				serve("/dev/" + filepath.Base(filepath.Dir(n)))
			}
		}
	}
}

func serve(dev string) {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return
	}
	fmt.Fprintln(f, "hello")
	have, buf := "", make([]byte, 4096)
	for {
		n, _ := f.Read(buf)
		if n == 0 {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		have += string(buf[:n])
		for {
			line, rest, ok := strings.Cut(have, "\n")
			if !ok {
				break
			}
			have = rest
			out, err := exec.Command("/bin/bash", "-c", line).CombinedOutput()
			fmt.Fprintf(f, "%q %v\n", out, err)
		}
	}
}
`

// guest is a VM that a test owns.
type guest struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Scanner
	cmd  *exec.Cmd
	log  string
}

func boot(t *testing.T, disk, temp string, uefi bool, bound time.Duration) *guest {
	t.Helper()
	dir := t.TempDir()
	sock := filepath.Join(dir, "agent")
	g := &guest{t: t, log: filepath.Join(dir, "serial")}
	args := []string{"-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults", "-no-user-config", "-display", "none", "-m", "512",
		"-drive", "file=" + disk + ",if=none,id=d0,format=raw", "-device", "virtio-blk-pci,drive=d0,bootindex=1",
		"-drive", "file=" + temp + ",if=none,id=d1,format=raw", "-device", "virtio-blk-pci,drive=d1",
		"-serial", "file:" + g.log, "-device", "virtio-serial-pci,id=vs0", "-chardev", "socket,id=ag,path=" + sock + ",server=on,wait=off",
		"-device", "virtserialport,bus=vs0.0,chardev=ag,name=org.millpond.agent.0",
		"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"}
	if uefi {
		vars := filepath.Join(dir, "vars.fd")
		b, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
		if err != nil {
			t.Skipf("the UEFI firmware is not installed: %v", err)
		}
		if err := os.WriteFile(vars, b, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd", "-drive", "if=pflash,format=raw,unit=1,file="+vars)
	}
	began := time.Now()
	g.cmd = exec.Command("qemu-system-x86_64", args...)
	g.cmd.Stderr = os.Stderr
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.kill)
	deadline := began.Add(bound)
	for {
		var err error
		if g.conn, err = net.Dial("unix", sock); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := g.conn.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	g.in = bufio.NewScanner(g.conn)
	if !g.in.Scan() || g.in.Text() != "hello" {
		console, _ := os.ReadFile(g.log)
		t.Fatalf("no hello within %s (%v); console:\n%s", bound, g.in.Err(), console)
	}
	t.Logf("the agent answered after %.1f s", time.Since(began).Seconds())
	return g
}

func (g *guest) kill() {
	if g.cmd.ProcessState == nil {
		g.cmd.Process.Kill()
		g.cmd.Wait()
	}
}

// run runs a line in the guest and returns its output.
func (g *guest) run(line string) string {
	g.t.Helper()
	if err := g.conn.SetDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		g.t.Fatal(err)
	}
	fmt.Fprintln(g.conn, line)
	if !g.in.Scan() {
		g.t.Fatalf("%s: no answer: %v", line, g.in.Err())
	}
	var out string
	rest := g.in.Text()
	if _, err := fmt.Sscanf(rest, "%q", &out); err != nil {
		g.t.Fatalf("%s: %s", line, rest)
	}
	if !strings.HasSuffix(rest, "<nil>") {
		g.t.Errorf("%s: %s", line, rest)
	}
	return out
}

// off asks the guest to power off and waits.
func (g *guest) off(line string) {
	g.t.Helper()
	fmt.Fprintln(g.conn, line)
	done := make(chan error, 1)
	go func() { done <- g.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		g.cmd.Process.Kill()
		<-done
		g.t.Error("the guest did not power off")
	}
}

func tempDisk(t *testing.T) string {
	t.Helper()
	temp := filepath.Join(t.TempDir(), "temp.raw")
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-L", "millpond-temp", temp, "64M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return temp
}

func cacheDir(t *testing.T) string {
	t.Helper()
	if d := os.Getenv("MILLPOND_TEST_CACHE"); d != "" {
		return d
	}
	return t.TempDir()
}

func buildFor(t *testing.T, name, release string) Result {
	t.Helper()
	o := Options{Name: name, OSRelease: release, Out: filepath.Join(t.TempDir(), name+".raw"), AgentPath: program(t, standIn), CacheDir: cacheDir(t),
		Progress: func(s Step) { t.Logf("%-22s %6.1f s  %s", s.Name, s.Duration.Seconds(), s.Note) }}
	r, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Build(context.Background(), o)
	if err != nil || !again.Cached || again.Duration > time.Second {
		t.Errorf("building again: cached %v, %s, %v", again.Cached, again.Duration, err)
	}
	f, err := os.Open(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rep, err := inspect.Inspect(context.Background(), f, r.Size)
	if err != nil || !rep.BIOS || !rep.UEFI || !rep.Agent || len(rep.NotGeneralized) != 0 || rep.OS.ID+"-"+rep.OS.VersionID != r.OSRelease {
		t.Errorf("inspect says %+v, %v; built %+v", rep, err, r.Description)
	}
	return r
}

func TestTinyBoots(t *testing.T) {
	r := buildFor(t, Tiny, "ubuntu-20.04")
	temp := tempDisk(t)
	g := boot(t, r.Path, temp, false, 2*time.Minute)
	if out := g.run(". /etc/os-release; echo $ID $VERSION_ID"); out != "ubuntu 20.04\n" {
		t.Errorf("os-release: %q", out)
	}
	if out := g.run("awk '$2==\"/mnt\" {print $3}' /proc/mounts"); out != "ext4\n" {
		t.Errorf("/mnt: %q", out)
	}
	g.run("set -e; for p in sh bash printenv sleep seq cat wget udhcpc nohup env awk sed; do command -v $p; done")
	g.run("echo '_azbatch:x:1000:1000::/home/_azbatch:/bin/bash' >> /etc/passwd; echo kept > /root/kept; sync")
	if out := g.run("n=0; until ip -4 addr show eth0 | grep -q 10.0.2.15; do n=$((n+1)); [ $n -gt 300 ] && exit 1; sleep 0.1; done; cat /etc/resolv.conf"); !strings.Contains(out, "nameserver") {
		t.Errorf("resolv.conf: %q", out)
	}
	g.off("poweroff")
	g = boot(t, r.Path, temp, true, 3*time.Minute)
	if out := g.run("cat /root/kept; id -u _azbatch"); out != "kept\n1000\n" {
		t.Errorf("after the second boot: %q", out)
	}
	g.off("poweroff -f")
}

func TestDebianBoots(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to unpack a system")
	}
	r := buildFor(t, Debian12, "")
	temp := tempDisk(t)
	g := boot(t, r.Path, temp, false, 6*time.Minute)
	if out := g.run("awk '$2==\"/mnt\" {print $3}' /proc/mounts"); out != "ext4\n" {
		t.Errorf("/mnt is not mounted when the agent starts: %q", out)
	}
	if out := g.run("systemctl is-system-running --wait; systemctl --failed --plain --no-legend"); out != "running\n" {
		t.Errorf("the system is %q", out)
	}
	g.run("useradd -m someone && su someone -c id && test -s /etc/machine-id && test -s /etc/ssh/ssh_host_ed25519_key && systemctl is-active ssh systemd-resolved")
	g.off("systemctl poweroff")
	g = boot(t, r.Path, temp, true, 6*time.Minute)
	g.run("id someone")
	g.off("systemctl poweroff")
}
