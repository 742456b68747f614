package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// runner acts out command lines on a node's disk in memory.
type runner struct{ boot *boot }

// maxResource bounds a resource file that is fetched.
const maxResource = maxFile

func (r *runner) Run(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time)) *nodev1.TaskCompleted {
	return r.run(ctx, q, started, nil, nil)
}

func (r *runner) RunInstance(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time), coordinated func(), proceed <-chan struct{}) *nodev1.TaskCompleted {
	return r.run(ctx, q, started, coordinated, proceed)
}

func (r *runner) run(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time), coordinated func(), proceed <-chan struct{}) *nodev1.TaskCompleted {
	clk := r.boot.vm.l.cfg.Clock
	report := &nodev1.TaskCompleted{Key: q.GetKey()}
	defer func() { report.EndTime = timestamppb.New(clk.Now()) }()
	fail := func(server bool, code, message string) *nodev1.TaskCompleted {
		report.Failure = &nodev1.Failure{ServerError: server, Code: code, Message: message}
		return report
	}
	ended := func(limit bool) *nodev1.TaskCompleted {
		cause := millpond.AsError(context.Cause(ctx))
		if limit {
			cause = millpond.Errorf(millpond.Conflict, millpond.CodeTaskEnded, "The task was ended because it ran longer than its maxWallClockTime of %s.", q.GetMaxWallClock().AsDuration())
		}
		return fail(cause.Code == millpond.CodeAgentRestarted, cause.Code, cause.Message)
	}
	dir, err := clean(q.GetDirectory())
	if err != nil || dir != "startup" && !strings.HasPrefix(dir, "workitems/") {
		return fail(true, "ResourceDirectoryCreateFailed", "This is no directory for a task.")
	}
	disk := r.boot.vm.disk
	disk.fresh(dir)
	if f := r.Install(ctx, q.GetPackages()); f != nil {
		report.Failure = f
		return report
	}
	type download struct {
		dir  string
		file *nodev1.ResourceFile
	}
	var downloads []download
	for _, f := range q.GetInstance().GetCommonResourceFiles() {
		downloads = append(downloads, download{dir, f})
	}
	for _, f := range q.GetResourceFiles() {
		downloads = append(downloads, download{path.Join(dir, "wd"), f})
	}
	for _, f := range downloads {
		if code, message, server := r.fetch(ctx, f.dir, f.file); code != "" {
			if ctx.Err() != nil {
				return ended(false)
			}
			return fail(server, code, message)
		}
	}
	line := q.GetCommandLine()
	if q.GetInstance() != nil {
		line = q.GetInstance().GetCoordinationCommandLine()
	}
	words, err := proc.Split(line)
	if err != nil {
		return fail(false, "CommandLaunchFailed", "The command line cannot be divided into words: "+err.Error()+".")
	}
	if strings.Contains(strings.ToLower(q.GetEnvironment()["MILLPOND_HANDLER"]), ".vmaccessforlinux-") {
		// There are no accounts that the access extension could change.
		words = []string{"true"}
	}
	sh := &shell{ctx: ctx, disk: disk, dir: dir, env: environment(q, dir), speed: r.boot.vm.l.cfg.Speed}
	if !sh.knows(words[0]) {
		return fail(false, "CommandProgramNotFound", fmt.Sprintf("The specified command program is not found: the fake node has no %q.", words[0]))
	}
	for _, name := range []string{"stdout.txt", "stderr.txt"} {
		if err := disk.write(path.Join(dir, name), nil, true, 0o644); err != nil {
			return fail(true, "ResourceFileCreateFailed", err.Error())
		}
	}
	start := clk.Now()
	report.StartTime = timestamppb.New(start)
	started(start)
	if d := q.GetMaxWallClock(); d != nil {
		limited, cancel := context.WithTimeoutCause(ctx, d.AsDuration(), errLimit)
		defer cancel()
		sh.ctx = limited
	}
	code := sh.command(words)
	if q.GetInstance() != nil && code == 0 && sh.ctx.Err() == nil {
		coordinated()
		if !q.GetInstance().GetPrimary() {
			proceed = nil
		}
		select {
		case <-proceed:
			if words, err = proc.Split(q.GetCommandLine()); err != nil || !sh.knows(words[0]) {
				return fail(false, "CommandProgramNotFound", "The specified command program is not found.")
			}
			code = sh.command(words)
		case <-sh.ctx.Done():
		}
	}
	if sh.ctx.Err() != nil {
		code = 128 + 15
		report.ExitCode = &code
		return ended(errors.Is(context.Cause(sh.ctx), errLimit))
	}
	report.ExitCode = &code
	if len(q.GetOutputFiles()) > 0 && code == 0 {
		return fail(false, "FileUploadMiscError", "Nodes of the fake launcher upload no output files. Use the local launcher.")
	}
	if code != 0 {
		return fail(false, "FailureExitCode", fmt.Sprintf("The task process exited with an unexpected exit code: %d. See stderr.txt and stdout.txt of the task.", code))
	}
	return report
}

var errLimit = errors.New("the wall-clock limit has passed")

