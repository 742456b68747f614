package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// StorageResource is the resource of tokens for blobs.
const StorageResource = "https://storage.azure.com/"

// Credential gives an access token for blob storage and when it expires; nil is
// for URLs that are signed.
type Credential func(ctx context.Context) (string, time.Time, error)

// GetToken implements azcore.TokenCredential.
func (c Credential) GetToken(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, expires, err := c(ctx)
	return azcore.AccessToken{Token: token, ExpiresOn: expires}, err
}

// Blobs talks to containers by the vendor's own client. What it sends with a token
// goes to the server only.
type Blobs struct{ open, guarded *http.Client }

// NewBlobs makes a Blobs; stall is the longest wait for an answer's headers.
func NewBlobs(reach *Reach, stall time.Duration) *Blobs {
	return &Blobs{&http.Client{Transport: reach.Transport(stall)}, &http.Client{Transport: reach.guarded(stall)}}
}

func (b *Blobs) client(by Credential) *http.Client {
	if by == nil {
		return b.open
	}
	return b.guarded
}

func (b *Blobs) options(by Credential, more ...policy.Policy) azcore.ClientOptions {
	return azcore.ClientOptions{Transport: b.client(by), PerCallPolicies: more,
		Retry: policy.RetryOptions{MaxRetries: 4, RetryDelay: 500 * time.Millisecond, MaxRetryDelay: 10 * time.Second}}
}

// container is a client of a container.
func (b *Blobs) container(containerURL string, by Credential) (*container.Client, error) {
	o := &container.ClientOptions{ClientOptions: b.options(by)}
	if by == nil {
		return container.NewClientWithNoCredential(containerURL, o)
	}
	return container.NewClient(containerURL, by, o)
}

// blob is a client of a blob that is to be written.
func (b *Blobs) blob(blobURL string, by Credential, more ...policy.Policy) (*blockblob.Client, error) {
	o := &blockblob.ClientOptions{ClientOptions: b.options(by, more...)}
	if by == nil {
		return blockblob.NewClientWithNoCredential(blobURL, o)
	}
	return blockblob.NewClient(blobURL, by, o)
}

// tokenVersion is the version of the blob service that a request with a token asks
// for: without one it would be one that knows no tokens.
const tokenVersion = "2021-12-02"

// ErrToken is why there is no token for a request.
type ErrToken struct{ Err error }

func (e ErrToken) Error() string {
	return "No token of the managed identity could be had: " + e.Err.Error()
}
func (e ErrToken) Unwrap() error { return e.Err }

// Do sends a request once, with a token if by is not nil. Its errors may have the
// URL, in which a signature is a secret; one that there is no token is an ErrToken.
func (b *Blobs) Do(q *http.Request, by Credential) (*http.Response, error) {
	if by != nil {
		token, _, err := by(q.Context())
		if err != nil {
			return nil, ErrToken{err}
		}
		q.Header.Set("Authorization", "Bearer "+token)
		q.Header.Set("x-ms-version", tokenVersion)
	}
	return b.client(by).Do(q)
}

