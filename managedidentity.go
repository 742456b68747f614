package millpond

import "strings"

// TypeManagedIdentity is the full type of user-assigned identities.
const TypeManagedIdentity = "Microsoft.ManagedIdentity/userAssignedIdentities"

// ManagedIdentity is a principal without a secret: what it is assigned to has
// its tokens made by the server.
type ManagedIdentity struct {
	Resource `json:"-"`
	Tenant   string
	// ClientID is the identity's application id, PrincipalID the object id that
	// roles are assigned to. GUIDs.
	ClientID, PrincipalID string
}

// HasIdentity finds an identity among those of a pool, and gives its id as the pool
// has it. The error is InvalidPropertyValue.
func (s PoolSpec) HasIdentity(id string) (string, error) {
	for _, have := range s.Identities {
		if strings.EqualFold(have, id) {
			return have, nil
		}
	}
	return "", InvalidProperty("identityReference", id, "The pool "+string(s.ID)+" does not have this identity. Name one in the pool's identity.userAssignedIdentities, which the Resource Manager sets, or take one that is there.")
}
