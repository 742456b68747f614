package blobapi_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/blobapi"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/vhd"
)

const (
	sub  = "22222222-2222-2222-2222-222222222222"
	path = "/subscriptions/" + sub + "/resourceGroups/rg/providers/Microsoft.Compute/disks/d"
	size = 20 << 20
)

// serve runs the edge over real disks.
func serve(t testing.TB) (*compute.Service, *httptest.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, log := t.TempDir(), slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := sqlite.Open(ctx, filepath.Join(dir, "db"), clock.System{})
	ok(err)
	store, err := chunkstore.Open(context.Background(), "westus2-0", filepath.Join(dir, "store"))
	ok(err)
	keeper, err := custody.New(db, []custody.Region{{Name: "westus2", Stores: []image.Store{store}}}, nil)
	ok(err)
	disks, err := layer.OpenDisks(filepath.Join(dir, "disks"), compute.Bases(keeper))
	ok(err)
	res := resource.New(resource.Options{DB: db, Clock: clock.System{}, Regions: []millpond.Region{{Name: "westus2"}}})
	ok(res.EnsureSubscription(ctx, millpond.Subscription{ID: sub, Tenant: "t", Name: "s"}, true))
	_, _, err = res.PutGroup(ctx, millpond.Group{Subscription: sub, Name: "rg", Location: "westus2"})
	ok(err)
	comp, err := compute.New(ctx, compute.Options{DB: db, Clock: clock.System{}, Log: log, Keeper: keeper, Disks: disks, Resources: res})
	ok(err)
	driver := reconcile.NewDriver(clock.System{}, log)
	driver.Start(ctx, comp.Loop())
	srv := httptest.NewTLSServer(blobapi.New(comp, log))
	t.Cleanup(func() {
		srv.Close()
		cancel()
		driver.Wait()
		comp.Wait()
		ok(db.Close())
	})
	return comp, srv
}

// A disk of a snapshot holds nothing of its own and is downloaded all the same,
// with the ranges of what it lies on and what was written to it since.
func TestDownloadOfALayeredDisk(t *testing.T) {
	ctx := context.Background()
	comp, srv := serve(t)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	page := bytes.Repeat([]byte("pond"), 16<<10)
	put := func(kind, name string, sizeGB int32, c millpond.CreationData) *millpond.Disk {
		t.Helper()
		id, _ := millpond.ParseResourceID(strings.Replace(path, "disks/d", kind+"/"+name, 1))
		_, _, err := comp.PutDisk(ctx, millpond.Caller{}, compute.Change{SizeGB: sizeGB, Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"}, Snapshot: kind == "snapshots", Creation: c}})
		ok(err)
		var d *millpond.Disk
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			d, err = comp.Disk(ctx, id)
			ok(err)
			if d.Base().State == millpond.StateSucceeded {
				return d
			}
			if time.Now().After(end) || d.Base().State == millpond.StateFailed {
				t.Fatalf("%s is %s: %s", name, d.Base().State, d.Failure)
			}
		}
	}
	write := func(d *millpond.Disk, off int64) {
		t.Helper()
		k, err := comp.Disks.Open(d.File)
		ok(err)
		_, err = k.WriteAt(page, off)
		ok(err)
		ok(k.Close())
	}
	d := put("disks", "d", 1, millpond.CreationData{Option: millpond.CreateEmpty})
	write(d, 4<<20)
	s := put("snapshots", "s", 0, millpond.CreationData{Option: millpond.CreateCopy, SourceID: d.ID.String()})
	e := put("disks", "e", 2, millpond.CreationData{Option: millpond.CreateCopy, SourceID: s.ID.String()})
	write(e, 1<<30+8<<20)
	a, err := comp.Grant(ctx, e.ID, false, time.Hour)
	ok(err)
	c, err := pageblob.NewClientWithNoCredential(srv.URL+"/blob"+a.Path(), &pageblob.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: srv.Client(), Retry: policy.RetryOptions{MaxRetries: -1}}})
	ok(err)
	sum := int64(0)
	seen := map[int64]bool{4 << 20: false, 1<<30 + 8<<20: false, 2 << 30: false}
	for pager := c.NewGetPageRangesPager(nil); pager.More(); {
		p, err := pager.NextPage(ctx)
		ok(err)
		for _, r := range p.PageRange {
			n := *r.End - *r.Start + 1
			sum += n
			for off := range seen {
				seen[off] = seen[off] || off >= *r.Start && off <= *r.End
			}
			b := make([]byte, n)
			_, err := c.DownloadBuffer(ctx, b, &blob.DownloadBufferOptions{Range: blob.HTTPRange{Offset: *r.Start, Count: n}})
			ok(err)
			for off := range seen {
				if at := off - *r.Start; off < 2<<30 && at >= 0 && at+int64(len(page)) <= n && !bytes.Equal(b[at:at+int64(len(page))], page) {
					t.Errorf("other bytes at %d", off)
				}
			}
		}
	}
	if sum > 2<<20 {
		t.Errorf("the ranges have %d bytes, for 128 KiB of data", sum)
	}
	for off, there := range seen {
		if !there {
			t.Errorf("no range has byte %d", off)
		}
	}
}

