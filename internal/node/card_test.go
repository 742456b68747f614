package node

import (
	"testing"

	millpond "millpond.dev/millpond"
)

// TestNumbersOfALargePool: nodes get a port each for their login as far as there
// are ports, and then none; those that reach each other end with their network.
func TestNumbersOfALargePool(t *testing.T) {
	var p millpond.Pool
	if got := login(p, millpond.Node{Number: 10_000}); got.Port() != 60_000 {
		t.Errorf("node 10000 has %s", got)
	}
	if got := login(p, millpond.Node{Number: mostNumbers}); got.Port() != 65_535 {
		t.Errorf("the last node has %s", got)
	}
	n := millpond.Node{Number: mostNumbers + 1}
	if n.Login = login(p, n); n.Login.IsValid() {
		t.Errorf("a node without a port has %s", n.Login)
	}
	if c := card(p, n); len(c.Ports) != 0 {
		t.Errorf("its card has %v", c.Ports)
	}
	if got := most(p); got != mostNumbers {
		t.Errorf("numbers end at %d", got)
	}
	private := millpond.Pool{Spec: millpond.PoolSpec{Private: true}}
	n = millpond.Node{Number: 1}
	if n.Login = login(private, n); n.Login.IsValid() || len(card(private, n).Ports) != 0 {
		t.Errorf("a node without public addresses has %s and %v", n.Login, card(private, n).Ports)
	}
	p.Spec.InterNode = true
	if got := most(p); got != mostAddresses {
		t.Errorf("numbers of nodes that reach each other end at %d", got)
	}
}
