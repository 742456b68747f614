//go:build bench

package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"millpond.dev/millpond/test/lab"
)

// nomad is an agent of HashiCorp's Nomad that is server and client at once, and has
// nothing to do but what its qemu driver does.
type nomad struct {
	p    *pools
	hand *hand // its folder has what machines are made from
	url  string
	dir  string // short: machines have their sockets below
	log  string
	cmd  *exec.Cmd
	http *http.Client
	stop func()
}

// nomadConfig is the agent's; the folder and three ports are filled in.
const nomadConfig = `
data_dir = %q
bind_addr = "127.0.0.1"
disable_update_check = true
advertise {
  http = "127.0.0.1"
  rpc = "127.0.0.1"
  serf = "127.0.0.1"
}
ports {
  http = %d
  rpc = %d
  serf = %d
}
server {
  enabled = true
  bootstrap_expect = 1
}
client {
  enabled = true
  network_interface = "lo"
}
`

// nomadPart is a word for the report on Nomad that is no figure.
func (p *pools) nomadPart(why string) {
	p.b.Logf("nomad: %s: left out: %s", p.kind, why)
}

// nomad measures the same machines under Nomad, if there is one: the image as Nomad
// delivers files, fetched over HTTP into the folder of each.
func (p *pools) nomad(sizes []int) {
	binary := filepath.Join(p.l.Root, ".cache", "nomad", "nomad")
	if path, err := exec.LookPath("nomad"); err == nil {
		binary = path
	}
	if _, err := os.Stat(binary); err != nil {
		p.nomadPart("there is no program nomad in the path or in .cache/nomad (scripts/install nomad)")
		return
	}
	if os.Geteuid() != 0 {
		p.nomadPart("its client needs root")
		return
	}
	n, err := p.startNomad(binary)
	if err != nil {
		p.nomadPart(firstLine(err))
		p.b.Error(err)
		return
	}
	defer n.stop()
	for _, count := range sizes {
		name := fmt.Sprintf("nomad-%d", count)
		s, err := n.run(name, count)
		if err != nil {
			p.b.Errorf("%s is left out: %v", name, err)
			return
		}
		p.others(name, count, s)
	}
}

func (p *pools) startNomad(binary string) (*nomad, error) {
	n := &nomad{p: p, hand: newHand(p.b), dir: shortDir(p.b), log: filepath.Join(p.b.TempDir(), "nomad.log"), http: &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}}
	run(p.b, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", p.image, filepath.Join(n.hand.dir, "disk.qcow2"))
	if err := writeSeed(filepath.Join(n.hand.dir, "seed.iso"), "nomad"); err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	n.url = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	file := filepath.Join(n.dir, "agent.hcl")
	if err := os.WriteFile(file, fmt.Appendf(nil, nomadConfig, n.dir, ports[0], ports[1], ports[2]), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(n.log)
	if err != nil {
		return nil, err
	}
	n.cmd = exec.Command(binary, "agent", "-config="+file)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	ended := make(chan struct{})
	go func() {
		_ = n.cmd.Wait()
		close(ended)
	}()
	n.stop = sync.OnceFunc(func() {
		left := n.processes() // normally none: they would outlive it
		_ = n.cmd.Process.Signal(os.Interrupt)
		<-ended
		log.Close()
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		n.unmount()
	})
	p.b.Cleanup(n.stop)
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var nodes []struct {
			Status  string
			Drivers map[string]struct{ Detected, Healthy bool }
		}
		err := n.call(http.MethodGet, "/v1/nodes", nil, &nodes)
		if err == nil && len(nodes) == 1 && nodes[0].Status == "ready" && nodes[0].Drivers["qemu"].Healthy {
			return n, nil
		}
		select {
		case <-ended:
			return nil, fmt.Errorf("its agent has ended; its log ends with\n%s", n.said())
		default:
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("its client with the qemu driver did not come (%v); its log ends with\n%s", err, n.said())
		}
	}
}

// unmount takes away what it has mounted for its tasks, which would keep the folder.
func (n *nomad) unmount() {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], n.dir+"/") {
			_ = exec.Command("umount", "-l", f[1]).Run()
		}
	}
}

func (n *nomad) said() []byte {
	text, _ := os.ReadFile(n.log)
	return text[max(0, len(text)-1500):]
}