// The Go SDK's page blob client uploads a disk and reads it back.
func TestPageBlobClient(t *testing.T) {
	ctx := context.Background()
	comp, srv := serve(t)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	id, _ := millpond.ParseResourceID(path)
	_, _, err := comp.PutDisk(ctx, millpond.Caller{}, compute.Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"},
		Creation: millpond.CreationData{Option: millpond.CreateUpload, UploadBytes: size + 512}}})
	ok(err)
	client := func(write bool) *pageblob.Client {
		t.Helper()
		a, err := comp.Grant(ctx, id, write, time.Hour)
		ok(err)
		c, err := pageblob.NewClientWithNoCredential(srv.URL+"/blob"+a.Path(), &pageblob.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: srv.Client(), Retry: policy.RetryOptions{MaxRetries: -1}}})
		ok(err)
		return c
	}
	up := client(true)
	put := func(off int64, b []byte) {
		t.Helper()
		_, err := up.UploadPages(ctx, streaming.NopCloser(bytes.NewReader(b)), blob.HTTPRange{Offset: off, Count: int64(len(b))},
			&pageblob.UploadPagesOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()})
		ok(err)
	}
	page := bytes.Repeat([]byte("pond"), 1024)
	put(0, page)
	put(8<<20, page)
	props, err := up.GetProperties(ctx, nil)
	ok(err)
	if *props.ContentLength != size+512 || *props.BlobType != blob.BlobTypePageBlob {
		t.Errorf("properties: %d bytes, %s", *props.ContentLength, *props.BlobType)
	}
	// Put Blob with a condition tells a resuming client that the blob is there.
	_, err = up.Create(ctx, size+512, &pageblob.CreateOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}}})
	if !bloberror.HasCode(err, bloberror.BlobAlreadyExists) {
		t.Errorf("conditional create: %v", err)
	}
	ranges := func(c *pageblob.Client) (out []blob.HTTPRange) {
		t.Helper()
		for pager := c.NewGetPageRangesPager(nil); pager.More(); {
			p, err := pager.NextPage(ctx)
			ok(err)
			for _, r := range p.PageRange {
				out = append(out, blob.HTTPRange{Offset: *r.Start, Count: *r.End - *r.Start + 1})
			}
		}
		return out
	}
	if r := ranges(up); len(r) != 2 || r[0] != (blob.HTTPRange{Offset: 0, Count: 4096}) || r[1].Offset != 8<<20 {
		t.Errorf("ranges %v", r)
	}
	_, err = up.ClearPages(ctx, blob.HTTPRange{Offset: 8 << 20, Count: 4096}, nil)
	ok(err)
	if r := ranges(up); len(r) != 1 {
		t.Errorf("ranges after clearing %v", r)
	}
	// Without a condition it replaces the blob, as Azure Storage does.
	_, err = up.Create(ctx, size+512, nil)
	ok(err)
	if r := ranges(up); len(r) != 0 {
		t.Errorf("ranges of a new blob %v", r)
	}
	if _, err := up.Create(ctx, size, nil); err == nil {
		t.Error("a blob of another size was created")
	}
	put(4<<20, page)
	put(size, vhd.NewFooter(size, "d", time.Now()))
	ok(comp.Revoke(ctx, id))
	if _, err := up.GetProperties(ctx, nil); !bloberror.HasCode(err, bloberror.AuthenticationFailed) {
		t.Errorf("after the end: %v", err)
	}
	down := client(false)
	if r := ranges(down); len(r) != 2 || r[0].Offset != 4<<20 || r[1].Offset != size {
		t.Errorf("ranges of the disk %v", r)
	}
	got, err := down.DownloadStream(ctx, &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: 4<<20 - 512, Count: 512 + int64(len(page))}})
	ok(err)
	b, err := io.ReadAll(got.Body)
	ok(err)
	got.Body.Close()
	if !bytes.Equal(b, append(make([]byte, 512), page...)) {
		t.Error("the range has other bytes")
	}
	all := make([]byte, size+512)
	_, err = down.DownloadBuffer(ctx, all, nil)
	ok(err)
	if f, err := vhd.ParseFooter(all[size:]); err != nil || f.CurrentSize != size || !bytes.Equal(all[4<<20:4<<20+len(page)], page) {
		t.Errorf("the download is not the disk: %+v, %v", f, err)
	}
	_, err = down.UploadPages(ctx, streaming.NopCloser(bytes.NewReader(page)), blob.HTTPRange{Offset: 0, Count: int64(len(page))}, nil)
	if !bloberror.HasCode(err, bloberror.AuthorizationPermissionMismatch) {
		t.Errorf("writing by a read grant: %v", err)
	}
}
