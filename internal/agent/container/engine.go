// Package container drives the container engine of a node's image through its
// command line: docker, podman or nerdctl, whichever there is. It runs no
// command of a task itself: it makes the container, and agent/proc runs the
// client that starts it, as it runs any other program, so that output, limits
// and ends are the same.
//
// It holds no state: what exists is what the engine says. agent/guest prepares
// nodes with it, agent/proc runs tasks.
package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Engine is a container engine's client.
type Engine struct {
	// Program is its path; its base name decides nothing but Daemon.
	Program string
	// Path is where the engine finds its own helpers.
	Path string
	// Home is where it keeps its logins.
	Home string
}

// names are the clients that are looked for, in this order.
var names = [...]string{"docker", "podman", "nerdctl"}

// Find looks for a client in the directories of path, a list like PATH. nil
// means that the image has none.
func Find(path, home string) *Engine {
	for _, n := range names {
		for _, d := range filepath.SplitList(path) {
			p := filepath.Join(d, n)
			if info, err := os.Stat(p); err == nil && !info.IsDir() && info.Mode().Perm()&0o111 != 0 {
				return &Engine{Program: p, Path: path, Home: home}
			}
		}
	}
	return nil
}

// Error is what an engine said when it failed.
type Error struct {
	Doing  string
	Output string
	Err    error
}

func (e *Error) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%s: %v: %s", e.Doing, e.Err, strings.TrimSpace(e.Output)))
}

func (e *Error) Unwrap() error { return e.Err }

// Environment is that of the client: not the task's, whose PATH or HOME would
// lead it astray.
func (e *Engine) Environment() []string {
	return []string{"PATH=" + e.Path, "HOME=" + e.Home, "LANG=C.UTF-8"}
}

const mostOutput = 4 << 10

// run runs the client; input goes to its standard input. A process that it
// leaves behind must not hold the answer up.
func (e *Engine) run(ctx context.Context, doing string, env []string, input string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, e.Program, args...)
	cmd.Env = append(e.Environment(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		text := strings.TrimSpace(errs.String() + "\n" + out.String())
		return "", &Error{Doing: doing, Output: text[max(0, len(text)-mostOutput):], Err: err}
	}
	return strings.TrimSpace(out.String()), nil
}

// readyTick is the time between two questions to an engine that is starting.
const readyTick = 500 * time.Millisecond

// Ready waits until the engine answers: a daemon may start after the agent.
func (e *Engine) Ready(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(readyTick)
	defer tick.Stop()
	for {
		_, err := e.run(ctx, "ask the container engine", nil, "", "version")
		if err == nil {
			return nil
		}
		var last *Error
		select {
		case <-ctx.Done():
			if errors.As(err, &last) {
				last.Err = fmt.Errorf("no answer within %s", limit)
			}
			return err
		case <-tick.C:
		}
	}
}

// Login stores a registry's credentials in the engine's home.
func (e *Engine) Login(ctx context.Context, server, user, password string) error {
	args := []string{"login", "--username", user, "--password-stdin"}
	if server != "" {
		args = append(args, server)
	} else if filepath.Base(e.Program) != "docker" {
		args = append(args, "docker.io")
	}
	_, err := e.run(ctx, "log in to the registry "+server, nil, password, args...)
	return err
}

// Pull makes an image be there; one that is there already is taken as it is.
func (e *Engine) Pull(ctx context.Context, image string) error {
	if _, err := e.run(ctx, "look for the image "+image, nil, "", "image", "inspect", "--format", "{{.Id}}", image); err == nil {
		return nil
	}
	_, err := e.run(ctx, "pull the image "+image, nil, "", "pull", image)
	return err
}

// Spec is a container for one attempt of a task.
type Spec struct {
	Name  string
	Image string
	// Options are the user's own, for the engine's create.
	Options []string
	// User is uid:gid.
	User string
	// Directory is empty for the image's own.
	Directory string
	Binds     []Bind
	// Environment holds NAME=value.
	Environment []string
	// Entrypoint, if not empty, is the program that runs, whatever the image says.
	Entrypoint string
	Command    []string
}

// Bind is a directory of the node at the same path in the container.
type Bind struct {
	Path     string
	ReadOnly bool
}

// unsafe are names that the client itself would act on if it were given their
// values through its own environment.
func unsafe(name string) bool {
	return slices.Contains([]string{"PATH", "HOME", "USER", "TMPDIR", "LANG"}, name) ||
		slices.ContainsFunc([]string{"LD_", "XDG_", "DOCKER_", "CONTAINER", "GO", "STORAGE_", "REGISTRY_"}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// Create makes a container and returns its id. The values of its environment
// go through the client's, where no other user of the node reads them.
func (e *Engine) Create(ctx context.Context, s Spec) (string, error) {
	args := []string{"create", "--name", s.Name}
	for _, b := range s.Binds {
		v := b.Path + ":" + b.Path
		if b.ReadOnly {
			v += ":ro"
		}
		args = append(args, "--volume", v)
	}
	if s.User != "" {
		args = append(args, "--user", s.User)
	}
	if s.Directory != "" {
		args = append(args, "--workdir", s.Directory)
	}
	var env []string
	for _, v := range s.Environment {
		name, _, _ := strings.Cut(v, "=")
		if unsafe(name) {
			args = append(args, "--env", v)
			continue
		}
		args = append(args, "--env", name)
		env = append(env, v)
	}
	// The user's options come last, so that they win.
	args = append(args, s.Options...)
	if s.Entrypoint != "" {
		args = append(args, "--entrypoint", s.Entrypoint)
	}
	args = append(append(args, s.Image), s.Command...)
	out, err := e.run(ctx, "create a container from "+s.Image, env, "", args...)
	if err != nil {
		return "", err
	}
	// Warnings and the progress of a pull come before the id.
	lines := strings.Split(out, "\n")
	return strings.TrimSpace(lines[len(lines)-1]), nil
}

// Start are the words of the command that starts a container, passes its output
// and signals on, and ends with its exit code.
func (e *Engine) Start(id string) []string {
	return []string{filepath.Base(e.Program), "start", "--attach", id}
}

// Begin starts a container and does not wait for its end.
func (e *Engine) Begin(ctx context.Context, id string) error {
	_, err := e.run(ctx, "start a container", nil, "", "start", id)
	return err
}

// Exec are the words of the command that runs another command in a container that
// runs, with its user, directory and environment.
func (e *Engine) Exec(id string, words []string) []string {
	return append([]string{filepath.Base(e.Program), "exec", id}, words...)
}

// State is how a container ended: its status, and why it could not be started.
func (e *Engine) State(ctx context.Context, id string) (status, failure string, err error) {
	out, err := e.run(ctx, "look at a container", nil, "", "inspect", "--type", "container", "--format", "{{.State.Status}}|{{.State.Error}}", id)
	status, failure, _ = strings.Cut(out, "|")
	return status, failure, err
}

// Remove ends a container and removes it.
func (e *Engine) Remove(ctx context.Context, id string) error {
	// One that has ended cannot be killed, which is no matter.
	_, _ = e.run(ctx, "kill a container", nil, "", "kill", id)
	_, err := e.run(ctx, "remove a container", nil, "", "rm", "--force", "--volumes", id)
	return err
}
