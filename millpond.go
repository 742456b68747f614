// Package millpond holds the nouns of the product: pools, nodes, jobs, tasks,
// disks, images, galleries, principals, with their ids, states, state tables
// and the one error type. It says what things are and which changes of state
// are legal.
//
// It never talks HTTP, SQL, QEMU or JSON-on-the-wire, and imports the standard
// library only. Everybody may import it.
package millpond
