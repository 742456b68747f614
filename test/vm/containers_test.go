//go:build e2e

package vm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// registry serves one image, lab/box:1, as a registry without encryption does:
// a busybox with an os-release of its own. It returns its host and port as nodes
// know them, and a count of the blobs that it gave.
func registry(t *testing.T) (address string, served func() int) {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var layer, packed bytes.Buffer
	w := tar.NewWriter(&layer)
	file := func(name string, mode int64, content []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	file("bin/busybox", 0o755, busybox)
	file("etc/os-release", 0o644, []byte("ID=box\n"))
	if err := w.WriteHeader(&tar.Header{Name: "bin/sh", Linkname: "busybox", Typeflag: tar.TypeSymlink, Mode: 0o777}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(layer.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	digest := func(b []byte) string { s := sha256.Sum256(b); return "sha256:" + hex.EncodeToString(s[:]) }
	text := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := text(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}, "WorkingDir": "/etc"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer.Bytes())}}})
	const kind = "application/vnd.oci.image."
	manifest := text(map[string]any{"schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
		"config": map[string]any{"mediaType": kind + "config.v1+json", "digest": digest(config), "size": len(config)},
		"layers": []any{map[string]any{"mediaType": kind + "layer.v1.tar+gzip", "digest": digest(packed.Bytes()), "size": packed.Len()}}})
	blobs := make(chan string, 1000)
	give := func(kind string, b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Docker-Content-Digest", digest(b))
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			if r.Method == http.MethodGet {
				blobs <- r.URL.Path
				_, _ = w.Write(b)
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, http.StatusNotFound)
		}
	})
	for _, name := range []string{"1", digest(manifest)} {
		mux.HandleFunc("/v2/lab/box/manifests/"+name, give(kind+"manifest.v1+json", manifest))
	}
	for _, b := range [][]byte{config, packed.Bytes()} {
		mux.HandleFunc("/v2/lab/box/blobs/"+digest(b), give("application/octet-stream", b))
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	return "host.millpond.internal:" + port, func() int { return len(blobs) }
}

// engines are the packages of each engine, and the file that tells it to take a
// registry as it is, without encryption.
var engines = map[string]struct {
	packages   []string
	file, text string
}{
	"podman": {[]string{"podman", "netavark", "iptables"}, "/etc/containers/registries.conf.d/lab.conf", "[[registry]]\nlocation = \"REGISTRY\"\ninsecure = true\n"},
	"docker": {[]string{"docker.io", "apparmor", "iptables"}, "/etc/docker/daemon.json", `{"insecure-registries": ["REGISTRY"]}`},
}

// engineVHD is a Debian with an engine and the helpers of mount.
func engineVHD(t *testing.T, s *lab.Server, name, registry string) string {
	t.Helper()
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	cache, dir := filepath.Join(s.Root, ".cache", "images"), t.TempDir()
	engine := engines[name]
	built, mine := filepath.Join(cache, "engine-"+name+".raw"), filepath.Join(dir, "mine.raw")
	build := []string{"image", "build", "debian-12", "--cache", cache, "--out", built}
	for _, p := range append(engine.packages, "nfs-common", "cifs-utils") {
		build = append(build, "--package", p)
	}
	if r := s.RunBin(build...); r.Code != 0 {
		t.Fatalf("millpond %v: %s%s", build, r.Stdout, r.Stderr)
	}
	run("cp", "--sparse=always", built, mine)
	var table struct {
		PartitionTable struct {
			Partitions []struct{ Start, Size int64 }
		}
	}
	if err := json.Unmarshal([]byte(run("/sbin/sfdisk", "--json", mine)), &table); err != nil {
		t.Fatal(err)
	}
	root := table.PartitionTable.Partitions[0]
	for _, p := range table.PartitionTable.Partitions {
		if p.Size > root.Size {
			root = p
		}
	}
	conf := filepath.Join(dir, "lab.conf")
	if err := os.WriteFile(conf, []byte(strings.ReplaceAll(engine.text, "REGISTRY", registry)), 0o644); err != nil {
		t.Fatal(err)
	}
	disk := fmt.Sprintf("%s?offset=%d", mine, root.Start*512)
	run("/sbin/debugfs", "-w", "-R", "mkdir "+filepath.Dir(engine.file), disk) // it may be there
	run("/sbin/debugfs", "-w", "-R", "write "+conf+" "+engine.file, disk)
	if r := s.RunBin("image", "export", mine, "--vhd", filepath.Join(dir, "mine.vhd")); r.Code != 0 {
		t.Fatalf("image export: %s%s", r.Stdout, r.Stderr)
	}
	return filepath.Join(dir, "mine.vhd")
}

