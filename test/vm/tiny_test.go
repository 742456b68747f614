//go:build e2e

// Package vm checks what tasks and nodes see inside real machines.
package vm

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

func command(id, line string) map[string]any { return map[string]any{"id": id, "commandLine": line} }

func shell(id, script string) map[string]any { return command(id, "/bin/sh -c '"+script+"'") }

func with(task map[string]any, key string, v any) map[string]any {
	task[key] = v
	return task
}

var admin = map[string]any{"autoUser": map[string]any{"elevationLevel": "admin", "scope": "pool"}}

// TestTinyNode runs tasks of every kind on one node with a start task, slots
// and a data disk of the image.
func TestTinyNode(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")

	// An image version with a data disk at LUN 1, which carries a mark.
	data := dataVHD(t, "mark of the data disk")
	dataDisk := l.Upload(data, "datadisk", "V1")
	l.Put(l.Compute()+"/snapshots/datasnap", map[string]any{"location": l.Region,
		"properties": map[string]any{"creationData": map[string]any{"createOption": "Copy", "sourceResourceId": dataDisk}}})
	l.Define("withdata", "Generalized", "V1")
	version := l.Compute() + "/galleries/labgallery/images/withdata/versions/1.0.0"
	l.Put(version, map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": l.Region}}},
		"storageProfile": map[string]any{
			"osDiskImage":    map[string]any{"source": map[string]any{"id": l.Compute() + "/snapshots/ossnap"}},
			"dataDiskImages": []any{map[string]any{"lun": 1, "source": map[string]any{"id": l.Compute() + "/snapshots/datasnap"}}}}}})

	files := serveFiles(t, map[string]string{"fetched.txt": "content\n"})
	pool := l.PoolBody("p", 1)
	pool["taskSlotsPerNode"] = 4
	pool["virtualMachineConfiguration"].(map[string]any)["imageReference"] = map[string]any{"virtualMachineImageId": version}
	pool["startTask"] = map[string]any{"commandLine": "/bin/sh -c 'id -u; cat fetched.txt > $AZ_BATCH_NODE_SHARED_DIR/from-start'", "userIdentity": admin, "waitForSuccess": true,
		"resourceFiles": []any{map[string]any{"httpUrl": files + "/fetched.txt", "filePath": "fetched.txt"}}}
	l.AddPool(pool, 5*time.Minute)
	node := l.Nodes("p")[0]
	a := l.Batch(http.MethodGet, "/pools/p/nodes/"+node.ID+"/files/startup%2Fstdout.txt", nil)
	if string(a.Body) != "0\n" {
		t.Errorf("an elevated start task runs as %d %q", a.Status, a.Body)
	}

	l.AddJob("j", "p",
		command("env", "printenv"),
		shell("user", "id -un; pwd; touch here && echo writable"),
		with(shell("root", "id -u"), "userIdentity", admin),
		shell("shared", "cat $AZ_BATCH_NODE_SHARED_DIR/from-start"),
		with(command("resource", "/bin/cat sub/fetched.txt"), "resourceFiles", []any{map[string]any{"httpUrl": files + "/fetched.txt", "filePath": "sub/fetched.txt", "fileMode": "0640"}}),
		with(command("missing-resource", "/bin/cat x"), "resourceFiles", []any{map[string]any{"httpUrl": files + "/none", "filePath": "x"}}),
		shell("exit", "exit 7"),
		command("no-program", "no-such-program --flag"),
		with(shell("retries", "echo run >> $AZ_BATCH_NODE_SHARED_DIR/retries; exit 1"), "constraints", map[string]any{"maxTaskRetryCount": 2}),
		with(command("long", "sleep 300"), "constraints", map[string]any{"maxWallClockTime": "PT2S"}),
		with(shell("set", "echo $MINE"), "environmentSettings", []any{map[string]any{"name": "MINE", "value": "a b"}}),
		with(shell("disk", "cat /sys/class/scsi_disk/*/device/type >/dev/null; ls /sys/class/scsi_disk; head -c 21 /dev/$(ls /sys/class/scsi_disk/*:1/device/block); df -P $AZ_BATCH_NODE_ROOT_DIR | tail -1"), "userIdentity", admin),
		shell("slots", "echo $AZ_BATCH_NODE_ID"),
	)
	done := l.WaitTasks("j", 3*time.Minute)

	env := l.Stdout("j", "env")
	for _, want := range []string{"AZ_BATCH_ACCOUNT_NAME=labbatch", "AZ_BATCH_ACCOUNT_URL=https://", "AZ_BATCH_POOL_ID=p", "AZ_BATCH_NODE_ID=" + node.ID, "AZ_BATCH_NODE_IS_DEDICATED=true",
		"AZ_BATCH_NODE_ROOT_DIR=/", "AZ_BATCH_NODE_SHARED_DIR=/", "AZ_BATCH_NODE_STARTUP_DIR=/", "AZ_BATCH_NODE_STARTUP_WORKING_DIR=/", "AZ_BATCH_JOB_ID=j", "AZ_BATCH_TASK_ID=env",
		"AZ_BATCH_TASK_DIR=/", "AZ_BATCH_TASK_WORKING_DIR=/", "AZ_BATCH_TASK_USER=", "AZ_BATCH_TASK_USER_IDENTITY=PoolNonAdmin", "HOME=/", "PATH="} {
		if !strings.Contains(env, want) {
			t.Errorf("the environment lacks %s:\n%s", want, env)
		}
	}
	for id, want := range map[string]string{"root": "0\n", "shared": "content\n", "resource": "content\n", "set": "a b\n"} {
		if got := l.Stdout("j", id); got != want {
			t.Errorf("%s printed %q, want %q; %+v", id, got, want, done[id])
		}
	}
	if out := l.Stdout("j", "user"); strings.HasPrefix(out, "root") || !strings.Contains(out, "workitems/j/job-1/user/wd") || !strings.Contains(out, "writable") {
		t.Errorf("user printed %q", out)
	}
	if out := l.Stdout("j", "disk"); !strings.Contains(out, ":1\n") || !strings.Contains(out, "mark of the data disk") || !strings.Contains(out, "/mnt") {
		t.Errorf("disk printed %q", out)
	}
	for id, want := range map[string]struct {
		code    string
		exit    int
		retries int
	}{"exit": {"FailureExitCode", 7, 0}, "no-program": {"CommandProgramNotFound", -1, 0}, "missing-resource": {"BlobNotFound", -1, 0}, "retries": {"FailureExitCode", 1, 2}} {
		x := done[id]
		exit := -1
		if x.Info.ExitCode != nil {
			exit = *x.Info.ExitCode
		}
		if x.Info.Result != "failure" || x.Info.FailureInfo == nil || x.Info.FailureInfo.Code != want.code || exit != want.exit || x.Info.RetryCount != want.retries {
			t.Errorf("%s: %+v %+v, want %+v", id, x.Info, x.Info.FailureInfo, want)
		}
	}
	if x := done["long"]; x.Info.Result != "failure" || x.Info.FailureInfo == nil {
		t.Errorf("long: %+v", x)
	}

	t.Run("files", func(t *testing.T) {
		var out struct {
			Value []struct {
				Name        string
				IsDirectory bool
			}
		}
		if err := l.Batch(http.MethodGet, "/jobs/j/tasks/resource/files?recursive=true", nil).JSON(&out); err != nil {
			t.Fatal(err)
		}
		names := fmt.Sprint(out.Value)
		for _, want := range []string{"stdout.txt", "stderr.txt", "wd/sub/fetched.txt"} {
			if !strings.Contains(strings.ReplaceAll(names, "\\", "/"), want) {
				t.Errorf("the list lacks %s: %s", want, names)
			}
		}
		for _, path := range []string{"..%2F..%2F..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "wd%2F..%2F..%2F..%2F..%2F..%2F..%2Fetc%2Fpasswd"} {
			if a := l.Batch(http.MethodGet, "/jobs/j/tasks/resource/files/"+path, nil); a.Status < 400 {
				t.Errorf("%s gave %d %q", path, a.Status, a.Body)
			}
		}
		if a := l.Batch(http.MethodDelete, "/jobs/j/tasks/resource/files/wd%2Fsub%2Ffetched.txt", nil); a.Status != 200 {
			t.Errorf("delete: %d %s", a.Status, a.Body)
		}
		if a := l.Batch(http.MethodGet, "/jobs/j/tasks/resource/files/wd%2Fsub%2Ffetched.txt", nil); a.Status != 404 {
			t.Errorf("after delete: %d", a.Status)
		}
	})
}

