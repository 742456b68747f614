// Package proc runs the attempts of tasks as processes of this machine: fresh
// directories, the task's account, application packages, resource files,
// certificates, environment, the command itself, in a container if it has one, its
// output files, and the end of everything that it leaves behind. It makes the accounts that
// people log in with, too.
//
// It does not know sessions, events or the server; package agent calls it
// through agent.Runner, agent/guest its SetLogins. It never retries a command. It
// runs on Linux; without root rights it runs everything as the current user, which
// is for tests.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent/container"
	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Config is what a Runner works with.
type Config struct {
	// Root is AZ_BATCH_NODE_ROOT_DIR; its directories exist.
	Root  string
	Clock clock.Clock
	Log   *slog.Logger
	// Grace is the time between SIGTERM and SIGKILL, 5 s when 0.
	Grace time.Duration
	// SameUser runs every command as the agent's own user and touches no account
	// files. It is so anyway when the agent is not root.
	SameUser bool
	// Etc is where passwd, group and shadow lie; /etc when empty.
	Etc string
	// Engine finds the container engine; nil, or giving nil, when there is none.
	Engine func() *container.Engine
	// Hold is a static program of this machine that does what Hold does when it is
	// given HoldArgument; empty for none.
	Hold string
	// Download tells how resource files are fetched.
	Download Download
	// Tokens gives tokens of the node's managed identities, by their resource ids;
	// nil if there are none.
	Tokens func(ctx context.Context, identity, resource string) (token string, expires time.Time, err error)
	// Reach is the way to Azure's names, which Hello tells; nil: as names say.
	Reach *transfer.Reach
}

// Runner runs attempts. It is safe for concurrent use.
type Runner struct {
	cfg    Config
	users  *accounts
	groups *cgroups // nil when this machine gives us none
	// rootless is set when accounts cannot be made or taken.
	rootless bool

	blobs *transfer.Blobs
	proxy *transfer.Proxy
	// installs has a lock for each package's directory.
	installs sync.Map

	// prefix begins the marks of this root directory's attempts.
	prefix string

	mu     sync.Mutex
	number int
}

// New makes a Runner and finds out what the machine permits.
func New(cfg Config) *Runner {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.Etc == "" {
		cfg.Etc = "/etc"
	}
	if cfg.Reach == nil {
		cfg.Reach = &transfer.Reach{}
	}
	cfg.Download = cfg.Download.withDefaults()
	r := &Runner{cfg: cfg, rootless: cfg.SameUser || os.Geteuid() != 0, users: &accounts{etc: cfg.Etc}}
	r.blobs = transfer.NewBlobs(cfg.Reach, cfg.Download.Stall)
	// Tasks must be able to read the bundle of CAs and none to change it.
	public := "/run/millpond-agent"
	if r.rootless {
		public = filepath.Join(cfg.Root, Volatile)
	}
	r.proxy = transfer.NewProxy(cfg.Reach, public)
	groups, err := findCgroup()
	if err != nil {
		cfg.Log.Info("no cgroup for tasks; their leftovers are found by environment", "reason", err)
	}
	r.groups = groups
	h := fnv.New64a()
	h.Write([]byte(cfg.Root))
	r.prefix = fmt.Sprintf("%016x-", h.Sum64())
	r.sweepFormer()
	r.dropFormerCertificates()
	return r
}

// Close gives back what the Runner keeps for attempts to come. Nothing runs any more.
func (r *Runner) Close() error {
	r.groups.trim(0)
	return nil
}

// sweepFormer ends what an earlier agent with the same root directory has left
// running: its attempts are reported as interrupted and may run again.
func (r *Runner) sweepFormer() {
	r.groups.killChildren(r.prefix)
	for range 5 {
		if !killMarked(func(mark []byte) bool { return bytes.HasPrefix(mark, []byte(r.prefix)) }) {
			return
		}
	}
}

// Run implements agent.Runner.
func (r *Runner) Run(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time)) *nodev1.TaskCompleted {
	return r.report(ctx, q, func(t *task) (*int32, time.Time, error) { return t.execute(ctx, started) })
}

// RunInstance implements agent.Runner.
func (r *Runner) RunInstance(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time), coordinated func(), proceed <-chan struct{}) *nodev1.TaskCompleted {
	return r.report(ctx, q, func(t *task) (*int32, time.Time, error) { return t.executeInstance(ctx, started, coordinated, proceed) })
}

func (r *Runner) report(ctx context.Context, q *nodev1.RunTaskRequest, execute func(*task) (*int32, time.Time, error)) *nodev1.TaskCompleted {
	report := &nodev1.TaskCompleted{Key: q.GetKey()}
	exit, start, err := r.run(ctx, q, report, execute)
	if !start.IsZero() {
		report.StartTime = timestamppb.New(start)
	}
	report.EndTime = timestamppb.New(r.cfg.Clock.Now())
	report.ExitCode = exit
	report.Failure = failureOf(exit, err)
	return report
}

