//go:build e2e

package vm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// marked is a copy of a tiny image with a file /mark that says so, and perhaps
// another, as fixed VHD.
func marked(t *testing.T, s *lab.Server, vhd, mark string, more ...string) string {
	t.Helper()
	d := newRootDisk(t, s, vhd, mark)
	for _, name := range append([]string{"mark"}, more...) {
		d.write("/"+name, mark+"\n")
	}
	return d.export()
}

// TestRolloutOfAnImage changes the image of a pool of real machines by az: one
// node after another gets it when its tasks have ended, clones of the version
// before do not come back, and a version on which the start task fails goes no
// further than its first node, which gets the one before again.
func TestRolloutOfAnImage(t *testing.T) {
	s := lab.Start(t)
	tiny := s.TinyVHD("ubuntu-16.04")
	l := s.Furnish(marked(t, s, tiny, "one"), "V1")
	publish := func(version, vhd string) string {
		t.Helper()
		name := "os" + strings.ReplaceAll(version, ".", "")
		return l.Publish("tiny", version, l.Image(name, l.Snapshot(name, l.Upload(vhd, name, "V1")), "V1"), l.Region)
	}
	const agent = "batch.node.ubuntu 16.04"
	s.Az("batch", "account", "login", "--name", l.Account, "--resource-group", "lab")
	to := func(version string) {
		t.Helper()
		text, err := json.Marshal(map[string]any{"virtualMachineConfiguration": map[string]any{"imageReference": map[string]any{"virtualMachineImageId": version}, "nodeAgentSKUId": agent}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "new.json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s.Az("batch", "pool", "set", "--pool-id", "p", "--json-file", file)
	}
	// ended waits for a rollout's end; atOnce is the most nodes that were upgraded
	// at the same time.
	ended := func(want string) (atOnce int) {
		t.Helper()
		lab.Wait(t, 4*time.Minute, "the rollout is "+want, func() (bool, string) {
			now := 0
			for _, n := range l.Nodes("p") {
				if n.State == "upgradingos" {
					now++
				}
			}
			atOnce = max(atOnce, now)
			a := l.Batch(http.MethodGet, "/pools/p", nil)
			var p struct {
				Rollout struct{ State string }
			}
			err := a.JSON(&p)
			return err == nil && p.Rollout.State == want, string(a.Body)
		})
		return atOnce
	}
	marks := func(job, want string) {
		t.Helper()
		nodes := l.WaitIdle("p", 3, 3*time.Minute)
		var tasks []map[string]any
		for i, n := range nodes {
			tasks = append(tasks, with(command(fmt.Sprint("t", i), "cat /mark"), "affinityInfo", map[string]any{"affinityId": "TVM:" + n.ID}))
		}
		l.AddJob(job, "p", tasks...)
		l.WaitTasks(job, time.Minute)
		for i, n := range nodes {
			if out := l.Stdout(job, fmt.Sprint("t", i)); out != want+"\n" {
				t.Errorf("%s, a %s, has image %q, want %s", n.ID, n.Kind, out, want)
			}
			t.Logf("%s: %s, a %s %s", n.ID, want, n.Kind, n.Reason)
		}
	}

	body := l.PoolBody("p", 2)
	body["upgradePolicy"] = map[string]any{"mode": "rolling", "rollingUpgradePolicy": map[string]any{"rollbackFailedInstancesOnPolicyBreach": true}}
	body["startTask"] = map[string]any{"commandLine": "/bin/sh -c '! test -e /broken'", "waitForSuccess": true}
	l.AddPool(body, 3*time.Minute)
	l.WaitTemplate(3 * time.Minute)
	l.Resize("p", 3)
	marks("first", "one")
	second, third := publish("2.0.0", marked(t, s, tiny, "two")), publish("3.0.0", marked(t, s, tiny, "three", "broken"))

	// One node works while the image changes, and ends its work first.
	l.AddJob("long", "p", shell("works", "cat /mark; sleep 20; cat /mark"))
	lab.Wait(t, time.Minute, "the task runs", func() (bool, string) {
		v := l.Tasks("long")
		return len(v) == 1 && v[0].State == "running", fmt.Sprint(v)
	})
	to(second)
	if n := ended("done"); n != 1 {
		t.Errorf("%d nodes were upgraded at once", n)
	}
	if v := l.WaitTasks("long", time.Minute)["works"]; v.Info.Result != "success" || v.Info.RequeueCount != 0 || l.Stdout("long", "works") != "one\none\n" {
		t.Errorf("the task that ran: %+v %q", v, l.Stdout("long", "works"))
	}
	marks("second", "two")

	// A version with which the start task fails.
	to(third)
	ended("stopped")
	if why := s.Az("batch", "pool", "show", "--pool-id", "p", "--query", "resizeErrors[].code", "--output", "tsv"); !strings.Contains(why, "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade") {
		t.Errorf("az says of the rollout: %q", why)
	}
	marks("third", "two")
	// The pool goes back to the version that its nodes have.
	to(second)
	ended("done")
	marks("fourth", "two")
}
