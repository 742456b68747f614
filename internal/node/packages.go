package node

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// installLimit bounds the installation of a pool's packages on a node.
const installLimit = time.Hour

// install brings the pool's application packages onto the node when it has
// booted, before its start task. A package that cannot be installed makes the
// node unusable; a call that was cut short is made again by the next session.
func (x *session) install(ctx context.Context) error {
	n, p, err := x.rows(ctx)
	if err != nil || !n.Installing {
		return err
	}
	var failure *nodev1.Failure
	packages, err := x.svc.Links.Packages(ctx, x.acct, p.Spec.Packages)
	switch {
	case err != nil && millpond.KindOf(err) == millpond.Internal:
		return err
	case err != nil:
		failure = &nodev1.Failure{Code: "ApplicationPackageError", Message: millpond.AsError(err).Message}
	default:
		call, cancel := context.WithTimeout(ctx, installLimit)
		answer, err := x.client.Install(call, connect.NewRequest(&nodev1.InstallRequest{Packages: packageMessages(packages)}))
		cancel()
		switch connect.CodeOf(err) {
		case connect.CodeUnimplemented:
			if err != nil {
				failure = &nodev1.Failure{Code: "ApplicationPackageError", Message: "The agent in the image is too old to install application packages. Build the image anew."}
			}
		default:
			if err != nil {
				return fmt.Errorf("install packages on node %s: %w", x.node, err)
			}
		}
		if failure == nil {
			failure = answer.Msg.GetFailure()
		}
	}
	err = x.svc.edit(ctx, x.node, func(tx *sqlite.Tx, book *ledger.Book, row *millpond.Node) error {
		if row.Generation != n.Generation || row.BootID != n.BootID || !row.Installing {
			return nil
		}
		row.Installing = false
		if failure != nil {
			e := millpond.NodeError{Code: failure.GetCode(), Message: failure.GetMessage(), Time: tx.Now}
			for _, name := range []string{"ApplicationPackageReference", "Message"} {
				if v := failure.GetDetails()[name]; v != "" {
					e.Details = append(e.Details, millpond.NameValue{Name: name, Value: v})
				}
			}
			e.Details = append(e.Details, millpond.NameValue{Name: "Suggestion", Value: "Look at the application with az batch application package show, put it right, and reboot the node."})
			return x.svc.fail(tx, book, row, e)
		}
		x.svc.proceed(book, row, tx.Now)
		return nil
	})
	x.look.Store(true)
	x.wake.Wake()
	x.svc.Wakes.Allocator.Wake()
	return err
}

func packageMessages(list []millpond.Package) []*nodev1.ApplicationPackage {
	var out []*nodev1.ApplicationPackage
	for _, p := range list {
		out = append(out, &nodev1.ApplicationPackage{Id: p.Application, Version: p.Version, Stamp: p.Stamp, Url: p.URL, Default: p.Default})
	}
	return out
}

// packages are those of the pool and of a task, each once; without the pool's
// the task would not know where they are.
func (x *session) packages(ctx context.Context, pool millpond.Pool, own []millpond.PackageReference) ([]*nodev1.ApplicationPackage, error) {
	refs := append([]millpond.PackageReference(nil), own...)
	for _, p := range pool.Spec.Packages {
		if !hasReference(refs, p) {
			refs = append(refs, p)
		}
	}
	if len(refs) == 0 {
		return nil, nil
	}
	found, err := x.svc.Links.Packages(ctx, x.acct, refs)
	if err != nil && millpond.KindOf(err) != millpond.Internal {
		me := *millpond.AsError(err)
		me.Code = "ApplicationPackageError"
		return nil, &me
	}
	return packageMessages(found), err
}

func hasReference(refs []millpond.PackageReference, p millpond.PackageReference) bool {
	for _, r := range refs {
		if millpond.TaskID(r.Application).Key() == millpond.TaskID(p.Application).Key() && millpond.TaskID(r.Version).Key() == millpond.TaskID(p.Version).Key() {
			return true
		}
	}
	return false
}
