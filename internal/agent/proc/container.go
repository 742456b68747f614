package proc

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"millpond.dev/millpond/internal/agent/container"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// box is the container of one attempt.
type box struct {
	t      *task
	engine *container.Engine
	id     string
}

// tidy bounds what is done to a container after its task.
const tidy = 30 * time.Second

// makeContainer makes the container that words run in. What is wrong with the
// image and what is wrong with the settings are told apart.
func (t *task) makeContainer(ctx context.Context, words, env []string, mark string) (*box, error) {
	q := t.request.GetContainer()
	if q.GetImage() == "" {
		return nil, &failure{code: "ContainerInvalidSettings", message: "One or more container settings are invalid: the task has containerSettings, and its pool has no containerConfiguration."}
	}
	var engine *container.Engine
	if t.runner.cfg.Engine != nil {
		engine = t.runner.cfg.Engine()
	}
	if engine == nil {
		return nil, &failure{code: "ContainerPoolNotSupported", message: "The node's image has no container engine: use an image with docker, podman or nerdctl."}
	}
	if r := q.GetRegistry(); r.GetUsername() != "" {
		if err := engine.Login(ctx, r.GetServer(), r.GetUsername(), r.GetPassword()); err != nil {
			return nil, &failure{code: "ContainerInvalidSettings", message: "The registry " + r.GetServer() + " does not accept the credentials.", err: err}
		}
	}
	if err := engine.Pull(ctx, q.GetImage()); err != nil {
		return nil, &failure{code: "ContainerInvalidImage", message: fmt.Sprintf("The container image %q could not be found or pulled.", q.GetImage()), details: map[string]string{"Image": q.GetImage()}, err: err}
	}
	s := container.Spec{Name: "millpond-" + mark, Image: q.GetImage(), Options: q.GetRunOptions(), Command: words}
	if !t.runner.rootless {
		s.User = fmt.Sprintf("%d:%d", t.user.uid, t.user.gid)
	}
	if !q.GetOwnDirectory() {
		s.Directory = t.wd
	}
	root := t.runner.cfg.Root
	if q.GetWholeRoot() {
		s.Binds = []container.Bind{{Path: root}}
	}
	for _, b := range q.GetBinds() {
		if !filepath.IsLocal(b.GetPath()) {
			return nil, &failure{server: true, code: "ContainerInvalidSettings", message: fmt.Sprintf("%q is no directory of the node.", b.GetPath())}
		}
		s.Binds = append(s.Binds, container.Bind{Path: filepath.Join(root, b.GetPath()), ReadOnly: b.GetReadOnly()})
	}
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		// The image has its own, unless the user gave one.
		if _, given := t.request.GetEnvironment()[name]; !given && (name == "PATH" || name == "HOME" || name == "USER" || name == markName) {
			continue
		}
		s.Environment = append(s.Environment, v)
	}
	id, err := engine.Create(ctx, s)
	if err != nil {
		return nil, &failure{code: "ContainerInvalidSettings", message: "One or more container settings are invalid.", details: map[string]string{"Image": q.GetImage()}, err: err}
	}
	t.report.Container = &nodev1.ContainerInfo{Id: id, State: "created"}
	return &box{t: t, engine: engine, id: id}, nil
}

// settle notes how the container ended, and fails when it never began.
func (b *box) settle() error {
	ctx, cancel := context.WithTimeout(context.Background(), tidy)
	defer cancel()
	status, why, err := b.engine.State(ctx, b.id)
	if err != nil {
		b.t.runner.cfg.Log.Warn("a container cannot be looked at", "id", b.id, "error", err)
		return nil
	}
	b.t.report.Container.State, b.t.report.Container.Error = status, why
	if why == "" {
		return nil
	}
	code := "CommandLaunchFailed"
	if strings.Contains(why, "executable file not found") || strings.Contains(why, "no such file or directory") {
		code = "CommandProgramNotFound"
	}
	return &failure{code: code, message: "The command could not be started in its container: " + why}
}

// end removes the container, whatever it does.
func (b *box) end() {
	ctx, cancel := context.WithTimeout(context.Background(), tidy)
	defer cancel()
	if b.t.report.Container.State == "created" {
		// It was ended from outside.
		b.t.report.Container.State = "exited"
	}
	if err := b.engine.Remove(ctx, b.id); err != nil {
		b.t.runner.cfg.Log.Warn("a container could not be removed", "id", b.id, "error", err)
	}
}
