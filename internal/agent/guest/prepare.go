package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/agent/container"
	"millpond.dev/millpond/internal/agent/mount"
	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// engineLimit is how long a container engine may take to start.
const engineLimit = 90 * time.Second

// preparer is agent.Preparer for real guests: what a pool wants to be there
// before anything runs.
type preparer struct {
	root   string
	log    *slog.Logger
	mounts mount.System
	// mayMount is false on a machine that must be left alone.
	mayMount bool
	engine   func() *container.Engine
	// wait returns when the network is up, or will not be.
	wait func(ctx context.Context)

	extensions extender

	mu      sync.Mutex
	notices int
}

// Prepare implements agent.Preparer. Mounts come first: the images of containers
// may lie on one.
func (p *preparer) Prepare(ctx context.Context, q *nodev1.PrepareRequest) *nodev1.Failure {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wait(ctx)
	for _, m := range q.GetMounts() {
		if err := p.mount(ctx, m); err != nil {
			p.log.Error("a file system could not be mounted", "source", m.GetSource(), "error", err)
			return &nodev1.Failure{Code: "MountConfigurationError", Message: "An error was encountered while configuring specified mount(s)",
				Details: map[string]string{"Message": err.Error(), "MountConfigurationPath": m.GetPath()}}
		}
	}
	if c := q.GetContainers(); c != nil {
		return p.containers(ctx, c)
	}
	return nil
}

func (p *preparer) mount(ctx context.Context, m *nodev1.Mount) error {
	if !p.mayMount {
		return errors.New("this agent may not mount file systems on its machine")
	}
	if !filepath.IsLocal(m.GetPath()) {
		return fmt.Errorf("the path %q leaves the directory of mounts", m.GetPath())
	}
	f := mount.FileSystem{Type: m.GetType(), Source: m.GetSource(), Target: filepath.Join(p.root, "fsmounts", m.GetPath()),
		Username: m.GetUsername(), Password: m.GetPassword(), Port: int(m.GetPort())}
	if strings.TrimSpace(m.GetOptions()) != "" {
		var err error
		if f.Options, err = proc.Split(m.GetOptions()); err != nil {
			return fmt.Errorf("mountOptions cannot be divided into words: %w", err)
		}
	}
	return p.mounts.Mount(ctx, f)
}

func (p *preparer) containers(ctx context.Context, c *nodev1.Containers) *nodev1.Failure {
	e := p.engine()
	if e == nil {
		return &nodev1.Failure{Code: "ContainerPoolNotSupported",
			Message: "The pool has a containerConfiguration, and its image has no container engine. Use an image with docker, podman or nerdctl."}
	}
	if err := e.Ready(ctx, engineLimit); err != nil {
		return &nodev1.Failure{Code: "ContainerPoolNotSupported", Message: "The container engine of the image does not answer.", Details: map[string]string{"Message": err.Error(), "Program": e.Program}}
	}
	failed := func(what string, err error) *nodev1.Failure {
		p.log.Error("containers could not be prepared", "what", what, "error", err)
		return &nodev1.Failure{Code: "NodePreparationError", Message: "An error occurred during node preparation", Details: map[string]string{"Message": err.Error(), "Item": what}}
	}
	for _, r := range c.GetRegistries() {
		if r.GetUsername() == "" {
			continue
		}
		if err := e.Login(ctx, r.GetServer(), r.GetUsername(), r.GetPassword()); err != nil {
			return failed(r.GetServer(), err)
		}
	}
	for _, image := range c.GetImages() {
		if err := e.Pull(ctx, image); err != nil {
			return failed(image, err)
		}
	}
	return nil
}

// scheduledEvents is the text of proc.ScheduledEvents.
type scheduledEvents struct {
	DocumentIncarnation int
	Events              []scheduledEvent
}

type scheduledEvent struct {
	EventID           string `json:"EventId"`
	EventStatus       string
	EventType         string
	ResourceType      string
	Resources         []string
	NotBefore         string
	Description       string
	EventSource       string
	DurationInSeconds int
}

// Notice implements agent.Preparer.
func (p *preparer) Notice(q *nodev1.NoticeRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notices++
	name, _ := os.Hostname()
	doc := scheduledEvents{DocumentIncarnation: p.notices, Events: []scheduledEvent{{EventID: q.GetId(), EventStatus: "Scheduled", EventType: q.GetType(),
		ResourceType: "VirtualMachine", Resources: []string{name}, NotBefore: q.GetNotBefore().AsTime().UTC().Format(time.RFC1123), EventSource: "Platform", DurationInSeconds: -1}}}
	return writeNotices(p.root, doc)
}

// writeNotices replaces the file whole: a task may be reading it.
func writeNotices(root string, doc scheduledEvents) error {
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	part := filepath.Join(root, proc.Volatile, proc.ScheduledEvents)
	if err := os.WriteFile(part, append(b, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(part, 0o644); err != nil { // whatever the umask
		return err
	}
	return os.Rename(part, filepath.Join(root, proc.ScheduledEvents))
}

var _ agent.Preparer = (*preparer)(nil)
