package local

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"strings"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/seed"
)

// subnetBits is the size of a VM's own network: 8 addresses.
const subnetBits = 29

// admit enters v under key if the host has room, and gives it a network.
func (l *Launcher) admit(key string, v *vm) error {
	total, err := l.memory()
	if err != nil {
		return &launch.HostError{Step: launch.StepCapacity, Err: err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fits(v, nil, total); err != nil {
		return err
	}
	taken := map[netip.Prefix]bool{}
	for _, o := range l.vms {
		taken[o.cfg.Network] = true
	}
	net, ok := freeSubnet(l.cfg.Subnets, key, taken)
	if !ok {
		return &launch.HostError{Step: launch.StepCapacity, Err: fmt.Errorf("no network is left in %s", l.cfg.Subnets)}
	}
	v.cfg.Network = net
	l.vms[key] = v
	return nil
}

// room refuses to start v, which is known and has ended, on a full host. Its
// promise to start, which counts for others, is not counted against it.
func (l *Launcher) room(v *vm) error {
	total, err := l.memory()
	if err != nil {
		return &launch.HostError{Step: launch.StepCapacity, Err: err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fits(v, nil, total)
}

// admitInstead enters v under key in the place of a spare, whose network it has.
func (l *Launcher) admitInstead(key string, v, sp *vm) error {
	total, err := l.memory()
	if err != nil {
		return &launch.HostError{Step: launch.StepCapacity, Err: err}
	}
	for {
		l.mu.Lock()
		if err = l.fits(v, sp, total); err == nil {
			delete(l.vms, sp.key)
			l.vms[key] = v
		}
		l.mu.Unlock()
		if err == nil || !l.spares.yield() {
			return err
		}
	}
}

// full says that an error means that the host is full.
func full(err error) bool {
	var host *launch.HostError
	return errors.As(err, &host) && host.Step == launch.StepCapacity
}

// fits refuses v on a full host; v itself and instead are not counted. The mutex is
// held.
func (l *Launcher) fits(v, instead *vm, total int64) error {
	used, vms := int64(0), 0
	for _, o := range l.vms {
		if o == v || o == instead {
			continue
		}
		if room := o.room(); room > 0 {
			used += room
			vms++
		}
	}
	if l.cfg.MaxVMs > 0 && vms >= l.cfg.MaxVMs {
		return &launch.HostError{Step: launch.StepCapacity, Err: fmt.Errorf("this host runs %d VMs, as many as it may", vms)}
	}
	if used+int64(v.cfg.MemoryMiB) > total {
		return &launch.HostError{Step: launch.StepCapacity, Err: fmt.Errorf("the VM needs %d MiB; %d of %d MiB for VMs are taken", v.cfg.MemoryMiB, used, total)}
	}
	return nil
}

// freeSubnet chooses a network by the node's name, so that it usually has the
// same address again after a reimage, and the next free one if that is taken.
func freeSubnet(all netip.Prefix, key string, taken map[netip.Prefix]bool) (netip.Prefix, bool) {
	n := uint32(1) << (subnetBits - all.Bits())
	h := fnv.New32a()
	h.Write([]byte(key))
	first := h.Sum32() % n
	base := binary.BigEndian.Uint32(all.Masked().Addr().AsSlice())
	for i := range n {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], base+(first+i)%n<<(32-subnetBits))
		if p := netip.PrefixFrom(netip.AddrFrom4(a), subnetBits); !taken[p] {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Capacity counts VMs that have not ended, without spares, which give way. Memory is what guests may use; what
// QEMU itself and emulation use comes on top, hence the tenth that is left.
func (l *Launcher) Capacity(context.Context) (launch.Capacity, error) {
	total, err := l.memory()
	if err != nil {
		return launch.Capacity{}, &launch.HostError{Step: launch.StepCapacity, Err: err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := launch.Capacity{MemoryMiB: total, VMs: l.cfg.MaxVMs}
	for _, v := range l.vms {
		if room := v.room(); room > 0 && !v.spare {
			c.UsedVMs++
			c.UsedMemoryMiB += room
		}
	}
	if c.VMs == 0 {
		// Without a bound by number, as many as the smallest machine would fit.
		c.VMs = int(total / 64)
	}
	return c, nil
}

func (l *Launcher) memory() (int64, error) {
	if l.cfg.MemoryMiB > 0 {
		return l.cfg.MemoryMiB, nil
	}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		var kib int64
		if strings.HasPrefix(s.Text(), "MemTotal:") {
			if _, err := fmt.Sscanf(s.Text(), "MemTotal: %d kB", &kib); err == nil {
				return kib / 1024 * 9 / 10, nil
			}
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no MemTotal")
}

func agentDisk(cache, binary string) (string, error) { return seed.AgentDisk(cache, binary) }
