//go:build e2e

// Package python runs the document's Python program, and our own of the same
// calls, with Debian 12's Azure SDK, unmodified, under millpond exec.
package python

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

func TestProgramsMakePools(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-18.04"), "V1")
	url := "https://" + l.Account + "." + l.Region + ".batch.azure.com"

	t.Run("document", func(t *testing.T) {
		program := lab.Block(t, lab.Document(t), "python", 0)
		program = lab.Fill(t, program, map[string]string{
			"batch-account-name": l.Account, "batch-account-url": url,
			"sp-client-id": s.Creds.ClientID, "tenant-id": s.Creds.TenantID, "sp-secret": s.Creds.ClientSecret,
			"sub id": s.Creds.SubscriptionID, "resource group name": "lab", "gallery name": "labgallery",
			"image definition name": "tiny", "version id": "1.0.0"})
		file := filepath.Join(s.Data, "document.py")
		if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := s.Run("/usr/bin/python3", file); r.Code != 0 {
			t.Fatalf("the document's program: %s%s", r.Stdout, r.Stderr)
		}
		check(t, l, "LinuxNodesSamplePoolPython")
	})
	t.Run("own", func(t *testing.T) {
		program := filepath.Join(s.Root, "test", "python", "pool.py")
		if r := s.Run("/usr/bin/python3", program, l.Account, url, s.Creds.TenantID, s.Creds.ClientID, s.Creds.ClientSecret,
			l.Version, "batch.node.ubuntu 18.04", "OwnPool"); r.Code != 0 {
			t.Fatalf("our program: %s%s", r.Stdout, r.Stderr)
		}
		check(t, l, "OwnPool")
	})
}

// check waits for the pool's one node and reads what its start task printed.
func check(t *testing.T, l *lab.Lab, pool string) {
	t.Helper()
	nodes := l.WaitIdle(pool, 1, 5*time.Minute)
	info := nodes[0].StartTaskInfo
	if info.State != "completed" || info.Result != "success" {
		t.Fatalf("start task: %+v", info)
	}
	a := l.Batch(http.MethodGet, "/pools/"+pool+"/nodes/"+nodes[0].ID+"/files/startup%2Fstdout.txt", nil)
	if a.Status != 200 || !strings.HasSuffix(strings.TrimSpace(string(a.Body)), "/startup") {
		t.Fatalf("the start task printed %d %q", a.Status, a.Body)
	}
	t.Logf("%s: AZ_BATCH_NODE_STARTUP_DIR is %s", pool, strings.TrimSpace(string(a.Body)))
	if d := l.Batch(http.MethodDelete, "/pools/"+pool, nil); d.Status != 202 {
		t.Fatalf("delete pool: %d %s", d.Status, d.Body)
	}
}
