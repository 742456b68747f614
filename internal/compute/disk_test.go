package compute

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
)

func refusedAs(t *testing.T, what string, err error, code, says string) {
	t.Helper()
	if e := millpond.AsError(err); err == nil || e.Code != code || !strings.Contains(e.Message, says) {
		t.Errorf("%s: %v; want %s with %q", what, err, code, says)
	}
}

// CopyStart brings an incremental snapshot to another region.
func TestCopyStart(t *testing.T) {
	s, ctx := testServiceIn(t, "westus2", "northeurope"), context.Background()
	d := made(t, s, "disks", "d", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	data := bytes.Repeat([]byte("far away "), 100<<10)
	write(t, s, d, 10<<20, data)
	one := made(t, s, "snapshots", "one", millpond.Disk{Creation: copyOf("disks", "d"), Incremental: true}, 0)
	full := made(t, s, "snapshots", "full", millpond.Disk{Creation: copyOf("disks", "d")}, 0)
	far := func(name string, option millpond.CreateOption, source string) (*millpond.Disk, error) {
		id := diskID("snapshots", name)
		_, op, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "northeurope"}, Snapshot: true, Incremental: true,
			Creation: millpond.CreationData{Option: option, SourceID: diskID("snapshots", source).String()}}})
		if err != nil {
			return nil, err
		}
		if op != nil {
			s.start(ctx, id)
			s.Wait()
		}
		return s.Disk(ctx, id)
	}
	_, err := far("no", millpond.CreateCopyStart, full.ID.Name())
	refusedAs(t, "CopyStart of a full snapshot", err, "InvalidParameter", "incremental")
	_, err = far("no", millpond.CreateCopy, "one")
	refusedAs(t, "Copy across regions", err, "InvalidParameter", "stays in its region")
	there, err := far("there", millpond.CreateCopyStart, "one")
	if err != nil || there.Base().State != millpond.StateSucceeded {
		t.Fatalf("%+v, %v", there, err)
	}
	if there.Store != "northeurope-0" || there.Content != one.Content || there.Family != one.Family || s.Completion(there) != 100 {
		t.Errorf("%+v, after %+v", there, one)
	}
	// It is whole without its source.
	for _, id := range []millpond.ResourceID{one.ID, full.ID, d.ID} {
		if _, err := s.DeleteDisk(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	b, err := s.openDisk(ctx, there, false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got := make([]byte, len(data))
	if _, err := b.ReadAt(got, 10<<20); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes: %v", err)
	}
}

// A PUT that is repeated while the disk is being created, as clients do that got no
// answer, is answered as the first one is.
func TestPutTwice(t *testing.T) {
	s, ctx := testService(t), context.Background()
	id, _ := millpond.ParseResourceID("/subscriptions/" + testSub + "/resourceGroups/rg/providers/Microsoft.Compute/disks/twice")
	for _, want := range []millpond.ProvisioningState{millpond.StateCreating, millpond.StateCreating, millpond.StateSucceeded} {
		if want == millpond.StateSucceeded {
			s.start(ctx, id)
			s.Wait()
		}
		d, _, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"}, Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, SizeGB: 1})
		if err != nil || d.Base().State != want {
			t.Fatalf("%+v, %v; not %s", d, err, want)
		}
	}
}

// An empty snapshot is one of a disk that nobody wrote to.
func TestEmptySnapshot(t *testing.T) {
	s, ctx := testService(t), context.Background()
	snap := made(t, s, "snapshots", "none", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	if snap.Content == "" || snap.SizeBytes != gib {
		t.Fatalf("%+v", snap)
	}
	of := made(t, s, "disks", "of", millpond.Disk{Creation: copyOf("snapshots", "none")}, 0)
	b, err := s.openDisk(ctx, of, false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got := make([]byte, 1<<20)
	if _, err := b.ReadAt(got, gib-int64(len(got))); err != nil || !bytes.Equal(got, make([]byte, len(got))) {
		t.Errorf("not zeros: %v", err)
	}
}

// What clients mark a disk with stays until they change it.
func TestPromises(t *testing.T) {
	s, ctx := testService(t), context.Background()
	n, yes, no := int64(500), true, false
	d := made(t, s, "disks", "d", millpond.Disk{Promise: millpond.DiskPromise{IOPS: &n, AcceleratedNetwork: &yes, Tier: "P4"}, Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	d, _, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: d.ID}, Promise: millpond.DiskPromise{AcceleratedNetwork: &no}}, Patch: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := d.Promise; p.IOPS == nil || *p.IOPS != n || p.Tier != "P4" || p.AcceleratedNetwork == nil || *p.AcceleratedNetwork {
		t.Errorf("%+v", p)
	}
}

func resizeTo(s *Service, d *millpond.Disk, gb int32) error {
	_, _, err := s.PutDisk(context.Background(), millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: d.ID}}, SizeGB: gb, Patch: true})
	return err
}

