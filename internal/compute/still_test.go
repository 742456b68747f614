package compute

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/sqlite"
)

// guest is the guest of a machine that has disks of a test open: it writes once
// more when it is asked to be still, and counts.
type guest struct {
	open        map[string]*layer.Disk
	fail        error
	still       bool
	held, froze int
	last        []byte
}

func (g *guest) Still(_ context.Context, vm millpond.ResourceID) (func() error, error) {
	if g.fail != nil {
		return nil, g.fail
	}
	for _, k := range g.open {
		if _, err := k.WriteAt(g.last, 0); err != nil {
			return nil, err
		}
	}
	g.still = true
	g.held++
	return func() error { g.still = false; return nil }, nil
}

func (g *guest) Freeze(_ context.Context, disk string) (layer.Point, error) {
	if !g.still && g.fail == nil {
		return layer.Point{}, errors.New("the guest still writes")
	}
	g.froze++
	at, f, err := g.open[disk].Freeze()
	if err == nil {
		err = f.Close()
	}
	return at, err
}

func (g *guest) Rebase(_ context.Context, disk string, p layer.Point, ref layer.Ref) error {
	if g.still {
		return errors.New("the guest is held while its disk is copied")
	}
	return g.open[disk].Rebase(p, ref)
}

func (g *guest) Release(context.Context, string) error {
	return millpond.Errorf(millpond.Conflict, "DiskInUse", "The machine has it open.")
}

func TestACaptureHoldsTheGuestStill(t *testing.T) {
	s, ctx := testService(t), context.Background()
	d := made(t, s, "disks", "d", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	attach(t, s, d)
	// Another process has it open.
	home, err := s.Keeper.Home("westus2")
	if err != nil {
		t.Fatal(err)
	}
	other, err := layer.OpenDisks(filepath.Join(filepath.Dir(strings.TrimPrefix(home.URL(), "file://")), "disks"), Bases(s.Keeper))
	if err != nil {
		t.Fatal(err)
	}
	k, err := other.Open(d.File)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	g := &guest{open: map[string]*layer.Disk{d.File: k}, last: []byte("flushed")}
	s.Live, s.Guests = g, g
	read := func(name string) string {
		t.Helper()
		e := made(t, s, "snapshots", name, millpond.Disk{Creation: copyOf("disks", "d")}, 0)
		b, err := s.openDisk(ctx, e, false)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		got := make([]byte, 7)
		if _, err := b.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	if got := read("one"); got != "flushed" || g.held != 1 || g.froze != 1 || g.still {
		t.Errorf("%q, %+v", got, g)
	}
	// Without an agent it is captured as it is.
	if _, err := k.WriteAt([]byte("running"), 0); err != nil {
		t.Fatal(err)
	}
	g.fail = errors.New("no agent")
	if got := read("two"); got != "running" || g.held != 1 || g.froze != 2 {
		t.Errorf("%q, %+v", got, g)
	}
}

// vmName is the machine that a test's disks are attached to.
const vmName = "/subscriptions/" + testSub + "/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm"

// attach makes a disk one of a running machine.
func attach(t *testing.T, s *Service, d *millpond.Disk) { event(t, s, d, millpond.DiskAttach) }

func event(t *testing.T, s *Service, d *millpond.Disk, e millpond.DiskEvent) {
	t.Helper()
	vm, _ := millpond.ParseResourceID(vmName)
	if err := s.DB.Update(context.Background(), func(tx *sqlite.Tx) error { return s.Event(tx, d.ID, e, vm) }); err != nil {
		t.Fatal(err)
	}
}
