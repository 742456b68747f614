//go:build e2e

package vm

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestLiveNodes: real machines are preempted, deallocated, started again with
// their files, and take a new start task one after another, each by the client
// that a user has for it: millpond node, az rest, az batch pool set.
func TestLiveNodes(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	body := l.PoolBody("p", 1)
	body["targetLowPriorityNodes"] = 1
	body["upgradePolicy"] = map[string]any{"mode": "rolling"}
	body["startTask"] = map[string]any{"commandLine": "/bin/sh -c 'echo first >> $AZ_BATCH_NODE_SHARED_DIR/starts'", "waitForSuccess": true}
	if a := l.Batch(http.MethodPost, "/pools", body); a.Status != http.StatusCreated {
		t.Fatalf("add pool: %d %s", a.Status, a.Body)
	}
	var stay, spot lab.Node
	for _, n := range l.WaitIdle("p", 2, 5*time.Minute) {
		if n.Dedicated {
			stay = n
		} else {
			spot = n
		}
	}
	on := func(n lab.Node, task map[string]any) map[string]any {
		return with(task, "affinityInfo", map[string]any{"affinityId": "TVM:" + n.ID})
	}
	state := func(n lab.Node, want string) {
		t.Helper()
		lab.Wait(t, 2*time.Minute, n.ID+" is "+want, func() (bool, string) {
			a := l.Batch(http.MethodGet, "/pools/p/nodes/"+n.ID, nil)
			return strings.Contains(string(a.Body), `"state":"`+want+`"`), string(a.Body)
		})
	}
	az := func(args ...string) string { t.Helper(); return strings.TrimSpace(s.Az(args...)) }
	az("batch", "account", "login", "--name", l.Account, "--resource-group", "lab")

	// A task that looks sees the notice, and may end in order.
	l.AddJob("spot", "p", on(spot, shell("warned", "touch $AZ_BATCH_NODE_SHARED_DIR/looks; until grep -s Preempt $MILLPOND_SCHEDULED_EVENTS; do sleep 1; done")))
	lab.Wait(t, time.Minute, "the task runs", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/p/nodes/"+spot.ID+"/files/shared%2Flooks", nil)
		return a.Status == http.StatusOK, string(a.Body)
	})
	if r := s.RunBin("node", "preempt", l.Account+"/p", spot.ID, "--notice", "20s"); r.Code != 0 {
		t.Fatalf("millpond node preempt: %s%s", r.Stdout, r.Stderr)
	}
	if v := l.WaitTasks("spot", time.Minute)["warned"]; v.Info.Result != "success" || v.Info.RequeueCount != 0 {
		t.Errorf("the task that saw the notice: %+v", v)
	}
	state(spot, "preempted")
	if out := l.Stdout("spot", "warned"); !strings.Contains(out, `"EventType": "Preempt"`) {
		t.Errorf("the notice was %q", out)
	}

	// Meanwhile the other one rests and comes back with its files.
	post := func(verb string) {
		t.Helper()
		az("rest", "--method", "post", "--resource", lab.Batch, "--headers", "Content-Type=application/json; odata=minimalmetadata", "--body", "{}",
			"--url", "https://"+l.Account+"."+l.Region+".batch.azure.com/pools/p/nodes/"+stay.ID+"/"+verb+"?api-version=2024-07-01.20.0")
	}
	post("deallocate")
	state(stay, "deallocated")
	if got := az("batch", "node", "show", "--pool-id", "p", "--node-id", stay.ID, "--query", "state", "--output", "tsv"); got != "deallocated" {
		t.Errorf("az says that the node is %s", got)
	}
	if left := s.Descendants(stay.ID); len(left) > 0 {
		t.Errorf("processes %v are left of a deallocated node", left)
	}
	post("start")
	state(stay, "idle")
	l.AddJob("j", "p", on(stay, shell("starts", "cat $AZ_BATCH_NODE_SHARED_DIR/starts")))
	l.WaitTasks("j", time.Minute)
	if out := l.Stdout("j", "starts"); out != "first\nfirst\n" {
		t.Errorf("the start task left %q", out)
	}

	l.WaitIdle("p", 2, 3*time.Minute) // the low-priority one has a machine again
	text, err := json.Marshal(map[string]any{"startTask": map[string]any{"commandLine": "/bin/sh -c 'echo second >> $AZ_BATCH_NODE_SHARED_DIR/starts'", "waitForSuccess": true}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "new.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	az("batch", "pool", "set", "--pool-id", "p", "--json-file", file)
	lab.Wait(t, 3*time.Minute, "the rollout is done", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/p", nil)
		return strings.Contains(string(a.Body), `"state":"done"`), string(a.Body)
	})
	l.WaitIdle("p", 2, time.Minute)
	l.AddJob("k", "p", on(stay, shell("stay", "cat $AZ_BATCH_NODE_SHARED_DIR/starts")), on(spot, shell("spot", "cat $AZ_BATCH_NODE_SHARED_DIR/starts")))
	l.WaitTasks("k", time.Minute)
	for id, want := range map[string]string{"stay": "first\nfirst\nsecond\n", "spot": "first\nsecond\n"} {
		if out := l.Stdout("k", id); out != want {
			t.Errorf("%s: the start tasks left %q, want %q", id, out, want)
		}
	}
}
