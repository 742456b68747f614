package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/storage"
)

// ownBlobs is compute.OwnBlobs by the storage accounts.
type ownBlobs struct {
	storage *storage.Service
	// own are the addresses under which clients may have written a URL.
	own []string
}

// blob is the account and the place in it that a URL without signature names, if the
// account is one of this server's.
func (o ownBlobs) blob(ctx context.Context, uri string) (a *millpond.StorageAccount, p blobsign.Place, ok bool) {
	u, err := url.Parse(storage.ToAzure(uri, o.own))
	if err != nil || u.Scheme != "https" || blobsign.IsSAS(u.Query()) {
		return nil, p, false
	}
	name, is := strings.CutSuffix(strings.ToLower(u.Host), azwire.BlobSuffix)
	if !is {
		return nil, p, false
	}
	p.Container, p.Blob, ok = strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !ok || p.Blob == "" {
		return nil, p, false
	}
	a, err = o.storage.Lookup(ctx, name)
	return a, p, err == nil
}

func (o ownBlobs) Account(ctx context.Context, uri string) (millpond.ResourceID, bool) {
	a, _, ok := o.blob(ctx, uri)
	if !ok {
		return millpond.ResourceID{}, false
	}
	return a.ID, true
}

func (o ownBlobs) Signed(ctx context.Context, uri string) (string, error) {
	a, p, ok := o.blob(ctx, uri)
	if !ok {
		return storage.ToAzure(uri, o.own), nil
	}
	return o.storage.LinkTo(a, p, "r", linkLife)
}

// blobReader is a client that finds this server at Azure's names, as nodes do, and
// everybody else where their names say.
func blobReader(addr string, ca []byte) *http.Client {
	reach := &transfer.Reach{}
	reach.Set(addr, ca, azwire.ServedHosts())
	return &http.Client{Timeout: time.Hour, Transport: reach.Transport(time.Minute)}
}
