package storageapi_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/storage"
	"millpond.dev/millpond/internal/storageapi"
	"millpond.dev/millpond/test/lab"
)

const secret = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3ODkrLw=="

type accounts map[string]*millpond.StorageAccount

func (a accounts) Lookup(_ context.Context, name string) (*millpond.StorageAccount, error) {
	if x := a[name]; x != nil {
		return x, nil
	}
	return nil, millpond.Errorf(millpond.NotFound, "ResourceNotFound", "There is no storage account %s.", name)
}

func account(name string) *millpond.StorageAccount {
	a := &millpond.StorageAccount{Keys: [2]string{secret, secret}, SharedKey: true}
	a.ID, _ = millpond.ParseResourceID("/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/" + name)
	return a
}

// rights permits reading only.
type rights struct{}

func (rights) Authorize(_ context.Context, _ millpond.Caller, action, scope string) error {
	if strings.HasSuffix(action, "/read") && strings.Contains(scope, "/storageAccounts/") {
		return nil
	}
	return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "no %s", action)
}

// edge is an edge before an emulator, and a client's transport that reaches it
// under Azure's names.
func edge(t *testing.T, all accounts) (*httptest.Server, http.RoundTripper) {
	t.Helper()
	_, srv, rt := edgeWith(t, all, opening(nil))
	return srv, rt
}

