// Package suites runs the vendors' own test suites and sample programs against
// a server, unmodified: nothing of theirs is kept here, the ecosystems' package
// managers bring them at pinned versions when the tests run. What they said is
// written to results/ and read from there by the scoreboard, docs/wire/suites.md.
//
// A suite fails here when one of its tests fails without a reason in known.go.
package suites
