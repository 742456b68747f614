// Package execproxy is the client side of `millpond exec`: it starts a program
// in an environment in which Azure's host names lead to a Millpond server. A
// proxy on a loopback port of this process carries the program's connections to
// the server, still encrypted: the server ends TLS, so no key is here.
//
// It touches nothing outside the child process and the data folder. cmd/millpond
// calls it.
package execproxy
