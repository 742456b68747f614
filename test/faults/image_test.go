//go:build e2e

package faults

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/test/lab"
)

func imageHost(s *lab.Server) *imagehost.Client {
	return imagehost.NewClient(filepath.Join(s.Data, "image-host"))
}

// TestImageHostKilledWhileNodesBoot kills the process that machines read their
// image through, in the middle of their boot: it comes back, and they come up.
func TestImageHostKilledWhileNodesBoot(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	body := l.PoolBody("p", 2)
	// A machine that nodes are copied from would read it as well.
	body["metadata"] = []any{map[string]any{"name": "millpond:clones", "value": "off"}}
	// What a boot reads is mapped, and needs no image host any more; the rest does.
	body["startTask"] = map[string]any{"commandLine": "/bin/sh -c 'cat /dev/vda >/dev/null'", "waitForSuccess": true,
		"userIdentity": map[string]any{"autoUser": map[string]any{"elevationLevel": "admin", "scope": "pool"}}}
	if a := l.Batch(http.MethodPost, "/pools", body); a.Status != 201 {
		t.Fatalf("add pool: %d %s", a.Status, a.Body)
	}
	client, ctx := imageHost(s), context.Background()
	var first imagehost.Health
	lab.Wait(t, time.Minute, "machines that read their image", func() (bool, string) {
		st, err := client.Stats(ctx)
		if err != nil {
			return false, err.Error()
		}
		first, err = client.Health(ctx)
		return err == nil && st.Clients == 2 && st.Ahead+st.Misses >= 5, fmt.Sprintf("%+v, %v", st, err)
	})
	if err := syscall.Kill(first.Process.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.WaitIdle("p", 2, 5*time.Minute)
	now, err := client.Health(ctx)
	if err != nil || now.Process == first.Process {
		t.Errorf("the image host: %+v, %v", now, err)
	}
	st, err := client.Stats(ctx)
	if err != nil || st.Clients != 2 {
		t.Errorf("%+v, %v", st, err)
	}
	for _, pid := range s.Descendants("image-host --dir") {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
				t.Log("image host: ", strings.Join(strings.Fields(line), " "))
			}
		}
	}
	// The end of the server takes it along.
	s.Stop()
	if left := s.Descendants("image-host --dir"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDamagedReplicas: with all replicas damaged a node says which store and what
// to do; with one whole replica nodes boot, and the other is mended.
func TestDamagedReplicas(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	version := l.Compute() + "/galleries/labgallery/images/tiny/versions/2.0.0"
	l.Put(version, map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": l.Region, "regionalReplicaCount": 2}}},
		"storageProfile":    map[string]any{"source": map[string]any{"id": l.Compute() + "/images/labimage"}}}})
	store := func(n int) string { return filepath.Join(s.Data, "stores", fmt.Sprintf("%s-%d", l.Region, n)) }
	for n := range 2 {
		flip(t, store(n))
	}
	pool := func(id string) map[string]any {
		body := l.PoolBody(id, 1)
		body["virtualMachineConfiguration"].(map[string]any)["imageReference"] = map[string]any{"virtualMachineImageId": version}
		return body
	}
	if a := l.Batch(http.MethodPost, "/pools", pool("bad")); a.Status != 201 {
		t.Fatalf("add pool: %d %s", a.Status, a.Body)
	}
	lab.Wait(t, 2*time.Minute, "a node that says that its image cannot be read", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/bad/nodes", nil)
		text := string(a.Body)
		return strings.Contains(text, "ImageUnreadable") && strings.Contains(text, l.Region+"-0") && strings.Contains(text, l.Region+"-1") && strings.Contains(text, "reimage"), text
	})
	if a := l.Batch(http.MethodDelete, "/pools/bad", nil); a.Status != 202 {
		t.Fatalf("delete: %d %s", a.Status, a.Body)
	}
	flip(t, store(1)) // flipped twice it is whole
	l.AddPool(pool("good"), 5*time.Minute)
	lab.Wait(t, 30*time.Second, "repairs of the first store", func() (bool, string) {
		st, err := imageHost(s).Stats(context.Background())
		if err != nil {
			return false, err.Error()
		}
		for _, x := range st.Stores {
			if x.Name == l.Region+"-0" && x.Damaged > 0 && x.Repaired > 0 && x.RepairFailed == 0 {
				t.Logf("%+v", st.Stores)
				return true, ""
			}
		}
		return false, fmt.Sprintf("%+v", st.Stores)
	})
}

// flip inverts a bit in the middle of every chunk of a store.
func flip(t *testing.T, store string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(store, "chunks", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no chunks in %s: %v", store, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 0x10
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
