package proc

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func newRunner(t *testing.T) (*Runner, string) {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"shared", "startup", "workitems"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := New(Config{Root: root, SameUser: true, Clock: clock.System{}, Grace: 200 * time.Millisecond,
		Download: Download{Pause: time.Millisecond, Tries: 3, Stall: 2 * time.Second}})
	t.Cleanup(func() { r.Close() })
	return r, root
}

func request(line string) *nodev1.RunTaskRequest {
	return &nodev1.RunTaskRequest{
		Key: &nodev1.TaskKey{JobId: "j", TaskId: "t", Attempt: 1}, CommandLine: line, Directory: "workitems/j/job-1/t",
		Environment: map[string]string{"AZ_BATCH_JOB_ID": "j", "GREETING": "hello"},
	}
}

func run(t *testing.T, r *Runner, q *nodev1.RunTaskRequest) (*nodev1.TaskCompleted, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ran := false
	got := r.Run(ctx, q, func(time.Time) { ran = true })
	return got, ran
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		name, line, code string
		exit             int // -1: none
		stdout           string
	}{
		{"plain", "echo hi there", "", 0, "hi there\n"},
		{"shell", `/bin/sh -c 'echo $GREETING; exit 7'`, "FailureExitCode", 7, "hello\n"},
		{"signal", `/bin/sh -c 'kill -KILL $$'`, "FailureExitCode", 137, ""},
		{"missing", "no-such-program x", "CommandProgramNotFound", -1, ""},
		{"missing relative", "./nothing", "CommandProgramNotFound", -1, ""},
		{"directory", "/tmp", "CommandLaunchFailed", -1, ""},
		{"not executable", "/etc/passwd", "CommandLaunchFailed", -1, ""},
		{"quote", "echo 'x", "CommandLaunchFailed", -1, ""},
		{"no shell", "echo $GREETING && false", "", 0, "$GREETING && false\n"},
		{"working directory", "/bin/pwd", "", 0, "WD\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, root := newRunner(t)
			got, ran := run(t, r, request(c.line))
			if got.GetFailure().GetCode() != c.code {
				t.Fatalf("failure %v, want %q", got.GetFailure(), c.code)
			}
			if (got.ExitCode != nil) != (c.exit >= 0) || c.exit >= 0 && got.GetExitCode() != int32(c.exit) {
				t.Fatalf("exit code %v, want %d", got.ExitCode, c.exit)
			}
			if ran != (c.exit >= 0) {
				t.Fatalf("started: %v", ran)
			}
			if got.GetFailure().GetServerError() {
				t.Fatal("a fault of the user's is told as the server's")
			}
			if c.exit >= 0 {
				dir := filepath.Join(root, "workitems/j/job-1/t")
				if out := read(t, dir, "stdout.txt"); out != strings.ReplaceAll(c.stdout, "WD", dir+"/wd") {
					t.Fatalf("stdout %q", out)
				}
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	r, root := newRunner(t)
	q := request("/usr/bin/env")
	q.Environment["AZ_BATCH_TASK_DIR"] = "/forged"
	if got, _ := run(t, r, q); got.GetFailure() != nil {
		t.Fatal(got)
	}
	dir := filepath.Join(root, "workitems/j/job-1/t")
	env := map[string]string{}
	for line := range strings.Lines(read(t, dir, "stdout.txt")) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		env[k] = v
	}
	for k, want := range map[string]string{
		"AZ_BATCH_JOB_ID": "j", "GREETING": "hello",
		"AZ_BATCH_TASK_DIR": dir, "AZ_BATCH_TASK_WORKING_DIR": dir + "/wd", "HOME": dir + "/wd",
		"AZ_BATCH_NODE_ROOT_DIR": root, "AZ_BATCH_NODE_SHARED_DIR": root + "/shared",
		"AZ_BATCH_NODE_STARTUP_DIR": root + "/startup", "AZ_BATCH_NODE_STARTUP_WORKING_DIR": root + "/startup/wd",
		"AZ_BATCH_TASK_USER_IDENTITY": "PoolNonAdmin",
	} {
		if env[k] != want {
			t.Errorf("%s = %q, want %q", k, env[k], want)
		}
	}
	if !strings.HasSuffix(env["PATH"], ":"+root+"/shared:"+dir+"/wd") {
		t.Errorf("PATH = %q", env["PATH"])
	}
}

func TestFreshDirectoryAndRemove(t *testing.T) {
	r, root := newRunner(t)
	run(t, r, request("/bin/sh -c 'echo x > left; exit 1'"))
	if got, _ := run(t, r, request("/bin/sh -c 'test ! -e left'")); got.GetExitCode() != 0 {
		t.Fatal("the second attempt sees the first one's file")
	}
	if err := r.Remove("workitems/j/job-1/t"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "workitems/j")); !os.IsNotExist(err) {
		t.Fatal("the job's directory is left", err)
	}
	if _, err := os.Stat(filepath.Join(root, "workitems")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "..", "shared", "workitems", "/etc", "workitems/../shared", "workitems/../../x", "volatile"} {
		if r.Remove(bad) == nil {
			t.Errorf("Remove(%q) was taken", bad)
		}
	}
}

