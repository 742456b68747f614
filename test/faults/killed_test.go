//go:build e2e

package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
	"millpond.dev/millpond/test/seeds"
)

// killer asks a server for everything at once and kills it while it works.
type killer struct {
	t      *testing.T
	l      *lab.Lab
	client *http.Client
	tokens map[string]string
	rng    *rand.Rand

	mu sync.Mutex
	// made are the paths whose making was answered, gone those whose deletion was
	// asked for; answered tells whether that had an answer.
	made, gone map[string]bool
	ended      map[string]bool // jobs whose end was answered
	tasks      map[string]int  // by job, those whose adding was answered
}

// ask sends a request that may meet a dead server; 0 stands for no answer.
func (k *killer) ask(audience, method, path string, body any) (int, []byte) {
	text := ""
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			k.t.Error(err)
		}
		text = string(b)
	}
	base, version := "https://"+k.l.Addr, "api-version=2024-03-03"
	if audience == lab.Batch {
		base, version = k.l.BatchURL(), "api-version=2022-10-01.16.0"
	}
	req, err := http.NewRequest(method, base+path+"?"+version, strings.NewReader(text))
	if err != nil {
		k.t.Error(err)
		return 0, nil
	}
	req.Header.Set("Authorization", "Bearer "+k.tokens[audience])
	req.Header.Set("Content-Type", "application/json; odata=minimalmetadata")
	resp, err := k.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	if resp.StatusCode >= 500 {
		k.t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, b)
	}
	return resp.StatusCode, b
}

func (k *killer) put(path string, body any) {
	if code, _ := k.ask(lab.ARM, http.MethodPut, path, body); code == 200 || code == 201 || code == 202 {
		k.mu.Lock()
		k.made[path] = true
		k.mu.Unlock()
	}
}

func (k *killer) remove(path string) {
	code, _ := k.ask(lab.ARM, http.MethodDelete, path, nil)
	k.mu.Lock()
	k.gone[path] = code == 200 || code == 202 || code == 204
	k.mu.Unlock()
}

// round asks for one of each; n is the round.
func (k *killer) round(n int) []func() {
	l := k.l
	version := func(n int) string {
		return fmt.Sprintf("%s/galleries/labgallery/images/tiny/versions/%d.0.0", l.Compute(), n+2)
	}
	snapshot := func(n int) string { return fmt.Sprintf("%s/snapshots/killed%d", l.Compute(), n) }
	var regions []any
	for _, r := range []string{"westus2", "eastus"}[:1+k.rng.IntN(2)] {
		regions = append(regions, map[string]any{"name": r, "regionalReplicaCount": 1 + k.rng.IntN(2)})
	}
	nodes, tasks := k.rng.IntN(6), 1+k.rng.IntN(5)
	job := fmt.Sprintf("job%d", n)
	out := []func(){
		func() {
			k.put(version(n), map[string]any{"location": l.Region, "properties": map[string]any{"publishingProfile": map[string]any{"targetRegions": regions},
				"storageProfile": map[string]any{"source": map[string]any{"id": l.Compute() + "/images/labimage"}}}})
		},
		func() {
			k.put(snapshot(n), map[string]any{"location": l.Region, "properties": map[string]any{"creationData": map[string]any{"createOption": "Copy", "sourceResourceId": l.Compute() + "/disks/osdisk"}}})
		},
		func() {
			k.ask(lab.Batch, http.MethodPost, "/pools/p/resize", map[string]any{"targetDedicatedNodes": nodes})
		},
		func() {
			if code, _ := k.ask(lab.Batch, http.MethodPost, "/jobs", map[string]any{"id": job, "poolInfo": map[string]any{"poolId": "p"}}); code != 201 {
				return
			}
			for i := range tasks {
				if code, _ := k.ask(lab.Batch, http.MethodPost, "/jobs/"+job+"/tasks", task(fmt.Sprintf("t%d", i), "sleep 50ms")); code == 201 {
					k.mu.Lock()
					k.tasks[job]++
					k.mu.Unlock()
				}
			}
		},
		func() {
			k.ask(lab.Batch, http.MethodPost, "/jobschedules", map[string]any{"id": fmt.Sprintf("s%d", n), "schedule": map[string]any{"recurrenceInterval": "PT1M"},
				"jobSpecification": map[string]any{"poolInfo": map[string]any{"poolId": "p"}, "onAllTasksComplete": "terminatejob"}})
		},
	}
	if n > 0 {
		out = append(out, func() { k.remove(snapshot(n - 1)) }, func() {
			last := fmt.Sprintf("job%d", n-1)
			if code, _ := k.ask(lab.Batch, http.MethodPost, "/jobs/"+last+"/terminate", map[string]any{}); code == 202 {
				k.mu.Lock()
				k.ended[last] = true
				k.mu.Unlock()
			}
		}, func() { k.ask(lab.Batch, http.MethodDelete, fmt.Sprintf("/jobschedules/s%d", n-1), nil) })
	}
	if n > 1 {
		out = append(out, func() { k.remove(version(n - 2)) })
	}
	return out
}

