// Package directory knows who exists: tenants, applications, their secrets and
// their service principals, with Microsoft Graph's nouns. It issues access
// tokens to those who prove a secret, and verifies the tokens it issued. The
// edges identity (token endpoints, Graph), armapi, batchapi and storageapi call it.
//
// It knows no HTTP and decides no rights: what a principal may do is authz's.
package directory
