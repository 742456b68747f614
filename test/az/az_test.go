//go:build e2e

// Package az runs the real az against a real server with real machines.
package az

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestTheDocument is the seed document's story with the current az, from the
// upload of a disk to the output of tasks, then with Debian's old az.
func TestTheDocument(t *testing.T) {
	s := lab.Start(t)
	vhd := s.TinyVHD("ubuntu-16.04")
	st, err := os.Stat(vhd)
	if err != nil {
		t.Fatal(err)
	}
	size := jsonText(t, st.Size())

	var account struct{ ID, Name string }
	s.AzJSON(&account, "account", "show")
	if account.ID != s.Creds.SubscriptionID {
		t.Fatalf("az is logged in to %q, not %q", account.ID, s.Creds.SubscriptionID)
	}
	s.Az("group", "create", "--name", "lab", "--location", "West US 2")
	s.Az("batch", "account", "create", "--name", "labbatch", "--resource-group", "LAB", "--location", "westus2")
	s.Az("batch", "account", "login", "--name", "labbatch", "--resource-group", "lab")

	s.Az("disk", "create", "-g", "lab", "-n", "osdisk", "--os-type", "Linux", "--hyper-v-generation", "V1",
		"--upload-type", "Upload", "--upload-size-bytes", size, "--sku", "Standard_LRS")
	var access map[string]string
	s.AzJSON(&access, "disk", "grant-access", "-g", "lab", "-n", "osdisk", "--access-level", "Write", "--duration-in-seconds", "3600")
	sas := access["accessSAS"] + access["accessSas"]
	if !strings.HasPrefix(sas, "https://") {
		t.Fatalf("grant-access gave %v", access)
	}
	if r := s.Run(s.Bin, "image", "upload", vhd, sas); r.Code != 0 {
		t.Fatalf("upload: %s%s", r.Stdout, r.Stderr)
	}
	s.Az("disk", "revoke-access", "-g", "lab", "-n", "osdisk")
	var disk struct{ DiskState string }
	s.AzJSON(&disk, "disk", "show", "-g", "lab", "-n", "osdisk")
	if disk.DiskState != "Unattached" {
		t.Fatalf("after the upload the disk is %s", disk.DiskState)
	}
	s.Az("snapshot", "create", "-g", "lab", "-n", "ossnap", "--source", "osdisk")
	s.Az("image", "create", "-g", "lab", "-n", "labimage", "--source", "ossnap", "--os-type", "Linux", "--hyper-v-generation", "V1")
	s.Az("sig", "create", "-g", "lab", "--gallery-name", "labgallery")
	s.Az("sig", "image-definition", "create", "-g", "lab", "--gallery-name", "labgallery", "--gallery-image-definition", "tiny",
		"--publisher", "lab", "--offer", "tiny", "--sku", "16.04", "--os-type", "Linux", "--os-state", "Generalized", "--hyper-v-generation", "V1",
		"--description", "made by a test")
	s.Az("sig", "image-version", "create", "-g", "lab", "--gallery-name", "labgallery", "--gallery-image-definition", "tiny",
		"--gallery-image-version", "1.0.0", "--managed-image", "labimage", "--target-regions", "westus2=1", "eastus=2")
	var version struct {
		ID                string
		ReplicationStatus struct {
			AggregatedState string
			Summary         []struct {
				Region, State string
				Progress      int
			}
		}
	}
	s.AzJSON(&version, "sig", "image-version", "show", "-g", "lab", "--gallery-name", "labgallery", "--gallery-image-definition", "tiny",
		"--gallery-image-version", "1.0.0", "--expand", "ReplicationStatus")
	if len(version.ReplicationStatus.Summary) != 2 || version.ReplicationStatus.AggregatedState != "Completed" {
		t.Fatalf("replication: %+v", version.ReplicationStatus)
	}
	// The update's PUT leaves the source out; the image must survive it.
	s.Az("sig", "image-version", "update", "-g", "lab", "--gallery-name", "labgallery", "--gallery-image-definition", "tiny",
		"--gallery-image-version", "1.0.0", "--set", "tags.purpose=test")

	command := poolCommand(t, s.Creds.SubscriptionID)
	if r := s.Run("env", "PATH="+filepath.Dir(s.AzPath())+":/usr/bin:/bin", "sh", "-ec", command); r.Code != 0 {
		t.Fatalf("the document's command failed:\n%s\n%s%s", command, r.Stdout, r.Stderr)
	}
	if r := s.RunBin("status", "--pool", "labbatch/mypool", "--wait", "idle", "--timeout", "5m"); r.Code != 0 {
		t.Fatalf("the pool: %s%s", r.Stdout, r.Stderr)
	} else {
		t.Logf("%s", r.Stdout)
	}

	var nodes []struct{ ID, State string }
	s.AzJSON(&nodes, "batch", "node", "list", "--pool-id", "mypool")
	if len(nodes) != 2 || nodes[0].State != "idle" {
		t.Fatalf("nodes: %+v", nodes)
	}
	tasks := filepath.Join(s.Data, "tasks.json")
	if err := os.WriteFile(tasks, []byte(`[{"id":"a","commandLine":"printenv AZ_BATCH_POOL_ID"},{"id":"b","commandLine":"/bin/sh -c 'exit 3'"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Az("batch", "job", "create", "--id", "myjob", "--pool-id", "mypool")
	s.Az("batch", "task", "create", "--job-id", "myjob", "--json-file", tasks)
	s.Az("batch", "task", "create", "--job-id", "myjob", "--task-id", "c", "--command-line", "/bin/sh -c 'echo out; echo err >&2'")
	lab.Wait(t, 2*time.Minute, "three tasks completed", func() (bool, string) {
		r := s.RunBin("status", "--job", "labbatch/myjob", "--wait", "completed")
		return strings.Contains(r.Stdout, "task c") && strings.Count(r.Stdout, "completed") == 3, r.Stdout + r.Stderr
	})
	out := filepath.Join(s.Data, "out.txt")
	s.Az("batch", "task", "file", "download", "--job-id", "myjob", "--task-id", "a", "--file-path", "stdout.txt", "--destination", out)
	if text, _ := os.ReadFile(out); string(text) != "mypool\n" {
		t.Fatalf("task a printed %q", text)
	}
	var failed struct{ ExecutionInfo struct{ ExitCode int } }
	s.AzJSON(&failed, "batch", "task", "show", "--job-id", "myjob", "--task-id", "b")
	if failed.ExecutionInfo.ExitCode != 3 {
		t.Fatalf("task b: %+v", failed)
	}

	t.Run("old az", func(t *testing.T) { oldAz(t, s) })

	s.Az("batch", "pool", "resize", "--pool-id", "mypool", "--target-dedicated-nodes", "1")
	s.Az("batch", "pool", "delete", "--pool-id", "mypool", "--yes")
	s.Az("batch", "job", "delete", "--job-id", "myjob", "--yes")
	lab.Wait(t, time.Minute, "the pool gone", func() (bool, string) {
		out := s.Az("batch", "pool", "list", "--output", "tsv", "--query", "[].id")
		return strings.TrimSpace(out) == "", out
	})
	// A gallery with definitions stays; then everything goes with the group.
	refused := s.AzRefused("sig", "delete", "-g", "lab", "--gallery-name", "labgallery")
	if !strings.Contains(refused, "CannotDeleteResource") {
		t.Errorf("deleting a gallery that has definitions: %s", refused)
	}
	s.Az("group", "delete", "--name", "lab", "--yes")
	if out := s.Az("group", "exists", "--name", "lab"); strings.TrimSpace(out) != "false" {
		t.Errorf("group exists says %s", out)
	}
}

// poolCommand is the document's own command where the document is at hand, else
// the same command as our own text.
func poolCommand(t *testing.T, subscription string) string {
	own := `az batch pool create \
    --id mypool --vm-size Standard_A1_v2 \
    --target-dedicated-nodes 2 \
    --image "/subscriptions/{sub id}/resourceGroups/{resource group name}/providers/Microsoft.Compute/galleries/{gallery name}/images/{image definition name}/versions/{version id}" \
    --node-agent-sku-id "batch.node.ubuntu 16.04"`
	text := own
	t.Run("document at hand", func(t *testing.T) {
		text = lab.Block(t, lab.Document(t), "azurecli", 0)
	})
	return lab.Fill(t, text, map[string]string{"sub id": subscription, "resource group name": "lab", "gallery name": "labgallery",
		"image definition name": "tiny", "version id": "1.0.0"})
}

// oldAz runs the groups that work in Debian's az against the same pool.
func oldAz(t *testing.T, s *lab.Server) {
	// A config folder of its own, as a user of the old az would have; exec
	// already logged it in.
	s.OldAz("batch", "account", "login", "--name", "labbatch", "--resource-group", "lab")
	if out := s.OldAz("batch", "pool", "show", "--pool-id", "mypool", "--query", "allocationState", "--output", "tsv"); strings.TrimSpace(out) != "steady" {
		t.Errorf("the old az sees the pool %s", out)
	}
	s.OldAz("batch", "job", "create", "--id", "oldjob", "--pool-id", "mypool")
	s.OldAz("batch", "task", "create", "--job-id", "oldjob", "--task-id", "t", "--command-line", "printenv AZ_BATCH_TASK_ID")
	if r := s.RunBin("status", "--job", "labbatch/oldjob", "--wait", "completed", "--timeout", "2m"); r.Code != 0 {
		t.Fatalf("oldjob: %s%s", r.Stdout, r.Stderr)
	}
	out := filepath.Join(s.Data, "old.txt")
	s.OldAz("batch", "task", "file", "download", "--job-id", "oldjob", "--task-id", "t", "--file-path", "stdout.txt", "--destination", out)
	if text, _ := os.ReadFile(out); string(text) != "t\n" {
		t.Errorf("the task printed %q", text)
	}
	s.OldAz("batch", "job", "delete", "--job-id", "oldjob", "--yes")
	if out := s.OldAz("sig", "image-version", "show", "-g", "lab", "--gallery-name", "labgallery", "--gallery-image-definition", "tiny",
		"--gallery-image-version", "1.0.0", "--query", "provisioningState", "--output", "tsv"); strings.TrimSpace(out) != "Succeeded" {
		t.Errorf("the old az sees the version %s", out)
	}
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
