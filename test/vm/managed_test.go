//go:build e2e

package vm

import (
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
	img := l.Image("whole", l.Compute()+"/snapshots/ossnap", "V1")
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
	// The image with one more line in fstab.
	const uuid = "7b0c2f4e-1f5a-4d6e-9a3b-0d1c2e3f4a5b"
	d := newRootDisk(t, s, vhd, "os")
	table := d.debugfs("cat /etc/fstab")
	table = table[strings.Index(table, "#"):] + "UUID=" + uuid + "\t/data\text4\tdefaults\t0 2\n"
	d.debugfs("rm /etc/fstab")
	d.write("/etc/fstab", table)
	d.debugfs("mkdir /data")
	osVHD := d.export()
	// The data disk with a file.
	folder, data := filepath.Join(s.Data, "content"), filepath.Join(s.Data, "data.raw")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "mark"), []byte("put in by hand\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "mke2fs", "-q", "-t", "ext4", "-U", uuid, "-d", folder, data, "32M")
	run(t, s.Bin, "image", "export", data, "--vhd", filepath.Join(s.Data, "data.vhd"))

	if out, err := exec.Command(s.Bin, "image", "check", osVHD).CombinedOutput(); err == nil || !strings.Contains(string(out), "MountBlocksBoot") {
		t.Errorf("the check of the OS disk alone: %v\n%s", err, out)
	}
	l := s.Furnish(vhd, "V1")
	osSnap := l.Snapshot("osfstabsnap", l.Upload(osVHD, "osfstab", "V1"))
	if r := s.RunBin("image", "check", "--data", s.Data, osSnap); r.Code != 1 || !strings.Contains(r.Stdout, "MountBlocksBoot") {
		t.Errorf("the check of the snapshot: %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	dataSnap := l.Snapshot("datasnap", l.Upload(filepath.Join(s.Data, "data.vhd"), "datadisk", "V1"))
	l.Define("mounts", "Generalized", "V1")
	version := l.Compute() + "/galleries/labgallery/images/mounts/versions/1.0.0"
	l.Put(version, map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": l.Region}}},
		"storageProfile": map[string]any{
			"osDiskImage":    map[string]any{"source": map[string]any{"id": osSnap}},
			"dataDiskImages": []any{map[string]any{"lun": 3, "source": map[string]any{"id": dataSnap}}}}}})
	body := l.PoolBody("mounts", 1)
	body["virtualMachineConfiguration"].(map[string]any)["imageReference"] = map[string]any{"virtualMachineImageId": version}
	l.AddPool(body, 3*time.Minute)
	l.AddJob("j", "mounts", command("look", "cat /data/mark"))
	l.WaitTasks("j", time.Minute)
	if out := l.Stdout("j", "look"); out != "put in by hand\n" {
		t.Errorf("the task saw %q", out)
	}
}
