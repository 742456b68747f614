package millpond

import "time"

// Tenant is one directory: the principals in it are known to nobody else.
type Tenant struct {
	ID          string
	DisplayName string
	// Domain is the tenant's default domain name; a client may give it in place
	// of the id.
	Domain  string
	Created time.Time
}

// Application is the registration of a program in its home tenant. It holds the
// secrets; a ServicePrincipal is what acts.
type Application struct {
	// ID is the object id, AppID the client id.
	ID          string
	AppID       string
	Tenant      string
	DisplayName string
	// Audience is AzureADMyOrg, or AzureADMultipleOrgs for an application that
	// other tenants may have a service principal of.
	Audience string
	// IdentifierURIs are further names of the application.
	IdentifierURIs []string
	Created        time.Time
}

// Audiences of an application.
const (
	SingleTenant = "AzureADMyOrg"
	MultiTenant  = "AzureADMultipleOrgs"
)

// ServicePrincipal is an application's identity in one tenant. Roles are
// assigned to its ID.
type ServicePrincipal struct {
	ID          string
	AppID       string
	Tenant      string
	DisplayName string
	Enabled     bool
	// AppTenant is the application's home tenant.
	AppTenant string
	Created   time.Time
	// Managed is the resource id of the managed identity whose principal it is;
	// empty for that of an application.
	Managed string
}

// Secret is a password of an application, without the password: that is shown
// once, when it is made, and kept only as a digest.
type Secret struct {
	KeyID       string
	DisplayName string
	// Hint is the secret's first three characters.
	Hint       string
	Start, End time.Time
}

// RoleDefinition is a named set of rights.
type RoleDefinition struct {
	// ID is a GUID, the same at every scope.
	ID          string
	Tenant      string // empty for a built-in role
	Name        string
	Description string
	BuiltIn     bool
	// AssignableScopes are the scopes at and below which it may be assigned.
	AssignableScopes []string
	Permissions      []Permission
	Created, Updated time.Time
}

// Permission grants what matches Actions and not NotActions (and likewise for
// the data actions). The exceptions narrow this one grant; they deny nothing
// that another role grants.
type Permission struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// RoleAssignment gives a principal a role at a scope and everywhere below it.
type RoleAssignment struct {
	// ID is a GUID that the caller chose.
	ID        string
	Tenant    string
	Principal string
	// PrincipalType is ServicePrincipal, User or Group.
	PrincipalType string
	// Role is a RoleDefinition's ID.
	Role string
	// Scope is a path such as /subscriptions/{s}; "/" is the whole tenant. It
	// keeps the spelling of its creation.
	Scope            string
	Description      string
	CreatedBy        string
	Created, Updated time.Time
}
