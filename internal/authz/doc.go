// Package authz decides who may do what: Azure's built-in roles as a table,
// custom roles, assignments, and their evaluation along scopes. The front
// doors (armapi, batchapi, identity, storageapi) call Authorize with the action of a route;
// verbs call Allowed for rights on a second resource, such as a pool's image.
//
// It never reads a token and knows no HTTP. Every request passes here, so
// everything is decided from a snapshot in memory that each write replaces.
package authz
