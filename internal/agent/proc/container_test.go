package proc

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent/container"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// fakeEngine is a docker that keeps containers as files and runs their commands
// as processes. It writes down how it was called.
const fakeEngine = `#!/bin/sh
state=$HOME/engine; mkdir -p $state
echo "$@" >> $state/calls
verb=$1; shift
case $verb in
version) ;;
login) cat > $state/password ;;
image) [ -e $state/image-$(echo $4 | tr '/:' '__') ] ;;
pull) case $1 in *missing*) echo "manifest unknown" >&2; exit 1;; esac; touch $state/image-$(echo $1 | tr '/:' '__') ;;
create)
  dir=; name=
  while [ $# -gt 0 ]; do case $1 in
    --name) name=$2; shift 2;;
    --workdir) dir=$2; shift 2;;
    --volume|--user|--env) [ $1 = --env ] && echo "$2" | grep -qv = && eval "v=\$$2" && echo "$2=$v" >> $state/env; shift 2;;
    --wrong) echo "unknown flag: --wrong" >&2; exit 125;;
    --*) shift;;
    *) break;;
  esac; done
  shift
  { echo '#!/bin/sh'; echo "cd ${dir:-/}"; printf 'exec'; for w in "$@"; do printf " '%s'" "$w"; done; echo; } > $state/$name
  chmod +x $state/$name
  echo "a warning"
  echo $name ;;
start) [ "$1" != --attach ] || exec $state/$2 ;;
exec) cd "$(sed -n 's/^cd //p' $state/$1)"; shift; exec "$@" ;;
inspect) case $(cat $state/$5) in *nosuch*) echo 'created|exec: "nosuch": executable file not found in $PATH';; *) echo 'exited|';; esac ;;
kill) ;;
rm) rm $state/$3 ;;
esac
`

func containerRunner(t *testing.T) (*Runner, string) {
	home, root := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "docker"), []byte(fakeEngine), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"shared", "workitems", "startup"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return New(Config{Root: root, SameUser: true, Hold: "/opt/hold", Clock: clock.System{}, Grace: 100 * time.Millisecond,
		Engine: func() *container.Engine { return container.Find(home+":/usr/bin:/bin", home) }}), home
}

func inContainer(line string, c *nodev1.Container) *nodev1.RunTaskRequest {
	return &nodev1.RunTaskRequest{Key: &nodev1.TaskKey{JobId: "j", TaskId: "t", Attempt: 1}, CommandLine: line, Directory: "workitems/j/job-1/t",
		Environment: map[string]string{"MINE": "a b", "AZ_BATCH_TASK_ID": "t"}, Container: c}
}

