// Package httpd is the front door: one TLS listener that answers for every
// Azure host name with certificates of its own CA, gives each request an id and
// a line in the log, keeps a panic from ending the server, and hands the request
// to an edge by host and path. cmd/millpond calls it.
//
// It authenticates nobody and knows no verb: edges do. It imports no edge but
// azwire, so what it serves is whatever it is given.
package httpd
