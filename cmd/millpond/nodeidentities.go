package main

import (
	"context"

	"millpond.dev/millpond/internal/directory"
	"millpond.dev/millpond/internal/managedidentity"
	"millpond.dev/millpond/internal/node"
)

// nodeIdentities is node.Identities by the identities' rows and the directory.
type nodeIdentities struct {
	identities *managedidentity.Service
	tokens     *directory.Service
}

func (n nodeIdentities) Token(ctx context.Context, assigned []string, w node.TokenWant) (node.IdentityToken, error) {
	m, err := n.identities.Select(ctx, assigned, w.ClientID, w.PrincipalID, w.ResourceID)
	if err != nil {
		return node.IdentityToken{}, err
	}
	t, err := n.tokens.IssueManaged(ctx, m.PrincipalID, w.Resource)
	return node.IdentityToken{Access: t.Access, ClientID: m.ClientID, Resource: t.Resource, NotBefore: t.NotBefore, Expires: t.Expires}, err
}
