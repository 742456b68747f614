//go:build e2e

package vm

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestCertificatesAndExtensions: on a real machine an extension runs as root
// before the start task and is not run again by a reboot; a task reads its pool's
// certificate, another user does not, and what a reboot brings is the pool's new list.
func TestCertificatesAndExtensions(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	prints := map[string]string{}
	for _, name := range []string{"first", "second"} {
		pfx, print := lab.Certificate(t, "pw of "+name)
		prints[name] = print
		if a := l.Batch(http.MethodPost, "/certificates", map[string]any{"thumbprint": print, "thumbprintAlgorithm": "sha1", "data": base64.StdEncoding.EncodeToString(pfx), "password": "pw of " + name, "certificateFormat": "pfx"}); a.Status != http.StatusCreated {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	refs := func(name string) []any {
		return []any{map[string]any{"thumbprint": prints[name], "thumbprintAlgorithm": "sha1", "visibility": []string{"task"}}}
	}
	body := l.PoolBody("p", 1)
	body["taskSlotsPerNode"], body["certificateReferences"] = 2, refs("first")
	body["startTask"] = map[string]any{"commandLine": "/bin/sh -c 'cat /extended; ls $AZ_BATCH_CERTIFICATES_DIR; exit 0'", "waitForSuccess": true}
	body["virtualMachineConfiguration"].(map[string]any)["extensions"] = []any{map[string]any{"name": "setup", "publisher": "Microsoft.Azure.Extensions", "type": "CustomScript", "typeHandlerVersion": "2.1",
		"protectedSettings": map[string]any{"commandToExecute": "id -un >> /extended; chmod 644 /extended; echo done"}}}
	l.AddPool(body, 3*time.Minute)
	node := l.Nodes("p")[0].ID
	if out := string(l.Batch(http.MethodGet, "/pools/p/nodes/"+node+"/files/startup%2Fstdout.txt", nil).Body); out != "root\n" {
		t.Errorf("the start task saw %q", out)
	}
	if a := l.Batch(http.MethodGet, "/pools/p/nodes/"+node+"/extensions/setup", nil); !strings.Contains(string(a.Body), `"provisioningState":"Succeeded"`) || !strings.Contains(string(a.Body), `[stdout]\ndone\n`) || strings.Contains(string(a.Body), "commandToExecute") {
		t.Errorf("%s", a.Body)
	}
	holder := shell("holder", "cat $AZ_BATCH_CERTIFICATES_DIR/sha1-"+prints["first"]+".pfx.pw; while [ ! -e $AZ_BATCH_NODE_SHARED_DIR/go ]; do sleep 0.1; done")
	thief := shell("thief", "id -un; D=$AZ_BATCH_NODE_ROOT_DIR/workitems/j/job-1/holder/certs; for i in 1 2 3 4 5 6 7 8 9; do ls $D/ 2>&1 | grep -q denied && break; sleep 1; done; ls $D/; cat $D/* ; touch $AZ_BATCH_NODE_SHARED_DIR/go; chmod 777 $AZ_BATCH_NODE_SHARED_DIR/go; exit 0")
	thief["userIdentity"] = map[string]any{"autoUser": map[string]any{"scope": "task"}}
	l.AddJob("j", "p", holder, thief)
	l.WaitTasks("j", 2*time.Minute)
	if out := l.Stdout("j", "holder"); out != "pw of first" {
		t.Errorf("the task read %q", out)
	}
	stderr := string(l.Batch(http.MethodGet, "/jobs/j/tasks/thief/files/stderr.txt", nil).Body)
	if out := l.Stdout("j", "thief"); !strings.Contains(stderr, "ermission denied") || strings.Contains(out, "pfx") {
		t.Errorf("another user: %q %q", out, stderr)
	}

	if a := l.Batch(http.MethodPatch, "/pools/p", map[string]any{"certificateReferences": refs("second")}); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := l.Batch(http.MethodPost, "/pools/p/nodes/"+node+"/reboot", map[string]any{}); a.Status != http.StatusAccepted {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	l.AddJob("k", "p", shell("after", "ls $AZ_BATCH_CERTIFICATES_DIR; wc -l < /extended; ls $AZ_BATCH_NODE_ROOT_DIR/workitems/j/job-1/holder"))
	l.WaitTasks("k", 3*time.Minute)
	if out := l.Stdout("k", "after"); out != "sha1-"+prints["second"]+".pfx\nsha1-"+prints["second"]+".pfx.pw\n1\nstderr.txt\nstdout.txt\nwd\n" {
		t.Errorf("after the reboot: %q", out)
	}
}