func TestWallClock(t *testing.T) {
	r, _ := newRunner(t)
	q := request("sleep 60")
	q.MaxWallClock = durationpb.New(50 * time.Millisecond)
	begin := time.Now()
	got, _ := run(t, r, q)
	if got.GetFailure().GetCode() != millpond.CodeTaskEnded || !strings.Contains(got.GetFailure().GetMessage(), "50ms") || got.GetExitCode() != 143 {
		t.Fatal(got)
	}
	if time.Since(begin) > 10*time.Second {
		t.Fatal("the end took", time.Since(begin))
	}
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	r, root := newRunner(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan *nodev1.TaskCompleted, 1)
	go func() {
		done <- r.Run(ctx, request(`/bin/sh -c 'trap "" TERM; echo ready; while :; do sleep 1; done'`), func(time.Time) {})
	}()
	await(t, func() bool {
		b, _ := os.ReadFile(filepath.Join(root, "workitems/j/job-1/t/stdout.txt"))
		return len(b) > 0
	})
	cancel(millpond.Errorf(millpond.Conflict, millpond.CodeTaskEnded, "by the user"))
	select {
	case got := <-done:
		if got.GetFailure().GetCode() != millpond.CodeTaskEnded || got.GetFailure().GetMessage() != "by the user" || got.GetExitCode() != 137 {
			t.Fatal(got)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("the task does not end")
	}
}

// A child that leaves the session and holds the output open neither delays the
// end nor outlives it.
func TestLeftoversAreKilled(t *testing.T) {
	for _, grouped := range []bool{true, false} {
		t.Run(fmt.Sprintf("cgroup=%v", grouped), func(t *testing.T) {
			r, root := newRunner(t)
			if grouped && r.groups == nil {
				t.Skip("no cgroup for us here")
			}
			if !grouped {
				r.groups = nil
			}
			got, _ := run(t, r, request(`/bin/sh -c 'setsid sh -c "echo \$\$ > pid; exec sleep 600" & while [ ! -s pid ]; do sleep 0.01; done; sleep 600 & exit 0'`))
			if got.GetFailure() != nil {
				t.Fatal(got)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(read(t, root, "workitems/j/job-1/t/wd/pid")))
			if err != nil {
				t.Fatal(err)
			}
			await(t, func() bool {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if err != nil {
					return true
				}
				_, after, _ := strings.Cut(string(b), ") ")
				return strings.HasPrefix(after, "Z")
			})
		})
	}
}

// A runner that comes after one that was killed ends what that one left.
func TestFormerAgentsProcessesAreKilled(t *testing.T) {
	for _, grouped := range []bool{true, false} {
		t.Run(fmt.Sprintf("cgroup=%v", grouped), func(t *testing.T) {
			r, root := newRunner(t)
			if grouped && r.groups == nil {
				t.Skip("no cgroup for us here")
			}
			if !grouped {
				r.groups = nil
			}
			done := make(chan *nodev1.TaskCompleted, 1)
			begun := make(chan struct{})
			go func() { done <- r.Run(context.Background(), request("sleep 600"), func(time.Time) { close(begun) }) }()
			<-begun
			other := t.TempDir()
			New(Config{Root: other, SameUser: true, Clock: clock.System{}})
			select {
			case got := <-done:
				t.Fatal("another root's runner has killed it", got)
			case <-time.After(50 * time.Millisecond):
			}
			New(Config{Root: root, SameUser: true, Clock: clock.System{}})
			select {
			case got := <-done:
				if got.GetExitCode() != 137 {
					t.Fatal(got)
				}
			case <-time.After(15 * time.Second):
				t.Fatal("it still runs")
			}
		})
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the condition never came")
		}
	}
}