// edgeWith is the edge itself, for tests of what goes on beside the requests.
func edgeWith(t *testing.T, all accounts, open func(context.Context, compute.Access) (storageapi.Disk, error)) (*storageapi.Edge, *httptest.Server, http.RoundTripper) {
	t.Helper()
	behind, err := storage.NewBackend(lab.Azurite(t), "", http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	e := storageapi.New(storageapi.Options{Accounts: all, OpenDisk: open, Behind: behind, Auth: rights{}, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler),
		Verify: func(_ context.Context, token string) (millpond.Caller, error) {
			if token != "good" {
				return millpond.Caller{}, millpond.Errorf(millpond.Unauthenticated, "InvalidAuthenticationToken", "bad token")
			}
			return millpond.Caller{Method: millpond.AuthToken}, nil
		}})
	srv := httptest.NewServer(e)
	t.Cleanup(srv.Close)
	return e, srv, roundTrip(func(q *http.Request) (*http.Response, error) {
		q = q.Clone(q.Context())
		q.Host = q.URL.Host
		q.URL.Scheme, q.URL.Host = "http", strings.TrimPrefix(srv.URL, "http://")
		return http.DefaultTransport.RoundTrip(q)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

func options(rt http.RoundTripper) azcore.ClientOptions {
	return azcore.ClientOptions{Transport: &http.Client{Transport: rt}, Retry: policy.RetryOptions{MaxRetries: -1}}
}

func client(t *testing.T, rt http.RoundTripper, endpoint, name, key string) *service.Client {
	t.Helper()
	cred, err := service.NewSharedKeyCredential(name, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := service.NewClientWithSharedKeyCredential(endpoint, cred, &service.ClientOptions{ClientOptions: options(rt)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func code(t *testing.T, err error, want string) {
	t.Helper()
	var re *azcore.ResponseError
	if !errors.As(err, &re) || re.ErrorCode != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAccountsLieApart(t *testing.T) {
	_, rt := edge(t, accounts{"one": account("one"), "two": account("two")})
	ctx := context.Background()
	one := client(t, rt, "https://one.blob.core.windows.net/", "one", secret)
	two := client(t, rt, "https://two.blob.core.windows.net/", "two", secret)
	for _, c := range []*service.Client{one, two} {
		_, err := c.CreateContainer(ctx, "same", nil)
		must(t, err)
	}
	_, err := one.CreateContainer(ctx, "only", nil)
	must(t, err)
	name := "dir/a b%ü.txt"
	_, err = one.NewContainerClient("same").NewBlockBlobClient(name).UploadBuffer(ctx, []byte("hello"), nil)
	must(t, err)

	list := func(c *service.Client, prefix string) (names []string) {
		pages := c.NewListContainersPager(&service.ListContainersOptions{Prefix: &prefix})
		for pages.More() {
			p, err := pages.NextPage(ctx)
			must(t, err)
			for _, i := range p.ContainerItems {
				names = append(names, *i.Name)
			}
		}
		return names
	}
	if got := strings.Join(list(one, ""), " "); got != "only same" {
		t.Errorf("one has %q", got)
	}
	if got := strings.Join(list(two, ""), " "); got != "same" {
		t.Errorf("two has %q", got)
	}
	if got := strings.Join(list(one, "on"), " "); got != "only" {
		t.Errorf("with a prefix: %q", got)
	}
	blobs := func(c *service.Client) (names []string) {
		p, err := c.NewContainerClient("same").NewListBlobsFlatPager(nil).NextPage(ctx)
		must(t, err)
		if *p.ContainerName != "same" || !strings.HasSuffix(*p.ServiceEndpoint, ".blob.core.windows.net/") {
			t.Errorf("the list says %s at %s", *p.ContainerName, *p.ServiceEndpoint)
		}
		for _, i := range p.Segment.BlobItems {
			names = append(names, *i.Name)
		}
		return names
	}
	if got := blobs(one); len(got) != 1 || got[0] != name {
		t.Errorf("one: %q", got)
	}
	if got := blobs(two); len(got) != 0 {
		t.Errorf("two: %q", got)
	}

	_, err = client(t, rt, "https://one.blob.core.windows.net/", "one", "d3Jvbmc=").CreateContainer(ctx, "x", nil)
	code(t, err, "AuthenticationFailed")
	_, err = client(t, rt, "https://none.blob.core.windows.net/", "none", secret).CreateContainer(ctx, "x", nil)
	code(t, err, "ResourceNotFound")
	_, err = one.NewContainerClient(strings.Repeat("x", 60)).Create(ctx, nil)
	code(t, err, "InvalidResourceName")

	// Names that a service behind could resolve to another account's, by the link
	// of one's own account, whose signature covers no path.
	own, err := one.GetSASURL(sas.AccountResourceTypes{Service: true, Container: true, Object: true}, sas.AccountPermissions{Read: true, List: true}, time.Now().Add(time.Hour), nil)
	must(t, err)
	_, signature, _ := strings.Cut(own, "?")
	for _, path := range []string{"/same/../two-same/b", "/same/%2e%2e/two-same/b", `/same/..%5Ctwo-same%5Cb`, "/same%2F..%2Ftwo-same/b", "/Same/b", "/a--b/c"} {
		q, err := http.NewRequest("GET", "https://one.blob.core.windows.net"+path+"?"+signature, nil)
		must(t, err)
		resp, err := rt.RoundTrip(q)
		must(t, err)
		resp.Body.Close()
		if resp.Header.Get("x-ms-error-code") != "InvalidResourceName" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, resp.Header.Get("x-ms-error-code"))
		}
		_, err = one.NewContainerClient("only").NewBlobClient("stolen").StartCopyFromURL(ctx, q.URL.String(), nil)
		code(t, err, "InvalidResourceName")
	}

	// Copies within the account, and from another one with a signature.
	dst := one.NewContainerClient("only").NewBlobClient("copy")
	_, err = dst.StartCopyFromURL(ctx, one.NewContainerClient("same").NewBlobClient(name).URL(), nil)
	must(t, err)
	get := func(b *blob.Client) string {
		resp, err := b.DownloadStream(ctx, nil)
		must(t, err)
		data, err := io.ReadAll(resp.Body)
		must(t, err)
		return string(data)
	}
	if got := get(dst); got != "hello" {
		t.Errorf("copied %q", got)
	}
	props, err := dst.GetProperties(ctx, nil)
	must(t, err)
	if props.CopySource == nil || !strings.HasPrefix(*props.CopySource, "https://one.blob.core.windows.net/same/") {
		t.Errorf("the copy says that it is from %v", props.CopySource)
	}
	_, err = two.NewContainerClient("same").NewBlobClient("stolen").StartCopyFromURL(ctx, dst.URL(), nil)
	code(t, err, "CannotVerifyCopySource")
	signed, err := dst.GetSASURL(sas.BlobPermissions{Read: true}, time.Now().Add(time.Hour), nil)
	must(t, err)
	_, err = two.NewContainerClient("same").NewBlobClient("given").StartCopyFromURL(ctx, signed, nil)
	must(t, err)
}

func TestSignedURLs(t *testing.T) {
	all := accounts{"one": account("one")}
	_, rt := edge(t, all)
	ctx := context.Background()
	one := client(t, rt, "https://one.blob.core.windows.net/", "one", secret)
	_, err := one.CreateContainer(ctx, "c", nil)
	must(t, err)
	_, err = one.CreateContainer(ctx, "other", nil)
	must(t, err)
	link := func(p sas.ContainerPermissions, life time.Duration) *container.Client {
		u, err := one.NewContainerClient("c").GetSASURL(p, time.Now().Add(life), nil)
		must(t, err)
		c, err := container.NewClientWithNoCredential(u, &container.ClientOptions{ClientOptions: options(rt)})
		must(t, err)
		return c
	}
	write := link(sas.ContainerPermissions{Write: true, Create: true}, time.Hour)
	_, err = write.NewBlockBlobClient("b").UploadBuffer(ctx, []byte("x"), nil)
	must(t, err)
	_, err = write.NewBlobClient("b").DownloadStream(ctx, nil)
	code(t, err, "AuthorizationPermissionMismatch")
	read := link(sas.ContainerPermissions{Read: true, List: true}, time.Hour)
	_, err = read.NewBlobClient("b").DownloadStream(ctx, nil)
	must(t, err)
	_, err = read.NewBlobClient("gone").DownloadStream(ctx, nil)
	code(t, err, "BlobNotFound")
	_, err = read.NewListBlobsFlatPager(nil).NextPage(ctx)
	must(t, err)
	_, err = link(sas.ContainerPermissions{Read: true}, -time.Hour).NewBlobClient("b").DownloadStream(ctx, nil)
	code(t, err, "AuthenticationFailed")
	// The signature of one container does not open another.
	u, _ := url.Parse(read.URL())
	u.Path = "/other"
	c, err := container.NewClientWithNoCredential(u.String(), &container.ClientOptions{ClientOptions: options(rt)})
	must(t, err)
	_, err = c.NewListBlobsFlatPager(nil).NextPage(ctx)
	code(t, err, "AuthenticationFailed")
	account, err := one.GetSASURL(sas.AccountResourceTypes{Service: true, Container: true, Object: true}, sas.AccountPermissions{List: true}, time.Now().Add(time.Hour), nil)
	must(t, err)
	svc, err := service.NewClientWithNoCredential(account, &service.ClientOptions{ClientOptions: options(rt)})
	must(t, err)
	page, err := svc.NewListContainersPager(nil).NextPage(ctx)
	must(t, err)
	if len(page.ContainerItems) != 2 || *page.ContainerItems[0].Name != "c" {
		t.Errorf("listed %v", page.ContainerItems)
	}
	all["one"].SharedKey = false
	_, err = read.NewBlobClient("b").DownloadStream(ctx, nil)
	code(t, err, "KeyBasedAuthenticationNotPermitted")
}

func TestTokensAndNobody(t *testing.T) {
	srv, rt := edge(t, accounts{"one": account("one")})
	ctx := context.Background()
	one := client(t, rt, "https://one.blob.core.windows.net/", "one", secret)
	_, err := one.CreateContainer(ctx, "c", nil)
	must(t, err)
	_, err = one.NewContainerClient("c").NewBlockBlobClient("b").UploadBuffer(ctx, []byte("x"), nil)
	must(t, err)
	for _, q := range []struct {
		name, method, path, authorization string
		status                            int
		code                              string
	}{
		{"a reader reads", "GET", "/one/c/b", "Bearer good", 200, ""},
		{"a reader lists", "GET", "/one/c?restype=container&comp=list", "Bearer good", 200, ""},
		{"a reader writes", "PUT", "/one/c/b", "Bearer good", 403, "AuthorizationPermissionMismatch"},
		{"a bad token", "GET", "/one/c/b", "Bearer bad", 401, "InvalidAuthenticationInfo"},
		{"nobody", "GET", "/one/c/b", "", 401, "NoAuthenticationInformation"},
		{"a password", "GET", "/one/c/b", "Basic eA==", 403, "AuthenticationFailed"},
		{"no account", "GET", "/none/c/b", "Bearer good", 404, "ResourceNotFound"},
		{"a batch", "POST", "/one/c?restype=container&comp=batch", "Bearer bad", 401, "InvalidAuthenticationInfo"},
		{"all blobs of the service", "GET", "/one/?comp=blobs&where=x", "Bearer good", 400, "UnsupportedOperation"},
		{"the service's logs", "GET", "/one/$logs?restype=container&comp=list", "Bearer good", 400, "UnsupportedOperation"},
	} {
		r, err := http.NewRequest(q.method, srv.URL+q.path, nil)
		must(t, err)
		if q.authorization != "" {
			r.Header.Set("Authorization", q.authorization)
		}
		resp, err := http.DefaultClient.Do(r)
		must(t, err)
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != q.status || resp.Header.Get("x-ms-error-code") != q.code {
			t.Errorf("%s: %d %s %s", q.name, resp.StatusCode, resp.Header.Get("x-ms-error-code"), body)
		}
	}
	// Direct use, where the account is a part of the signed path.
	direct := client(t, http.DefaultTransport, srv.URL+"/one/", "one", secret)
	page, err := direct.NewListContainersPager(nil).NextPage(ctx)
	must(t, err)
	if len(page.ContainerItems) != 1 {
		t.Errorf("listed %v", page.ContainerItems)
	}
	_, err = direct.NewContainerClient("c").NewBlockBlobClient("big").UploadBuffer(ctx, make([]byte, 3<<20), nil)
	must(t, err)
	_, err = direct.NewContainerClient("c").NewBlobClient("none").GetProperties(ctx, nil)
	if !bloberror.HasCode(err, bloberror.BlobNotFound) {
		t.Errorf("%v", err)
	}
}
