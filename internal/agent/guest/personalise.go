package guest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// What Settle has stopped starts again when the machine is a node, so that it does
// not keep the node, or the many that start with it, from becoming idle: the
// services when somebody is to log in or wakeAfter later, the timers timersAfter
// those. A server that says no Hello is waited for up to wakeLimit.
const (
	wakeAfter   = 30 * time.Second
	wakeLimit   = time.Minute
	timersAfter = 2 * time.Minute
)

var (
	machineID  = regexp.MustCompile(`^[0-9a-f]{32}$`)
	instanceID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
)

// Personalise implements agent.Cloner. What programs see at once is made here, by
// system calls and in files in memory: each other piece of the kernel would run for
// the first time and be translated for it. The order matters: entropy before
// anything draws a number, the clock before anything writes a time. rest is what
// disks, the network card and later boots know of the machine; until it is done its
// user's programs wait, as they wait for the network. Services with host keys, and the
// keys, come after that: nothing listens with others' meanwhile.
func (m *Machine) Personalise(q *nodev1.PersonaliseRequest) ([]*nodev1.Stage, func() error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.cfg.Privileged:
		return nil, nil, errors.New("this agent may not change its machine")
	case m.template == nil:
		return nil, nil, errors.New("this machine is no copy of one that was settled")
	case len(q.GetEntropy()) < 32:
		return nil, nil, errors.New("a clone needs at least 32 bytes of entropy")
	case !machineID.MatchString(q.GetMachineId()) || !instanceID.MatchString(q.GetInstanceId()) || q.GetBootId() == "" || q.GetHostname() == "" || !q.GetNow().IsValid():
		return nil, nil, errors.New("a clone needs a machine id, an instance id, a boot id, a name and the time")
	}
	t := m.template
	m.started = uptime()
	begin := time.Now()
	var stages []*nodev1.Stage
	stage := func(name string) {
		stages = append(stages, &nodev1.Stage{Name: name, Duration: durationpb.New(time.Since(begin))})
		begin = time.Now()
	}
	if err := addEntropy(q.GetEntropy()); err != nil {
		return nil, nil, fmt.Errorf("entropy: %w", err)
	}
	stage("random")
	tv := unix.NsecToTimeval(q.GetNow().AsTime().UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return nil, nil, fmt.Errorf("clock: %w", err)
	}
	stage("clock")
	if err := t.bootID.set(q.GetBootId()); err != nil {
		return nil, nil, fmt.Errorf("boot id: %w", err)
	}
	t.facts.BootId = q.GetBootId()
	old := t.machineID.id
	if err := t.machineID.set(q.GetMachineId()); err != nil {
		return nil, nil, fmt.Errorf("machine id: %w", err)
	}
	stage("ids")
	if err := unix.Sethostname([]byte(q.GetHostname())); err != nil {
		return nil, nil, fmt.Errorf("host name: %w", err)
	}
	stage("hostname")
	m.born = time.Now()
	m.whole = make(chan struct{})
	whole := m.whole
	return stages, func() error {
		m.attempt("priority", urgent(false))
		if err := m.embody(q); err != nil {
			return err
		}
		close(whole)
		go m.wakeUp(t.asleep, old, q.GetMachineId())
		return nil
	}, nil
}

// embody does what Personalise has left: it is what the next boot finds, and the
// card, last, because with its new address it is asked for by others. Nothing of the
// user's runs after an error.
func (m *Machine) embody(q *nodev1.PersonaliseRequest) error {
	if err := errors.Join(m.template.machineID.keep(q.GetMachineId()), keepID("/var/lib/dbus/machine-id", q.GetMachineId())); err != nil {
		return fmt.Errorf("machine id: %w", err)
	}
	if err := setHostname(q.GetHostname()); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	m.mu.Lock()
	own := m.own
	m.mu.Unlock()
	if own.name != "" {
		m.attempt("hosts", m.hosts.own(own))
	}
	if err := setInstance("/var/lib/cloud", q.GetInstanceId()); err != nil {
		return fmt.Errorf("cloud-init's instance: %w", err)
	}
	m.attempt("seed of the next boot", reseed("/var/lib/systemd/random-seed"))
	if q.GetMac() != "" {
		if err := setCard(q.GetMac()); err != nil {
			return fmt.Errorf("network card: %w", err)
		}
	}
	return nil
}

