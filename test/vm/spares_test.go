//go:build e2e

package vm

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// spareView is what a pool says of its spares.
type spareView struct {
	Spares *struct {
		Wanted    int    `json:"wanted"`
		Ready     int    `json:"ready"`
		MemoryMiB int    `json:"memoryMiB"`
		Reason    string `json:"reason"`
	} `json:"spares"`
}

// untilSpares waits until n spares of the pool are ready.
func untilSpares(t *testing.T, l *lab.Lab, pool string, n int) spareView {
	t.Helper()
	var p spareView
	lab.Wait(t, 5*time.Minute, fmt.Sprintf("%d spares ready", n), func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/"+pool, nil)
		p = spareView{}
		err := a.JSON(&p)
		return err == nil && p.Spares != nil && p.Spares.Ready == n, string(a.Body)
	})
	return p
}

func patchMetadata(t *testing.T, l *lab.Lab, pool string, pairs ...string) {
	t.Helper()
	if a := l.Batch(http.MethodPatch, "/pools/"+pool, map[string]any{"metadata": items(pairs...)}); a.Status != http.StatusOK {
		t.Fatalf("patch: %d %s", a.Status, a.Body)
	}
}

func items(pairs ...string) []any {
	out := []any{}
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, map[string]any{"name": pairs[i], "value": pairs[i+1]})
	}
	return out
}

// actedBoot is how long a machine of the fake launcher takes to boot here.
const actedBoot = 2 * time.Second

// TestSpares has a pool keep machines ready: a resize and a reimage take them, others
// come after them, also across a crash of the server, and none is left at the end.
func TestSpares(t *testing.T) {
	for name, args := range map[string][]string{"fake": {"--launcher", "fake"}, "tiny": nil} {
		t.Run(name, func(t *testing.T) {
			s := lab.New(t, args...)
			if err := os.WriteFile(filepath.Join(s.Data, "millpond.yaml"), fmt.Appendf(nil, "fake: {bootDelay: %s}\n", actedBoot), 0o600); err != nil {
				t.Fatal(err)
			}
			s.Serve()
			l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
			for _, bad := range [][]string{{"millpond:spares", "several"}, {"millpond:spares", "101"}, {"millpond:spares", "1", "millpond:clones", "off"}, {"millpond:clones", "perhaps"}} {
				body := l.PoolBody("p", 1)
				body["metadata"] = items(bad...)
				if a := l.Batch(http.MethodPost, "/pools", body); a.Status != 400 || !strings.Contains(string(a.Body), "InvalidPropertyValue") || !strings.Contains(string(a.Body), "metadata."+bad[0]) {
					t.Errorf("%v: %d %s", bad, a.Status, a.Body)
				}
			}
			body := l.PoolBody("p", 1)
			body["metadata"] = items("millpond:spares", "2")
			l.AddPool(body, 3*time.Minute)
			spareChapter(t, s, l, len(args) == 0)
		})
	}
}

