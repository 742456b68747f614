// Package batchapi is the data-plane edge of the Batch service: it finds the
// account that a request is for, proves who sends it (bearer token, Shared Key or
// the token of a task), checks the right that the route names, decodes, calls one
// verb of pool, node, job, application, certificate, usage or events, and encodes
// the answer as Azure's clients expect it.
//
// The table in routes.go lists every operation of the service, those that
// Millpond refuses included; shapes in shape_*.go say which members of a body
// are understood and which are refused, never ignored. It decides nothing about
// pools or tasks, reads no database, and nothing of it outlives a request. httpd
// mounts it.
package batchapi
