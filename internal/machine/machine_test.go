package machine_test

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/launch/fake"
	"millpond.dev/millpond/internal/machine"
	"millpond.dev/millpond/internal/nodeapi"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

const (
	sub   = "22222222-2222-2222-2222-222222222222"
	group = "/subscriptions/" + sub + "/resourceGroups/rg"
	mc    = group + "/providers/Microsoft.Compute"
)

// bench is the verbs of machines over a real database, the fake launcher and the
// real channel; disks are rows without bytes.
type bench struct {
	*testing.T
	ctx      context.Context
	db       *sqlite.DB
	launcher *fake.Launcher
	svc      *machine.Service
	sessions *nodeapi.Handler
}

type rows struct{ db *sqlite.DB }

func (r rows) Make(ctx context.Context, d millpond.Disk, sizeGB int32) (*millpond.Disk, error) {
	d.SizeBytes, d.State, d.File = int64(max(sizeGB, 1))<<30, millpond.DiskUnattached, d.ID.Name()
	d.Base().State = millpond.StateSucceeded
	return &d, r.db.Update(ctx, func(tx *sqlite.Tx) error { return tx.Put(&d) })
}

func (r rows) Delete(ctx context.Context, id millpond.ResourceID) (bool, error) {
	return true, r.db.Update(ctx, func(tx *sqlite.Tx) error { return tx.DeleteResource(id.Key()) })
}

func (r rows) Event(tx *sqlite.Tx, id millpond.ResourceID, e millpond.DiskEvent, vm millpond.ResourceID) error {
	d, err := sqlite.Load[millpond.Disk](tx, id.Key())
	if err != nil {
		return err
	}
	if mine := d.ManagedBy != ""; mine == (e == millpond.DiskAttach) {
		return nil
	}
	next, ok := d.State.Next(e)
	if !ok {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "cannot %s a disk that is %s", e, d.State)
	}
	d.State, d.ManagedBy = next, vm.String()
	if e == millpond.DiskDetach {
		d.ManagedBy = ""
	}
	return tx.Put(d)
}

type images struct{}

func (images) Latest(context.Context, millpond.ResourceID, string) (millpond.ResourceID, error) {
	return millpond.ResourceID{}, nil
}

func (images) Usable(_ context.Context, id millpond.ResourceID, skus []string) ([]millpond.Finding, error) {
	if id.Is(millpond.TypeImage) {
		return []millpond.Finding{{Code: "MachineIDKept", Severity: millpond.SeverityWarning}}, nil
	}
	return nil, nil
}

func (images) Bases(context.Context) ([]machine.BaseImage, error) {
	return []machine.BaseImage{{Name: "debian-12", Size: 1 << 30, Release: millpond.OSRelease{OSType: "Linux", ID: "debian", Version: "12"}}}, nil
}

