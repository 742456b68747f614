//go:build e2e

package vm

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestClones has a pool grow past its template and compares who its nodes are,
// logs in to a clone, reboots it and reimages it.
func TestClones(t *testing.T) {
	t.Run("tiny", func(t *testing.T) {
		s := lab.Start(t)
		cloneChapter(t, s, "tiny", "batch.node.ubuntu 16.04", s.TinyVHD("ubuntu-16.04"), false)
	})
	t.Run("debian", func(t *testing.T) {
		s := lab.Start(t)
		cloneChapter(t, s, "debian", "batch.node.debian 12", s.DebianVHD(), true)
	})
}

// clockSlack is how far a clone's clock may be from its host's.
const clockSlack = 5 * time.Second

func cloneChapter(t *testing.T, s *lab.Server, name, agent, vhd string, keys bool) {
	l := s.Furnish(vhd, "V1")
	body := l.PoolBody(name, 2)
	vm := body["virtualMachineConfiguration"].(map[string]any)
	vm["nodeAgentSKUId"] = agent
	vm["imageReference"] = map[string]any{"virtualMachineImageId": l.Version}
	body["userAccounts"] = []any{map[string]any{"name": "crew", "password": visitorPassword, "linuxUserConfiguration": map[string]any{"uid": 4000, "gid": 4001}}}
	l.AddPool(body, 8*time.Minute)
	for _, n := range l.Nodes(name) {
		if n.Kind != "boot" || n.Reason == "" {
			t.Errorf("the first nodes boot: %+v", n)
		}
	}
	l.WaitTemplate(10 * time.Minute)
	// A clone that went on with its template's clock is then behind by more than is
	// allowed below.
	time.Sleep(3 * clockSlack)
	begin := time.Now()
	l.Resize(name, 5)
	nodes := l.WaitIdle(name, 5, 3*time.Minute)
	t.Logf("three clones idle after %s", time.Since(begin))
	clones := 0
	var tasks []map[string]any
	for i, n := range nodes {
		if n.Kind == "clone" {
			clones++
			t.Logf("%s %v %+v", n.ID, n.Phases, n.Steps)
		}
		script := "hostname; cat /etc/machine-id || echo none" + strconv.Itoa(i) + "; cat /sys/class/net/e*/address; cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1 | tr -d \" \"; date +%s; ip -4 -o addr show scope global | tr -s \" \" | cut -d\" \" -f4"
		if keys {
			script += "; i=0; while [ ! -s /etc/ssh/ssh_host_ed25519_key.pub ] && [ $i -lt 600 ]; do i=$((i+1)); sleep 0.1; done; cut -d\" \" -f2 /etc/ssh/ssh_host_ed25519_key.pub; cat /var/lib/cloud/data/instance-id"
		}
		task := with(shell("who-"+strconv.Itoa(i), script), "userIdentity", admin)
		task["affinityInfo"] = map[string]any{"affinityId": "TVM:" + n.ID}
		tasks = append(tasks, task)
	}
	if clones != 3 {
		t.Errorf("%d of 5 nodes are clones: %+v", clones, nodes)
	}
	asked := time.Now()
	l.AddJob("who-"+name, name, tasks...)
	l.WaitTasks("who-"+name, 4*time.Minute)
	answered := time.Now()
	seen := map[string]string{}
	for i, n := range nodes {
		lines := strings.Fields(l.Stdout("who-"+name, "who-"+strconv.Itoa(i)))
		t.Logf("%s (%s): %v", n.ID, n.Kind, lines)
		want := 7
		if keys {
			want = 9
		}
		if len(lines) != want {
			t.Errorf("%s said %q", n.ID, lines)
			continue
		}
		// A machine that booted has its clock from the emulated one, which may lag on a busy host.
		slack := clockSlack
		if n.Kind != "clone" {
			slack = 30 * time.Second
		}
		if sec, err := strconv.ParseInt(lines[5], 10, 64); err != nil || time.Unix(sec, 0).Before(asked.Add(-slack)) || time.Unix(sec, 0).After(answered.Add(slack)) {
			t.Errorf("%s, a %s, says that it is %s between %d and %d", n.ID, n.Kind, lines[5], asked.Unix(), answered.Unix())
		}
		for j, value := range lines {
			if j == 5 {
				continue
			}
			key := fmt.Sprint(j, value)
			if other, twice := seen[key]; twice {
				t.Errorf("%s and %s are the same in %q", n.ID, other, value)
			}
			seen[key] = n.ID
		}
	}
	var clone string
	for _, n := range nodes {
		if n.Kind == "clone" {
			clone = n.ID
		}
	}
	v := newVisitor(t, l, s, name, clone)
	if keys {
		v.first()
	} else if said := s.AzRefused(v.args("remote-login-settings", "show")...); !strings.Contains(said, "no server for SSH") {
		t.Errorf("an image without a server for SSH: %s", said)
	}
	for _, what := range []string{"reboot", "reimage"} {
		begin := time.Now()
		if a := l.Batch(http.MethodPost, "/pools/"+name+"/nodes/"+clone+"/"+what, map[string]any{}); a.Status != http.StatusAccepted {
			t.Fatalf("%s: %d %s", what, a.Status, a.Body)
		}
		l.WaitIdle(name, 5, 4*time.Minute)
		for _, n := range l.Nodes(name) {
			if n.ID == clone {
				t.Logf("%s: idle after %s as a %s", what, time.Since(begin), n.Kind)
			}
		}
		if keys && what == "reboot" {
			v.rebooted()
		} else if keys {
			v.reimaged()
		}
	}
	l.Batch(http.MethodDelete, "/pools/"+name, nil)
}
