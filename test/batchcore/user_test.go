package batchcore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
)

const userKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyS7Y9OzeswMbAOWUi7fGVEIIYIg70S4PijlI2TlwNc me@here"

// line is the line of a node's passwd or shadow that is a user's.
func (h *hall) line(t *testing.T, id millpond.NodeID, file, user string) string {
	t.Helper()
	h.mu.Lock()
	dir := h.machines[id.Key()].accounts()
	h.mu.Unlock()
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, user+":") {
			return strings.TrimSuffix(line, "\n")
		}
	}
	return ""
}

// TestNodeUsersThroughSDK: the Go SDK makes, replaces and removes accounts of a
// node, which the agent makes real; they expire, and are gone
// with a reimage.
func TestNodeUsersThroughSDK(t *testing.T) {
	c, h := realSetup(t)
	client := c.sdk()
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.UserAccounts = []millpond.UserAccount{{Name: "crew", Password: "Secret-1", UID: 4000, GID: 4001}, {Name: "plain"}}
	})
	c.idle("p", 1)
	id := c.list("p")[0].ID
	name := string(id)
	// The agent is told of them right after it spoke, before any task.
	c.wait("the pool's account is there", func() bool { return strings.HasPrefix(h.line(t, id, "shadow", "crew"), "crew:$6$") })
	if got := h.line(t, id, "passwd", "crew"); !strings.HasPrefix(got, "crew:x:4000:4001:") {
		t.Errorf("the pool's account: %q", got)
	}
	if got := h.line(t, id, "passwd", "plain"); got != "" {
		t.Errorf("an account that nobody can log in with: %q", got)
	}
	if _, err := client.CreateNodeUser(ctx, "p", name, azbatch.CreateNodeUserContent{Name: ptr("amy"), Password: ptr("Secret-2"), IsAdmin: ptr(true)}, nil); err != nil {
		t.Fatal(err)
	}
	first := h.line(t, id, "shadow", "amy")
	if !strings.HasPrefix(first, "amy:$6$") {
		t.Errorf("shadow %q", first)
	}
	for _, taken := range []string{"amy", "crew"} {
		if _, err := client.CreateNodeUser(ctx, "p", name, azbatch.CreateNodeUserContent{Name: &taken}, nil); !refusedWith(err, "NodeUserExists") {
			t.Errorf("%s again: %v", taken, err)
		}
	}
	for what, u := range map[string]azbatch.CreateNodeUserContent{
		"root":         {Name: ptr("root")},
		"the service":  {Name: ptr("_azbatch")},
		"no name":      {Name: ptr("a b")},
		"a bad key":    {Name: ptr("x"), SSHPublicKey: ptr("ssh-rsa nonsense")},
		"two keys":     {Name: ptr("x"), SSHPublicKey: ptr(userKey + "\n" + userKey)},
		"expired long": {Name: ptr("x"), ExpiryTime: ptr(time.Now().Add(-time.Hour))},
	} {
		if _, err := client.CreateNodeUser(ctx, "p", name, u, nil); !refusedWith(err, "InvalidPropertyValue") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The password goes, a key comes.
	if _, err := client.ReplaceNodeUser(ctx, "p", name, "amy", azbatch.UpdateNodeUserContent{SSHPublicKey: ptr(userKey)}, nil); err != nil {
		t.Fatal(err)
	}
	if got := h.line(t, id, "shadow", "amy"); !strings.HasPrefix(got, "amy:*:") {
		t.Errorf("shadow %q", got)
	}
	h.mu.Lock()
	home := filepath.Join(h.machines[id.Key()].accounts(), "home")
	h.mu.Unlock()
	if b, err := os.ReadFile(filepath.Join(home, "amy/.ssh/authorized_keys")); err != nil || string(b) != userKey+"\n" {
		t.Errorf("keys %q %v", b, err)
	}
	for _, absent := range []string{"nobody", "crew"} {
		if _, err := client.ReplaceNodeUser(ctx, "p", name, absent, azbatch.UpdateNodeUserContent{}, nil); !refusedWith(err, "NodeUserNotFound") {
			t.Errorf("replacing %s: %v", absent, err)
		}
		if _, err := client.DeleteNodeUser(ctx, "p", name, absent, nil); !refusedWith(err, "NodeUserNotFound") {
			t.Errorf("deleting %s: %v", absent, err)
		}
	}
	// One expires while nobody does anything.
	if _, err := client.CreateNodeUser(ctx, "p", name, azbatch.CreateNodeUserContent{Name: ptr("brief"), ExpiryTime: ptr(time.Now().Add(4 * time.Second))}, nil); err != nil {
		t.Fatal(err)
	}
	c.wait("an account expires", func() bool { return h.line(t, id, "passwd", "brief") == "" })
	if _, err := client.DeleteNodeUser(ctx, "p", name, "brief", nil); !refusedWith(err, "NodeUserNotFound") {
		t.Errorf("deleting one that has expired: %v", err)
	}
	if _, err := client.DeleteNodeUser(ctx, "p", name, "amy", nil); err != nil {
		t.Fatal(err)
	}
	if got := h.line(t, id, "passwd", "amy"); got != "" {
		t.Errorf("after its removal: %q", got)
	}
	if _, err := os.Stat(filepath.Join(home, "amy")); !os.IsNotExist(err) {
		t.Errorf("its home: %v", err)
	}
	if _, err := client.CreateNodeUser(ctx, "p", name, azbatch.CreateNodeUserContent{Name: ptr("amy")}, nil); err != nil {
		t.Fatal(err)
	}
	before, err := c.nodes.Get(ctx, acct.Name, "p", id)
	c.must(err)
	if _, err := client.ReimageNode(ctx, "p", name, nil); err != nil {
		t.Fatal(err)
	}
	c.wait("the node is reimaged", func() bool {
		n, err := c.nodes.Get(ctx, acct.Name, "p", id)
		return err == nil && n.Generation > before.Generation && n.State == millpond.NodeIdle
	})
	c.wait("the pool's account is on the new disk", func() bool { return h.line(t, id, "passwd", "crew") != "" })
	if got := h.line(t, id, "passwd", "amy"); got != "" {
		t.Errorf("an account of the old disk: %q", got)
	}
	if _, err := client.DeleteNodeUser(ctx, "p", name, "amy", nil); !refusedWith(err, "NodeUserNotFound") {
		t.Errorf("deleting one that went with a reimage: %v", err)
	}
	login, err := client.GetNodeRemoteLoginSettings(ctx, "p", name, nil)
	if n, _ := c.nodes.Get(ctx, acct.Name, "p", id); !n.SSH {
		// This machine has no sshd, and so neither has the node.
		if !refusedWith(err, "OperationNotValidOnNode") {
			t.Errorf("remote login without a server: %v", err)
		}
	} else if err != nil || !strings.HasPrefix(*login.RemoteLoginIPAddress, "127.") || *login.RemoteLoginPort != 50001 {
		t.Errorf("remote login %v %v", login, err)
	}
}