func newBench(t *testing.T, wrap ...func(*fake.Launcher) launch.Launcher) *bench {
	t.Helper()
	b := &bench{T: t, ctx: t.Context()}
	var err error
	if b.db, err = sqlite.Open(b.ctx, filepath.Join(t.TempDir(), "db"), clock.System{}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	b.launcher = fake.New(fake.Config{Clock: clock.System{}, Heartbeat: 50 * time.Millisecond, Speed: 20,
		Dial: func(ctx context.Context, node millpond.NodeID, generation int, token string) (net.Conn, error) {
			return b.sessions.Dial(ctx, node, generation, token)
		}})
	res := resource.New(resource.Options{DB: b.db, Clock: clock.System{}, Regions: []millpond.Region{{Name: "westus2", DisplayName: "West US 2"}}})
	if err := res.EnsureSubscription(b.ctx, millpond.Subscription{ID: sub, Tenant: "t"}, true); err != nil {
		t.Fatal(err)
	}
	if _, _, err := res.PutGroup(b.ctx, millpond.Group{Subscription: sub, Name: "rg", Location: "westus2"}); err != nil {
		t.Fatal(err)
	}
	var launcher launch.Launcher = b.launcher
	for _, w := range wrap {
		launcher = w(b.launcher)
	}
	b.svc = machine.New(machine.Deps{DB: b.db, Clock: clock.System{}, Log: log, Launcher: launcher, Changed: b.launcher.Changed(), Resources: res, Disks: rows{b.db}, Images: images{},
		Sizes: millpond.FindVMSize, Random: rand.Read, Config: machine.Config{Grace: time.Second, AgentWait: time.Minute}})
	b.sessions = nodeapi.New(b.svc, b.svc, log)
	ctx, cancel := context.WithCancel(b.ctx)
	driver := reconcile.NewDriver(clock.System{}, log)
	driver.Start(ctx, b.svc.Loop())
	forward := make(chan struct{})
	go func() { b.svc.Forward(ctx); close(forward) }()
	t.Cleanup(func() {
		cancel()
		driver.Wait()
		b.svc.Wait()
		<-forward
		b.launcher.Close()
		b.sessions.Close()
		b.db.Close()
	})
	return b
}

func vmID(name string) millpond.ResourceID {
	id, _ := millpond.ParseResourceID(mc + "/virtualMachines/" + name)
	return id
}

func (b *bench) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) refused(what string, err error, code, says string) {
	b.Helper()
	if e := millpond.AsError(err); err == nil || e.Code != code || !strings.Contains(e.Message, says) {
		b.Errorf("%s: %v; want %s … %s", what, err, code, says)
	}
}