func freePorts(n int) (ports []int, _ error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func (n *nomad) call(method, path string, body, out any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	q, err := http.NewRequest(method, n.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	a, err := n.http.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if text, err = io.ReadAll(a.Body); err != nil {
		return err
	}
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, a.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// run has a job of count machines, measured from its request to the last that is up,
// and ends it.
func (n *nomad) run(name string, count int) (seen, error) {
	files := httptest.NewServer(http.FileServer(http.Dir(n.hand.dir)))
	defer files.Close()
	type object = map[string]any
	job := object{"ID": name, "Name": name, "Type": "service", "Datacenters": []string{"dc1"}, "TaskGroups": []any{object{
		"Name": "vms", "Count": count, "EphemeralDisk": object{"SizeMB": 100},
		"RestartPolicy":    object{"Attempts": 0, "Mode": "fail", "Interval": int64(time.Hour), "Delay": int64(time.Second)},
		"ReschedulePolicy": object{"Attempts": 0, "Unlimited": false},
		"Tasks": []any{object{"Name": "vm", "Driver": "qemu", "KillTimeout": int64(time.Second),
			"Config":    object{"image_path": "local/disk.qcow2", "accelerator": "tcg", "drive_interface": "virtio", "args": guestArgs("local", n.hand.temp)},
			"Artifacts": []any{object{"GetterSource": files.URL + "/disk.qcow2", "RelativeDest": "local/"}, object{"GetterSource": files.URL + "/seed.iso", "RelativeDest": "local/"}},
			"Resources": object{"CPU": 20, "MemoryMB": 512}, "LogConfig": object{"MaxFiles": 1, "MaxFileSizeMB": 5}}}}}}
	began := time.Now()
	if err := n.call(http.MethodPost, "/v1/jobs", object{"Job": job}, nil); err != nil {
		return seen{}, err
	}
	out, err := n.wait(count, began)
	if err != nil {
		return out, fmt.Errorf("%w; its log ends with\n%s", err, n.said())
	}
	out.all = time.Since(began)
	for _, pid := range n.processes() {
		out.mib += pss(n.p.b, pid)
	}
	if err := n.call(http.MethodDelete, "/v1/job/"+name+"?purge=true", nil, nil); err != nil {
		return out, err
	}
	lab.Wait(n.p.b, 5*time.Minute, "Nomad's machines gone", func() (bool, string) {
		left := len(n.processes())
		return left == 0, fmt.Sprint(left)
	})
	// The disks of one round would leave no room for the next.
	lab.Wait(n.p.b, 5*time.Minute, "their disks gone", func() (bool, string) {
		err := n.call(http.MethodPut, "/v1/system/gc", nil, nil)
		left, _ := filepath.Glob(filepath.Join(n.dir, "alloc", "*", "vm", "local", "disk.qcow2"))
		return err == nil && len(left) == 0, fmt.Sprint(len(left), " ", err)
	})
	return out, nil
}

// wait waits until count machines are up. Nothing tells of their sockets: they are
// looked for.
func (n *nomad) wait(count int, began time.Time) (out seen, _ error) {
	type end struct {
		took time.Duration
		err  error
	}
	came := make(chan end, count)
	known := map[string]bool{}
	for ended := 0; ended < count; {
		sockets, _ := filepath.Glob(filepath.Join(n.dir, "alloc", "*", "vm", "local", "qmp"))
		for _, s := range sockets {
			if known[s] {
				continue
			}
			known[s] = true
			at := time.Now()
			if st, err := os.Stat(s); err == nil {
				at = st.ModTime() // QEMU makes it when it starts
			}
			go func() {
				err := up(s)
				came <- end{time.Since(at), err}
			}()
		}
		select {
		case e := <-came:
			if e.err != nil {
				return out, e.err
			}
			out.latency = append(out.latency, e.took)
			ended++
		case <-time.After(20 * time.Millisecond):
			if time.Since(began) > upLimit {
				return out, fmt.Errorf("%d of %d machines came up", ended, count)
			}
		}
	}
	return out, nil
}

// processes are the machines of the agent and what it runs for each: all that have
// come from it.
func (n *nomad) processes() (out []int) {
	parents := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		var pid, parent int
		var state string
		_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
		if _, err := fmt.Sscan(rest, &state, &parent); err != nil || state == "Z" {
			continue
		}
		if _, err := fmt.Sscanf(name, "/proc/%d/stat", &pid); err == nil {
			parents[parent] = append(parents[parent], pid)
		}
	}
	next := parents[n.cmd.Process.Pid]
	for len(next) > 0 {
		out = append(out, next...)
		var below []int
		for _, pid := range next {
			below = append(below, parents[pid]...)
		}
		next = below
	}
	return out
}
