package proc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// task is one attempt under way.
type task struct {
	runner  *Runner
	request *nodev1.RunTaskRequest
	report  *nodev1.TaskCompleted
	user    account
	dir, wd string
	// packages are the variables that lead to application packages.
	packages map[string]string
}

// ScheduledEvents is the file below the node's root that tells tasks what is about
// to happen to the node, in the form of Azure's scheduled events.
const ScheduledEvents = "scheduledevents.json"

// Volatile is the agent's own directory below the node's root; agent.RootFiles
// hide it.
const Volatile = "volatile"

// BasePath is PATH when the server sends none.
const BasePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// makeDirectories makes the task's directory anew. Those above it belong to
// the agent, so that no task can put links there.
func (t *task) makeDirectories() error {
	fail := func(err error) error {
		return (&failure{server: true, code: "ResourceDirectoryCreateFailed", message: "The task's directory could not be made.", err: err}).orDiskFull()
	}
	// The start task's directory is read by the tasks that follow it, and so is
	// that of a job's preparation.
	mode := fs.FileMode(0o770)
	if t.request.GetDirectory() == "startup" || t.request.GetSharedDirectory() {
		mode = 0o775
	}
	for _, d := range []string{t.dir, t.wd} {
		if err := t.makeDirectory(d, mode); err != nil {
			return fail(err)
		}
		if err := os.Chmod(d, mode); err != nil { // whatever the umask
			return fail(err)
		}
		if err := t.own(d); err != nil {
			return fail(err)
		}
	}
	return nil
}

// makeDirectory makes one anew. Most are not there and have their parents.
func (t *task) makeDirectory(path string, mode fs.FileMode) error {
	err := os.Mkdir(path, mode)
	switch {
	case errors.Is(err, fs.ErrExist):
		err = os.RemoveAll(path)
	case errors.Is(err, fs.ErrNotExist):
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	default:
		return err
	}
	if err != nil {
		return err
	}
	return os.Mkdir(path, mode)
}

func (t *task) own(path string) error {
	if t.runner.rootless {
		return nil
	}
	return os.Lchown(path, t.user.uid, t.user.gid)
}

// output makes one of the files that take the command's output.
func (t *task) output(name string) (*os.File, error) {
	path := filepath.Join(t.dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	return f, t.own(path)
}

func (t *task) fetch(ctx context.Context) error {
	if err := t.fetchInto(ctx, t.dir, t.request.GetInstance().GetCommonResourceFiles()); err != nil {
		return err
	}
	return t.fetchInto(ctx, t.wd, t.request.GetResourceFiles())
}

func (t *task) fetchInto(ctx context.Context, dir string, files []*nodev1.ResourceFile) error {
	if len(files) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return &failure{server: true, code: "ResourceDirectoryCreateFailed", message: "The task's working directory cannot be opened.", err: err}
	}
	defer root.Close()
	uid, gid := t.user.uid, t.user.gid
	if t.runner.rootless {
		uid, gid = -1, -1
	}
	for _, f := range files {
		get := t.runner.fetch
		if f.GetContainer() {
			get = t.runner.fetchContainer
		}
		if err := get(ctx, root, f, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// environment is the server's with what only the node knows, sorted. Names
// beginning AZ_BATCH_ that the node sets win; HOME and USER of the user's own
// settings are kept, and PATH is lengthened.
func (t *task) environment(mark string) []string {
	root := t.runner.cfg.Root
	env := make(map[string]string, len(t.request.GetEnvironment())+32)
	maps.Copy(env, t.request.GetEnvironment())
	for _, v := range [][2]string{{"HOME", t.wd}, {"USER", t.user.name}, {"PATH", BasePath}} {
		if env[v[0]] == "" {
			env[v[0]] = v[1]
		}
	}
	reach, err := t.runner.proxy.Environment()
	if err != nil {
		t.runner.cfg.Log.Warn("tasks cannot reach the server by Azure's names", "error", err)
	}
	// A task with a proxy of its own keeps that, and what it trusts.
	if env["HTTPS_PROXY"] == "" && env["https_proxy"] == "" {
		for k, v := range reach {
			if env[k] == "" {
				env[k] = v
			}
		}
	}
	maps.Copy(env, t.packages)
	shared := filepath.Join(root, "shared")
	env["PATH"] = strings.TrimSuffix(env["PATH"], ":") + ":" + shared + ":" + t.wd
	for _, v := range [][2]string{
		{"AZ_BATCH_NODE_ROOT_DIR", root},
		{"AZ_BATCH_NODE_SHARED_DIR", shared},
		{"AZ_BATCH_NODE_STARTUP_DIR", filepath.Join(root, "startup")},
		{"AZ_BATCH_NODE_STARTUP_WORKING_DIR", filepath.Join(root, "startup", "wd")},
		{"AZ_BATCH_NODE_MOUNTS_DIR", filepath.Join(root, "fsmounts")},
		// Ours, like the mark.
		{"MILLPOND_SCHEDULED_EVENTS", filepath.Join(root, ScheduledEvents)},
		{"AZ_BATCH_TASK_DIR", t.dir},
		{"AZ_BATCH_CERTIFICATES_DIR", filepath.Join(t.dir, CertificateFolder)},
		{"AZ_BATCH_TASK_WORKING_DIR", t.wd},
		{"AZ_BATCH_TASK_USER", t.user.name},
		{"AZ_BATCH_TASK_USER_IDENTITY", t.user.identity},
		{markName, mark},
	} {
		env[v[0]] = v[1]
	}
	if t.request.GetInstance() != nil {
		env["AZ_BATCH_TASK_SHARED_DIR"] = t.dir
	}
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(env[k], 0) {
			continue // cannot be in an environment
		}
		list = append(list, k+"="+env[k])
	}
	return list
}

// program finds the file that a command's first word names: a path relative to
// the working directory; a bare name there first, then along PATH.
func (t *task) program(name string, env []string) (string, error) {
	notFound := &failure{code: "CommandProgramNotFound",
		message: fmt.Sprintf("The specified command program is not found: %q is neither in the working directory nor on PATH.", name),
		details: map[string]string{"Program": name}}
	var tries []string
	switch {
	case filepath.IsAbs(name):
		tries = []string{name}
	case strings.Contains(name, "/"):
		tries = []string{filepath.Join(t.wd, name)}
	default:
		tries = []string{filepath.Join(t.wd, name)}
		for _, e := range env {
			if p, ok := strings.CutPrefix(e, "PATH="); ok {
				for _, d := range filepath.SplitList(p) {
					if !filepath.IsAbs(d) {
						d = filepath.Join(t.wd, d)
					}
					tries = append(tries, filepath.Join(d, name))
				}
			}
		}
	}
	var refused error
	for _, p := range tries {
		info, err := os.Stat(p)
		if err != nil {
			continue
		}
		if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
			if refused == nil {
				refused = &failure{code: "CommandLaunchFailed",
					message: fmt.Sprintf("The command program %q cannot be executed: give it a mode with execute rights (fileMode 0770 of a resource file).", name),
					details: map[string]string{"Program": name}}
			}
			continue
		}
		return p, nil
	}
	if refused != nil {
		return "", refused
	}
	return "", notFound
}
