package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Download is how resource files are fetched. The zero value is the product's.
type Download struct {
	// Tries is how often a file is tried when the server or the way fails: 5.
	Tries int
	// Pause is waited before the second try and doubles from then: 500 ms.
	Pause time.Duration
	// Stall is the longest time without a byte: 60 s.
	Stall time.Duration
}

func (d Download) withDefaults() Download {
	if d.Stall == 0 {
		d.Stall = time.Minute
	}
	if d.Tries == 0 {
		d.Tries = 5
	}
	if d.Pause == 0 {
		d.Pause = 500 * time.Millisecond
	}
	return d
}

// fetch brings one file below root. Codes and categories are those of the
// Batch reference: 404 BlobNotFound and 401/403 BlobAccessDenied are the
// user's, the rest is the service's.
func (d Download) fetch(ctx context.Context, blobs *transfer.Blobs, root *os.Root, f *nodev1.ResourceFile, by transfer.Credential, uid, gid int) error {
	details := map[string]string{"FilePath": f.GetPath(), "Url": redact(f.GetUrl())}
	if f.GetPath() == "" || !filepath.IsLocal(f.GetPath()) {
		return &failure{code: "ResourceFileCreateFailed", details: details,
			message: fmt.Sprintf("The resource file's path %q must name a file below the task's working directory.", f.GetPath())}
	}
	u, err := url.Parse(f.GetUrl())
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return &failure{code: "BlobDownloadMiscError", details: details, message: "The resource file's URL is not an http or https URL."}
	}
	pause := d.Pause
	for try := 1; ; try++ {
		again, err := d.try(ctx, blobs, root, f, by, uid, gid)
		if err == nil {
			return nil
		}
		var fail *failure
		if errors.As(err, &fail) {
			fail.details = details
		}
		if !again || try >= d.Tries || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		pause *= 2
	}
}

func (d Download) try(ctx context.Context, blobs *transfer.Blobs, root *os.Root, f *nodev1.ResourceFile, by transfer.Credential, uid, gid int) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(d.Stall, cancel)
	defer stalled.Stop()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, f.GetUrl(), nil)
	if err != nil {
		return false, &failure{code: "BlobDownloadMiscError", message: "The resource file's URL cannot be requested."}
	}
	resp, err := blobs.Do(q, by)
	var noToken transfer.ErrToken
	switch {
	case errors.As(err, &noToken):
		return true, &failure{code: "BlobAccessDenied", message: noToken.Error()}
	case transfer.OutOfReach(err):
		return false, &failure{server: true, code: "BlobDownloadMiscError", message: outOfReach}
	case err != nil:
		return true, netFailure(err)
	}
	defer resp.Body.Close()
	switch c := resp.StatusCode; {
	case c == http.StatusOK:
	case c == http.StatusNotFound:
		return false, &failure{code: "BlobNotFound", message: "The specified Azure Blob or URL does not exist: the server answered 404. Check the resource file's URL."}
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		return false, &failure{code: "BlobAccessDenied", message: fmt.Sprintf("Access to the specified Azure Blob or URL is denied: the server answered %d. "+remedy(by), c)}
	default:
		retry := c >= 500 || c == http.StatusTooManyRequests || c == http.StatusRequestTimeout
		return retry, &failure{server: true, code: "BlobDownloadMiscError", message: "The resource file could not be downloaded: the server answered " + resp.Status + "."}
	}
	if err := root.MkdirAll(filepath.Dir(f.GetPath()), 0o770); err != nil {
		return false, fileFailure("ResourceFileCreateFailed", err)
	}
	if err := ownParents(root, f.GetPath(), uid, gid); err != nil {
		return false, fileFailure("ResourceFileCreateFailed", err)
	}
	out, err := root.OpenFile(f.GetPath(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return false, fileFailure("ResourceFileCreateFailed", err)
	}
	defer out.Close()
	buf := make([]byte, 128<<10)
	for {
		n, rerr := resp.Body.Read(buf)
		stalled.Reset(d.Stall)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				return false, fileFailure("ResourceFileWriteFailed", err)
			}
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return true, netFailure(rerr)
		}
	}
	mode := fs.FileMode(f.GetMode()) & 0o777
	if mode == 0 {
		mode = 0o770
	}
	if err := out.Chmod(mode); err != nil {
		return false, fileFailure("ResourceFileWriteFailed", err)
	}
	if uid >= 0 {
		if err := out.Chown(uid, gid); err != nil {
			return false, fileFailure("ResourceFileWriteFailed", err)
		}
	}
	if err := out.Close(); err != nil {
		return false, fileFailure("ResourceFileWriteFailed", err)
	}
	return false, nil
}

// outOfReach is what became of a token that was for the server alone.
const outOfReach = "The node has no way to the server for Azure's names, and a managed identity's token is sent nowhere else. Let the server listen where nodes reach it, or use a URL with a signature."

// remedy is what a user does about a refusal.
func remedy(by transfer.Credential) string {
	if by != nil {
		return "The managed identity needs a role for the data of the storage account, such as Storage Blob Data Reader."
	}
	return "Check the SAS token's rights and its time."
}

// ownParents gives the directories above a file to the task's account.
func ownParents(root *os.Root, name string, uid, gid int) error {
	if uid < 0 {
		return nil
	}
	for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
		if err := root.Lchown(d, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

func netFailure(err error) *failure {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, context.Canceled) {
		return &failure{server: true, code: "BlobDownloadTimedOut", message: "The resource file's server did not answer in time.", err: bare(err)}
	}
	return &failure{server: true, code: "BlobDownloadMiscError", message: "The resource file could not be downloaded.", err: bare(err)}
}

// bare takes the URL out of an error: a SAS token in it is a secret.
func bare(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

func fileFailure(code string, err error) *failure {
	return (&failure{server: true, code: code, message: "The resource file could not be written.", err: err}).orDiskFull()
}

// redact is a URL without what may be secret in it.
func redact(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
