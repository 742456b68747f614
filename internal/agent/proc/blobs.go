package proc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"golang.org/x/sync/errgroup"

	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// atOnce bounds the blobs that are fetched at the same time for one task.
const atOnce = 4

// credential proves a request for blobs by a managed identity; nil for a signed
// URL.
func (r *Runner) credential(identity string) transfer.Credential {
	if identity == "" {
		return nil
	}
	return func(ctx context.Context) (string, time.Time, error) {
		if r.cfg.Tokens == nil {
			return "", time.Time{}, errors.New("this node has no managed identities")
		}
		return r.cfg.Tokens(ctx, identity, transfer.StorageResource)
	}
}

// fetch brings one file below root.
func (r *Runner) fetch(ctx context.Context, root *os.Root, f *nodev1.ResourceFile, uid, gid int) error {
	return r.cfg.Download.fetch(ctx, r.blobs, root, f, r.credential(f.GetIdentity()), uid, gid)
}

// fetchContainer brings the blobs of a container below root, each under its
// whole name, into the directory that f names.
func (r *Runner) fetchContainer(ctx context.Context, root *os.Root, f *nodev1.ResourceFile, uid, gid int) error {
	details := map[string]string{"FilePath": f.GetPath(), "ContainerUrl": redact(f.GetUrl())}
	at := f.GetPath()
	if at == "" {
		at = "."
	}
	if !filepath.IsLocal(at) {
		return &failure{code: "ResourceDirectoryCreateFailed", details: details,
			message: fmt.Sprintf("The resource file's path %q must name a directory below the task's working directory.", f.GetPath())}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	lctx, cancel := context.WithCancel(gctx)
	defer cancel()
	err := r.blobs.List(lctx, f.GetUrl(), r.credential(f.GetIdentity()), f.GetBlobPrefix(), func(name string) error {
		if strings.HasSuffix(name, "/") {
			return nil // stands for a directory
		}
		url, err := transfer.BlobURL(f.GetUrl(), name)
		if err != nil {
			return err
		}
		file := &nodev1.ResourceFile{Url: url, Path: path.Join(at, name), Mode: f.GetMode(), Identity: f.GetIdentity()}
		if !filepath.IsLocal(path.Join(at, path.Clean("/" + name)[1:])) || path.Clean(name) != name || strings.HasPrefix(name, "/") {
			return &failure{code: "ResourceFileCreateFailed", details: details,
				message: fmt.Sprintf("The blob %q cannot be a file below the task's working directory: its name is no relative path.", name)}
		}
		g.Go(func() error { return r.fetch(gctx, root, file, uid, gid) })
		return lctx.Err()
	})
	// What failed first is why; a list that was cut short by it is not.
	if werr := g.Wait(); werr != nil {
		return werr
	}
	if err == nil {
		return nil
	}
	var own *failure
	if errors.As(err, &own) {
		return own
	}
	out := listFailure(err)
	out.details = details
	return out
}

// listFailure words why a container's blobs could not be listed.
func listFailure(err error) *failure {
	var re *azcore.ResponseError
	var ne net.Error
	switch {
	case errors.As(err, &re) && re.StatusCode == http.StatusNotFound:
		return &failure{code: "ResourceContainerNotFound", message: "The specified Azure Blob container does not exist. Check the resource file's storageContainerUrl, or make the container."}
	case errors.As(err, &re) && (re.StatusCode == http.StatusForbidden || re.StatusCode == http.StatusUnauthorized):
		return &failure{code: "ResourceContainerAccessDenied", message: fmt.Sprintf("Access to the specified Azure Blob container is denied: the service answered %d %s. Its SAS must permit reading and listing and must not have expired; a managed identity needs the role Storage Blob Data Reader.", re.StatusCode, re.ErrorCode)}
	case transfer.OutOfReach(err):
		return &failure{server: true, code: "ResourceContainerListMiscError", message: outOfReach}
	case errors.As(err, &re):
		return &failure{server: re.StatusCode >= 500, code: "ResourceContainerListMiscError", message: fmt.Sprintf("The specified Azure Blob container could not be listed: the service answered %d %s.", re.StatusCode, re.ErrorCode)}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return &failure{server: true, code: "ResourceContainerListTimedOut", message: "The service of the Azure Blob container did not answer in time.", err: bare(err)}
	}
	return &failure{server: true, code: "ResourceContainerListMiscError", message: "The specified Azure Blob container could not be listed.", err: bare(err)}
}

// upload sends the output files whose condition holds, and keeps an account of
// it beside the command's output.
func (t *task) upload(ctx context.Context, success bool) error {
	files := t.request.GetOutputFiles()
	if len(files) == 0 {
		return nil
	}
	out, err := t.output("fileuploadout.txt")
	if err != nil {
		return &failure{server: true, code: "FileUploadMiscError", message: "fileuploadout.txt could not be made.", err: err}
	}
	defer out.Close()
	errs, err := t.output("fileuploaderr.txt")
	if err != nil {
		return &failure{server: true, code: "FileUploadMiscError", message: "fileuploaderr.txt could not be made.", err: err}
	}
	defer errs.Close()
	env := map[string]string{}
	for _, kv := range t.environment("") {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	say := func(to *os.File, format string, args ...any) {
		fmt.Fprintf(to, t.runner.cfg.Clock.Now().UTC().Format(time.RFC3339)+" "+format+"\n", args...)
	}
	var first *failure
	for _, o := range files {
		if c := o.GetCondition(); c == "tasksuccess" && !success || c == "taskfailure" && success {
			continue
		}
		err := t.runner.blobs.Upload(ctx, o, t.runner.credential(o.GetIdentity()), t.runner.cfg.Root, t.wd, func(n string) string { return env[n] }, func(format string, args ...any) { say(out, format, args...) })
		if err == nil {
			continue
		}
		f := uploadFailure(err)
		f.details = map[string]string{"FilePattern": o.GetPattern(), "ContainerUrl": redact(o.GetContainerUrl())}
		say(errs, "%s: %s: %v", o.GetPattern(), f.code, bare(err))
		if first == nil {
			first = f
		}
	}
	if first == nil {
		return nil
	}
	return first
}

func uploadFailure(err error) *failure {
	var re *azcore.ResponseError
	var ne net.Error
	switch {
	case errors.Is(err, transfer.ErrPattern):
		return &failure{code: "FileUploadMiscError", message: "An output file could not be uploaded: its filePattern is not valid.", err: err}
	case errors.As(err, &re) && re.StatusCode == http.StatusNotFound:
		return &failure{code: "FileUploadContainerNotFound", message: "One of the specified Azure container(s) was not found while attempting to upload an output file"}
	case errors.As(err, &re) && (re.StatusCode == http.StatusForbidden || re.StatusCode == http.StatusUnauthorized):
		return &failure{code: "FileUploadAccessDenied", message: fmt.Sprintf("Access to one of the specified Azure container(s) was denied while attempting to upload an output file: the service answered %d %s. The SAS must permit writing and must not have expired; a managed identity needs the role Storage Blob Data Contributor.", re.StatusCode, re.ErrorCode)}
	case transfer.OutOfReach(err):
		return &failure{server: true, code: "FileUploadMiscError", message: outOfReach}
	case errors.As(err, &re):
		return &failure{server: re.StatusCode >= 500, code: "FileUploadMiscError", message: fmt.Sprintf("An output file could not be uploaded: the service answered %d %s.", re.StatusCode, re.ErrorCode)}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return &failure{server: true, code: "FileUploadTimedOut", message: "An output file could not be uploaded in time.", err: bare(err)}
	}
	return &failure{server: true, code: "FileUploadMiscError", message: "An output file could not be uploaded. See fileuploaderr.txt of the task.", err: bare(err)}
}
