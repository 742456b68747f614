package node

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// TokenWant is a token that is wanted: for a resource, of the identity that one of
// the three others names, or of the only one that there is.
type TokenWant struct{ Resource, ClientID, PrincipalID, ResourceID string }

// IdentityToken is an access token of a managed identity.
type IdentityToken struct {
	Access, ClientID, Resource string
	NotBefore, Expires         time.Time
}

// Identities issues tokens of managed identities.
type Identities interface {
	// Token is one of the identities among those assigned, resource ids. Its errors
	// but Internal ones are for whoever wants it.
	Token(ctx context.Context, assigned []string, w TokenWant) (IdentityToken, error)
}

// giveToken answers the agent, which waits for it and asks again in another session.
func (x *session) giveToken(ctx context.Context, w *nodev1.TokenWanted) {
	a := &nodev1.GiveTokenRequest{Id: w.GetId()}
	t, err := x.token(ctx, TokenWant{Resource: w.GetResource(), ClientID: w.GetClientId(), PrincipalID: w.GetPrincipalId(), ResourceID: w.GetResourceId()})
	if err == nil {
		a.Token, a.ClientId, a.Resource, a.NotBefore, a.Expires = t.Access, t.ClientID, t.Resource, timestamppb.New(t.NotBefore), timestamppb.New(t.Expires)
	} else {
		me := millpond.AsError(err)
		a.Code, a.Message, a.Retry = me.Code, me.Message, me.Kind == millpond.Internal
		x.svc.Log.Warn("no token for a node", "node", x.node, "resource", fmt.Sprintf("%.200s", w.GetResource()), "err", err)
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := x.client.GiveToken(call, connect.NewRequest(a)); err != nil && ctx.Err() == nil {
		x.svc.Log.Warn("a token did not reach its node", "node", x.node, "err", err)
	}
}

// token is a token of one of the identities that the node's pool has now.
func (x *session) token(ctx context.Context, w TokenWant) (t IdentityToken, err error) {
	_, p, err := x.rows(ctx)
	if err != nil {
		return t, err
	}
	return x.svc.issue(ctx, p, w)
}

func (s *Service) issue(ctx context.Context, p millpond.Pool, w TokenWant) (IdentityToken, error) {
	if s.Identities == nil || len(p.Spec.Identities) == 0 {
		return IdentityToken{}, millpond.Errorf(millpond.Invalid, "invalid_request", "Identity not found")
	}
	return s.Identities.Token(ctx, p.Spec.Identities, w)
}

// assigned is the identity by which a node gets at a blob: one that its pool has, as
// the pool writes it; empty for none. A token goes to Azure's blob service only, over
// TLS: whoever names another address would get it.
func assigned(p millpond.Pool, identity, link string) (string, error) {
	if identity == "" {
		return "", nil
	}
	if !millpond.IsBlobURL(link) {
		return "", millpond.Errorf(millpond.Conflict, "BlobAccessDenied", "A managed identity opens blobs of storage accounts only: a URL such as https://ACCOUNT.blob.core.windows.net/CONTAINER is expected with identityReference.")
	}
	id, err := p.Spec.HasIdentity(identity)
	if err != nil {
		return "", millpond.Errorf(millpond.Conflict, "ManagedIdentityNotFound", "%s", millpond.AsError(err).Message)
	}
	return id, nil
}
