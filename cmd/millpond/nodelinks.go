package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/application"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/directory"
	"millpond.dev/millpond/internal/storage"
)

// linkLife is how long a link is good that a node gets for something it does at
// once: a download may take long, and be tried again.
const linkLife = 24 * time.Hour

// nodeLinks is node.Links by the accounts and their linked storage.
type nodeLinks struct {
	accounts *account.Service
	storage  *storage.Service
	apps     *application.Service
	tokens   *directory.Service
	// own are the addresses under which clients may have written a link.
	own []string
	// blobs sends what the server itself uploads, by the way that nodes take.
	blobs *transfer.Blobs
}

func newNodeLinks(accounts *account.Service, st *storage.Service, apps *application.Service, tokens *directory.Service, addr string, ca []byte) nodeLinks {
	reach := &transfer.Reach{}
	reach.Set(addr, ca, azwire.ServedHosts())
	return nodeLinks{accounts, st, apps, tokens, ownAddresses(addr), transfer.NewBlobs(reach, time.Minute)}
}

// ownAddresses are those under which clients write links to this server.
func ownAddresses(addr string) []string {
	own := []string{addr}
	if _, port, err := net.SplitHostPort(addr); err == nil {
		own = append(own, "localhost:"+port, "127.0.0.1:"+port)
	}
	return own
}

func (l nodeLinks) Container(ctx context.Context, acct millpond.AccountName, container string) (link, identity string, err error) {
	a, err := l.accounts.Lookup(ctx, acct)
	if err != nil {
		return "", "", err
	}
	if len(a.AutoStorage.Names) == 0 {
		return "", "", account.NoAutoStorage(string(acct))
	}
	st, err := l.storage.Of(ctx, a.AutoStorage)
	if err != nil {
		return "", "", err
	}
	if !a.AutoStorageByIdentity {
		link, err = l.storage.LinkTo(st, blobsign.Place{Container: container}, "rl", linkLife)
		return link, "", err
	}
	if a.AutoStorageIdentity == "" {
		return "", "", millpond.Errorf(millpond.Conflict, "ResourceContainerAccessDenied", "The account %s opens its auto-storage account by managed identity, and autoStorage.nodeIdentityReference names none for nodes. Name an identity that the pool has.", acct)
	}
	return "https://" + st.BlobHost() + "/" + container, a.AutoStorageIdentity, nil
}

func (l nodeLinks) Reachable(link string) string { return storage.ToAzure(link, l.own) }

func (l nodeLinks) Packages(ctx context.Context, acct millpond.AccountName, refs []millpond.PackageReference) ([]millpond.Package, error) {
	return l.apps.Packages(ctx, acct, refs)
}

// tokenLife bounds a task's token; the attempt ends it before that.
const tokenLife = 180 * 24 * time.Hour

func (l nodeLinks) Token(ctx context.Context, acct millpond.AccountName, task millpond.TaskIdentity) (string, error) {
	a, err := l.accounts.Lookup(ctx, acct)
	if err != nil {
		return "", err
	}
	return l.tokens.IssueTask(directory.TaskToken{Tenant: a.Tenant, Account: a.Name, Task: task, Life: tokenLife})
}

// putLimit bounds one upload of the server's own.
const putLimit = 2 * time.Minute

func (l nodeLinks) Put(ctx context.Context, containerURL, token, name string, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, putLimit)
	defer cancel()
	var by transfer.Credential
	if token != "" {
		by = func(context.Context) (string, time.Time, error) { return token, time.Now().Add(putLimit), nil }
	}
	err := l.blobs.Put(ctx, l.Reachable(containerURL), by, name, text)
	if err == nil {
		return nil
	}
	why := "its service does not answer."
	var re *azcore.ResponseError
	if errors.As(err, &re) {
		why = fmt.Sprintf("its service answered %d %s. The SAS must permit writing and must not have expired; a managed identity needs the role Storage Blob Data Contributor.", re.StatusCode, re.ErrorCode)
	}
	return millpond.InvalidProperty("containerUrl", "(not shown)", "Nothing could be uploaded to the container: "+why).Because(err)
}
