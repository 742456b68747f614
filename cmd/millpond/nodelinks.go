package main

import (
	"context"
	"net"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/storage"
)

// linkLife is how long a link is good that a node gets for something it does at
// once: a download may take long, and be tried again.
const linkLife = 24 * time.Hour

// nodeLinks is node.Links by the accounts and their linked storage.
type nodeLinks struct {
	accounts *account.Service
	storage  *storage.Service
	// own are the addresses under which clients may have written a link.
	own []string
}

func newNodeLinks(accounts *account.Service, st *storage.Service, addr string) nodeLinks {
	own := []string{addr}
	if _, port, err := net.SplitHostPort(addr); err == nil {
		own = append(own, "localhost:"+port, "127.0.0.1:"+port)
	}
	return nodeLinks{accounts, st, own}
}

func (l nodeLinks) Container(ctx context.Context, acct millpond.AccountName, container string) (string, error) {
	a, err := l.accounts.Lookup(ctx, acct)
	if err != nil {
		return "", err
	}
	if len(a.AutoStorage.Names) == 0 {
		return "", account.NoAutoStorage(string(acct))
	}
	st, err := l.storage.Of(ctx, a.AutoStorage)
	if err != nil {
		return "", err
	}
	return l.storage.LinkTo(st, blobsign.Place{Container: container}, "rl", linkLife)
}

func (l nodeLinks) Reachable(link string) string { return storage.ToAzure(link, l.own) }