// setInstance has cloud-init know the machine by the id that its own seed disk
// has: what it did once for the template is not done again at the clone's next boot.
func setInstance(dir, id string) error {
	b, err := os.ReadFile(filepath.Join(dir, "data", "instance-id"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // the machine has no cloud-init, or it did not run
	}
	if err != nil {
		return err
	}
	old := strings.TrimSpace(string(b))
	if !instanceID.MatchString(old) || old == id {
		return nil
	}
	instances := filepath.Join(dir, "instances")
	if err := os.Rename(filepath.Join(instances, old), filepath.Join(instances, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// The object that it keeps of its data source names the old id.
	if err := os.Remove(filepath.Join(instances, id, "obj.pkl")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	link := filepath.Join(dir, "instance")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Join(instances, id), link); err != nil {
		return err
	}
	for _, name := range []string{"instance-id", "previous-instance-id"} {
		if err := os.WriteFile(filepath.Join(dir, "data", name), []byte(id+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// reseed replaces the bytes that the next boot stirs into its pool.
func reseed(name string) error {
	st, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b := make([]byte, max(32, min(st.Size(), 4096)))
	if _, err := rand.Read(b); err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o600)
}

// setCard gives the machine's first network card its address while the cable is
// out: whoever manages cards asks for an IP address when the host plugs it in. One
// that the template had goes.
func setCard(mac string) error {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return fmt.Errorf("%q is not an address of a card", mac)
	}
	cards, err := filepath.Glob("/sys/class/net/*/device")
	if err != nil {
		return err
	}
	if len(cards) == 0 {
		return nil // its driver comes later, and reads the new address
	}
	name := filepath.Base(filepath.Dir(cards[0]))
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	dropAddress(fd, name)
	err = setHardwareAddress(fd, name, hw)
	if errors.Is(err, unix.EBUSY) {
		// Not virtio: the driver wants the card down, which takes the kernel some
		// tenths of a second under emulation.
		err = errors.Join(linkUp(fd, name, false), setHardwareAddress(fd, name, hw), linkUp(fd, name, true))
	}
	if err != nil {
		return err
	}
	return askAgain(name)
}

// askAgain has the tiny image's client for addresses start anew, which does not notice
// cables.
func askAgain(name string) error {
	const up = "/usr/lib/millpond/net-up"
	if _, err := os.Stat(up); err != nil {
		return nil
	}
	if pid := firstLine("/run/udhcpc." + name + ".pid"); pid != "" {
		if err := killPID(pid); err != nil {
			return err
		}
	}
	if err := os.Remove("/run/net-up." + name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.Command(up, name)
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait()
	return nil
}

// wakeUp starts what Settle has stopped.
func (m *Machine) wakeUp(s sleeping, oldID, newID string) {
	if !systemd() {
		return
	}
	select {
	case <-m.adopted:
		select {
		case <-m.logins.wanted:
		case <-time.After(wakeAfter):
		}
	case <-time.After(wakeLimit):
	}
	// One program for all: under emulation each costs what it does and its translation,
	// and memory for both.
	var units []string
	if len(s.keys) > 0 {
		if unit := hostKeysUnit("/"); unit != "" {
			units = append(units, unit) // it orders itself before the others
		} else {
			m.attempt("host keys", exec.Command("ssh-keygen", "-A").Run())
		}
		units = append(units, s.keys...)
	}
	// The journal goes on under the machine's new name.
	if oldID != "" {
		const journals = "/run/log/journal/"
		if os.Rename(journals+oldID, journals+newID) == nil {
			units = append(units, "systemd-journald.service")
		}
	}
	if len(units) > 0 {
		// What does not run is started by that as well.
		m.attempt("services with host keys, and the journal", exec.Command("systemctl", append([]string{"restart", "--no-block"}, units...)...).Run())
	}
	if len(s.timers) > 0 {
		time.Sleep(timersAfter)
		m.attempt("timers", exec.Command("systemctl", append([]string{"start", "--no-block"}, s.timers...)...).Run())
	}
}

// hostKeysUnit is the unit of our images that makes host keys; empty if the machine has
// none.
func hostKeysUnit(root string) string {
	const unit = "millpond-hostkeys.service"
	for _, dir := range []string{"etc", "usr/lib", "lib"} {
		if _, err := os.Stat(filepath.Join(root, dir, "systemd/system", unit)); err == nil {
			return unit
		}
	}
	return ""
}