// failure is why an attempt failed, in the words of the report.
type failure struct {
	server  bool
	code    string
	message string
	details map[string]string
	err     error
}

func (f *failure) Error() string {
	if f.err != nil {
		return f.code + ": " + f.message + ": " + f.err.Error()
	}
	return f.code + ": " + f.message
}

func (f *failure) Unwrap() error { return f.err }

// orDiskFull words a failure anew whose reason is that there is no room.
func (f *failure) orDiskFull() *failure {
	if errors.Is(f.err, syscall.ENOSPC) {
		f.server, f.code, f.message = true, "DiskFull", "There is not enough disk space on the node."
	}
	return f
}

// serverFault are the causes of an end that are the service's, not the user's.
var serverFault = map[string]bool{millpond.CodeAgentRestarted: true}

func failureOf(exit *int32, err error) *nodev1.Failure {
	var f *failure
	var ended *millpond.Error
	switch {
	case err == nil && (exit == nil || *exit == 0):
		return nil
	case err == nil:
		return &nodev1.Failure{Code: "FailureExitCode",
			Message: fmt.Sprintf("The task process exited with an unexpected exit code: %d. See stderr.txt and stdout.txt of the task.", *exit),
			Details: map[string]string{"Message": fmt.Sprintf("The task exited with an exit code representing a failure: %d", *exit)}}
	case errors.As(err, &ended):
		return &nodev1.Failure{ServerError: serverFault[ended.Code], Code: ended.Code, Message: ended.Message}
	case errors.As(err, &f):
		nf := &nodev1.Failure{ServerError: f.server, Code: f.code, Message: f.message, Details: f.details}
		if f.err != nil {
			if nf.Details == nil {
				nf.Details = map[string]string{}
			}
			nf.Details["Message"] = f.err.Error()
		}
		return nf
	default:
		return &nodev1.Failure{ServerError: true, Code: "Unknown", Message: err.Error()}
	}
}

// run takes the steps, and notes in the report what the command used. The returned
// error is a *failure, or the *millpond.Error that ended the attempt.
func (r *Runner) run(ctx context.Context, q *nodev1.RunTaskRequest, report *nodev1.TaskCompleted, execute func(*task) (*int32, time.Time, error)) (*int32, time.Time, error) {
	none := time.Time{}
	dir, err := r.directory(q.GetDirectory())
	if err != nil {
		return nil, none, err
	}
	who, drop, err := r.account(q)
	if err != nil {
		return nil, none, err
	}
	defer drop()
	t := &task{runner: r, request: q, report: report, user: who, dir: dir, wd: filepath.Join(dir, "wd")}
	if err := t.makeDirectories(); err != nil {
		return nil, none, err
	}
	defer t.dropCertificates()
	if err := t.placeCertificates(); err != nil {
		return nil, none, err
	}
	for _, step := range []func(context.Context) error{t.install, t.fetch} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, none, context.Cause(ctx)
			}
			return nil, none, err
		}
	}
	if ctx.Err() != nil {
		return nil, none, context.Cause(ctx)
	}
	exit, start, err := execute(t)
	if start.IsZero() || ctx.Err() != nil {
		// It never ran, or was ended by somebody who does not wait for its files.
		return exit, start, err
	}
	if uerr := t.upload(ctx, err == nil && exit != nil && *exit == 0); uerr != nil && err == nil && exit != nil && *exit == 0 {
		// Why the command failed matters more than that its files did not arrive.
		err = uerr
	}
	return exit, start, err
}

// directory is the absolute path of a task's directory. Only those that tasks
// may have are taken: the start task's and those below workitems.
func (r *Runner) directory(rel string) (string, error) {
	clean := filepath.Clean(rel)
	if !filepath.IsLocal(rel) || clean != "startup" && !strings.HasPrefix(clean, "workitems/") {
		return "", &failure{server: true, code: "ResourceDirectoryCreateFailed",
			message: fmt.Sprintf("%q is no directory for a task.", rel)}
	}
	return filepath.Join(r.cfg.Root, clean), nil
}

// Remove implements agent.Runner. The directories of the job above it go too
// when they are empty.
func (r *Runner) Remove(rel string) error {
	dir, err := r.directory(rel)
	if err != nil {
		return fmt.Errorf("%w: %w", err, fs.ErrInvalid)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for range 2 {
		dir = filepath.Dir(dir)
		if dir == filepath.Join(r.cfg.Root, "workitems") || dir == r.cfg.Root || os.Remove(dir) != nil {
			break
		}
	}
	return nil
}

// next numbers attempts within this process.
func (r *Runner) next() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.number++
	return r.number
}