func (b *bench) until(what string, cond func() bool) {
	b.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			b.Fatalf("not in time: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (b *bench) ended(op *millpond.Operation) millpond.Operation {
	b.Helper()
	if op == nil {
		return millpond.Operation{Status: millpond.OperationSucceeded}
	}
	var o millpond.Operation
	b.until("the end of "+op.Verb, func() bool {
		b.ok(b.db.View(b.ctx, func(tx *sqlite.Tx) (err error) { o, err = tx.Operation(op.ID); return err }))
		return o.Done()
	})
	return o
}

func want(name string) machine.Change {
	c := machine.Change{HasDisks: true}
	v := &c.VM
	v.ID, v.Location, v.Size = vmID(name), "westus2", "Standard_DS1_v2"
	v.Image = millpond.ImageReference{Publisher: "Debian", Offer: "debian-12", SKU: "12", Version: "latest"}
	v.Profile = &millpond.VMProfile{ComputerName: name, Admin: "azureuser", Keys: []millpond.VMKey{{Path: "/home/azureuser/.ssh/authorized_keys", Data: "ssh-ed25519 AAAA me"}}}
	return c
}

func (b *bench) create(c machine.Change) *millpond.VirtualMachine {
	b.Helper()
	v, created, op, err := b.svc.Put(b.ctx, millpond.Caller{}, c)
	b.ok(err)
	if !created || v.Power != millpond.VMCreating {
		b.Fatalf("created %v, %s", created, v.Power)
	}
	if o := b.ended(op); o.Status != millpond.OperationSucceeded {
		b.Fatalf("create: %+v", o)
	}
	return b.get(c.VM.ID.Name())
}

func (b *bench) get(name string) *millpond.VirtualMachine {
	b.Helper()
	v, err := b.svc.Get(b.ctx, vmID(name))
	b.ok(err)
	return v
}

func (b *bench) power(name string, e millpond.VMEvent, want millpond.VMState) {
	b.Helper()
	_, op, err := b.svc.Power(b.ctx, vmID(name), e)
	b.ok(err)
	if o := b.ended(op); o.Status != millpond.OperationSucceeded {
		b.Fatalf("%s: %+v", e, o)
	}
	if v := b.get(name); v.Power != want || v.Base().State != millpond.StateSucceeded {
		b.Fatalf("after %s: %s, %s", e, v.Power, v.Base().State)
	}
}

func (b *bench) diskState(id string) millpond.DiskState {
	p, _ := millpond.ParseResourceID(id)
	var d *millpond.Disk
	b.ok(b.db.View(b.ctx, func(tx *sqlite.Tx) (err error) { d, err = sqlite.Load[millpond.Disk](tx, p.Key()); return err }))
	return d.State
}

func TestALifeOfAMachine(t *testing.T) {
	b := newBench(t)
	c := want("vm1")
	c.VM.OSDisk.Delete = true
	c.VM.DataDisks = []millpond.VMDisk{{LUN: 3, Option: millpond.CreateEmpty, SizeGB: 4}}
	v := b.create(c)
	if v.Power != millpond.VMRunning || !v.Provisioned || v.Base().State != millpond.StateSucceeded || len(v.DataDisks) != 1 {
		t.Fatalf("after create: %+v", v)
	}
	if s := b.diskState(v.OSDisk.ID); s != millpond.DiskAttached {
		t.Errorf("the OS disk is %s", s)
	}
	// What is only shown is kept, and stays when a request leaves it out.
	for _, d := range []*millpond.BootDiagnostics{{Enabled: true, StorageURI: "https://s"}, nil} {
		shown := machine.Change{Patch: true}
		shown.VM.ID, shown.VM.Diagnostics = vmID("vm1"), d
		if d != nil {
			shown.VM.Profile = &millpond.VMProfile{PatchMode: "AutomaticByPlatform"}
		}
		_, _, _, err := b.svc.Put(b.ctx, millpond.Caller{}, shown)
		b.ok(err)
	}
	if v := b.get("vm1"); v.Diagnostics == nil || !v.Diagnostics.Enabled || v.Profile.PatchMode != "AutomaticByPlatform" || len(v.Profile.Keys) != 1 {
		t.Errorf("%+v, %+v", v.Diagnostics, v.Profile)
	}
	b.power("vm1", millpond.VMRestart, millpond.VMRunning)
	for range 3 {
		_, _, err := b.svc.Power(b.ctx, vmID("vm1"), millpond.VMRestart)
		b.ok(err)
		// Switched off while it is on its way to be started again, it stays off.
		b.power("vm1", millpond.VMPowerOff, millpond.VMStopped)
		b.power("vm1", millpond.VMStart, millpond.VMRunning)
	}
	b.power("vm1", millpond.VMPowerOff, millpond.VMStopped)
	b.power("vm1", millpond.VMStart, millpond.VMRunning)
	b.power("vm1", millpond.VMDeallocate, millpond.VMDeallocated)
	if s := b.diskState(v.OSDisk.ID); s != millpond.DiskReserved {
		t.Errorf("the OS disk of a deallocated machine is %s", s)
	}
	list, err := b.launcher.List(b.ctx)
	b.ok(err)
	if len(list) != 0 {
		t.Errorf("the launcher still has %v", list)
	}
	// Disks come and go while it is deallocated, and while it runs.
	for _, e := range []millpond.VMEvent{"", millpond.VMStart} {
		if e != "" {
			b.power("vm1", e, millpond.VMRunning)
		}
		more := machine.Change{Patch: true, HasDisks: true}
		more.VM.ID = vmID("vm1")
		more.VM.DataDisks = append(b.get("vm1").DataDisks, millpond.VMDisk{LUN: 1, Option: millpond.CreateEmpty, SizeGB: 2})
		after, _, _, err := b.svc.Put(b.ctx, millpond.Caller{}, more)
		b.ok(err)
		if len(after.DataDisks) != 2 {
			t.Fatalf("after attach: %+v", after.DataDisks)
		}
		extra := after.DataDisks[1].ID
		if s := b.diskState(extra); s != millpond.DiskAttached && s != millpond.DiskReserved {
			t.Errorf("the new disk is %s", s)
		}
		// A new disk may have a name; the same change again makes no other.
		named := mc + "/disks/named" + strings.ToLower(string(e))
		for range 2 {
			more.VM.DataDisks = append(after.DataDisks[:2:2], millpond.VMDisk{LUN: 2, ID: named, Option: millpond.CreateEmpty, SizeGB: 1})
			with, _, _, err := b.svc.Put(b.ctx, millpond.Caller{}, more)
			b.ok(err)
			if s := b.diskState(named); len(with.DataDisks) != 3 || s != millpond.DiskAttached && s != millpond.DiskReserved {
				t.Fatalf("with a named disk: %+v, %s", with.DataDisks, s)
			}
		}
		more.VM.DataDisks[2].ID = strings.Replace(named, "/resourceGroups/rg/", "/resourceGroups/elsewhere/", 1)
		_, _, _, err = b.svc.Put(b.ctx, millpond.Caller{}, more)
		b.refused("a new disk in another group", err, "ResourceGroupNotFound", "")
		// One that was there is shown as what it is.
		slow := millpond.Disk{SKU: "StandardSSD_LRS"}
		slow.ID, _ = millpond.ParseResourceID(mc + "/disks/slow" + strings.ToLower(string(e)))
		slow.Location = "westus2"
		_, err = (rows{b.db}).Make(b.ctx, slow, 1)
		b.ok(err)
		more.VM.DataDisks = append(after.DataDisks[:2:2], millpond.VMDisk{LUN: 4, ID: slow.ID.String(), Option: millpond.CreateAttach})
		with, _, _, err := b.svc.Put(b.ctx, millpond.Caller{}, more)
		b.ok(err)
		if len(with.DataDisks) != 3 || with.DataDisks[2].SKU != slow.SKU {
			t.Errorf("with a disk that was there: %+v", with.DataDisks)
		}
		more.VM.DataDisks = after.DataDisks[:1]
		after, _, _, err = b.svc.Put(b.ctx, millpond.Caller{}, more)
		b.ok(err)
		if s := b.diskState(extra); len(after.DataDisks) != 1 || s != millpond.DiskUnattached {
			t.Errorf("after detach: %+v, %s", after.DataDisks, s)
		}
	}
	// A change that is refused takes nothing from the guest.
	file := func() map[int]string {
		list, err := b.launcher.List(b.ctx)
		b.ok(err)
		return list[0].Managed
	}
	had := file()
	if len(had) != 1 {
		t.Fatalf("the machine has %v", had)
	}
	bad := machine.Change{Patch: true, HasDisks: true}
	bad.VM.ID, bad.VM.Size = vmID("vm1"), "Standard_Nope"
	_, _, _, err = b.svc.Put(b.ctx, millpond.Caller{}, bad)
	b.refused("a detach with a wrong size", err, "InvalidParameter", "vm-resize-options")
	if got := file(); !maps.Equal(got, had) || len(b.get("vm1").DataDisks) != 1 {
		t.Errorf("after a refused change the machine has %v", got)
	}
	// What the launcher lost, or has left over, is put right while it runs.
	b.ok(b.launcher.DetachDisk(b.ctx, b.get("vm1").Node(), 3))
	b.ok(b.launcher.AttachDisk(b.ctx, b.get("vm1").Node(), launch.Disk{LUN: 5, Managed: "stray"}))
	b.svc.Wake().Wake()
	b.until("the disks are those of the row", func() bool { return maps.Equal(file(), had) })
	b.power("vm1", millpond.VMDeallocate, millpond.VMDeallocated)
	size := machine.Change{Patch: true}
	size.VM.ID, size.VM.Size = vmID("vm1"), "standard_ds2_v2"
	_, _, _, err = b.svc.Put(b.ctx, millpond.Caller{}, size)
	b.ok(err)
	b.power("vm1", millpond.VMStart, millpond.VMRunning)
	if v := b.get("vm1"); v.Size != "Standard_DS2_v2" || b.diskState(v.OSDisk.ID) != millpond.DiskAttached {
		t.Errorf("resized: %+v", v)
	}
	b.refused("generalize while it runs", b.svc.Generalize(b.ctx, vmID("vm1")), "OperationNotAllowed", "stop or deallocate")
	b.power("vm1", millpond.VMDeallocate, millpond.VMDeallocated)
	_, err = b.svc.ImageSource(b.ctx, millpond.Caller{}, vmID("vm1"))
	b.refused("image of a machine that is not generalized", err, "OperationNotAllowed", "waagent -deprovision")
	b.ok(b.svc.Generalize(b.ctx, vmID("vm1")))
	_, _, err = b.svc.Power(b.ctx, vmID("vm1"), millpond.VMStart)
	b.refused("start of a generalized machine", err, "OperationNotAllowed", "is generalized")
	if src, err := b.svc.ImageSource(b.ctx, millpond.Caller{}, vmID("vm1")); err != nil || src.OSDisk.ID != v.OSDisk.ID {
		t.Errorf("image source: %v %v", src, err)
	}
	op, err := b.svc.Delete(b.ctx, vmID("vm1"))
	b.ok(err)
	b.ended(op)
	_, err = b.svc.Get(b.ctx, vmID("vm1"))
	b.refused("after its deletion", err, "ResourceNotFound", "vm1")
	if s := b.diskState(v.DataDisks[0].ID); s != millpond.DiskUnattached {
		t.Errorf("the data disk is %s", s)
	}
	p, _ := millpond.ParseResourceID(v.OSDisk.ID)
	err = b.db.View(b.ctx, func(tx *sqlite.Tx) error { _, err := tx.Resource(p.Key()); return err })
	if err != sqlite.ErrNoRow {
		t.Errorf("the OS disk was to go: %v", err)
	}
}

func TestScriptsAndExtensions(t *testing.T) {
	b := newBench(t)
	b.create(want("vm1"))
	run := func(c millpond.GuestCommand) millpond.GuestCommand {
		op, err := b.svc.Invoke(b.ctx, vmID("vm1"), c)
		b.ok(err)
		o := b.ended(&op)
		if o.Status != millpond.OperationSucceeded {
			t.Fatalf("run command: %+v", o)
		}
		id, _ := millpond.ParseResourceID(o.Target)
		out, err := b.svc.Invocation(b.ctx, vmID("vm1"), id.Name())
		b.ok(err)
		return out
	}
	c := run(millpond.GuestCommand{Script: "echo hello $who\necho oh >&2", Env: []millpond.NameValue{{Name: "who", Value: "it's me"}}})
	if c.State != millpond.CommandSucceeded || c.Stdout != "hello it's me\n" || c.Stderr != "oh\n" {
		t.Errorf("script: %+v", c)
	}
	if c = run(millpond.GuestCommand{Script: "exit 3"}); c.State != millpond.CommandFailed || c.Exit != 3 {
		t.Errorf("a script that fails: %+v", c)
	}
	_, err := b.svc.Invoke(b.ctx, vmID("vm1"), millpond.GuestCommand{Script: "sleep 60"})
	b.ok(err)
	_, err = b.svc.Invoke(b.ctx, vmID("vm1"), millpond.GuestCommand{Script: "true"})
	b.refused("two at a time", err, "Conflict", "in progress")

	x := &millpond.VMExtension{Publisher: "Microsoft.Azure.Extensions", Type: "CustomScript", Version: "2.1", Settings: []byte(`{"commandToExecute":"echo installed"}`)}
	x.ID = vmID("vm1").Child("extensions", "setup")
	_, created, op, err := b.svc.PutExtension(b.ctx, x, nil)
	b.ok(err)
	if o := b.ended(op); !created || o.Status != millpond.OperationSucceeded {
		t.Errorf("extension: %v %+v", created, o)
	}
	again := *x
	if _, created, op, err = b.svc.PutExtension(b.ctx, &again, nil); err != nil || created || op != nil {
		t.Errorf("the same extension again: %v %v %v", created, op, err)
	}
	other := &millpond.VMExtension{Publisher: "Contoso", Type: "Antivirus", Version: "1.0"}
	other.ID = vmID("vm1").Child("extensions", "av")
	_, _, _, err = b.svc.PutExtension(b.ctx, other, nil)
	b.refused("another extension", err, "NotSupported", "CustomScript")
	found, op, err := b.svc.DeleteExtension(b.ctx, x.ID)
	b.ok(err)
	if o := b.ended(op); !found || o.Status != millpond.OperationSucceeded {
		t.Errorf("delete: %+v", o)
	}
	if list, err := b.svc.ListExtensions(b.ctx, vmID("vm1")); err != nil || len(list) != 0 {
		t.Errorf("left: %v %v", list, err)
	}
	b.power("vm1", millpond.VMDeallocate, millpond.VMDeallocated)
	_, err = b.svc.Invoke(b.ctx, vmID("vm1"), millpond.GuestCommand{Script: "true"})
	b.refused("a script on a machine that is off", err, "OperationNotAllowed", "must be running")
	_, _, _, err = b.svc.PutExtension(b.ctx, x, nil)
	b.refused("an extension on a machine that is off", err, "OperationNotAllowed", "Cannot modify extensions in the VM when the VM is not running: VM 'vm1' is deallocated. Start it first")
}

func TestRefusalsOfNewMachines(t *testing.T) {
	b := newBench(t)
	for what, c := range map[string]struct {
		edit       func(c *machine.Change)
		code, says string
	}{
		"no size":       {func(c *machine.Change) { c.VM.Size = "Standard_X" }, "InvalidParameter", "az vm list-sizes"},
		"bad name":      {func(c *machine.Change) { c.VM.ID = vmID("-x") }, "InvalidParameter", "VM name"},
		"no image":      {func(c *machine.Change) { c.VM.Image = millpond.ImageReference{} }, "InvalidParameter", "--image"},
		"unknown image": {func(c *machine.Change) { c.VM.Image.SKU = "99" }, "PlatformImageNotFound", "az vm image list"},
		"not built": {func(c *machine.Change) {
			c.VM.Image = millpond.ImageReference{Publisher: "canonical", Offer: "0001-com-ubuntu-server-jammy", SKU: "22_04-lts"}
		}, "PlatformImageNotFound", "millpond image build tiny --os-release ubuntu-22.04"},
		"purchase plan": {func(c *machine.Change) {
			c.VM.Image = millpond.ImageReference{Publisher: "contoso-software", Offer: "licensed-linux", SKU: "standard"}
		}, "VMMarketplaceInvalidInput", "'standard'"},
		"no user": {func(c *machine.Change) { c.VM.Profile = nil }, "InvalidParameter", "osProfile"},
		"too many disks": {func(c *machine.Change) {
			for i := range int32(5) {
				c.VM.DataDisks = append(c.VM.DataDisks, millpond.VMDisk{LUN: i, Option: millpond.CreateEmpty, SizeGB: 1})
			}
		}, "OperationNotAllowed", "maximum number of data disks"},
		"LUN twice": {func(c *machine.Change) {
			d := millpond.VMDisk{LUN: 1, Option: millpond.CreateEmpty, SizeGB: 1}
			c.VM.DataDisks = []millpond.VMDisk{d, d}
		}, "InvalidParameter", "LUN 1"},
		"no size of disk": {func(c *machine.Change) { c.VM.DataDisks = []millpond.VMDisk{{LUN: 0, Option: millpond.CreateEmpty}} }, "InvalidParameter", "diskSizeGB"},
		"user on attached": {func(c *machine.Change) {
			c.VM.OSDisk = millpond.VMDisk{ID: mc + "/disks/os", Option: millpond.CreateAttach}
			c.VM.OSType = "Linux"
		}, "InvalidParameter", "--specialized"},
	} {
		ch := want("vm1")
		d := millpond.Disk{OSType: "Linux", HyperV: "V1"}
		d.ID, _ = millpond.ParseResourceID(mc + "/disks/os")
		d.Location = "westus2"
		_, err := (rows{b.db}).Make(b.ctx, d, 1)
		b.ok(err)
		c.edit(&ch)
		_, _, _, err = b.svc.Put(b.ctx, millpond.Caller{}, ch)
		b.refused(what, err, c.code, c.says)
	}
	if all, err := b.svc.List(b.ctx, sqlite.Query{}); err != nil || len(all) != 0 {
		t.Errorf("refused machines were made: %v %v", all, err)
	}
}

func TestAMachineThatDiesAndComesBack(t *testing.T) {
	b := newBench(t)
	v := b.create(want("vm1"))
	// A guest that powers itself off leaves a stopped machine, as in Azure.
	b.ok(b.launcher.Stop(b.ctx, v.Node(), 0))
	b.until("the end to be seen", func() bool { return b.get("vm1").Power == millpond.VMStopped })
	b.power("vm1", millpond.VMStart, millpond.VMRunning)
	// A machine that nobody knows is destroyed.
	b.ok(b.launcher.Launch(b.ctx, launch.Spec{Node: "vm-orphan", Generation: 1}))
	b.svc.Wake().Wake()
	b.until("the orphan's end", func() bool {
		list, err := b.launcher.List(b.ctx)
		b.ok(err)
		return len(list) == 1
	})
	if p := b.get("vm1"); p.Power != millpond.VMRunning {
		t.Errorf("%s", p.Power)
	}
}

// A script that is a resource keeps what it was given, and a change of a part of
// it runs the whole again.
func TestChangedScripts(t *testing.T) {
	b := newBench(t)
	b.create(want("vm1"))
	c := &millpond.VMRunCommand{Parameters: []millpond.NameValue{{Name: "who", Value: "me"}}, Protected: []millpond.NameValue{{Name: "word", Value: "secret"}}}
	c.ID = vmID("vm1").Child("runCommands", "greet")
	c.Command.Script = `echo "$who $word"`
	result := func(op *millpond.Operation) *millpond.VMRunCommand {
		t.Helper()
		if o := b.ended(op); o.Status != millpond.OperationSucceeded {
			t.Fatalf("run command: %+v", o)
		}
		got, err := b.svc.GetRunCommand(b.ctx, c.ID)
		b.ok(err)
		return got
	}
	_, _, err := b.svc.PatchRunCommand(b.ctx, c.ID, millpond.VMRunCommandPatch{})
	b.refused("a change of what is not there", err, "ResourceNotFound", "az vm run-command create")
	_, created, op, err := b.svc.PutRunCommand(b.ctx, c)
	b.ok(err)
	got := result(op)
	if !created || got.Command.Stdout != "me secret\n" || got.Timeout != 0 {
		t.Errorf("created: %v %+v", created, got)
	}
	limit := time.Minute
	_, op, err = b.svc.PatchRunCommand(b.ctx, c.ID, millpond.VMRunCommandPatch{Parameters: []millpond.NameValue{{Name: "who", Value: "you"}}, Timeout: &limit})
	b.ok(err)
	if got = result(op); got.Command.Stdout != "you secret\n" || got.Timeout != limit || got.Command.Limit != limit || !slices.Equal(got.Command.Args, []string{"you", "secret"}) {
		t.Errorf("with other parameters: %+v", got)
	}
	script := "echo $who"
	_, op, err = b.svc.PatchRunCommand(b.ctx, c.ID, millpond.VMRunCommandPatch{Script: &script})
	b.ok(err)
	if got = result(op); got.Command.Stdout != "you\n" || got.Command.Limit != limit {
		t.Errorf("with another script: %+v", got)
	}
	empty := " "
	_, _, err = b.svc.PatchRunCommand(b.ctx, c.ID, millpond.VMRunCommandPatch{Script: &empty})
	b.refused("no script", err, "InvalidParameter", "--scripts")
	if now, err := b.svc.GetRunCommand(b.ctx, c.ID); err != nil || now.Command.Script != script || now.Command.ID != got.Command.ID {
		t.Errorf("a refused change changed it: %v %+v", err, now)
	}
	// Rows of earlier releases have only the command.
	err = b.svc.DB.Update(b.ctx, func(tx *sqlite.Tx) error {
		got.Parameters, got.Protected, got.Command.Env = nil, nil, []millpond.NameValue{{Name: "who", Value: "kept"}}
		return tx.Put(got)
	})
	b.ok(err)
	_, op, err = b.svc.PatchRunCommand(b.ctx, c.ID, millpond.VMRunCommandPatch{Tags: map[string]string{"a": "b"}})
	b.ok(err)
	if got = result(op); got.Command.Stdout != "kept\n" || got.Tags["a"] != "b" {
		t.Errorf("of an earlier release: %+v", got)
	}
}
