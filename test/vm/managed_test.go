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

// TestPoolFromAManagedImage boots nodes from full copies of a managed image, by
// an api-version that had it, beside nodes from a gallery version of the same
// disk. Newer api-versions refuse.
func TestPoolFromAManagedImage(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	img := l.Compute() + "/images/whole"
	l.Put(img, map[string]any{"location": l.Region, "properties": map[string]any{"hyperVGeneration": "V1",
		"storageProfile": map[string]any{"osDisk": map[string]any{"osType": "Linux", "osState": "Generalized", "snapshot": map[string]any{"id": l.Compute() + "/snapshots/ossnap"}}}}})
	body := l.PoolBody("managed", 1)
	body["virtualMachineConfiguration"].(map[string]any)["imageReference"] = map[string]any{"virtualMachineImageId": img}
	add := func(version string) lab.Answer {
		t.Helper()
		return s.Do(s.Admin(), lab.Batch, http.MethodPost, l.BatchURL()+"/pools?api-version="+version, body)
	}
	if a := add("2020-03-01.11.0"); a.Status != 400 || !strings.Contains(string(a.Body), "az sig image-version create") {
		t.Errorf("a newer api-version: %d %s", a.Status, a.Body)
	}
	if a := add("2019-08-01.10.0"); a.Status != 201 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	l.WaitIdle("managed", 1, 3*time.Minute)
	copies, err := filepath.Glob(filepath.Join(s.Data, "vms", "*", "disks", "os.raw"))
	if err != nil || len(copies) != 1 {
		t.Fatalf("copies: %v, %v", copies, err)
	}
	if st, err := os.Stat(copies[0]); err != nil || st.Size() < 100<<20 {
		t.Errorf("%v %v", st, err)
	}
	l.AddJob("j", "managed", command("hello", "echo from a copy"))
	l.WaitTasks("j", time.Minute)
	if out := l.Stdout("j", "hello"); out != "from a copy\n" {
		t.Errorf("the task printed %q", out)
	}
}

// TestFstabOfTheImage boots a node whose image mounts its own data disk by UUID.
// Without the data disk the same image is refused by preflight.
func TestFstabOfTheImage(t *testing.T) {
	s := lab.Start(t)
	vhd := s.TinyVHD("ubuntu-16.04")
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	// The image with one more line in fstab.
	const uuid = "7b0c2f4e-1f5a-4d6e-9a3b-0d1c2e3f4a5b"
	raw := filepath.Join(s.Data, "os.raw")
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
	at := int64(-1)
	for _, p := range report.Partitions {
		if p.FileSystem == "ext4" {
			at = p.Start
		}
	}
	fs := fmt.Sprintf("%s?offset=%d", raw, at)
	table := run("debugfs", "-R", "cat /etc/fstab", fs)
	table = table[strings.Index(table, "#"):] + "UUID=" + uuid + "\t/data\text4\tdefaults\t0 2\n"
	file := filepath.Join(s.Data, "fstab")
	if err := os.WriteFile(file, []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	run("debugfs", "-w", "-R", "rm /etc/fstab", fs)
	run("debugfs", "-w", "-R", "write "+file+" /etc/fstab", fs)
	run("debugfs", "-w", "-R", "mkdir /data", fs)
	osVHD := filepath.Join(s.Data, "os.vhd")
	run(s.Bin, "image", "export", raw, "--vhd", osVHD)
	// The data disk with a file.
	folder, data := filepath.Join(s.Data, "content"), filepath.Join(s.Data, "data.raw")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "mark"), []byte("put in by hand\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run("mke2fs", "-q", "-t", "ext4", "-U", uuid, "-d", folder, data, "32M")
	run(s.Bin, "image", "export", data, "--vhd", filepath.Join(s.Data, "data.vhd"))

	if out, err := exec.Command(s.Bin, "image", "check", osVHD).CombinedOutput(); err == nil || !strings.Contains(string(out), "MountBlocksBoot") {
		t.Errorf("the check of the OS disk alone: %v\n%s", err, out)
	}
	l := s.Furnish(vhd, "V1")
	osDisk := l.Upload(osVHD, "osfstab", "V1")
	l.Put(l.Compute()+"/snapshots/osfstabsnap", map[string]any{"location": l.Region,
		"properties": map[string]any{"creationData": map[string]any{"createOption": "Copy", "sourceResourceId": osDisk}}})
	if r := s.RunBin("image", "check", "--data", s.Data, l.Compute()+"/snapshots/osfstabsnap"); r.Code != 1 || !strings.Contains(r.Stdout, "MountBlocksBoot") {
		t.Errorf("the check of the snapshot: %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	dataDisk := l.Upload(filepath.Join(s.Data, "data.vhd"), "datadisk", "V1")
	l.Put(l.Compute()+"/snapshots/datasnap", map[string]any{"location": l.Region,
		"properties": map[string]any{"creationData": map[string]any{"createOption": "Copy", "sourceResourceId": dataDisk}}})
	l.Define("mounts", "Generalized", "V1")
	version := l.Compute() + "/galleries/labgallery/images/mounts/versions/1.0.0"
	l.Put(version, map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": l.Region}}},
		"storageProfile": map[string]any{
			"osDiskImage":    map[string]any{"source": map[string]any{"id": l.Compute() + "/snapshots/osfstabsnap"}},
			"dataDiskImages": []any{map[string]any{"lun": 3, "source": map[string]any{"id": l.Compute() + "/snapshots/datasnap"}}}}}})
	body := l.PoolBody("mounts", 1)
	body["virtualMachineConfiguration"].(map[string]any)["imageReference"] = map[string]any{"virtualMachineImageId": version}
	l.AddPool(body, 3*time.Minute)
	l.AddJob("j", "mounts", command("look", "cat /data/mark"))
	l.WaitTasks("j", time.Minute)
	if out := l.Stdout("j", "look"); out != "put in by hand\n" {
		t.Errorf("the task saw %q", out)
	}
}