func TestResourceFiles(t *testing.T) {
	var flaky atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "#!/bin/sh\necho fetched") })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/flaky", func(w http.ResponseWriter, _ *http.Request) {
		if flaky.Add(1) < 3 {
			w.WriteHeader(503)
			return
		}
		fmt.Fprint(w, "at last")
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "short")
	})
	mux.HandleFunc("/denied", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	s := httptest.NewServer(mux)
	defer s.Close()
	for _, c := range []struct {
		url, path, code string
		server          bool
	}{
		{s.URL + "/ok", "dir/run.sh", "", false},
		{s.URL + "/moved", "run.sh", "", false},
		{s.URL + "/flaky", "f", "", false},
		{s.URL + "/none?sig=SECRET", "f", "BlobNotFound", false},
		{s.URL + "/denied?sig=SECRET", "f", "BlobAccessDenied", false},
		{s.URL + "/broken?sig=SECRET", "f", "BlobDownloadMiscError", true},
		{s.URL + "/cut?sig=SECRET", "f", "BlobDownloadMiscError", true},
		{"http://127.0.0.1:1/x?sig=SECRET", "f", "BlobDownloadMiscError", true},
		{"ftp://x/y", "f", "BlobDownloadMiscError", false},
		{s.URL + "/ok", "../escape", "ResourceFileCreateFailed", false},
		{s.URL + "/ok", "/etc/escape", "ResourceFileCreateFailed", false},
		{s.URL + "/ok", "", "ResourceFileCreateFailed", false},
	} {
		t.Run(c.path+" "+c.code, func(t *testing.T) {
			r, root := newRunner(t)
			q := request("/bin/ls -l " + c.path)
			q.ResourceFiles = []*nodev1.ResourceFile{{Url: c.url, Path: c.path}}
			got, ran := run(t, r, q)
			if got.GetFailure().GetCode() != c.code || got.GetFailure().GetServerError() != c.server {
				t.Fatalf("got %v, want %q", got.GetFailure(), c.code)
			}
			if ran != (c.code == "") || got.GetFailure() != nil && got.ExitCode != nil {
				t.Fatal("a task ran without its files, or the other way round")
			}
			if strings.Contains(got.String(), "SECRET") {
				t.Fatal("the report holds the SAS token:", got)
			}
			if c.code == "" {
				info, err := os.Stat(filepath.Join(root, "workitems/j/job-1/t/wd", c.path))
				if err != nil || info.Mode().Perm() != 0o770 {
					t.Fatal(info, err)
				}
			}
		})
	}
}

func TestDownloadStall(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "some")
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(release)
	r, _ := newRunner(t)
	r.cfg.Download.Stall, r.cfg.Download.Tries = 50*time.Millisecond, 1
	q := request("true")
	q.ResourceFiles = []*nodev1.ResourceFile{{Url: s.URL, Path: "f"}}
	if got, _ := run(t, r, q); got.GetFailure().GetCode() != "BlobDownloadTimedOut" || !got.GetFailure().GetServerError() {
		t.Fatal(got)
	}
}

// With root rights, commands run as accounts that the runner makes, here in
// copies of the account files.
func TestUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	r, root := newRunner(t)
	r.rootless = false
	etc := t.TempDir()
	for name, text := range map[string]string{"passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n", "shadow": "root:*:::::::\n"} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	r.users.etc = etc
	// Accounts must pass through the parents of the temporary directory.
	for d := root; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		user     *nodev1.User
		want     string // uid, identity, name
		lasting  string // an account that is there afterwards
		vanished bool
	}{
		{nil, "20000 PoolNonAdmin _azbatch", "_azbatch", false},
		{&nodev1.User{}, "20000 PoolNonAdmin _azbatch", "_azbatch", false},
		{&nodev1.User{Admin: true}, "0 PoolAdmin root", "", false},
		{&nodev1.User{TaskScope: true}, "20001 TaskNonAdmin " + taskUser(&nodev1.TaskKey{JobId: "j", TaskId: "t", Attempt: 1}), "", true},
		{&nodev1.User{TaskScope: true, Admin: true}, "0 TaskAdmin root", "", false},
		{&nodev1.User{Name: "alice", Uid: 3000, Gid: 3001}, "3000 NamedNonAdmin alice", "alice", false},
		{&nodev1.User{Name: "Bob"}, "20001 NamedNonAdmin Bob", "Bob", false},
	} {
		q := request(`/bin/sh -c 'echo $(id -u) $AZ_BATCH_TASK_USER_IDENTITY $AZ_BATCH_TASK_USER; echo x > mine'`)
		q.User = c.user
		got, _ := run(t, r, q)
		if got.GetFailure() != nil {
			t.Fatal(c.user, got)
		}
		if out := read(t, root, "workitems/j/job-1/t/stdout.txt"); out != c.want+"\n" {
			t.Errorf("%v ran as %q, want %q", c.user, out, c.want)
		}
		passwd := read(t, etc, "passwd")
		if c.lasting != "" && !strings.Contains(passwd, c.lasting+":x:") || c.vanished && strings.Contains(passwd, "_azbatchtask_") {
			t.Errorf("%v left passwd %q", c.user, passwd)
		}
	}
	if st, err := os.Stat(filepath.Join(etc, "shadow")); err != nil || st.Mode().Perm() != 0o640 {
		t.Fatal("shadow's mode changed", st, err)
	}
	if !strings.Contains(read(t, etc, "shadow"), "alice:*:") {
		t.Fatal("alice has no entry in shadow")
	}
	for _, name := range []string{"root", "a:b", "x\ny", "-a", strings.Repeat("a", 33)} {
		q := request("true")
		q.User = &nodev1.User{Name: name}
		if got, ran := run(t, r, q); ran || got.GetFailure() == nil {
			t.Errorf("the account name %q was taken", name)
		}
	}
}