// What a disk's machine forbids, and what it does not.
func TestDisksOfMachines(t *testing.T) {
	s, ctx := testService(t), context.Background()
	d := made(t, s, "disks", "d", millpond.Disk{SKU: "Standard_LRS", Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	write(t, s, d, 0, []byte("kept"))
	attach(t, s, d)
	refusedAs(t, "resize of an attached disk", resizeTo(s, d, 2), "OperationNotAllowed", "az vm deallocate")
	_, err := s.DeleteDisk(ctx, d.ID)
	refusedAs(t, "deletion of an attached disk", err, "OperationNotAllowed", "az vm disk detach -n d")
	_, err = s.Grant(ctx, d.ID, false, time.Hour)
	refusedAs(t, "access to an attached disk", err, "OperationNotAllowed", "Attached")
	_, _, err = s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: d.ID}, SKU: "Premium_LRS"}, Patch: true})
	refusedAs(t, "another SKU of an attached disk", err, "OperationNotAllowed", "az vm deallocate")
	made(t, s, "snapshots", "of-attached", millpond.Disk{Creation: copyOf("disks", "d")}, 0)

	event(t, s, d, millpond.DiskDeallocate)
	if err := resizeTo(s, d, 2); err != nil {
		t.Errorf("resize of a reserved disk: %v", err)
	}
	refusedAs(t, "shrinking", resizeTo(s, d, 1), "OperationNotAllowed", "not shrink")
	if info, err := s.Disks.Stat(d.File); err != nil || info.Size != 2<<30 {
		t.Errorf("the file after the resize: %+v, %v", info, err)
	}
	k, err := s.Disks.Open(d.File)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := k.ReadAt(got, 0); err != nil || string(got) != "kept" {
		t.Errorf("after the resize: %q, %v", got, err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.DeleteDisk(ctx, d.ID)
	refusedAs(t, "deletion of a reserved disk", err, "OperationNotAllowed", "attached to VM")
	event(t, s, d, millpond.DiskDetach)
	if found, err := s.DeleteDisk(ctx, d.ID); !found || err != nil {
		t.Errorf("deletion of a detached disk: %v, %v", found, err)
	}
	if _, err := s.Disks.Stat(d.File); err == nil {
		t.Error("its file is there")
	}
}

// What is read from, by a copy or by a signed URL, is not deleted.
func TestDeleteConstraints(t *testing.T) {
	s, ctx := testService(t), context.Background()
	d := made(t, s, "disks", "d", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	id := diskID("snapshots", "s")
	if _, _, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"}, Snapshot: true, Creation: copyOf("disks", "d")}}); err != nil {
		t.Fatal(err)
	}
	_, err := s.DeleteDisk(ctx, d.ID)
	refusedAs(t, "deletion of what is being copied", err, "OperationNotAllowed", "being copied")
	_, err = s.DeleteDisk(ctx, id)
	refusedAs(t, "deletion of what is being created", err, "OperationNotAllowed", "being created")
	s.start(ctx, id)
	s.Wait()
	for kind, id := range map[string]millpond.ResourceID{"disk": d.ID, "snapshot": id} {
		if _, err := s.Grant(ctx, id, false, time.Hour); err != nil {
			t.Fatal(err)
		}
		_, err = s.DeleteDisk(ctx, id)
		refusedAs(t, "deletion of a "+kind+" with access", err, "OperationNotAllowed", "az "+kind+" revoke-access")
		refusedAs(t, "resize of a "+kind+" with access", resizeTo(s, &millpond.Disk{Resource: millpond.Resource{ID: id}}, 9), "OperationNotAllowed", "cannot be resized")
		if err := s.Revoke(ctx, id); err != nil {
			t.Fatal(err)
		}
		if found, err := s.DeleteDisk(ctx, id); !found || err != nil {
			t.Errorf("%s: %v, %v", kind, found, err)
		}
		if found, err := s.DeleteDisk(ctx, id); found || err != nil {
			t.Errorf("%s, again: %v, %v", kind, found, err)
		}
	}
}

// An import by URL of another format is refused by its name, with the command
// that converts it.
func TestImportNamesTheFormat(t *testing.T) {
	s, ctx := testService(t), context.Background()
	file := append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 1<<20)...)
	for _, ranges := range []bool{true, false} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !ranges {
				_, _ = w.Write(file)
				return
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		}))
		s.HTTP = srv.Client()
		_, err := s.fetch(ctx, srv.URL+"/x.vhd", "scratch", 0)
		srv.Close()
		refusedAs(t, "an import of a qcow2", err, "InvalidVhd", "qcow2")
		refusedAs(t, "an import of a qcow2", err, "InvalidVhd", "millpond image export FILE --vhd OUT")
	}
}
