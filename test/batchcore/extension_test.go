package batchcore

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

const extensionPool = `{"id":"p","vmSize":"standard_d2s_v3","targetDedicatedNodes":1,"startTask":{"commandLine":"/bin/sh -c 'cat FILE'","waitForSuccess":true},
	"virtualMachineConfiguration":{"imageReference":{"virtualMachineImageId":"/v/versions/1.0.0"},"nodeAgentSKUId":"batch.node.debian 12","extensions":[
		{"name":"second","publisher":"Microsoft.Azure.Extensions","type":"CustomScript","typeHandlerVersion":"2.1","provisionAfterExtensions":["first"],
			"settings":{"fileUris":[]},"protectedSettings":{"commandToExecute":"echo second $(cat FILE) >> FILE; echo out"}},
		{"name":"first","publisher":"Microsoft.OSTCExtensions","type":"CustomScriptForLinux","typeHandlerVersion":"1.5","settings":{"commandToExecute":"echo first >> FILE"}}]}}`

// post adds something through HTTP, as clients do whose settings are no texts.
func (c *core) post(path, text string) (int, string) {
	c.t.Helper()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address+"/batch/acct.westus2"+path+"?api-version=2024-07-01.20.0", strings.NewReader(text))
	c.must(err)
	q.Header.Set("Authorization", "Bearer x")
	resp, err := http.DefaultClient.Do(q)
	c.must(err)
	return resp.StatusCode, body(c, resp.Body)
}

// shownExtension is an extension of a node as clients see it.
type shownExtension struct {
	ProvisioningState string
	VMExtension       struct {
		Name, Type        string
		Settings          map[string]any
		ProtectedSettings any
	}
	InstanceView struct {
		Statuses []struct{ Code, Level, Message string }
	}
}

func (c *core) extensions(node millpond.NodeID) map[string]shownExtension {
	c.t.Helper()
	var list struct{ Value []shownExtension }
	if status := c.read("/pools/p/nodes/"+string(node)+"/extensions?api-version=2024-07-01.20.0", &list); status != 200 {
		c.t.Fatal(status)
	}
	out := map[string]shownExtension{}
	for _, e := range list.Value {
		out[e.VMExtension.Name] = e
	}
	return out
}

