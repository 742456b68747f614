//go:build e2e

package vm

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestEncryptedDisks has nodes write a text to all their disks. It is in no file of
// those whose pool encrypts its disks, whether they booted or are copies, and in those
// of a node that does not; the text is read again after a reboot.
func TestEncryptedDisks(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	bodyOf := func(id string) map[string]any {
		body := l.PoolBody(id, 1)
		body["virtualMachineConfiguration"].(map[string]any)["dataDisks"] = []any{map[string]any{"lun": 7, "diskSizeGB": 1}}
		return body
	}
	body := bodyOf("secret")
	body["metadata"] = items("millpond:spares", "1")
	body["virtualMachineConfiguration"].(map[string]any)["diskEncryptionConfiguration"] = map[string]any{"targets": []any{"OsDisk", "TemporaryDisk"}}
	l.AddPool(body, 3*time.Minute)
	if a := l.Batch(http.MethodGet, "/pools/secret", nil); !strings.Contains(string(a.Body), `"diskEncryptionConfiguration":{"targets":["osdisk","temporarydisk"]}`) {
		t.Errorf("the pool says %s", a.Body)
	}
	untilSpares(t, l, "secret", 1)
	l.Resize("secret", 2)
	nodes := l.WaitIdle("secret", 2, 3*time.Minute)
	l.AddPool(bodyOf("plain"), 3*time.Minute)
	nodes = append(nodes, l.WaitIdle("plain", 1, time.Minute)...)
	kinds := map[string]int{}
	for _, n := range nodes {
		kinds[n.Kind]++
		t.Logf("%s is a %s: %v %+v", n.ID, n.Kind, n.Phases, n.Steps)
	}
	// A spare is a copy.
	if kinds["spare"] != 1 || kinds["boot"] != 2 {
		t.Errorf("%v", kinds)
	}

	// The words of the task are on the disk too; the text is not one of them.
	const write = `text=$(printf %s%s 'millpond writes ' 'what nobody reads')
for f in /etc/note $AZ_BATCH_TASK_WORKING_DIR/note; do for i in $(seq 300); do echo "$text"; done > $f; done
disk=$(for d in /sys/block/sd?; do [ -e $d ] && echo /dev/${d##*/} && break; done); cat /etc/note | dd of=$disk conv=notrunc bs=4k && sync && dd if=$disk bs=16 count=1`
	for i, n := range nodes {
		pool := []string{"secret", "secret", "plain"}[i]
		job := fmt.Sprint("write-", i)
		task := map[string]any{"id": "t", "commandLine": "/bin/sh -c \"" + strings.ReplaceAll(strings.ReplaceAll(write, `"`, `\"`), "\n", "; ") + "\"", "userIdentity": admin,
			"affinityInfo": map[string]any{"affinityId": "TVM:" + n.ID}}
		l.AddJob(job, pool, task)
		if v := l.WaitTasks(job, 2*time.Minute)["t"]; v.Info.Result != "success" {
			t.Fatalf("%s: %+v %s", n.ID, v, l.Stdout(job, "t"))
		}
		if out := l.Stdout(job, "t"); out != "millpond writes " {
			t.Errorf("%s: the data disk has %q", n.ID, out)
		}
		found := filesWith(t, filepath.Join(s.Data, "vms"), "millpond writes what nobody reads", strings.ToLower(n.ID))
		t.Logf("%s: the text is in %v", n.ID, found)
		if plain := pool == "plain"; plain != (len(found) > 0) || plain && len(found) < 3 {
			t.Errorf("%s: the text is in %v", n.ID, found)
		}
	}
	if a := l.Batch(http.MethodPost, "/pools/secret/nodes/"+nodes[0].ID+"/reboot", map[string]any{}); a.Status != http.StatusAccepted {
		t.Fatalf("reboot: %d %s", a.Status, a.Body)
	}
	l.AddJob("read", "secret", with(with(shell("t", "head -n 1 /etc/note"), "userIdentity", admin), "affinityInfo", map[string]any{"affinityId": "TVM:" + nodes[0].ID}))
	l.WaitTasks("read", 2*time.Minute)
	if out := l.Stdout("read", "t"); out != "millpond writes what nobody reads\n" {
		t.Errorf("after a reboot: %q", out)
	}
}

// filesWith are the files of a node's machine that contain a text.
func filesWith(t *testing.T, vms, text, node string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(vms, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		folder, _, _ := strings.Cut(strings.TrimPrefix(name, vms+"/"), "/")
		cfg, err := os.ReadFile(filepath.Join(vms, folder, "spec.json"))
		if err != nil || !bytes.Contains(bytes.ToLower(cfg), []byte(`"`+node+`"`)) {
			return nil
		}
		b, err := io.ReadAll(f)
		if bytes.Contains(b, []byte(text)) {
			found = append(found, filepath.Base(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
