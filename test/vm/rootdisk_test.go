//go:build e2e

package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// run is what a program of this host prints; it must succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// rootDisk is a copy of a built image whose root file system a test changes.
type rootDisk struct {
	t   *testing.T
	s   *lab.Server
	raw string
	// fs is the file system as debugfs names it.
	fs string
}

// newRootDisk copies the image that vhd was made of to NAME.raw in the data folder.
func newRootDisk(t *testing.T, s *lab.Server, vhd, name string) *rootDisk {
	t.Helper()
	d := &rootDisk{t: t, s: s, raw: filepath.Join(s.Data, name+".raw")}
	run(t, "cp", "--sparse=always", strings.TrimSuffix(vhd, ".vhd")+".raw", d.raw)
	var report struct {
		Partitions []struct {
			Start      int64
			FileSystem string
		}
	}
	if err := json.Unmarshal([]byte(run(t, s.Bin, "image", "inspect", d.raw)), &report); err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Partitions {
		if p.FileSystem == "ext4" {
			d.fs = fmt.Sprintf("%s?offset=%d", d.raw, p.Start)
		}
	}
	if d.fs == "" {
		t.Fatalf("%s has no ext4: %+v", vhd, report)
	}
	return d
}

func (d *rootDisk) debugfs(request string) string {
	d.t.Helper()
	return run(d.t, "/sbin/debugfs", "-w", "-R", request, d.fs)
}

// write makes a file that is not there yet.
func (d *rootDisk) write(name, text string) {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), "text")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
	d.debugfs("write " + file + " " + name)
}

// export makes a fixed VHD of the disk beside it.
func (d *rootDisk) export() string {
	d.t.Helper()
	out := strings.TrimSuffix(d.raw, ".raw") + ".vhd"
	run(d.t, d.s.Bin, "image", "export", d.raw, "--vhd", out)
	return out
}
