package machine

import (
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
)

// Every state with every phase of a machine leads somewhere or waits for good
// reason; what is done is one of few things.
func TestDecideOverEverything(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	phases := []*launch.Status{nil, {Phase: launch.Preparing}, {Phase: launch.Running}, {Phase: launch.Stopped}, {Phase: launch.Failed}}
	name := func(m *launch.Status) string {
		if m == nil {
			return "none"
		}
		return string(m.Phase)
	}
	want := map[string]What{
		"creating none": Begin, "creating preparing": Begin, "creating running": Begin, "creating stopped": Begin, "creating failed": Begin,
		"starting none": Launch, "starting preparing": "", "starting running": Ran, "starting stopped": Down, "starting failed": Down,
		"running none": Down, "running preparing": "", "running running": "", "running stopped": Down, "running failed": Down,
		"stopping none": Down, "stopping preparing": Stop, "stopping running": Stop, "stopping stopped": Down, "stopping failed": Down,
		"stopped none": "", "stopped preparing": "", "stopped running": "", "stopped stopped": "", "stopped failed": "",
		"deallocating none": Released, "deallocating preparing": Stop, "deallocating running": Stop, "deallocating stopped": Release, "deallocating failed": Release,
		"deallocated none": "", "deallocated preparing": Release, "deallocated running": Release, "deallocated stopped": Release, "deallocated failed": Release,
		"deleting none": Remove, "deleting preparing": Release, "deleting running": Release, "deleting stopped": Release, "deleting failed": Release,
	}
	for _, s := range millpond.VMStates() {
		for _, m := range phases {
			key := string(s) + " " + name(m)
			v := &millpond.VirtualMachine{Power: s, Provisioned: true}
			w, known := want[key]
			if !known {
				t.Errorf("%s is not in the test's table", key)
			}
			if got := decide(v, facts{machine: m, disks: []millpond.ProvisioningState{millpond.StateSucceeded}, now: now, provision: time.Hour}); got != w {
				t.Errorf("%s: %q, want %q", key, got, w)
			}
		}
	}
	old := &launch.Status{Phase: launch.Stopped, Generation: 1}
	if got := decide(&millpond.VirtualMachine{Power: millpond.VMStarting, Generation: 2}, facts{machine: old}); got != Launch {
		t.Errorf("a machine of the generation before: %q", got)
	}
	for _, c := range []struct {
		disks []millpond.ProvisioningState
		want  What
	}{
		{[]millpond.ProvisioningState{"", millpond.StateSucceeded}, MakeDisks}, {[]millpond.ProvisioningState{millpond.StateCreating}, ""},
		{[]millpond.ProvisioningState{"", millpond.StateFailed}, FailDisks},
	} {
		if got := decide(&millpond.VirtualMachine{Power: millpond.VMCreating}, facts{disks: c.disks}); got != c.want {
			t.Errorf("disks %v: %q", c.disks, got)
		}
	}
	running := &launch.Status{Phase: launch.Running}
	v := &millpond.VirtualMachine{Power: millpond.VMRunning, Started: now}
	if got := decide(v, facts{machine: running, now: now.Add(time.Minute), provision: time.Hour}); got != "" {
		t.Errorf("a first boot under way: %q", got)
	}
	if got := decide(v, facts{machine: running, now: now.Add(2 * time.Hour), provision: time.Hour}); got != GiveUp {
		t.Errorf("a first boot that takes too long: %q", got)
	}
	v.Provisioned = true
	if got := decide(v, facts{machine: running, ports: []launch.Port{{Guest: 22}}, known: true}); got != Ports {
		t.Errorf("a port that is missing: %q", got)
	}
	for _, c := range []struct {
		have, row map[int]string
		want      What
	}{
		{map[int]string{}, map[int]string{0: "a"}, DataDisks}, {map[int]string{0: "a"}, map[int]string{}, DataDisks}, {map[int]string{0: "a"}, map[int]string{0: "b"}, DataDisks},
		{map[int]string{0: "a"}, map[int]string{0: "a"}, ""}, {nil, map[int]string{0: "a"}, ""}, {map[int]string{0: "a"}, nil, ""},
	} {
		if got := decide(v, facts{machine: &launch.Status{Phase: launch.Running, Managed: c.have}, luns: c.row}); got != c.want {
			t.Errorf("the machine has %v and shall have %v: %q", c.have, c.row, got)
		}
	}
}

func TestProfiles(t *testing.T) {
	key := millpond.VMKey{Path: "/home/azureuser/.ssh/authorized_keys", Data: "ssh-ed25519 AAAA me@here"}
	good := millpond.VMProfile{ComputerName: "vm", Admin: "azureuser", Keys: []millpond.VMKey{key}}
	dotted := good
	dotted.ComputerName = "batch.auto.1795758152.7"
	for _, p := range []millpond.VMProfile{good, dotted} {
		if err := CheckProfile(&p, ""); err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]struct {
		edit     func(p *millpond.VMProfile)
		password string
		says     string
	}{
		"no name":       {func(p *millpond.VMProfile) { p.ComputerName = "-x" }, "", "computer name"},
		"no user":       {func(p *millpond.VMProfile) { p.Admin = "" }, "", "adminUsername"},
		"root":          {func(p *millpond.VMProfile) { p.Admin = "root" }, "", "not allowed"},
		"odd user":      {func(p *millpond.VMProfile) { p.Admin = "a b" }, "", "not valid"},
		"no way in":     {func(p *millpond.VMProfile) { p.Keys = nil }, "", "--ssh-key-values"},
		"weak password": {func(p *millpond.VMProfile) {}, "secret", "complexity"},
		"other's key": {func(p *millpond.VMProfile) {
			p.Keys = []millpond.VMKey{{Path: "/home/x/.ssh/authorized_keys", Data: key.Data}}
		}, "", "/home/azureuser/"},
		"no key": {func(p *millpond.VMProfile) { p.Keys = []millpond.VMKey{{Path: key.Path, Data: "AAAA"}} }, "", "public key"},
		"two lines": {func(p *millpond.VMProfile) {
			p.Keys = []millpond.VMKey{{Path: key.Path, Data: key.Data + "\nssh-rsa B"}}
		}, "", "public key"},
		"long data": {func(p *millpond.VMProfile) { p.CustomData = make([]byte, 65<<10) }, "", "65536"},
	} {
		p := good
		c.edit(&p)
		if err := CheckProfile(&p, c.password); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzQuoteIsOneWord(f *testing.F) {
	f.Add("it's \"quoted\" $HOME\n#x")
	f.Fuzz(func(t *testing.T, s string) {
		if q := quote(s); !strings.HasPrefix(q, "'") || !strings.HasSuffix(q, "'") || strings.ReplaceAll(strings.ReplaceAll(q, `'\''`, ""), "'", "") != strings.ReplaceAll(s, "'", "") {
			t.Errorf("%q becomes %q", s, q)
		}
	})
}