// List calls found for each blob of a container whose name begins with prefix.
func (b *Blobs) List(ctx context.Context, containerURL string, by Credential, prefix string, found func(name string) error) error {
	c, err := b.container(containerURL, by)
	if err != nil {
		return err
	}
	o := &container.ListBlobsFlatOptions{}
	if prefix != "" {
		o.Prefix = &prefix
	}
	pages := c.NewListBlobsFlatPager(o)
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, i := range page.Segment.BlobItems {
			if err := found(*i.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// BlobURL is the address of a blob in a container that a signed URL leads to.
func BlobURL(containerURL, name string) (string, error) {
	u, err := url.Parse(containerURL)
	if err != nil || u.Host == "" {
		return "", errors.New("the container's URL is not one")
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + name
	u.RawPath = ""
	return u.String(), nil
}

// Upload sends the files that one output file of a task means, and says what it
// sent. Only regular files are sent; no link leads out of Base or, for files
// below it, out of root.
func (b *Blobs) Upload(ctx context.Context, o *nodev1.OutputFile, by Credential, root, wd string, getenv func(string) string, say func(format string, args ...any)) error {
	p, err := ParsePattern(o.GetPattern(), wd, getenv)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPattern, err)
	}
	at, inside := p.Base, ""
	if p.Base == root || strings.HasPrefix(p.Base, root+"/") {
		// Directories of tasks are their own: what they put there must not lead to
		// files that only the agent may read.
		at, inside = root, strings.TrimPrefix(strings.TrimPrefix(p.Base, root), "/")
	}
	dir, err := os.OpenRoot(at)
	if errors.Is(err, fs.ErrNotExist) {
		say("%s: no file matches", o.GetPattern())
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if inside == "" {
		inside = "."
	}
	var files []string
	err = fs.WalkDir(dir.FS(), inside, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if name == inside && errors.Is(err, fs.ErrNotExist) {
				return fs.SkipAll
			}
			return err
		}
		rel := strings.TrimPrefix(name, inside+"/")
		if inside == "." {
			rel = name
		}
		switch {
		case name == inside:
		case d.IsDir():
			if !p.Could(rel) {
				return fs.SkipDir
			}
		case d.Type().IsRegular() && p.Match(rel):
			files = append(files, rel)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if len(files) == 0 {
		say("%s: no file matches", o.GetPattern())
	}
	for _, rel := range files {
		name := blobName(o.GetPath(), rel, p.Wild)
		n, err := b.send(ctx, o, by, dir, path.Join(inside, rel), name)
		if err != nil {
			return fmt.Errorf("upload %s: %w", rel, err)
		}
		say("%s: uploaded %s as %s, %d bytes", o.GetPattern(), rel, name, n)
	}
	return nil
}

// ErrPattern is a pattern that cannot be used.
var ErrPattern = errors.New("the file pattern is not valid")

// Put sends a text to a container.
func (b *Blobs) Put(ctx context.Context, containerURL string, by Credential, name string, text []byte) error {
	to, err := BlobURL(containerURL, name)
	if err != nil {
		return err
	}
	c, err := b.blob(to, by)
	if err != nil {
		return err
	}
	_, err = c.UploadBuffer(ctx, text, nil)
	return err
}

// blobName is what a file is called: with wildcards in the pattern the path is
// what all names begin with, without it is the name.
func blobName(at, rel string, wild bool) string {
	switch {
	case at == "":
		return rel
	case wild:
		return strings.TrimSuffix(at, "/") + "/" + rel
	}
	return at
}

func (b *Blobs) send(ctx context.Context, o *nodev1.OutputFile, by Credential, dir *os.Root, file, name string) (int64, error) {
	f, err := dir.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("it is no regular file any more")
	}
	to, err := BlobURL(o.GetContainerUrl(), name)
	if err != nil {
		return 0, err
	}
	c, err := b.blob(to, by, headers(o.GetHeaders()))
	if err != nil {
		return 0, err
	}
	if info.Size() == 0 {
		_, err := c.UploadBuffer(ctx, nil, nil)
		return 0, err
	}
	// A file that still grows is sent as long as it was.
	_, err = c.UploadStream(ctx, io.NewSectionReader(f, 0, info.Size()), &blockblob.UploadStreamOptions{BlockSize: blockSize(info.Size()), Concurrency: 2})
	return info.Size(), err
}

// blockSize keeps a blob within its 50,000 blocks and the agent's memory small.
func blockSize(size int64) int64 { return max(4<<20, size/40_000) }

// headers puts a user's headers on the requests that make the blob.
type headers []*nodev1.Header

func (h headers) Do(q *policy.Request) (*http.Response, error) {
	comp := q.Raw().URL.Query().Get("comp")
	if q.Raw().Method == http.MethodPut && (comp == "" || comp == "blocklist") {
		for _, x := range h {
			q.Raw().Header.Set(headerName(x.GetName()), x.GetValue())
		}
	}
	return q.Next()
}

// headerName is the header that sets a blob's own one: the plain ones would be
// about the request.
func headerName(name string) string {
	switch n := strings.ToLower(name); n {
	case "content-type", "content-encoding", "content-language", "content-disposition", "cache-control", "content-md5":
		return "x-ms-blob-" + n
	}
	return name
}