// TestStartTaskFails: waitForSuccess makes the node starttaskfailed and runs no
// task; without it the node is idle and says so.
func TestStartTaskFails(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	for _, c := range []struct {
		id    string
		wait  bool
		state string
	}{{"strict", true, "starttaskfailed"}, {"lax", false, "idle"}} {
		pool := l.PoolBody(c.id, 1)
		pool["startTask"] = map[string]any{"commandLine": "/bin/sh -c 'echo trying >&2; exit 9'", "waitForSuccess": c.wait, "maxTaskRetryCount": 1}
		if a := l.Batch(http.MethodPost, "/pools", pool); a.Status != 201 {
			t.Fatalf("add: %d %s", a.Status, a.Body)
		}
		lab.Wait(t, 3*time.Minute, c.id+" node "+c.state+", start task completed", func() (bool, string) {
			n := l.Nodes(c.id)
			return len(n) == 1 && n[0].State == c.state && n[0].StartTaskInfo.State == "completed", fmt.Sprintf("%+v", n)
		})
		info := l.Nodes(c.id)[0].StartTaskInfo
		if info.Result != "failure" || info.ExitCode == nil || *info.ExitCode != 9 {
			t.Errorf("%s: %+v", c.id, info)
		}
	}
}

// serveFiles is an HTTP server of texts by name on the host's loopback, under the
// name by which nodes know the host.
func serveFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for name, text := range files {
		mux.HandleFunc("/"+name, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "http://host.millpond.internal:" + port
}

// dataVHD is a fixed VHD of 32 MiB that begins with a mark.
func dataVHD(t *testing.T, mark string) string {
	t.Helper()
	s := lab.New(t)
	raw := s.Data + "/data.raw"
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(mark); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(32 << 20); err != nil {
		t.Fatal(err)
	}
	if r := s.RunBin("image", "export", raw, "--vhd", s.Data+"/data.vhd"); r.Code != 0 {
		t.Fatalf("export: %s%s", r.Stdout, r.Stderr)
	}
	return s.Data + "/data.vhd"
}