func spareChapter(t *testing.T, s *lab.Server, l *lab.Lab, real bool) {
	p := untilSpares(t, l, "p", 2)
	t.Logf("two spares: %+v", *p.Spares)
	if nodes := l.Nodes("p"); len(nodes) != 1 || real && (p.Spares.MemoryMiB < 2 || p.Spares.MemoryMiB > 1000) {
		t.Errorf("%+v beside %+v", p.Spares, nodes)
	}
	first := l.Nodes("p")[0].ID
	spare := func(id string, n int) {
		t.Helper()
		for _, x := range l.WaitIdle("p", n, 3*time.Minute) {
			if id == x.ID || id == "" && x.ID != first {
				t.Logf("%s %s %v %+v", x.ID, x.Kind, x.Phases, x.Steps)
				if x.Kind != "spare" {
					t.Errorf("%s is a %s: %s", x.ID, x.Kind, x.Reason)
				}
				// A machine that is acted out has its boot behind it as well.
				if !real && x.Phases["idle"] >= float64(actedBoot.Milliseconds()) {
					t.Errorf("%s took a boot's time: %v", x.ID, x.Phases)
				}
			}
		}
	}
	l.Resize("p", 2)
	spare("", 2)
	untilSpares(t, l, "p", 2)
	if a := l.Batch(http.MethodPost, "/pools/p/nodes/"+first+"/reimage", map[string]any{}); a.Status != http.StatusAccepted {
		t.Fatalf("reimage: %d %s", a.Status, a.Body)
	}
	lab.Wait(t, time.Minute, "reimaged", func() (bool, string) {
		for _, x := range l.Nodes("p") {
			if x.ID == first {
				return x.Kind == "spare" && x.State == "idle", fmt.Sprintf("%+v", x)
			}
		}
		return false, ""
	})
	untilSpares(t, l, "p", 2)
	if real {
		s.Kill()
		s.Serve()
		untilSpares(t, l, "p", 2)
		l.Resize("p", 3)
		spare("", 3)
		who := map[string]string{}
		var tasks []map[string]any
		for i, x := range l.Nodes("p") {
			task := with(shell(fmt.Sprint("who-", i), "hostname; cat /proc/sys/kernel/random/boot_id; cat /sys/class/net/e*/address"), "userIdentity", admin)
			task["affinityInfo"] = map[string]any{"affinityId": "TVM:" + x.ID}
			tasks = append(tasks, task)
		}
		l.AddJob("who", "p", tasks...)
		for id, x := range l.WaitTasks("who", time.Minute) {
			lines := strings.Fields(l.Stdout("who", id))
			if len(lines) != 3 || lines[0] != strings.ReplaceAll(strings.ToLower(x.NodeInfo.NodeID), "_", "-") {
				t.Errorf("%s, where %s ran, says %v", x.NodeInfo.NodeID, id, lines)
			}
			for _, v := range lines {
				if other := cmp.Or(who[v], x.NodeInfo.NodeID); other != x.NodeInfo.NodeID {
					t.Errorf("%s and %s both have %s", other, x.NodeInfo.NodeID, v)
				}
				who[v] = x.NodeInfo.NodeID
			}
		}
		// A node whose machine was a spare reboots as all do.
		if a := l.Batch(http.MethodPost, "/pools/p/nodes/"+first+"/reboot", map[string]any{}); a.Status != http.StatusAccepted {
			t.Fatalf("reboot: %d %s", a.Status, a.Body)
		}
		lab.Wait(t, time.Minute, "rebooting", func() (bool, string) {
			for _, x := range l.Nodes("p") {
				if x.ID == first {
					return x.State == "rebooting" || x.State == "starting" || x.Kind == "boot", fmt.Sprintf("%+v", x)
				}
			}
			return false, ""
		})
		l.WaitIdle("p", 3, 2*time.Minute)
	}
	patchMetadata(t, l, "p", "millpond:spares", "1")
	untilSpares(t, l, "p", 1)
	patchMetadata(t, l, "p", "mine", "1")
	lab.Wait(t, time.Minute, "no spares", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/p", nil)
		return !strings.Contains(string(a.Body), `"spares"`), string(a.Body)
	})
	patchMetadata(t, l, "p", "millpond:spares", "1")
	untilSpares(t, l, "p", 1)
	if a := l.Batch(http.MethodDelete, "/pools/p", nil); a.Status != 202 {
		t.Fatalf("delete: %d %s", a.Status, a.Body)
	}
	lab.Wait(t, time.Minute, "nothing left", func() (bool, string) {
		found, _ := filepath.Glob(filepath.Join(s.Data, "vms", ".spare-*"))
		a := l.Batch(http.MethodGet, "/pools/p", nil)
		return a.Status == 404 && len(found) == 0 && (!real || len(s.Descendants("qemu-system")) == 0), fmt.Sprintf("%d %v", a.Status, found)
	})
}
