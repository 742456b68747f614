//go:build e2e

package rules

import (
	"encoding/json"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// storeUsage is a row of `millpond image du --json`.
type storeUsage struct {
	Store, URL                                         string
	Contents, Chunks                                   int
	LogicalBytes, DataBytes, StoredBytes, GarbageBytes int64
}

// TestTheStoresCommands runs `millpond image du`, `verify` and `gc` while the server serves.
func TestTheStoresCommands(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	l := s.Furnish(s.TinyVHD("ubuntu-20.04"), "V1")
	// Two replicas: what one store loses, the other has.
	l.Put(l.Version, map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": l.Region, "regionalReplicaCount": 2}}},
		"storageProfile":    map[string]any{"source": map[string]any{"id": l.Compute() + "/images/labimage"}}}})
	run := func(code int, words ...string) lab.Result {
		t.Helper()
		r := l.RunBin(append([]string{"image", words[0], "--data", l.Data}, words[1:]...)...)
		if r.Code != code {
			t.Fatalf("image %s: exit code %d, want %d: %s%s", strings.Join(words, " "), r.Code, code, r.Stdout, r.Stderr)
		}
		return r
	}
	table := func(out any, code int, words ...string) {
		t.Helper()
		if r := run(code, append(words, "--json")...); json.Unmarshal([]byte(r.Stdout), out) != nil {
			t.Fatalf("image %s --json: %s", strings.Join(words, " "), r.Stdout)
		}
	}
	file := filepath.Join(t.TempDir(), "millpond.yaml")
	if err := os.WriteFile(file, []byte("regions:\n- name: westus2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all []storeUsage
	table(&all, 0, "du", "--config", file)
	if len(all) != 2 || all[0].Store != "westus2-0" || all[1].Store != "westus2-1" {
		t.Fatalf("the stores of the configuration: %+v", all)
	}
	for _, u := range all {
		if u.Contents == 0 || u.Chunks == 0 || u.StoredBytes == 0 || u.StoredBytes >= u.DataBytes || u.DataBytes > u.LogicalBytes {
			t.Errorf("%+v", u)
		}
	}
	var one []storeUsage
	if table(&one, 0, "du", "--store", "westus2-1"); len(one) != 1 || one[0] != all[1] {
		t.Errorf("one store: %+v, want %+v", one, all[1])
	}
	if r := run(0, "du"); !strings.Contains(r.Stdout, "GARBAGE") || !strings.Contains(r.Stdout, "stores are empty (--json lists them)") {
		t.Errorf("du without a configuration: %s", r.Stdout)
	}
	if r := run(1, "du", "--store", "none"); !strings.Contains(r.Stderr, `no store "none"`) {
		t.Errorf("a store that is none: %s", r.Stderr)
	}

	if r := run(0, "verify", "--config", file); !strings.Contains(r.Stdout, "0 faults, 0 repaired") {
		t.Errorf("verify of whole stores: %s", r.Stdout)
	}
	flip(t, all[1].URL)
	type fault struct {
		Store, Content, What, Source string
		Chunk                        int64
		Repaired                     bool
	}
	var faults []fault
	table(&faults, 2, "verify", "--config", file)
	if len(faults) != 1 || faults[0].Store != "westus2-1" || faults[0].Source != "westus2-0" || faults[0].Repaired {
		t.Fatalf("faults of a flipped bit: %+v", faults)
	}
	if r := run(2, "verify", "--store", "westus2-1", faults[0].Content); !strings.Contains(r.Stdout, "westus2-0 has it: run with --repair") || !strings.Contains(r.Stderr, "1 chunks are damaged") {
		t.Errorf("verify of one content: %s%s", r.Stdout, r.Stderr)
	}
	if table(&faults, 0, "verify", "--config", file, "--repair"); len(faults) != 1 || !faults[0].Repaired {
		t.Errorf("repaired: %+v", faults)
	}
	if table(&faults, 0, "verify", "--config", file); len(faults) != 0 {
		t.Errorf("after the repair: %+v", faults)
	}

	// The second replica goes; what is left of it waits for a collection.
	if a := l.Do(l.Admin(), lab.ARM, "DELETE", l.Version+"?api-version=2024-03-03", nil); a.Status != 202 && a.Status != 200 {
		t.Fatalf("delete the version: %d %s", a.Status, a.Body)
	}
	lab.Wait(t, time.Minute, "the version gone", func() (bool, string) {
		a := l.Do(l.Admin(), lab.ARM, "GET", l.Version+"?api-version=2024-03-03", nil)
		return a.Status == 404, string(a.Body)
	})
	type collected struct {
		Store         string
		Bytes, Chunks int64
	}
	var would, did []collected
	table(&would, 0, "gc", "--config", file, "--grace", "0s", "--dry-run")
	table(&one, 0, "du", "--store", "westus2-1")
	if len(would) != 2 || would[1].Store != "westus2-1" || would[1].Bytes != one[0].GarbageBytes {
		t.Errorf("would be deleted: %+v, garbage %+v", would, one)
	}
	if r := run(0, "gc", "--config", file, "--dry-run"); !strings.Contains(r.Stdout, "WOULD DELETE") {
		t.Errorf("gc --dry-run: %s", r.Stdout)
	}
	if table(&did, 0, "gc", "--config", file, "--grace", "0s"); len(did) != 2 || did[1].Chunks < would[1].Chunks {
		t.Errorf("deleted: %+v, would be %+v", did, would)
	}
	if table(&one, 0, "du", "--store", "westus2-1"); one[0].GarbageBytes != 0 {
		t.Errorf("left: %+v", one)
	}
}

// flip changes one bit in the middle of a chunk of the store in a folder.
func flip(t *testing.T, store string) {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	flipped := false
	err = filepath.WalkDir(filepath.Join(u.Path, "chunks"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return err
		}
		flipped = true
		return fs.SkipAll
	})
	if err != nil || !flipped {
		t.Fatalf("no chunk was changed below %s: %v", store, err)
	}
}
