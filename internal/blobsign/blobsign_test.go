package blobsign_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	"millpond.dev/millpond/internal/blobsign"
)

const secret = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

// recorder answers nothing and keeps what the SDK would send.
type recorder struct{ last *http.Request }

func (r *recorder) Do(q *http.Request) (*http.Response, error) {
	r.last = q
	return nil, context.Canceled
}

// TestSharedKeyIsTheSDKs: what the SDK signs is what is computed here.
func TestSharedKeyIsTheSDKs(t *testing.T) {
	key, ok := blobsign.ParseKey("acct", secret)
	if !ok {
		t.Fatal("the key is not read")
	}
	cred, err := azblob.NewSharedKeyCredential("acct", secret)
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{}
	c, err := service.NewClientWithSharedKeyCredential("https://acct.blob.core.windows.net/", cred, &service.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: rec, Retry: policy.RetryOptions{MaxRetries: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	meta := map[string]*string{"Zeta": ptr("a   b"), "alpha": ptr("1")}
	for name, call := range map[string]func(){
		"list containers":  func() { _, _ = c.NewListContainersPager(nil).NextPage(ctx) },
		"create container": func() { _, _ = c.NewContainerClient("c").Create(ctx, &container.CreateOptions{Metadata: meta}) },
		"list blobs": func() {
			_, _ = c.NewContainerClient("c").NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: ptr("a b/ü"), Include: container.ListBlobsInclude{Metadata: true, Tags: true}}).NextPage(ctx)
		},
		"upload": func() {
			_, _ = c.NewContainerClient("c").NewBlockBlobClient("dir/a b%ü.txt").UploadBuffer(ctx, []byte("hello"), nil)
		},
		"delete": func() { _, _ = c.NewContainerClient("c").NewBlobClient("x").Delete(ctx, nil) },
	} {
		rec.last = nil
		call()
		q := rec.last
		if q == nil {
			t.Fatalf("%s sent nothing", name)
		}
		want := q.Header.Get("Authorization")
		got := "SharedKey acct:" + key.Sign(blobsign.Request{Method: q.Method, Path: q.URL.EscapedPath(), Query: q.URL.Query(), Header: q.Header, Length: q.ContentLength}.StringToSign("acct"))
		if got != want {
			t.Errorf("%s: signature %s, want %s\n%s", name, got, want, blobsign.Request{Method: q.Method, Path: q.URL.EscapedPath(), Query: q.URL.Query(), Header: q.Header, Length: q.ContentLength}.StringToSign("acct"))
		}
	}
}

func ptr[T any](v T) *T { return &v }

// TestSASIsTheSDKs: links of the SDK are checked, and those made here are the SDK's.
func TestSASIsTheSDKs(t *testing.T) {
	key, _ := blobsign.ParseKey("acct", secret)
	cred, err := azblob.NewSharedKeyCredential("acct", secret)
	if err != nil {
		t.Fatal(err)
	}
	start, end := time.Unix(1_700_000_000, 0).UTC(), time.Unix(1_700_003_600, 0).UTC()
	verify := func(name string, p sas.QueryParameters, at blobsign.Place) {
		q, err := url.ParseQuery(p.Encode())
		if err != nil {
			t.Fatal(err)
		}
		text, err := blobsign.SASText("acct", q, at)
		if err != nil || key.Sign(text) != q.Get("sig") {
			t.Errorf("%s: %v\n%q", name, err, text)
		}
	}
	blob, err := sas.BlobSignatureValues{Protocol: sas.ProtocolHTTPS, StartTime: start, ExpiryTime: end, Permissions: "rw", ContainerName: "c", BlobName: "d/e f", ContentType: "text/x"}.SignWithSharedKey(cred)
	if err != nil {
		t.Fatal(err)
	}
	verify("blob", blob, blobsign.Place{Container: "c", Blob: "d/e f"})
	cont, err := sas.BlobSignatureValues{ExpiryTime: end, Permissions: "rl", ContainerName: "c"}.SignWithSharedKey(cred)
	if err != nil {
		t.Fatal(err)
	}
	verify("container", cont, blobsign.Place{Container: "c", Blob: "whatever"})
	acct, err := sas.AccountSignatureValues{ExpiryTime: end, Permissions: "rl", ResourceTypes: "sco"}.SignWithSharedKey(cred)
	if err != nil {
		t.Fatal(err)
	}
	verify("account", acct, blobsign.Place{})

	ours, err := key.SAS(blobsign.Place{Container: "c", Blob: "b"}, blobsign.Grant{Permissions: "r", Start: start, Expiry: end})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := sas.BlobSignatureValues{Version: blobsign.SASVersion, Protocol: sas.ProtocolHTTPS, StartTime: start, ExpiryTime: end, Permissions: "r", ContainerName: "c", BlobName: "b"}.SignWithSharedKey(cred)
	if err != nil {
		t.Fatal(err)
	}
	if ours.Get("sig") != theirs.Signature() {
		t.Errorf("%v\n%v", ours, theirs.Encode())
	}
	again, err := blobsign.Key{Account: "other", Secret: []byte("x")}.Resign(ours, blobsign.Place{Container: "p-c", Blob: "b"})
	if err != nil || again.Get("sp") != "r" || again.Has("spr") || again.Get("sig") == ours.Get("sig") {
		t.Errorf("%v %v", again, err)
	}
}

func TestSASRefusals(t *testing.T) {
	for name, q := range map[string]string{
		"old version":     "sv=2014-02-14&sr=b&sig=x",
		"no version":      "sr=b&sig=x",
		"directory":       "sv=2020-12-06&sr=d&sig=x",
		"user delegation": "sv=2020-12-06&sr=b&skoid=1&sig=x",
		"twice":           "sv=2020-12-06&sr=b&sp=r&sp=w&sig=x",
	} {
		v, _ := url.ParseQuery(q)
		if text, err := blobsign.SASText("a", v, blobsign.Place{Container: "c", Blob: "b"}); err == nil {
			t.Errorf("%s: %q", name, text)
		}
	}
	v, _ := url.ParseQuery("sv=2020-12-06&sr=c&sp=r&sig=x")
	if _, err := blobsign.SASText("a", v, blobsign.Place{}); err == nil {
		t.Error("a container's link opens the account")
	}
}

func FuzzSASText(f *testing.F) {
	f.Add("sv=2020-12-06&sr=b&sp=r&se=2030-01-01", "c", "b")
	f.Add("sv=2018-11-09&ss=b&srt=sco&sp=r", "", "")
	f.Fuzz(func(t *testing.T, query, container, blob string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		a, err := blobsign.SASText("a", q, blobsign.Place{Container: container, Blob: blob})
		if err != nil {
			return
		}
		// A link of one account never is one of another.
		if b, err := blobsign.SASText("b", q, blobsign.Place{Container: container, Blob: blob}); err != nil || a == b {
			t.Fatalf("%q is signed alike for two accounts", strings.ReplaceAll(a, "\n", "|"))
		}
	})
}
