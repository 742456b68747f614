package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps the guest's binary small and free of the server: of this
// module it links the agent and a few leaves, and no database, cloud SDK or
// command-line framework of anybody.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const own = "millpond.dev/millpond"
	allowed := map[string]bool{}
	for _, p := range []string{"", "/cmd/millpond-agent", "/internal/agent", "/internal/agent/guest", "/internal/agent/proc", "/internal/agent/waagent", "/internal/wake",
		"/internal/atomicfile", "/internal/clock", "/internal/launch", "/internal/nodeproto", "/internal/nodeproto/nodev1"} {
		allowed[own+p] = true
	}
	for _, p := range strings.Fields(string(out)) {
		switch {
		case p == own || strings.HasPrefix(p, own+"/"):
			if !allowed[p] {
				t.Errorf("the agent links %s", p)
			}
		case strings.HasPrefix(p, "google.golang.org/protobuf/"), strings.HasPrefix(p, "connectrpc.com/connect"), strings.HasPrefix(p, "golang.org/x/sys/"):
		default:
			t.Errorf("the agent links %s", p)
		}
	}
}