func TestOutOfMemoryProtectionIsNotInherited(t *testing.T) {
	if os.Geteuid() != 0 || syscall.Access("/proc/self/oom_score_adj", 2) != nil {
		t.Skip("needs root")
	}
	r, root := newRunner(t)
	r.rootless = false
	before := read(t, "/proc/self/oom_score_adj")
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-500"), 0); err != nil {
		t.Skip(err)
	}
	defer os.WriteFile("/proc/self/oom_score_adj", []byte(before), 0)
	q := request(`/bin/sh -c 'until grep -qx 0 /proc/self/oom_score_adj; do sleep 0.01; done; cat /proc/self/oom_score_adj'`)
	q.User = &nodev1.User{Admin: true}
	q.MaxWallClock = durationpb.New(10 * time.Second)
	if got, _ := run(t, r, q); got.GetFailure() != nil {
		t.Fatal(got, read(t, root, "workitems/j/job-1/t/stderr.txt"))
	}
}

// TestCertificatesOfATask: its command finds them, and nobody afterwards, not even
// when the agent did not live to see the end.
func TestCertificatesOfATask(t *testing.T) {
	r, root := newRunner(t)
	q := request(`/bin/sh -c 'echo $AZ_BATCH_CERTIFICATES_DIR; cd $AZ_BATCH_CERTIFICATES_DIR && stat -c "%a %n" . * && cat *.pw'`)
	print := strings.Repeat("0a", 20)
	q.Certificates = []*nodev1.Certificate{{Thumbprint: print, Format: "pfx", Data: []byte("PFX"), Password: "geheim"}}
	got, _ := run(t, r, q)
	dir := filepath.Join(root, "workitems/j/job-1/t")
	if out := read(t, dir, "stdout.txt"); got.GetExitCode() != 0 || out != dir+"/certs\n700 .\n600 sha1-"+print+".pfx\n600 sha1-"+print+".pfx.pw\ngeheim" {
		t.Errorf("%v %q", got, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "certs")); !os.IsNotExist(err) {
		t.Errorf("they are left: %v", err)
	}
	left := filepath.Join(root, "startup", "certs", "sha1-"+print+".pfx")
	if err := os.Mkdir(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, []byte("PFX"), 0o600); err != nil {
		t.Fatal(err)
	}
	New(Config{Root: root, SameUser: true, Clock: clock.System{}})
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("a former agent's are left: %v", err)
	}
	for _, bad := range []*nodev1.Certificate{{Thumbprint: "../../x", Format: "pfx"}, {Thumbprint: print, Format: "sh"}} {
		q.Certificates = []*nodev1.Certificate{bad}
		if got, ran := run(t, r, q); ran || got.GetFailure().GetCode() != "ResourceFileCreateFailed" {
			t.Errorf("%v: %v", bad, got)
		}
	}
}

// TestNoWayForATokenToTheServer: files by a managed identity fail at once when the
// node does not know where the server is.
func TestNoWayForATokenToTheServer(t *testing.T) {
	r, _ := newRunner(t)
	asked := 0
	r.cfg.Tokens = func(context.Context, string, string) (string, time.Time, error) {
		asked++
		return "secret", time.Now().Add(time.Hour), nil
	}
	const base = "https://store.blob.core.windows.net/c"
	for code, with := range map[string]func(*nodev1.RunTaskRequest){
		"BlobDownloadMiscError": func(q *nodev1.RunTaskRequest) {
			q.ResourceFiles = []*nodev1.ResourceFile{{Url: base + "/b", Path: "b", Identity: "i"}}
		},
		"ResourceContainerListMiscError": func(q *nodev1.RunTaskRequest) {
			q.ResourceFiles = []*nodev1.ResourceFile{{Url: base, Container: true, Identity: "i"}}
		},
		"FileUploadMiscError": func(q *nodev1.RunTaskRequest) {
			q.OutputFiles = []*nodev1.OutputFile{{ContainerUrl: base, Pattern: "../stdout.txt", Condition: "taskcompletion", Identity: "i"}}
		},
	} {
		asked = 0
		q := request("/bin/echo said")
		with(q)
		got, _ := run(t, r, q)
		if f := got.GetFailure(); f.GetCode() != code || !strings.Contains(f.GetMessage(), "sent nowhere else") || asked > 1 {
			t.Errorf("%s: %v, %d tokens", code, f, asked)
		}
	}
}