// TestNodeUsersThatCannotBe: an agent that does not know accounts, or refuses one,
// leaves none in the rows.
func TestNodeUsersThatCannotBe(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	client := c.sdk()
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	id := string(c.list("p")[0].ID)
	if _, err := client.CreateNodeUser(ctx, "p", id, azbatch.CreateNodeUserContent{Name: ptr("amy")}, nil); !refusedWith(err, "OperationNotValidOnNode") {
		t.Errorf("an old agent: %v", err)
	}
	h.mu.Lock()
	h.real = t.TempDir()
	h.mu.Unlock()
	c.addPool("q", 1, nil)
	c.idle("q", 1)
	id = string(c.list("q")[0].ID)
	h.mu.Lock()
	dir := h.machines[strings.ToLower(id)].accounts()
	h.mu.Unlock()
	passwd := filepath.Join(dir, "passwd")
	b, err := os.ReadFile(passwd)
	c.must(err)
	c.must(os.WriteFile(passwd, append(b, "images:x:1000:1000:Image:/home/images:/bin/sh\n"...), 0o600))
	if _, err := client.CreateNodeUser(ctx, "q", id, azbatch.CreateNodeUserContent{Name: ptr("images")}, nil); !refusedWith(err, "OperationNotValidOnNode") || !strings.Contains(err.Error(), "already") {
		t.Errorf("an account of the image: %v", err)
	}
	if _, err := client.DeleteNodeUser(ctx, "q", id, "images", nil); !refusedWith(err, "NodeUserNotFound") {
		t.Errorf("it is in the rows: %v", err)
	}
	if _, err := client.CreateNodeUser(ctx, "q", id, azbatch.CreateNodeUserContent{Name: ptr("amy")}, nil); err != nil {
		t.Error(err)
	}
}
