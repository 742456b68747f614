package storageapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/appendblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/storageapi"
	"millpond.dev/millpond/test/lab"
)

// disk is a disk of zeros with something at its beginning and its end.
type disk struct {
	*bytes.Reader
	// gate holds up who reads, if it is there.
	gate chan struct{}
}

func (d disk) Close() error { return nil }

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	if d.gate != nil {
		<-d.gate
	}
	return d.Reader.ReadAt(p, off)
}

func (d disk) Data(off, n int64) ([]compute.Extent, error) {
	size := d.Size()
	return []compute.Extent{{Off: 0, Len: 1 << 20}, {Off: size - 512, Len: 512}}, nil
}

const diskURL = "https://md-0011223344.blob.storage.azure.net/0011223344/abcd?sp=r&se=2040-01-01T00%3A00%3A00Z&si=1&sig="

// diskBytes are of a length that is no multiple of a piece.
func diskBytes() []byte {
	b := make([]byte, 9<<20+512)
	copy(b, "the beginning")
	copy(b[len(b)-512:], "conectix")
	return b
}

func opening(gate chan struct{}) func(context.Context, compute.Access) (storageapi.Disk, error) {
	return func(_ context.Context, a compute.Access) (storageapi.Disk, error) {
		if a.Signature != "good" || a.Container != "0011223344" {
			return nil, millpond.Errorf(millpond.Forbidden, "AuthenticationFailed", "bad signature")
		}
		return disk{bytes.NewReader(diskBytes()), gate}, nil
	}
}

func read(t *testing.T, b *blob.Client) string {
	t.Helper()
	resp, err := b.DownloadStream(context.Background(), nil)
	must(t, err)
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(data)
}

// What emulators do not know and what they could not fetch: contents out of
// another account, and out of a disk.
func TestContentsFromElsewhere(t *testing.T) {
	_, rt := edge(t, accounts{"one": account("one"), "two": account("two")})
	ctx := context.Background()
	one := client(t, rt, "https://one.blob.core.windows.net/", "one", secret)
	two := client(t, rt, "https://two.blob.core.windows.net/", "two", secret)
	for _, c := range []*container.Client{one.NewContainerClient("c"), two.NewContainerClient("c")} {
		_, err := c.Create(ctx, nil)
		must(t, err)
	}
	from := one.NewContainerClient("c").NewBlockBlobClient("from")
	_, err := from.UploadBuffer(ctx, []byte("0123456789"), &blockblob.UploadBufferOptions{HTTPHeaders: &blob.HTTPHeaders{BlobContentType: to.Ptr("text/x")}, Metadata: map[string]*string{"A": to.Ptr("b")}})
	must(t, err)
	signed, err := from.GetSASURL(sas.BlobPermissions{Read: true}, time.Now().Add(time.Hour), nil)
	must(t, err)

	whole := two.NewContainerClient("c").NewBlockBlobClient("whole")
	_, err = whole.UploadBlobFromURL(ctx, signed, nil)
	must(t, err)
	if got := read(t, whole.BlobClient()); got != "0123456789" {
		t.Errorf("the whole: %q", got)
	}
	props, err := whole.GetProperties(ctx, nil)
	must(t, err)
	if *props.ContentType != "text/x" || len(props.Metadata) != 1 {
		t.Errorf("the properties of the source: %s %v", *props.ContentType, props.Metadata)
	}

	blocks := two.NewContainerClient("c").NewBlockBlobClient("blocks")
	for i, at := range []int64{6, 2} {
		_, err = blocks.StageBlockFromURL(ctx, []string{"AAAA", "BBBB"}[i], signed, &blockblob.StageBlockFromURLOptions{Range: blob.HTTPRange{Offset: at, Count: 3}})
		must(t, err)
	}
	_, err = blocks.CommitBlockList(ctx, []string{"AAAA", "BBBB"}, nil)
	must(t, err)
	if got := read(t, blocks.BlobClient()); got != "678234" {
		t.Errorf("the blocks: %q", got)
	}

	lines := two.NewContainerClient("c").NewAppendBlobClient("lines")
	_, err = lines.Create(ctx, nil)
	must(t, err)
	_, err = lines.AppendBlockFromURL(ctx, signed, &appendblob.AppendBlockFromURLOptions{Range: blob.HTTPRange{Count: 4}})
	must(t, err)
	if got := read(t, lines.BlobClient()); got != "0123" {
		t.Errorf("the lines: %q", got)
	}

	// A page out of a disk.
	pages := two.NewContainerClient("c").NewPageBlobClient("pages")
	_, err = pages.Create(ctx, 512, nil)
	must(t, err)
	_, err = pages.UploadPagesFromURL(ctx, diskURL+"good", int64(len(diskBytes()))-512, 0, 512, nil)
	must(t, err)
	if got := read(t, pages.BlobClient()); !strings.HasPrefix(got, "conectix") || len(got) != 512 {
		t.Errorf("the page: %q", got[:8])
	}

	// What opens the source: its own signature, the same account's key, a token.
	_, err = whole.UploadBlobFromURL(ctx, from.URL(), nil)
	code(t, err, "CannotVerifyCopySource")
	_, err = one.NewContainerClient("c").NewBlockBlobClient("same").UploadBlobFromURL(ctx, from.URL(), nil)
	must(t, err)
	_, err = whole.UploadBlobFromURL(ctx, from.URL(), &blockblob.UploadBlobFromURLOptions{CopySourceAuthorization: to.Ptr("Bearer good")})
	must(t, err)
	_, err = whole.UploadBlobFromURL(ctx, from.URL(), &blockblob.UploadBlobFromURLOptions{CopySourceAuthorization: to.Ptr("Bearer bad")})
	code(t, err, "InvalidAuthenticationInfo")
	_, err = pages.UploadPagesFromURL(ctx, diskURL+"bad", 0, 0, 512, nil)
	code(t, err, "AuthenticationFailed")
	// Conditions and ranges of the source.
	_, err = whole.UploadBlobFromURL(ctx, signed, &blockblob.UploadBlobFromURLOptions{SourceModifiedAccessConditions: &blob.SourceModifiedAccessConditions{SourceIfMatch: props.ETag}})
	code(t, err, "SourceConditionNotMet")
	_, err = blocks.StageBlockFromURL(ctx, "CCCC", signed, &blockblob.StageBlockFromURLOptions{Range: blob.HTTPRange{Offset: 100, Count: 3}})
	code(t, err, "InvalidRange")
	_, err = whole.UploadBlobFromURL(ctx, strings.Replace(signed, "/c/from", "/c/gone", 1), nil)
	code(t, err, "AuthenticationFailed")
	_, err = one.NewContainerClient("c").NewBlockBlobClient("same").UploadBlobFromURL(ctx, from.URL()+"gone", nil)
	code(t, err, "CannotVerifyCopySource")
	if got := read(t, whole.BlobClient()); got != "0123456789" {
		t.Errorf("a refused copy left %q", got)
	}
}