func environment(q *nodev1.RunTaskRequest, dir string) map[string]string {
	env := map[string]string{"HOME": path.Join(rootDir, dir, "wd"), "PATH": "/usr/local/bin:/usr/bin:/bin"}
	maps.Copy(env, q.GetEnvironment())
	user, identity := "_azbatch", "PoolNonAdmin"
	if q.GetUser().GetAdmin() {
		user, identity = "root", "PoolAdmin"
	}
	if n := q.GetUser().GetName(); n != "" {
		user = n
	}
	if q.GetInstance() != nil {
		env["AZ_BATCH_TASK_SHARED_DIR"] = path.Join(rootDir, dir)
	}
	maps.Copy(env, map[string]string{
		"USER":                              user,
		"AZ_BATCH_NODE_ROOT_DIR":            rootDir,
		"AZ_BATCH_NODE_SHARED_DIR":          rootDir + "/shared",
		"AZ_BATCH_NODE_STARTUP_DIR":         rootDir + "/startup",
		"AZ_BATCH_NODE_STARTUP_WORKING_DIR": rootDir + "/startup/wd",
		"AZ_BATCH_NODE_MOUNTS_DIR":          rootDir + "/fsmounts",
		"AZ_BATCH_TASK_DIR":                 path.Join(rootDir, dir),
		"AZ_BATCH_TASK_WORKING_DIR":         path.Join(rootDir, dir, "wd"),
		"AZ_BATCH_TASK_USER":                user,
		"AZ_BATCH_TASK_USER_IDENTITY":       identity,
	})
	return env
}

// credential proves a request for blobs by a managed identity; nil without one.
func (r *runner) credential(identity string) transfer.Credential {
	if identity == "" {
		return nil
	}
	return func(ctx context.Context) (string, time.Time, error) {
		return r.boot.tokens.File(ctx, identity, transfer.StorageResource)
	}
}

// fetch brings a resource file; code is empty when it has.
func (r *runner) fetch(ctx context.Context, dir string, f *nodev1.ResourceFile) (code, message string, server bool) {
	if f.GetContainer() {
		err := r.boot.vm.l.blobs.List(ctx, f.GetUrl(), r.credential(f.GetIdentity()), f.GetBlobPrefix(), func(name string) error {
			u, err := transfer.BlobURL(f.GetUrl(), name)
			if err == nil {
				code, message, server = r.fetch(ctx, dir, &nodev1.ResourceFile{Url: u, Path: path.Join(f.GetPath(), name), Mode: f.GetMode(), Identity: f.GetIdentity()})
			}
			if code != "" {
				err = errors.New(code)
			}
			return err
		})
		if err != nil && code == "" {
			return "ResourceContainerListMiscError", "The specified Azure Blob container could not be listed.", true
		}
		return code, message, server
	}
	name, err := clean(f.GetPath())
	if err != nil || name == "." {
		return "ResourceFileCreateFailed", "The resource file's path must name a file below the working directory.", false
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, f.GetUrl(), nil)
	if err != nil {
		return "BlobDownloadMiscError", "The resource file's URL cannot be requested.", false
	}
	resp, err := r.boot.vm.l.blobs.Do(q, r.credential(f.GetIdentity()))
	var noToken transfer.ErrToken
	if errors.As(err, &noToken) {
		return "BlobAccessDenied", noToken.Error(), false
	}
	if err != nil {
		return "BlobDownloadMiscError", "The resource file could not be downloaded.", true
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return "BlobNotFound", "The specified Azure Blob or URL does not exist.", false
	case http.StatusUnauthorized, http.StatusForbidden:
		return "BlobAccessDenied", "Access to the specified Azure Blob or URL is denied.", false
	default:
		return "BlobDownloadMiscError", "The server answered " + resp.Status + ".", true
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxResource))
	if err != nil {
		return "BlobDownloadMiscError", "The resource file could not be downloaded.", true
	}
	mode := f.GetMode()
	if mode == 0 {
		mode = 0o770
	}
	if err := r.boot.vm.disk.write(path.Join(dir, name), data, true, mode); err != nil {
		return "ResourceFileCreateFailed", err.Error(), true
	}
	return "", "", false
}

// Install implements agent.Runner. Fake nodes run no programs, so a package is
// there as soon as it can be fetched.
func (r *runner) Install(ctx context.Context, packages []*nodev1.ApplicationPackage) *nodev1.Failure {
	for _, p := range packages {
		q, err := http.NewRequestWithContext(ctx, http.MethodHead, p.GetUrl(), nil)
		if err == nil {
			var resp *http.Response
			if resp, err = r.boot.vm.l.blobs.Do(q, nil); err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					err = errors.New("the service answered " + resp.Status)
				}
			}
		}
		if err != nil {
			return &nodev1.Failure{Code: "ApplicationPackageError", Message: fmt.Sprintf("The application package %s version %s could not be installed on the node.", p.GetId(), p.GetVersion()),
				Details: map[string]string{"ApplicationPackageReference": p.GetId() + "#" + p.GetVersion(), "Message": err.Error()}}
		}
	}
	return nil
}

func (r *runner) Remove(directory string) error {
	dir, err := clean(directory)
	if err != nil || dir != "startup" && !strings.HasPrefix(dir, "workitems/") {
		return fmt.Errorf("%q is no directory of a task: %w", directory, fs.ErrInvalid)
	}
	d := r.boot.vm.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeAll(dir)
	return nil
}

var _ agent.Runner = (*runner)(nil)