// TestContainers takes minutes, as a Debian is installed and its machine emulated;
// it runs only with MILLPOND_TEST_CONTAINERS=podman (or docker). A node pulls an image
// before anything runs, tasks run in it and beside it, and the shares are mounted
// by the image's own helpers. A multi-instance task has a container on each of two
// nodes. A node without an engine says so.
func TestContainers(t *testing.T) {
	engine := os.Getenv("MILLPOND_TEST_CONTAINERS")
	if _, ok := engines[engine]; !ok {
		t.Skip("set MILLPOND_TEST_CONTAINERS=podman to run it; it takes some minutes")
	}
	shares := serveShares(t)
	address, served := registry(t)
	s := lab.Start(t)
	l := s.Furnish(engineVHD(t, s, engine, address), "V1")
	tiny := publishDisk(l, "plain", l.Upload(s.TinyVHD("ubuntu-16.04"), "plaindisk", "V1"), "V1")
	image := address + "/lab/box:1"
	containers := map[string]any{"type": "dockerCompatible", "containerImageNames": []string{image}}

	without := l.PoolBody("without", 1)
	without["virtualMachineConfiguration"].(map[string]any)["imageReference"] = map[string]any{"virtualMachineImageId": tiny}
	without["virtualMachineConfiguration"].(map[string]any)["containerConfiguration"] = containers
	if a := l.Batch(http.MethodPost, "/pools", without); a.Status != http.StatusCreated {
		t.Fatalf("add pool: %d %s", a.Status, a.Body)
	}
	lab.Wait(t, 2*time.Minute, "the node says that it has no engine", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/without/nodes", nil)
		return strings.Contains(string(a.Body), `"unusable"`) && strings.Contains(string(a.Body), "ContainerPoolNotSupported") && strings.Contains(string(a.Body), "docker, podman or nerdctl"), string(a.Body)
	})
	l.Batch(http.MethodDelete, "/pools/without", nil)

	body := l.PoolBody("boxes", 1)
	body["vmSize"] = "Standard_D2s_v3"
	vm := body["virtualMachineConfiguration"].(map[string]any)
	vm["nodeAgentSKUId"] = "batch.node.debian 12"
	vm["containerConfiguration"] = containers
	body["mountConfiguration"] = shares.mounts()
	body["enableInterNodeCommunication"] = true
	box := map[string]any{"imageName": image}
	body["startTask"] = map[string]any{"commandLine": "/bin/sh -c '. /etc/os-release; echo $ID > $AZ_BATCH_NODE_SHARED_DIR/from-start'", "waitForSuccess": true, "containerSettings": box}
	l.AddPool(body, 10*time.Minute)
	before := served()
	if before == 0 {
		t.Error("nothing was pulled before the node was idle")
	}
	// What the coordination command leaves is there for the task's own, in one container.
	gang := with(shell("gang", "busybox cat left; busybox kill -0 $(busybox cat pid) && echo lives; . /etc/os-release; echo $ID; exit 5"), "containerSettings", box)
	gang["multiInstanceSettings"] = map[string]any{"numberOfInstances": 1, "coordinationCommandLine": "/bin/sh -c 'echo coordinated > left; busybox sleep 600 & echo $! > pid'"}
	l.AddJob("j", "boxes", gang,
		with(shell("inside", ". /etc/os-release; echo $ID; busybox pwd; busybox id -u; busybox cat $AZ_BATCH_NODE_SHARED_DIR/from-start $AZ_BATCH_NODE_MOUNTS_DIR/nfs/input; echo left > left; exit 4"), "containerSettings", box),
		with(shell("image-dir", "busybox pwd"), "containerSettings", map[string]any{"imageName": image, "workingDirectory": "containerImageDefault", "containerRunOptions": "--env EXTRA=1"}),
		with(with(command("long", "/bin/busybox sleep 600"), "containerSettings", box), "constraints", map[string]any{"maxWallClockTime": "PT5S"}),
		with(command("none", "/bin/true"), "containerSettings", map[string]any{"imageName": address + "/lab/none:1"}),
		shell("outside", ". /etc/os-release; echo $ID; cat $AZ_BATCH_NODE_ROOT_DIR/workitems/j/job-1/inside/wd/left"))
	done := l.WaitTasks("j", 5*time.Minute)
	got := strings.Fields(l.Stdout("j", "inside"))
	if v := done["inside"]; v.Info.ExitCode == nil || *v.Info.ExitCode != 4 || len(got) != 6 || got[0] != "box" || !strings.HasSuffix(got[1], "/workitems/j/job-1/inside/wd") || got[2] == "0" || strings.Join(got[3:], " ") != "box from NFS" {
		t.Errorf("inside: %q %+v", got, v)
	}
	if v, out := done["gang"], l.Stdout("j", "gang"); v.Info.ExitCode == nil || *v.Info.ExitCode != 5 || out != "coordinated\nlives\nbox\n" {
		t.Errorf("gang: %q %+v", out, v)
	}
	if out := l.Stdout("j", "image-dir"); out != "/etc\n" {
		t.Errorf("the image's directory is %q; %+v", out, done["image-dir"])
	}
	if v := done["long"]; v.Info.Result != "failure" || v.Info.FailureInfo == nil {
		t.Errorf("long: %+v", v)
	}
	if v := done["none"]; v.Info.FailureInfo == nil || v.Info.FailureInfo.Code != "ContainerInvalidImage" {
		t.Errorf("none: %+v %+v", v, v.Info.FailureInfo)
	}
	if out := l.Stdout("j", "outside"); out != "debian\nleft\n" {
		t.Errorf("outside printed %q; %+v", out, done["outside"])
	}
	if after := served(); after > before+1 { // a manifest may be asked for again
		t.Errorf("%d blobs were pulled by tasks", after-before)
	}
	checkShares(t, l, shares, "boxes")
	a := l.Batch(http.MethodGet, "/jobs/j/tasks/inside", nil)
	if !strings.Contains(string(a.Body), `"containerInfo":{`) {
		t.Errorf("%s", a.Body)
	}

	// Over two nodes: each instance's container answers on the host's network what the
	// coordination command has begun in it, and the task's own command asks all.
	l.Resize("boxes", 2)
	l.WaitIdle("boxes", 2, 10*time.Minute)
	wide := map[string]any{"imageName": image, "containerRunOptions": "--network host"}
	two := with(shell("two", "IFS=,; for h in $AZ_BATCH_HOST_LIST; do until busybox nc -w 5 $h 5555; do busybox sleep 1; done; done; exit 6"), "containerSettings", wide)
	two["multiInstanceSettings"] = map[string]any{"numberOfInstances": 2,
		"coordinationCommandLine": "/bin/sh -c '. /etc/os-release; echo $ID $AZ_BATCH_NODE_ID | busybox nc -l -p 5555 & echo coordinated'"}
	l.AddJob("k", "boxes", two)
	want := []string{"coordinated"} // the primary's own
	for _, n := range l.Nodes("boxes") {
		want = append(want, "box "+n.ID)
	}
	done = l.WaitTasks("k", 5*time.Minute)
	answers := strings.Split(strings.TrimSpace(l.Stdout("k", "two")), "\n")
	slices.Sort(answers)
	slices.Sort(want)
	if v := done["two"]; v.Info.ExitCode == nil || *v.Info.ExitCode != 6 || !slices.Equal(answers, want) {
		t.Errorf("two: %q, not %q: %+v", answers, want, v)
	}
}
