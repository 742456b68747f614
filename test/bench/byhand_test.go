//go:build bench

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/qemu/qmp"
	"millpond.dev/millpond/internal/seed"
)

// upLimit bounds a round of machines that others start: 32 first boots of Debian on
// two cores take some six minutes.
const upLimit = 25 * time.Minute

// hand starts machines as a script does: for each a disk by qemu-img, a seed, and
// QEMU in the background. They have the image of a pool's nodes, and what these have
// of processor, memory and devices; one is up when its agent has opened its port,
// after which a node has yet to be greeted.
type hand struct {
	b    *testing.B
	dir  string // short: it has sockets
	temp string // the temporary disk of all, which none writes to
}

func newHand(b *testing.B) *hand {
	dir := shortDir(b)
	h := &hand{b, dir, filepath.Join(dir, "temp.raw")}
	run(b, "truncate", "-s", "1G", h.temp)
	run(b, "mke2fs", "-q", "-F", "-t", "ext4", "-L", launch.TempDiskLabel, "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", h.temp)
	return h
}

// shortDir is a folder whose name leaves room for those of sockets.
func shortDir(b *testing.B) string {
	dir, err := os.MkdirTemp("", "by")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// guestArgs are QEMU's options besides memory and OS disk; dir, which may be
// relative to QEMU's own directory, has the seed and gets the sockets. The options of
// -machine go beside others of it. Whoever gives -machine an acceleration cannot
// give -accel, which therefore is not among them.
func guestArgs(dir, temp string) []string {
	return []string{"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,graphics=off,vmport=off", "-cpu", "max,-erms,-la57", "-smp", "1",
		"-serial", "file:" + filepath.Join(dir, "console"),
		"-drive", "file=" + temp + ",if=virtio,format=raw,snapshot=on",
		"-drive", "file=" + filepath.Join(dir, "seed.iso") + ",if=virtio,format=raw,readonly=on",
		"-netdev", "user,id=net0,ipv6=off", "-device", "virtio-net-pci,netdev=net0,romfile=",
		"-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
		"-chardev", "socket,id=agent,server=on,wait=off,path=" + filepath.Join(dir, "agent"),
		"-device", "virtio-serial-pci,max_ports=2", "-device", "virtserialport,id=port0,chardev=agent,name=" + nodeproto.PortName,
		"-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off"}
}

// seen is what others than Millpond did with n machines.
type seen struct {
	all     time.Duration   // until all were up
	latency []time.Duration // of each machine, from QEMU's start
	mib     float64         // of all, when they were up
}

// run starts n machines whose disks are copies of the image ("convert") or lie on top
// of it ("create"), and ends them.
func (h *hand) run(n int, image, how string) (seen, error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	var out seen
	var failed []error
	var running []*exec.Cmd
	began := time.Now()
	for i := range n {
		all.Go(func() {
			dir := filepath.Join(h.dir, fmt.Sprintf("%02d", i))
			cmd, err := start(dir, image, how, h.temp)
			if err == nil {
				at := time.Now()
				mu.Lock()
				running = append(running, cmd)
				mu.Unlock()
				err = up(filepath.Join(dir, "qmp"))
				mu.Lock()
				out.latency = append(out.latency, time.Since(at))
				mu.Unlock()
			}
			if err != nil {
				console, _ := os.ReadFile(filepath.Join(dir, "console"))
				mu.Lock()
				failed = append(failed, fmt.Errorf("machine %d: %w; its console ends with %q", i, err, console[max(0, len(console)-200):]))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	out.all = time.Since(began)
	if len(failed) == 0 {
		for _, cmd := range running {
			out.mib += pss(h.b, cmd.Process.Pid)
		}
	}
	for _, cmd := range running {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for i := range n {
		_ = os.RemoveAll(filepath.Join(h.dir, fmt.Sprintf("%02d", i)))
	}
	return out, errors.Join(failed...)
}

func start(dir, image, how, temp string) (*exec.Cmd, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	disk := filepath.Join(dir, "disk.qcow2")
	args := []string{"convert", "-f", "raw", "-O", "qcow2", image, disk}
	if how == "create" {
		args = []string{"create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, disk}
	}
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("qemu-img %s: %w: %s", how, err, out)
	}
	if err := writeSeed(filepath.Join(dir, "seed.iso"), filepath.Base(dir)); err != nil {
		return nil, err
	}
	// cache=unsafe is what nodes have: nobody waits for the host's platter.
	cmd := exec.Command("qemu-system-x86_64", append([]string{"-accel", "tcg,thread=multi", "-m", "512", "-drive", "file=" + disk + ",if=virtio,format=qcow2,discard=unmap,cache=unsafe"}, guestArgs(dir, temp)...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // when a test is ended by its time
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	return cmd, nil
}

func writeSeed(name, id string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(seed.Write(f, seed.Instance{ID: "hand-" + id, Hostname: "hand-" + id}), f.Close())
}

// up returns when the agent of the machine behind a monitor's socket, which need not be
// there yet, has opened its port.
func up(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), upLimit)
	defer cancel()
	conn, err := net.Dial("unix", socket)
	for late := time.Now().Add(time.Minute); err != nil; conn, err = net.Dial("unix", socket) {
		if time.Now().After(late) {
			return fmt.Errorf("no monitor: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	opened := make(chan struct{}, 1)
	monitor, err := qmp.Connect(ctx, conn, func(e qmp.Event) {
		var port struct{ Open bool }
		if e.Name == "VSERPORT_CHANGE" && json.Unmarshal(e.Data, &port) == nil && port.Open {
			select {
			case opened <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	defer monitor.Close()
	select {
	case <-opened:
		return nil
	case <-monitor.Done():
		return fmt.Errorf("the machine has ended: %w", monitor.Err())
	case <-ctx.Done():
		return errors.New("the agent did not open its port")
	}
}

// byHand measures what a script does with n machines, in both ways.
func (p *pools) byHand(n int) {
	h := newHand(p.b)
	for _, x := range [][2]string{{"by-hand-copies", "convert"}, {"by-hand-overlays", "create"}} {
		name := fmt.Sprintf("%s-%d", x[0], n)
		s, err := h.run(n, p.image, x[1])
		if err != nil {
			// The others are worth their figures.
			p.b.Errorf("%s is left out: %v", name, firstLine(err))
			continue
		}
		p.others(name, n, s)
	}
}

// others keeps and prints what others than Millpond did with n machines.
func (p *pools) others(name string, n int, s seen) {
	p.b.Logf("%s: %d up after %s, %.0f MiB PSS each", name, n, s.all.Round(time.Millisecond), s.mib/float64(n))
	p.took(name, s.all)
	for _, x := range s.latency {
		p.latency[name] = append(p.latency[name], 1000*x.Seconds())
	}
	p.figure(median(p.latency[name]), "ms-idle-latency-"+name)
	p.figure(s.mib/float64(n), "MiB-"+name)
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