// TestKilledAtAnyMoment kills the server while it publishes, replicates, deletes,
// collects, resizes, runs tasks, ends jobs and makes jobs of schedules, all at once
// and again and again. What it has answered is there afterwards, what it was asked to
// delete is gone, everything has ended, and no store is damaged.
func TestKilledAtAnyMoment(t *testing.T) {
	seeds.Each(t, 1, func(t *testing.T, seed uint64) {
		s := lab.Start(t, "--launcher", "fake")
		l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
		l.AddPool(l.PoolBody("p", 2), time.Minute)
		k := &killer{t: t, l: l, client: s.HTTPClient(), rng: rand.New(rand.NewPCG(seed, 1)), made: map[string]bool{}, gone: map[string]bool{}, ended: map[string]bool{}, tasks: map[string]int{},
			tokens: map[string]string{lab.ARM: s.Token(s.Admin(), lab.ARM), lab.Batch: s.Token(s.Admin(), lab.Batch)}}
		for n := range 12 {
			var asked sync.WaitGroup
			// A collection beside it dies with the server. Not at the end: what is written
			// waits for a minute until it is known to be dead.
			gc := exec.Command(s.Bin, "image", "gc", "--data", s.Data, "--grace", "0s")
			if n < 3 {
				if err := gc.Start(); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range k.round(n) {
				wait := time.Duration(k.rng.IntN(150)) * time.Millisecond
				asked.Go(func() { time.Sleep(wait); f() })
			}
			time.Sleep(time.Duration(20+k.rng.IntN(900)) * time.Millisecond)
			s.Kill()
			if gc.Process != nil {
				_ = gc.Process.Kill()
				_ = gc.Wait() // killed, if it had not ended
			}
			asked.Wait()
			begin := time.Now()
			s.Serve()
			t.Logf("round %d: served again after %s", n, time.Since(begin).Round(time.Millisecond))
		}
		k.settle()
	})
}

// settle waits until nothing is under way and compares it with what was answered.
func (k *killer) settle() {
	t, l := k.t, k.l
	versions, snapshots := 0, 0
	for path := range k.made {
		_, asked := k.gone[path]
		lab.Wait(t, 3*time.Minute, path+" is as it was asked for", func() (bool, string) {
			code, b := k.ask(lab.ARM, http.MethodGet, path, nil)
			var r struct {
				Properties struct{ ProvisioningState string }
			}
			_ = json.Unmarshal(b, &r)
			if code == 404 {
				return asked, "it is not there"
			}
			if k.gone[path] {
				return false, string(b) // its deletion was answered
			}
			return code == 200 && r.Properties.ProvisioningState == "Succeeded", string(b)
		})
		if strings.Contains(path, "/versions/") {
			versions++
		} else {
			snapshots++
		}
	}
	var pool struct {
		Allocation string `json:"allocationState"`
		Target     int    `json:"targetDedicatedNodes"`
		Current    int    `json:"currentDedicatedNodes"`
	}
	lab.Wait(t, time.Minute, "the pool is steady", func() (bool, string) {
		_, b := k.ask(lab.Batch, http.MethodGet, "/pools/p", nil)
		return json.Unmarshal(b, &pool) == nil && pool.Allocation == "steady", string(b)
	})
	if pool.Current != pool.Target {
		t.Errorf("the pool has %d of %d nodes", pool.Current, pool.Target)
	}
	if pool.Target == 0 {
		l.Resize("p", 1)
		pool.Target = 1
	}
	lab.Wait(t, time.Minute, "all nodes are ready", func() (bool, string) {
		nodes, ready := l.Nodes("p"), 0
		for _, n := range nodes {
			if n.State == "unusable" {
				// The fake's machines die with the server, more often than a node is given.
				k.ask(lab.Batch, http.MethodPost, "/pools/p/nodes/"+n.ID+"/reimage", map[string]any{})
			}
			if n.State == "idle" || n.State == "running" {
				ready++
			}
		}
		return ready == pool.Target && len(nodes) == pool.Target, fmt.Sprintf("%+v", nodes)
	})
	ran := 0
	for job, n := range k.tasks {
		lab.Wait(t, time.Minute, job+" has ended", func() (bool, string) {
			_, b := k.ask(lab.Batch, http.MethodGet, "/jobs/"+job, nil)
			var j struct{ State string }
			_ = json.Unmarshal(b, &j)
			all := l.Tasks(job)
			open := 0
			for _, x := range all {
				if x.State != "completed" {
					open++
				}
			}
			if len(all) < n {
				t.Fatalf("%s has %d tasks, %d were answered", job, len(all), n)
			}
			if k.ended[job] {
				return j.State == "completed", string(b)
			}
			return open == 0 || j.State == "completed", fmt.Sprintf("%s, %d open", b, open)
		})
		ran += n
	}
	if r := l.RunBin("image", "verify", "--data", l.Data); r.Code != 0 {
		t.Errorf("verify: %s%s", r.Stdout, r.Stderr)
	}
	// What crashes leave behind on the disk does not grow.
	for _, pattern := range []string{"stores/*/*/.tmp-*", ".tmp-*", "vms/.tmp-*"} {
		if left, _ := filepath.Glob(filepath.Join(l.Data, pattern)); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	t.Logf("%d versions, %d snapshots, %d tasks were answered", versions, snapshots, ran)
}
