package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/extension"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// extensionLimit is how long one extension may take, as in Azure.
const extensionLimit = 90 * time.Minute

// extensionMissing is the exit code of an extension that is not available: what a
// shell says of a command that it does not find.
const extensionMissing = 127

// dueExtension is the first of a pool's extensions, in their order, that this disk
// of the node has not got; run is how its next run begins. It is pure.
func dueExtension(list []millpond.PoolExtension, n millpond.Node) (e millpond.PoolExtension, run millpond.NodeExtension, due bool, err error) {
	ordered, err := extension.Order(list)
	if err != nil {
		return e, run, false, err
	}
	for _, e := range ordered {
		var p extension.Program
		if extension.Available(e.Publisher, e.Type) {
			if p, err = extension.Make(extension.Of(e)); err != nil {
				return e, run, false, err
			}
		}
		run = millpond.NodeExtension{Name: e.Name, Generation: n.Generation, Version: strings.TrimSpace(e.Version + " " + p.Version), State: millpond.CommandRunning, Try: 1}
		for _, had := range n.Extensions {
			if had.Name != e.Name || had.Generation != run.Generation || had.Version != run.Version {
				continue
			}
			run.Try = had.Try
			switch had.State {
			case millpond.CommandSucceeded:
				run.Try = 0
			case millpond.CommandFailed:
				run.Try++
			}
		}
		if run.Try > 0 {
			return e, run, true, nil
		}
	}
	return e, run, false, nil
}

// setExtension writes how an extension goes on a node.
func setExtension(n *millpond.Node, run millpond.NodeExtension) {
	for i := range n.Extensions {
		if n.Extensions[i].Name == run.Name {
			n.Extensions[i] = run
			return
		}
	}
	n.Extensions = append(n.Extensions, run)
}

// extend runs the pool's extensions that the node's disk has not got, one after the
// other, and writes how each goes. It is false when one has failed, which makes the
// node unusable, or when the node is not what it was. A session that comes after
// one that was lost asks for the same run again.
func (x *session) extend(ctx context.Context, p millpond.Pool, bootID string) (bool, error) {
	for {
		var n millpond.Node
		err := x.svc.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
			n, err = tx.Node(x.node)
			return err
		})
		if err != nil {
			return false, err
		}
		e, run, due, err := dueExtension(p.Spec.Extensions, n)
		if err != nil || !due {
			return err == nil, err
		}
		write := func(run millpond.NodeExtension) (current bool, err error) {
			err = x.svc.edit(ctx, x.node, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
				if n.Generation != x.generation || n.BootID != bootID || !n.Preparing {
					return nil
				}
				current = true
				if run.Started.IsZero() {
					run.Started = tx.Now
				}
				setExtension(n, run)
				if run.State == millpond.CommandFailed {
					return x.svc.fail(tx, book, n, extensionFault(e, run, tx.Now))
				}
				return nil
			})
			return current, err
		}
		if current, err := write(run); err != nil || !current {
			return false, err
		}
		if run, err = x.runExtension(ctx, e, run); err != nil {
			return false, err
		}
		current, err := write(run)
		if err != nil || !current || run.State != millpond.CommandSucceeded {
			x.svc.Wakes.Allocator.Wake()
			return false, err
		}
	}
}

// runExtension has the agent run one extension and notes how it went. One that is
// not available has failed before the agent is asked.
func (x *session) runExtension(ctx context.Context, e millpond.PoolExtension, run millpond.NodeExtension) (millpond.NodeExtension, error) {
	if !extension.Available(e.Publisher, e.Type) {
		now := x.svc.Clock.Now()
		run.State, run.Message, run.Exit, run.Started, run.Ended = millpond.CommandFailed, extension.Unavailable(e.Publisher, e.Type), extensionMissing, now, now
		return run, nil
	}
	program, err := extension.Make(extension.Of(e))
	if err != nil {
		return run, err
	}
	q := &nodev1.ExtendRequest{Id: fmt.Sprintf("%s %d %d %s", e.Name, run.Generation, run.Try, run.Version), Script: program.Script, Environment: map[string]string{}, Limit: durationpb.New(extensionLimit)}
	for _, v := range program.Env {
		q.Environment[v.Name] = v.Value
	}
	call, cancel := context.WithTimeout(ctx, extensionLimit+callLimit)
	defer cancel()
	answer, err := x.client.Extend(call, connect.NewRequest(q))
	run.State = millpond.CommandFailed
	switch {
	case err != nil && connect.CodeOf(err) == connect.CodeUnimplemented:
		run.Message = "The agent of the node's image is too old for extensions. Build the image anew."
		return run, nil
	case err != nil:
		return run, fmt.Errorf("run the extension %s on node %s: %w", e.Name, x.node, err)
	}
	a := answer.Msg
	run.Exit, run.Stdout, run.Stderr, run.Message = a.GetExitCode(), a.GetStdout(), a.GetStderr(), a.GetMessage()
	run.Started, run.Ended = a.GetStartTime().AsTime(), a.GetEndTime().AsTime()
	if a.ExitCode != nil && a.GetExitCode() == 0 {
		run.State = millpond.CommandSucceeded
	}
	return run, nil
}

// extensionFault is a node's error in the words that machines have for it.
func extensionFault(e millpond.PoolExtension, run millpond.NodeExtension, now time.Time) millpond.NodeError {
	why := run.Message
	if why == "" {
		why = fmt.Sprintf("Enable failed: failed to execute command: command terminated with exit status=%d", run.Exit)
	}
	advice := "Correct what the extension runs, in a new pool or in this one when it has no nodes; to run it once more, reboot the node."
	if !extension.Available(e.Publisher, e.Type) {
		advice = "Take the extension out of the pool, or do its work with a custom script, a start task or in the image."
	}
	f := fault("VMExtensionProvisioningError", fmt.Sprintf("VM has reported a failure when processing extension '%s' (publisher '%s' and type '%s'). Error message: '%s'.", e.Name, e.Publisher, e.Type, why),
		"extension "+e.Name, strings.TrimSpace(run.Stdout+"\n"+run.Stderr), advice, now)
	f.Details = append([]millpond.NameValue{{Name: "Extension", Value: e.Name}}, f.Details...)
	return f
}