// TestExtensions: a pool's extensions run in their order, each once for a disk,
// before the start task; their outcome is shown and what is protected never.
func TestExtensions(t *testing.T) {
	c, h := realSetup(t)
	client := c.sdk()
	file := filepath.Join(h.real, "written")
	for _, bad := range [][2]string{
		{strings.Replace(extensionPool, "Version\":\"1.5", "Version\":\"newest", 1), `"InvalidPropertyValue"`},
		{strings.Replace(extensionPool, `"provisionAfterExtensions":["first"]`, `"provisionAfterExtensions":["third"]`, 1), `"InvalidPropertyValue"`},
		{strings.Replace(extensionPool, `"typeHandlerVersion":"1.5",`, ``, 1), `"InvalidPropertyValue"`},
		{strings.Replace(extensionPool, `"commandToExecute":"echo first >> FILE"`, ``, 1), `"InvalidPropertyValue"`},
	} {
		if status, text := c.post("/pools", bad[0]); status != 400 || !strings.Contains(text, bad[1]) || strings.Contains(text, "echo second") {
			t.Errorf("%d %s, want %s", status, text, bad[1])
		}
	}
	if status, text := c.post("/pools", strings.ReplaceAll(extensionPool, "FILE", file)); status != 201 {
		t.Fatal(status, text)
	}
	c.idle("p", 1)
	node := c.list("p")[0].ID
	written := func() string {
		b, err := os.ReadFile(file)
		c.must(err)
		return string(b)
	}
	if got := written(); got != "first\nsecond first\n" {
		t.Errorf("written: %q", got)
	}
	all := c.extensions(node)
	second := all["second"]
	if len(all) != 2 || second.ProvisioningState != "Succeeded" || second.InstanceView.Statuses[0].Code != "ProvisioningState/succeeded" || !strings.Contains(second.InstanceView.Statuses[0].Message, "[stdout]\nout\n") ||
		second.VMExtension.ProtectedSettings != nil || second.VMExtension.Settings["fileUris"] == nil {
		t.Errorf("%+v", all)
	}
	var raw json.RawMessage
	c.read("/pools/p?api-version=2024-07-01.20.0", &raw)
	if strings.Contains(string(raw), "echo second") || !strings.Contains(string(raw), "echo first") {
		t.Errorf("the pool: %s", raw)
	}
	if got, err := client.GetNodeExtension(ctx, "p", string(node), "FIRST", nil); err != nil || *got.VMExtension.Name != "first" || *got.ProvisioningState != "Succeeded" || *got.VMExtension.Settings["commandToExecute"] != "echo first >> "+file {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := client.GetNodeExtension(ctx, "p", string(node), "third", nil); !refusedWith(err, "ResourceNotFound") {
		t.Errorf("%v", err)
	}
	// A new disk gets them again.
	_, err := client.ReimageNode(ctx, "p", string(node), nil)
	c.must(err)
	c.wait("the node is reimaged", func() bool {
		n := c.list("p")[0]
		return n.Generation == 2 && n.State == millpond.NodeIdle
	})
	if got := written(); strings.Count(got, "first\n") != 4 {
		t.Errorf("after the reimage: %q", got)
	}
}

// TestExtensionFails: the node is unusable with the words of machines, the
// start task does not run, and what the extension said is shown. A session that
// comes after one that was lost does not try it once more.
func TestExtensionFails(t *testing.T) {
	c, h := realSetup(t)
	c.sdk()
	file := filepath.Join(h.real, "written")
	pool := strings.Replace(extensionPool, "echo second $(cat FILE) >> FILE; echo out", "echo broken >&2; echo tried >> FILE; exit 7", 1)
	if status, text := c.post("/pools", strings.ReplaceAll(pool, "FILE", file)); status != 201 {
		t.Fatal(status, text)
	}
	c.wait("the node is unusable", func() bool { return c.inState("p", millpond.NodeUnusable) == 1 })
	n := c.list("p")[0]
	e := n.Errors[0]
	if e.Code != "VMExtensionProvisioningError" || !strings.Contains(e.Message, "'second'") || !strings.Contains(e.Message, "exit status=7") || e.Details[0].Value != "second" {
		t.Errorf("%+v", e)
	}
	second := c.extensions(n.ID)["second"]
	if second.ProvisioningState != "Failed" || second.InstanceView.Statuses[0].Code != "ProvisioningState/failed/7" || second.InstanceView.Statuses[0].Level != "Error" || !strings.Contains(second.InstanceView.Statuses[0].Message, "[stderr]\nbroken\n") {
		t.Errorf("%+v", second)
	}
	if _, err := os.Stat(filepath.Join(h.root(n.ID), "startup", "stdout.txt")); !os.IsNotExist(err) {
		t.Errorf("the start task has run: %v", err)
	}
	if got, err := os.ReadFile(file); string(got) != "first\ntried\n" {
		t.Errorf("%q %v", got, err)
	}
	speaks := func() bool {
		_, err := c.nodes.Files(ctx, acct.Name, "p", n.ID)
		return err == nil
	}
	// again is another session; by when another node has booted, what it starts of
	// itself would have run.
	again := func(beside string) {
		h.mu.Lock()
		attach := h.attach
		h.attach = nil
		h.mu.Unlock()
		c.nodes.Drop(n.ID)
		c.wait("the session has ended", func() bool { return !speaks() })
		h.mu.Lock()
		h.attach = attach
		h.mu.Unlock()
		c.wait("another session", speaks)
		c.addPool(beside, 1, nil)
		c.idle(beside, 1)
	}
	again("q")
	if got, err := os.ReadFile(file); string(got) != "first\ntried\n" || c.list("p")[0].Extensions[1].Try != 1 {
		t.Errorf("after another session: %q %v, %+v", got, err, c.list("p")[0].Extensions)
	}
	// A node that is being rebooted has the boot prepared that comes, not the one that
	// a session comes back from.
	shut := make(chan struct{})
	h.mu.Lock()
	h.shut = shut
	h.mu.Unlock()
	c.must(c.nodes.Reboot(ctx, acct.Name, "p", n.ID, millpond.DeallocateRequeue))
	c.wait("the machine was told", func() bool { return c.list("p")[0].Pending == "" })
	again("r")
	if now := c.list("p")[0]; now.State != millpond.NodeRebooting || now.Extensions[1].Try != 1 {
		t.Errorf("another session while it goes down: %s %+v", now.State, now.Extensions)
	}
	if got, err := os.ReadFile(file); string(got) != "first\ntried\n" {
		t.Errorf("%q %v", got, err)
	}
	close(shut)
	c.wait("the next boot has tried once more", func() bool {
		now := c.list("p")[0]
		return now.BootID != n.BootID && now.State == millpond.NodeUnusable && now.Extensions[1].Try == 2
	})
}

// TestExtensionUnavailable: a pool with an extension that nothing here can run is
// taken with a warning; those before it run, and its nodes say why they are
// unusable.
func TestExtensionUnavailable(t *testing.T) {
	c, h := realSetup(t)
	c.sdk()
	pool := strings.Replace(extensionPool, "CustomScriptForLinux", "AzureMonitorLinuxAgent", 1)
	file := filepath.Join(h.real, "written")
	if status, text := c.post("/pools", strings.ReplaceAll(pool, "FILE", file)); status != 201 {
		t.Fatal(status, text)
	}
	c.wait("the node is unusable", func() bool { return c.inState("p", millpond.NodeUnusable) == 1 })
	n := c.list("p")[0]
	if e := n.Errors[0]; e.Code != "VMExtensionProvisioningError" || !strings.Contains(e.Message, "AzureMonitorLinuxAgent is not available here") {
		t.Errorf("%+v", e)
	}
	all := c.extensions(n.ID)
	missing := 0
	for _, x := range all {
		if x.VMExtension.Type != "AzureMonitorLinuxAgent" {
			continue
		}
		missing++
		if x.ProvisioningState != "Failed" || !strings.Contains(x.InstanceView.Statuses[0].Message, "custom script") {
			t.Errorf("%+v", x)
		}
	}
	if missing != 1 || len(all) != 2 {
		t.Errorf("%+v", all)
	}
	var got struct {
		Warnings        []struct{ Code string }
		AllocationState string
	}
	c.read("/pools/p?api-version=2024-07-01.20.0", &got)
	if len(got.Warnings) != 1 || got.Warnings[0].Code != "ExtensionUnavailable" || got.AllocationState != "steady" {
		t.Errorf("%+v", got)
	}
}
