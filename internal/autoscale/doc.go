// Package autoscale is the language in which pools size themselves: it parses a
// formula and evaluates it against samples. It is pure: time, samples and
// randomness come in with Env. It measures nothing and resizes nothing; package
// pool does.
package autoscale
