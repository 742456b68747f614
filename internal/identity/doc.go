// Package identity is the edge that speaks Microsoft's identity protocols: the
// token endpoints of both generations, discovery documents, the metadata that
// describes this cloud, and the part of Microsoft Graph that az needs. It
// decodes, calls directory (and authz for the right to change Graph's objects),
// and encodes.
//
// It keeps nothing and serves no user sign-in: Millpond's principals are
// applications. httpd mounts its handlers by host and path.
package identity
