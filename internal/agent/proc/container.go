package proc

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
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

// HoldArgument has the program of Config.Hold wait until it is told to end, and
// bury what ends before it: it is the first process of a container.
const HoldArgument = "hold"

// Hold is what that program does.
func Hold() {
	end, child := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(child, syscall.SIGCHLD)
	for {
		select {
		case <-end:
			return
		case <-child:
			for {
				// Several ends may have made one signal.
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

// tidy bounds what is done to a container after its task.
const tidy = 30 * time.Second

// holdContainer makes and starts the one container in which an instance of a
// multi-instance task runs its commands, so that what the coordination command
// leaves behind is there for the other. Its own program only waits.
func (t *task) holdContainer(ctx context.Context, x *execution) (*box, error) {
	for _, o := range t.request.GetContainer().GetRunOptions() {
		if o == "--entrypoint" || strings.HasPrefix(o, "--entrypoint=") {
			return nil, &failure{code: "ContainerInvalidSettings", message: "One or more container settings are invalid: the commands of a multi-instance task run in one container, beside its own program, so --entrypoint cannot be used. Name the program in the command lines."}
		}
	}
	if t.runner.cfg.Hold == "" {
		return nil, &failure{server: true, code: "ContainerPoolNotSupported", message: "This agent cannot run multi-instance tasks in containers."}
	}
	b, err := t.makeContainer(ctx, nil, x.env, x.mark)
	if err != nil {
		return nil, err
	}
	if err := b.engine.Begin(ctx, b.id); err != nil {
		b.end()
		return nil, &failure{code: "ContainerInvalidSettings", message: "The container of the task could not be started.", details: map[string]string{"Image": t.request.GetContainer().GetImage()}, err: err}
	}
	t.report.Container.State = "running"
	return b, nil
}

// makeContainer makes the container that words run in, or without words one that
// waits. What is wrong with the image and what is wrong with the settings are told
// apart.
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
	if words == nil {
		s.Entrypoint, s.Command = t.runner.cfg.Hold, []string{HoldArgument}
		s.Binds = append(s.Binds, container.Bind{Path: t.runner.cfg.Hold, ReadOnly: true})
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
	if s := b.t.report.Container.State; s == "created" || s == "running" {
		// It was ended from outside, or only waited.
		b.t.report.Container.State = "exited"
	}
	if err := b.engine.Remove(ctx, b.id); err != nil {
		b.t.runner.cfg.Log.Warn("a container could not be removed", "id", b.id, "error", err)
	}
}
