package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps the guest's binary small and free of the server: of this
// module it links the agent and a few leaves, of cloud SDKs the client of blobs
// alone, and no database or command-line framework of anybody.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const own = "millpond.dev/millpond"
	allowed := map[string]bool{}
	for _, p := range []string{"", "/cmd/millpond-agent", "/internal/agent", "/internal/agent/guest", "/internal/agent/proc", "/internal/agent/mount", "/internal/agent/container", "/internal/agent/transfer", "/internal/agent/managed", "/internal/agent/waagent", "/internal/wake",
		"/internal/atomicfile", "/internal/clock", "/internal/inotify", "/internal/tunnel", "/internal/launch", "/internal/nodeproto", "/internal/nodeproto/nodev1"} {
		allowed[own+p] = true
	}
	for _, p := range strings.Fields(string(out)) {
		switch {
		case p == own || strings.HasPrefix(p, own+"/"):
			if !allowed[p] {
				t.Errorf("the agent links %s", p)
			}
		case strings.HasPrefix(p, "google.golang.org/protobuf/"), strings.HasPrefix(p, "connectrpc.com/connect"), strings.HasPrefix(p, "golang.org/x/sys/"):
		case strings.HasPrefix(p, "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"), strings.HasPrefix(p, "github.com/Azure/azure-sdk-for-go/sdk/azcore"),
			strings.HasPrefix(p, "github.com/Azure/azure-sdk-for-go/sdk/internal/"), strings.HasPrefix(p, "golang.org/x/net/"), strings.HasPrefix(p, "golang.org/x/text/"), p == "golang.org/x/sync/errgroup":
		default:
			t.Errorf("the agent links %s", p)
		}
	}
}
