package node

import (
	"context"
	"strconv"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Links makes what nodes need to get at blobs.
type Links interface {
	// Container is a link to a container of the account's linked storage: signed for
	// reading and listing, or plain with the identity that opens it. Its errors are of
	// the kind Conflict when the user has to do something.
	Container(ctx context.Context, acct millpond.AccountName, container string) (link, identity string, err error)
	// Reachable is a link as nodes reach it.
	Reachable(link string) string
	// Packages are the application packages that references mean now.
	Packages(ctx context.Context, acct millpond.AccountName, refs []millpond.PackageReference) ([]millpond.Package, error)
	// Token is a token for the operations of a task's job, for one attempt.
	Token(ctx context.Context, acct millpond.AccountName, task millpond.TaskIdentity) (string, error)
	// Put uploads a text to a container that a signed link leads to, or a plain one
	// with a token.
	Put(ctx context.Context, containerURL, token, name string, text []byte) error
}

// noLinks is a server without storage accounts.
type noLinks struct{}

func (noLinks) Container(context.Context, millpond.AccountName, string) (string, string, error) {
	return "", "", millpond.Errorf(millpond.Conflict, "ResourceContainerNotFound", "The Batch account has no linked storage account.")
}

func (noLinks) Reachable(link string) string { return link }

func (noLinks) Packages(_ context.Context, _ millpond.AccountName, refs []millpond.PackageReference) ([]millpond.Package, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	return nil, millpond.Errorf(millpond.Conflict, "InvalidApplicationPackageReferences", "There are no application packages.")
}

func (noLinks) Token(context.Context, millpond.AccountName, millpond.TaskIdentity) (string, error) {
	return "", millpond.Errorf(millpond.Conflict, "AuthenticationTokenUnavailable", "There is nobody who makes tokens for tasks.")
}

func (noLinks) Put(context.Context, string, string, string, []byte) error {
	return millpond.Errorf(millpond.Conflict, "StorageAccountNotFound", "There are no storage accounts.")
}

// files are a task's resource files as its node fetches them.
func (x *session) files(ctx context.Context, p millpond.Pool, list []millpond.ResourceFile) ([]*nodev1.ResourceFile, error) {
	var out []*nodev1.ResourceFile
	for _, f := range list {
		mode, err := strconv.ParseUint(f.FileMode, 8, 32)
		if err != nil {
			mode = 0 // the agent's default
		}
		r := &nodev1.ResourceFile{Url: f.URL, Path: f.FilePath, Mode: uint32(mode), BlobPrefix: f.BlobPrefix}
		switch {
		case f.AutoContainer != "":
			r.Container = true
			if r.Url, f.Identity, err = x.svc.Links.Container(ctx, x.acct, f.AutoContainer); err != nil {
				return nil, err
			}
		case f.ContainerURL != "":
			r.Container, r.Url = true, f.ContainerURL
		}
		r.Url = x.svc.Links.Reachable(r.Url)
		if r.Identity, err = assigned(p, f.Identity, r.Url); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// outputs are a task's output files as its node uploads them.
func (x *session) outputs(p millpond.Pool, list []millpond.OutputFile) ([]*nodev1.OutputFile, error) {
	var out []*nodev1.OutputFile
	for _, f := range list {
		o := &nodev1.OutputFile{Pattern: f.Pattern, ContainerUrl: x.svc.Links.Reachable(f.ContainerURL), Path: f.Path, Condition: f.Condition}
		for _, h := range f.Headers {
			o.Headers = append(o.Headers, &nodev1.Header{Name: h.Name, Value: h.Value})
		}
		var err error
		if o.Identity, err = assigned(p, f.Identity, o.ContainerUrl); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// impossible ends an attempt that cannot be made, for the reason that err says;
// an error that is the server's own is returned.
func (x *session) impossible(ctx context.Context, key *nodev1.TaskKey, err error) error {
	me := millpond.AsError(err)
	if me.Kind == millpond.Internal || ctx.Err() != nil {
		return err
	}
	return x.conclude(ctx, &nodev1.TaskCompleted{Key: key, Failure: &nodev1.Failure{Code: me.Code, Message: me.Message}})
}
