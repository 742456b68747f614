package node

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// prepareLimit bounds what a pool's preparation of one boot may take: images of
// containers may be large.
const prepareLimit = 2 * time.Hour

// prepare has the agent make the node what its pool wants and then lets it go
// on. A session that is lost meanwhile asks again; what is done is left alone.
func (x *session) prepare(ctx context.Context, bootID string) error {
	var p millpond.Pool
	err := x.svc.DB.View(ctx, func(tx *sqlite.Tx) error {
		n, err := tx.Node(x.node)
		if err != nil {
			return err
		}
		p, err = tx.Pool(n.Account, n.Pool)
		return err
	})
	if err != nil {
		return err
	}
	if ok, err := x.extend(ctx, p, bootID); err != nil || !ok {
		return err
	}
	request, err := prepareRequest(p.Spec)
	var failure *nodev1.Failure
	switch {
	case err == nil && len(request.GetMounts()) == 0 && request.GetContainers() == nil:
	case err != nil:
		failure = &nodev1.Failure{Code: "MountConfigurationError", Message: "An error was encountered while configuring specified mount(s)", Details: map[string]string{"Message": err.Error()}}
	default:
		call, cancel := context.WithTimeout(ctx, prepareLimit)
		answer, err := x.client.Prepare(call, connect.NewRequest(request))
		cancel()
		switch {
		case connect.CodeOf(err) == connect.CodeUnimplemented && err != nil:
			failure = &nodev1.Failure{Code: "NodePreparationError", Message: "The agent of the node's image is too old for mounts and containers. Build the image anew."}
		case err != nil:
			return fmt.Errorf("prepare node %s: %w", x.node, err)
		default:
			failure = answer.Msg.GetFailure()
		}
	}
	err = x.svc.edit(ctx, x.node, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
		if n.Generation != x.generation || n.BootID != bootID || !n.Preparing {
			return nil
		}
		if failure != nil {
			return x.svc.fail(tx, book, n, prepareFault(failure, tx.Now))
		}
		n.Preparing = false
		x.svc.proceed(book, n, tx.Now)
		return nil
	})
	if err != nil {
		return err
	}
	x.svc.Wake(x.node)
	x.svc.Wakes.Allocator.Wake()
	return nil
}

// prepareFault is a node's error in the words of the agent.
func prepareFault(f *nodev1.Failure, now time.Time) millpond.NodeError {
	suggestion := "Correct what the pool asks of its nodes, or the image, and reboot the node."
	if f.GetCode() == "MountConfigurationError" {
		suggestion = "Check the source, the options and the credentials of the mount, and that the server can be reached from the node; then reboot the node."
	}
	e := fault(f.GetCode(), f.GetMessage(), "preparation", "", suggestion, now)
	for _, name := range []string{"Message", "MountConfigurationPath", "Item", "Program"} {
		if v := f.GetDetails()[name]; v != "" {
			e.Details = append(e.Details, millpond.NameValue{Name: name, Value: tail(v)})
		}
	}
	return e
}

func prepareRequest(s millpond.PoolSpec) (*nodev1.PrepareRequest, error) {
	q := &nodev1.PrepareRequest{}
	for _, m := range s.Mounts {
		v := &nodev1.Mount{Type: string(m.Type), Source: m.Source, Path: m.Path, Options: m.Options, Username: m.User, Password: m.Password}
		if m.Type == millpond.MountAzureFile {
			source, port, err := azureShare(m.Source)
			if err != nil {
				return nil, err
			}
			v.Type, v.Source, v.Port = "cifs", source, int32(port)
		}
		q.Mounts = append(q.Mounts, v)
	}
	if c := s.Containers; c != nil {
		q.Containers = &nodev1.Containers{Images: c.Images}
		for _, r := range c.Registries {
			q.Containers.Registries = append(q.Containers.Registries, registry(r))
		}
	}
	return q, nil
}

func registry(r millpond.Registry) *nodev1.Registry {
	return &nodev1.Registry{Server: r.Server, Username: r.User, Password: r.Password}
}

// azureShare is where the SMB share of an Azure Files address lies.
func azureShare(address string) (source string, port int, err error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") == "" {
		return "", 0, fmt.Errorf("the address %q of the file share is not of the form https://host/share", address)
	}
	if u.Port() != "" {
		if port, err = strconv.Atoi(u.Port()); err != nil {
			return "", 0, err
		}
	}
	return "//" + u.Hostname() + "/" + strings.Trim(u.Path, "/"), port, nil
}

// containerOf is how a command runs in a container; nil for a process. Without a
// name of an image the agent says that the pool has no containers.
func containerOf(p millpond.Pool, s *millpond.ContainerSettings, directory, prepared string) *nodev1.Container {
	if s == nil {
		return nil
	}
	c := &nodev1.Container{}
	if p.Spec.Containers == nil {
		return c
	}
	c.Image, c.OwnDirectory, c.WholeRoot = s.Image, s.OwnDirectory, s.Binds == nil
	// It was checked when the task was added.
	if strings.TrimSpace(s.RunOptions) != "" {
		c.RunOptions, _ = proc.Split(s.RunOptions)
	}
	if s.Registry != nil {
		c.Registry = registry(*s.Registry)
	}
	if s.Binds == nil {
		return c
	}
	for _, b := range *s.Binds {
		path := map[string]string{"Shared": "shared", "Startup": "startup", "VfsMounts": "fsmounts", "Applications": "applications", "Task": directory, "JobPrep": prepared}[b.Source]
		if path != "" {
			c.Binds = append(c.Binds, &nodev1.Bind{Path: path, ReadOnly: b.ReadOnly})
		}
	}
	return c
}

// tellPreempted has the agent tell its tasks that the machine will be taken. The
// row says so, so that a session that begins later tells it too. An agent that
// cannot pass it on is taken without.
func (x *session) tellPreempted(ctx context.Context, n millpond.Node) {
	if n.Pending != millpond.NodePreempt || x.noticed.Equal(n.PendingDue) {
		return
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := x.client.Notice(call, connect.NewRequest(&nodev1.NoticeRequest{Id: fmt.Sprintf("%s-%d", n.ID, n.Generation), Type: "Preempt", NotBefore: timestamppb.New(n.PendingDue)}))
	if err != nil {
		x.svc.Log.Warn("a node could not be told that it will be preempted", "node", x.node, "err", err)
	}
	x.noticed = n.PendingDue
}