func TestDiskIsCopiedIntoABlob(t *testing.T) {
	gate := make(chan struct{})
	var open sync.Once
	e, _, rt := edgeWith(t, accounts{"one": account("one")}, opening(gate))
	ctx, end := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { e.Run(ctx); close(ran) }()
	t.Cleanup(func() { end(); open.Do(func() { close(gate) }); <-ran })
	one := client(t, rt, "https://one.blob.core.windows.net/", "one", secret)
	c := one.NewContainerClient("c")
	_, err := c.Create(ctx, nil)
	must(t, err)
	dst := c.NewPageBlobClient("d.vhd")
	begun, err := dst.StartCopyFromURL(ctx, diskURL+"good", &blob.StartCopyFromURLOptions{Metadata: map[string]*string{"mine": to.Ptr("1")}})
	must(t, err)
	if *begun.CopyStatus != blob.CopyStatusTypePending || begun.ETag == nil {
		t.Errorf("began as %+v", begun)
	}
	props, err := dst.GetProperties(ctx, nil)
	must(t, err)
	if *props.CopyStatus != blob.CopyStatusTypePending || *props.CopyID != *begun.CopyID || *props.ContentLength != int64(len(diskBytes())) || len(props.Metadata) != 1 {
		t.Errorf("under way: %+v", props)
	}
	open.Do(func() { close(gate) })
	lab.Wait(t, time.Minute, "the copy ends", func() (bool, string) {
		props, err = dst.GetProperties(ctx, nil)
		must(t, err)
		return *props.CopyStatus != blob.CopyStatusTypePending, fmt.Sprint(*props.CopyProgress)
	})
	if *props.CopyStatus != blob.CopyStatusTypeSuccess || len(props.Metadata) != 1 || strings.Contains(*props.CopySource, "sig=") {
		t.Errorf("ended as %s of %s with %v", *props.CopyStatus, *props.CopySource, props.Metadata)
	}
	if read(t, dst.BlobClient()) != string(diskBytes()) {
		t.Error("the blob is not the disk")
	}
	ranges, err := dst.NewGetPageRangesPager(&pageblob.GetPageRangesOptions{}).NextPage(ctx)
	must(t, err)
	if len(ranges.PageRange) == 0 || len(ranges.PageRange) > 3 {
		t.Errorf("%d ranges: zeros were written", len(ranges.PageRange))
	}
	list, err := c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Include: container.ListBlobsInclude{Metadata: true}}).NextPage(ctx)
	must(t, err)
	if m := list.Segment.BlobItems[0].Metadata; len(m) != 1 || m["mine"] == nil {
		t.Errorf("the list shows %v", m)
	}
	// A bad signature, a condition that fails, and a copy that must be there at once.
	_, err = dst.StartCopyFromURL(ctx, diskURL+"bad", nil)
	code(t, err, "AuthenticationFailed")
	_, err = dst.StartCopyFromURL(ctx, diskURL+"good", &blob.StartCopyFromURLOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}}})
	if err == nil {
		t.Error("a blob was overwritten against the client's condition")
	}
	_, err = dst.CopyFromURL(ctx, diskURL+"good", nil)
	code(t, err, "UnsupportedOperation")
}

// A copy that nobody carries on is not pending for ever.
func TestCopyThatEndedWithTheServer(t *testing.T) {
	_, _, rt := edgeWith(t, accounts{"one": account("one")}, opening(nil))
	ctx := context.Background()
	c := client(t, rt, "https://one.blob.core.windows.net/", "one", secret).NewContainerClient("c")
	_, err := c.Create(ctx, nil)
	must(t, err)
	dst := c.NewPageBlobClient("d")
	_, err = dst.Create(ctx, 512, &pageblob.CreateOptions{Metadata: map[string]*string{"millpondcopy": to.Ptr("id pending 512 https://md-x.blob.storage.azure.net/x/abcd")}})
	must(t, err)
	props, err := dst.GetProperties(ctx, nil)
	must(t, err)
	if *props.CopyStatus != blob.CopyStatusTypeFailed || props.CopyStatusDescription == nil {
		t.Errorf("%+v", props)
	}
}
