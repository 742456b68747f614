//go:build e2e

package vm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// marked is a copy of a tiny image with a file /mark, and perhaps another, as
// fixed VHD.
func marked(t *testing.T, s *lab.Server, vhd, mark string, more ...string) string {
	t.Helper()
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	raw := filepath.Join(s.Data, mark+".raw")
	run("cp", "--sparse=always", strings.TrimSuffix(vhd, ".vhd")+".raw", raw)
	var report struct {
		Partitions []struct {
			Start      int64
			FileSystem string
		}
	}
	if err := json.Unmarshal([]byte(run(s.Bin, "image", "inspect", raw)), &report); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.Data, mark)
	if err := os.WriteFile(file, []byte(mark+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Partitions {
		for _, name := range append([]string{"mark"}, more...) {
			if p.FileSystem == "ext4" {
				run("/sbin/debugfs", "-w", "-R", "write "+file+" /"+name, fmt.Sprintf("%s?offset=%d", raw, p.Start))
			}
		}
	}
	out := filepath.Join(s.Data, mark+".vhd")
	run(s.Bin, "image", "export", raw, "--vhd", out)
	return out
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
		snap, image := l.Compute()+"/snapshots/"+name, l.Compute()+"/images/"+name
		l.Put(snap, map[string]any{"location": l.Region, "properties": map[string]any{"creationData": map[string]any{"createOption": "Copy", "sourceResourceId": l.Upload(vhd, name, "V1")}}})
		l.Put(image, map[string]any{"location": l.Region, "properties": map[string]any{"hyperVGeneration": "V1",
			"storageProfile": map[string]any{"osDisk": map[string]any{"osType": "Linux", "osState": "Generalized", "snapshot": map[string]any{"id": snap}}}}})
		return l.Publish("tiny", version, image, l.Region)
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
	lab.Wait(t, 3*time.Minute, "a template", func() (bool, string) {
		found, err := filepath.Glob(filepath.Join(s.Data, "vms", ".template-*", "template.json"))
		return len(found) > 0, fmt.Sprint(err)
	})
	if a := l.Batch(http.MethodPost, "/pools/p/resize", map[string]any{"targetDedicatedNodes": 3}); a.Status != http.StatusAccepted {
		t.Fatalf("resize: %d %s", a.Status, a.Body)
	}
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
	// A node that comes now gets the pool's image, with which it fails.
	to(second)
	ended("done")
	marks("fourth", "two")
}
