package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// applications is the directory below the root in which packages lie, each in
// {id}/{version}-{stamp}.
const applications = "applications"

// Install implements agent.Runner.
func (r *Runner) Install(ctx context.Context, packages []*nodev1.ApplicationPackage) *nodev1.Failure {
	for _, p := range packages {
		if _, err := r.installed(ctx, p); err != nil {
			return failureOf(nil, err)
		}
	}
	return nil
}

// install brings the task's packages onto the node and notes where they are.
func (t *task) install(ctx context.Context) error {
	t.packages = map[string]string{}
	for _, p := range t.request.GetPackages() {
		dir, err := t.runner.installed(ctx, p)
		if err != nil {
			return err
		}
		for _, name := range packageNames(p) {
			t.packages[name] = dir
		}
	}
	return nil
}

// packageNames are the variables that lead to a package on Linux, in the given
// case and in upper case (batch-data-plane.md §6.6).
func packageNames(p *nodev1.ApplicationPackage) []string {
	flat := strings.NewReplacer(".", "_", "-", "_", "#", "_").Replace
	names := []string{"AZ_BATCH_APP_PACKAGE_" + flat(p.GetId()+"#"+p.GetVersion())}
	if p.GetDefault() {
		names = append(names, "AZ_BATCH_APP_PACKAGE_"+flat(p.GetId()))
	}
	for _, n := range names {
		if u := strings.ToUpper(n); u != n {
			names = append(names, u)
		}
	}
	return names
}

// installed returns a package's directory, in which it puts the package if it is
// not there. A directory under its final name is complete.
func (r *Runner) installed(ctx context.Context, p *nodev1.ApplicationPackage) (string, error) {
	fail := func(err error) error {
		return (&failure{code: "ApplicationPackageError", message: fmt.Sprintf("The application package %s version %s could not be installed on the node.", p.GetId(), p.GetVersion()), err: err,
			details: map[string]string{"ApplicationPackageReference": p.GetId() + "#" + p.GetVersion()}}).orDiskFull()
	}
	rel := filepath.Join(strings.ToLower(p.GetId()), strings.ToLower(p.GetVersion())+"-"+p.GetStamp())
	if p.GetId() == "" || p.GetVersion() == "" || p.GetStamp() == "" || !filepath.IsLocal(rel) || strings.Count(rel, "/") != 1 {
		return "", fail(errors.New("its id or version is no name"))
	}
	base := filepath.Join(r.cfg.Root, applications)
	dir := filepath.Join(base, rel)
	lock, _ := r.installs.LoadOrStore(rel, &sync.Mutex{})
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fail(err)
	}
	// The agent's own area is for what is not complete, on the same file system.
	work := filepath.Join(r.cfg.Root, Volatile)
	if err := os.MkdirAll(work, 0o700); err != nil {
		return "", fail(err)
	}
	next, err := os.MkdirTemp(work, "package-")
	if err != nil {
		return "", fail(err)
	}
	defer os.RemoveAll(next)
	if err := r.unpack(ctx, p, next); err != nil {
		return "", fail(err)
	}
	if err := os.Rename(filepath.Join(next, "content"), dir); err != nil {
		return "", fail(err)
	}
	r.cfg.Log.Info("application package installed", "id", p.GetId(), "version", p.GetVersion(), "directory", dir)
	return dir, nil
}

// unpack downloads a package into next and unpacks it below next/content.
func (r *Runner) unpack(ctx context.Context, p *nodev1.ApplicationPackage, next string) error {
	root, err := os.OpenRoot(next)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := r.fetch(ctx, root, &nodev1.ResourceFile{Url: p.GetUrl(), Path: "archive.zip", Mode: 0o600}, -1, -1); err != nil {
		return err
	}
	archive, err := root.Open("archive.zip")
	if err != nil {
		return err
	}
	defer archive.Close()
	info, err := archive.Stat()
	if err != nil {
		return err
	}
	if err := root.Mkdir("content", 0o755); err != nil {
		return err
	}
	content, err := root.OpenRoot("content")
	if err != nil {
		return err
	}
	defer content.Close()
	return transfer.Unpack(archive, info.Size(), content, room(next))
}

// room is how much an archive may write: nine tenths of what is free, because a
// tenth of the disk is the agent's (batch-data-plane.md §6.1).
func room(dir string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 1 << 40
	}
	return int64(st.Bavail) * st.Bsize / 10 * 9
}
