package millpond

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