func TestTaskInContainer(t *testing.T) {
	r, home := containerRunner(t)
	c := &nodev1.Container{Image: "reg/img:1", RunOptions: []string{"--rm=false"}, WholeRoot: true, Registry: &nodev1.Registry{Server: "reg", Username: "u", Password: "secret"}}
	report := r.Run(t.Context(), inContainer("/bin/sh -c 'pwd; exit 3'", c), func(time.Time) {})
	if report.GetExitCode() != 3 || report.GetFailure().GetCode() != "FailureExitCode" || report.GetContainer().GetState() != "exited" || !strings.HasPrefix(report.GetContainer().GetId(), "millpond-") {
		t.Fatalf("%v", report)
	}
	wd := filepath.Join(r.cfg.Root, "workitems/j/job-1/t/wd")
	if b, _ := os.ReadFile(filepath.Join(filepath.Dir(wd), "stdout.txt")); string(b) != wd+"\n" {
		t.Errorf("stdout %q", b)
	}
	calls, _ := os.ReadFile(filepath.Join(home, "engine/calls"))
	for _, want := range []string{"login --username u --password-stdin reg", "pull reg/img:1", "--volume " + r.cfg.Root + ":" + r.cfg.Root, "--workdir " + wd, "--env MINE", "--rm=false reg/img:1 /bin/sh -c", "rm --force"} {
		if !strings.Contains(string(calls), want) {
			t.Errorf("no call has %q:\n%s", want, calls)
		}
	}
	if strings.Contains(string(calls), "secret") || strings.Contains(string(calls), "a b") {
		t.Errorf("a secret is in a command line:\n%s", calls)
	}
	if env, _ := os.ReadFile(filepath.Join(home, "engine/env")); !strings.Contains(string(env), "MINE=a b\n") {
		t.Errorf("environment %q", env)
	}
	if left, _ := filepath.Glob(filepath.Join(home, "engine/millpond-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestContainerFailures(t *testing.T) {
	r, _ := containerRunner(t)
	for _, c := range []struct {
		line string
		c    *nodev1.Container
		code string
	}{
		{"true", &nodev1.Container{Image: "missing:1"}, "ContainerInvalidImage"},
		{"true", &nodev1.Container{Image: "i", RunOptions: []string{"--wrong"}}, "ContainerInvalidSettings"},
		{"true", &nodev1.Container{}, "ContainerInvalidSettings"},
		{"nosuch", &nodev1.Container{Image: "i"}, "CommandProgramNotFound"},
	} {
		report := r.Run(t.Context(), inContainer(c.line, c.c), func(time.Time) {})
		if report.GetFailure().GetCode() != c.code || report.ExitCode != nil || report.GetFailure().GetServerError() {
			t.Errorf("%v: %v", c.c, report)
		}
	}
	r.cfg.Engine = func() *container.Engine { return nil }
	if report := r.Run(t.Context(), inContainer("true", &nodev1.Container{Image: "i"}), func(time.Time) {}); report.GetFailure().GetCode() != "ContainerPoolNotSupported" {
		t.Errorf("%v", report)
	}
}

// TestInstanceInContainer: both commands of an instance run in one container, which
// outlives the first and goes with the second.
func TestInstanceInContainer(t *testing.T) {
	r, home := containerRunner(t)
	q := inContainer(`/bin/sh -c 'pwd; cat left; exit 4'`, &nodev1.Container{Image: "reg/img:1", WholeRoot: true})
	q.Instance = &nodev1.Instance{CoordinationCommandLine: "/bin/sh -c 'echo coordinated > left'", Primary: true}
	p := play(r, q)
	p.wait(t, p.coordinated)
	if there, _ := filepath.Glob(filepath.Join(home, "engine/millpond-*")); len(there) != 1 {
		t.Errorf("after the coordination command there is %v", there)
	}
	close(p.proceed)
	report := p.end(t)
	dir := filepath.Join(r.cfg.Root, "workitems/j/job-1/t")
	if out, _ := os.ReadFile(filepath.Join(dir, "stdout.txt")); report.GetExitCode() != 4 || report.GetContainer().GetState() != "exited" || string(out) != dir+"/wd\ncoordinated\n" {
		t.Errorf("%v %q", report, out)
	}
	calls, _ := os.ReadFile(filepath.Join(home, "engine/calls"))
	for _, want := range []string{"--volume /opt/hold:/opt/hold:ro", "--entrypoint /opt/hold reg/img:1 hold", "exec millpond-", "rm --force"} {
		if !strings.Contains(string(calls), want) {
			t.Errorf("no call has %q:\n%s", want, calls)
		}
	}
	if strings.Count(string(calls), "create ") != 1 {
		t.Errorf("%s", calls)
	}
	q.Container.RunOptions = []string{"--entrypoint=/x"}
	if report := play(r, q).end(t); report.GetFailure().GetCode() != "ContainerInvalidSettings" {
		t.Errorf("with an entrypoint: %v", report)
	}
}

func TestContainerIsEnded(t *testing.T) {
	r, home := containerRunner(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	report := r.Run(ctx, inContainer("/bin/sleep 60", &nodev1.Container{Image: "i"}), func(time.Time) {
		cancel(millpond.Errorf(millpond.Conflict, millpond.CodeTaskEnded, "ended"))
	})
	if report.GetFailure().GetCode() != millpond.CodeTaskEnded {
		t.Fatalf("%v", report)
	}
	calls, _ := os.ReadFile(filepath.Join(home, "engine/calls"))
	if !strings.Contains(string(calls), "\nkill millpond-") || !strings.Contains(string(calls), "\nrm --force --volumes millpond-") {
		t.Errorf("%s", calls)
	}
}
