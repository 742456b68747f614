//go:build e2e

package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestNodesReachEachOther has the nodes of one pool ask each other, by address and
// by name, and not those of another.
func TestNodesReachEachOther(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	for _, p := range []string{"one", "two"} {
		body := l.PoolBody(p, 2)
		body["enableInterNodeCommunication"] = true
		l.AddPool(body, 5*time.Minute)
	}
	one, two := l.Nodes("one"), l.Nodes("two")
	ping := func(from lab.Node, id string, to ...string) map[string]any {
		script := ""
		for _, a := range to {
			script += fmt.Sprintf("ping -c 3 -w 6 %s >/dev/null && echo %s; ", a, a)
		}
		return with(with(shell(id, script+"true"), "affinityInfo", map[string]any{"affinityId": "TVM:" + from.ID}), "userIdentity", admin)
	}
	a, b, foreign := one[0].IPAddress, one[1].IPAddress, two[0].IPAddress
	name := hostName(one[1])
	names := []string{name, name + ".internal.cloudapp.net", hostName(one[0])}
	if !strings.HasPrefix(a, "10.") || a == b {
		t.Fatalf("addresses %q and %q", a, b)
	}
	limited := func(task map[string]any) map[string]any {
		return with(task, "constraints", map[string]any{"maxWallClockTime": "PT20S"})
	}
	l.AddJob("j", "one", limited(ping(one[0], "ab", b)), limited(ping(one[1], "ba", a)), limited(ping(one[0], "foreign", foreign)),
		limited(ping(one[0], "names", append(names, hostName(two[0]), hostName(two[0])+".internal.cloudapp.net")...)))
	l.WaitTasks("j", 90*time.Second)
	if got := l.Stdout("j", "ab"); got != b+"\n" {
		t.Errorf("the first node reaches %q, want %s", got, b)
	}
	if got := l.Stdout("j", "foreign"); got != "" {
		t.Errorf("the first node reaches %q of another pool", got)
	}
	if got, want := l.Stdout("j", "names"), strings.Join(names, "\n")+"\n"; got != want {
		t.Errorf("the first node reaches the names %q, want %q", got, want)
	}
	if got := l.Stdout("j", "ba"); got != a+"\n" {
		t.Errorf("the second node reaches %q, want %s", got, a)
	}
}

// hostName is what a node is called on its network.
func hostName(n lab.Node) string { return strings.ReplaceAll(strings.ToLower(n.ID), "_", "-") }
