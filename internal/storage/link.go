package storage

import (
	"context"
	"net/url"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/blobsign"
)

// keys are an account's keys that open something.
func keys(a *millpond.StorageAccount) []blobsign.Key {
	var out []blobsign.Key
	for _, k := range a.Keys {
		if key, ok := blobsign.ParseKey(a.ID.Name(), k); ok {
			out = append(out, key)
		}
	}
	return out
}

// Verify says whether a text bears a signature of one of the account's keys.
func Verify(a *millpond.StorageAccount, text, signature string) bool {
	ok := false
	for _, k := range keys(a) {
		ok = blobsign.Equal(k.Sign(text), signature) || ok
	}
	return ok
}

// Link is a signed link to a container or blob of an account, at Azure's
// address: https://name.blob.core.windows.net/…
func Link(a *millpond.StorageAccount, p blobsign.Place, g blobsign.Grant) (string, error) {
	key, ok := blobsign.ParseKey(a.ID.Name(), a.Keys[0])
	if !ok {
		return "", millpond.Errorf(millpond.Internal, "InternalError", "The storage account %s has no key.", a.ID.Name())
	}
	q, err := key.SAS(p, g)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "https", Host: a.BlobHost(), Path: "/" + p.Container, RawQuery: q.Encode()}
	if p.Blob != "" {
		u.Path += "/" + p.Blob
	}
	return u.String(), nil
}

// Of is the account with an id, if there still is one; the error says what to do.
func (s *Service) Of(ctx context.Context, id millpond.ResourceID) (*millpond.StorageAccount, error) {
	a, err := s.Get(ctx, id)
	if millpond.KindOf(err) == millpond.NotFound && err != nil {
		return nil, millpond.Errorf(millpond.Conflict, "StorageAccountNotFound", "The storage account %s does not exist any more. Link another one: az batch account set --storage-account", id).Because(err)
	}
	return a, err
}

// LinkTo is a link to a container of an account for a while from now. A little
// of the past is permitted too, for clocks that are late.
func (s *Service) LinkTo(a *millpond.StorageAccount, p blobsign.Place, permissions string, life time.Duration) (string, error) {
	now := s.Clock.Now()
	return Link(a, p, blobsign.Grant{Permissions: permissions, Start: now.Add(-15 * time.Minute), Expiry: now.Add(life)})
}

// ToAzure is a link under one of this server's own addresses as Azure would
// write it, which is what nodes can reach; other links are left alone. own are
// host:port of the server.
func ToAzure(link string, own []string) string {
	u, err := url.Parse(link)
	if err != nil {
		return link
	}
	ours := false
	for _, o := range own {
		ours = ours || strings.EqualFold(u.Host, o)
	}
	if !ours {
		return link
	}
	account, rest, _ := strings.Cut(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	if checkName(account) != nil {
		return link
	}
	out := "https://" + account + ".blob.core.windows.net/" + rest
	if u.RawQuery != "" {
		out += "?" + u.RawQuery
	}
	return out
}
