package storage

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	"millpond.dev/millpond/internal/blobsign"
)

// Backend is one account of a real blob service, in which all storage accounts
// of this server lie. One server alone may use it.
type Backend struct {
	// URL is scheme, host and path of the account, without a last slash.
	URL *url.URL
	Key blobsign.Key
	// Client sends the server's own requests.
	Client *service.Client
	// HTTP sends the clients' requests.
	HTTP http.RoundTripper
}

// The account that every Azurite has unless it is told otherwise; its key is no
// secret.
const (
	emulatorAccount = "devstoreaccount1"
	emulatorKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// NewBackend reads the address of an account: https://name.blob.core.windows.net,
// or http://host:port/name in the style of emulators. Without a path a host that
// is no account's stands for the emulator's account. The key may be left out for
// the emulator's account only.
func NewBackend(address, key string, transport http.RoundTripper) (*Backend, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("the blob service's address %q must be like https://NAME.blob.core.windows.net or http://127.0.0.1:10000/devstoreaccount1", address)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	account := strings.TrimPrefix(u.Path, "/")
	if account == "" {
		if label, rest, ok := strings.Cut(u.Hostname(), "."); ok && strings.HasPrefix(rest, "blob.") {
			account = label
		} else {
			account = emulatorAccount
			u.Path = "/" + account
		}
	}
	if strings.Contains(account, "/") {
		return nil, fmt.Errorf("the blob service's address %q must end with the name of an account", address)
	}
	if key == "" && account == emulatorAccount {
		key = emulatorKey
	}
	k, ok := blobsign.ParseKey(account, key)
	if !ok {
		return nil, fmt.Errorf("the blob service's account %s needs a key, in base64: blobService.keyFile in the configuration, or --blob-service-key-file", account)
	}
	cred, err := service.NewSharedKeyCredential(account, key)
	if err != nil {
		return nil, err
	}
	client, err := service.NewClientWithSharedKeyCredential(u.String(), cred, &service.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: &http.Client{Transport: transport}}})
	if err != nil {
		return nil, err
	}
	return &Backend{URL: u, Key: k, Client: client, HTTP: transport}, nil
}

// Name is the name behind of an account's container. Names of accounts have no
// hyphen, so that the first one ends the account's.
func Name(account, container string) string { return account + "-" + container }

// maxName is the longest name of a container behind.
const maxName = 63

// Fits says whether a container's name leaves room for the account's.
func Fits(account, container string) bool { return len(Name(account, container)) <= maxName }

// Container is a client for a container of an account.
func (b *Backend) Container(account, name string) *container.Client {
	return b.Client.NewContainerClient(Name(account, name))
}

// empty deletes every container of an account.
func (b *Backend) empty(ctx context.Context, account string) error {
	prefix := account + "-"
	pages := b.Client.NewListContainersPager(&service.ListContainersOptions{Prefix: &prefix})
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, c := range page.ContainerItems {
			_, err := b.Client.NewContainerClient(*c.Name).Delete(ctx, nil)
			if err != nil && !bloberror.HasCode(err, bloberror.ContainerNotFound, bloberror.ContainerBeingDeleted) {
				return err
			}
		}
	}
	return nil
}

// Ensure makes a container unless it is there.
func Ensure(ctx context.Context, c *container.Client) error {
	_, err := c.Create(ctx, nil)
	if bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
		return nil
	}
	return err
}

func newKey(rand io.Reader) (string, error) {
	b := make([]byte, 64)
	_, err := io.ReadFull(rand, b)
	return base64.StdEncoding.EncodeToString(b), err
}
