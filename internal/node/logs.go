package node

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// LogRequest is what of a node's logs is uploaded, and where to.
type LogRequest struct {
	ContainerURL string
	// Identity is the resource id of the managed identity of the node's pool by which
	// the container is written; empty for a signed URL.
	Identity   string
	Start, End time.Time // a zero End is now
}

// UploadedLogs is what was to be uploaded, and where it lies now. Failure is
// what kept files away from there, or nil.
type UploadedLogs struct {
	Directory string
	Files     int
	Failure   error
}

// UploadLogs puts a node's logs that overlap a time into a container: the
// console of its machine, to which the agent logs too, those of the machines
// that it had before, and what the server knows of its changes. A container
// that takes no files is no error: clients of Azure, which uploads after its
// answer, count on the answer alone.
func (s *Service) UploadLogs(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, q LogRequest) (UploadedLogs, error) {
	var none UploadedLogs
	n, err := s.Get(ctx, acct, pool, id)
	if err != nil {
		return none, err
	}
	now := s.Clock.Now()
	if q.End.IsZero() {
		q.End = now
	}
	if q.End.Before(q.Start) {
		return none, millpond.InvalidProperty("endTime", q.End.Format(time.RFC3339), "It must not be before startTime.")
	}
	token := ""
	if q.Identity != "" {
		if token, err = s.logToken(ctx, n, q); err != nil {
			return none, err
		}
	}
	suffix := make([]byte, 4)
	if _, err := s.Random(suffix); err != nil {
		return none, err
	}
	out := UploadedLogs{Directory: fmt.Sprintf("%s/%s/%s-%x", strings.ToLower(string(n.Pool)), n.ID, now.UTC().Format("20060102T150405Z"), suffix)}
	files := map[string][]byte{}
	overlaps := func(from, to time.Time) bool { return !from.After(q.End) && !to.Before(q.Start) }
	logs, err := s.Logs(ctx, acct, pool, id)
	if err != nil {
		return none, err
	}
	for _, l := range logs {
		if !overlaps(n.Created, l.Modified) {
			continue
		}
		if files[l.Name], err = s.ReadLog(ctx, acct, pool, id, l.Name); err != nil {
			return none, err
		}
	}
	var history bytes.Buffer
	for _, h := range n.History {
		if overlaps(h.Time, h.Time) {
			fmt.Fprintf(&history, "%s %s %s\n", h.Time.UTC().Format(time.RFC3339Nano), h.State, strconv.Quote(h.Reason))
		}
	}
	for _, e := range n.Errors {
		if overlaps(e.Time, e.Time) {
			fmt.Fprintf(&history, "%s error %s %s\n", e.Time.UTC().Format(time.RFC3339Nano), e.Code, strconv.Quote(e.Message))
		}
	}
	if history.Len() > 0 {
		files["node.log"] = history.Bytes()
	}
	out.Files = len(files)
	for name, text := range files {
		if out.Failure = s.Links.Put(ctx, q.ContainerURL, token, out.Directory+"/"+name, text); out.Failure != nil {
			s.Log.Warn("logs of a node not uploaded", "pool", n.Pool, "node", n.ID, "file", name, "err", out.Failure)
			break
		}
	}
	return out, nil
}

// logToken is the token by which a container is written in the name of an identity of
// the node's pool.
func (s *Service) logToken(ctx context.Context, n millpond.Node, q LogRequest) (string, error) {
	var p millpond.Pool
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		p, err = readPool(tx, n.Account, n.Pool)
		return err
	})
	if err != nil {
		return "", err
	}
	id, err := assigned(p, q.Identity, s.Links.Reachable(q.ContainerURL))
	if err != nil {
		return "", millpond.InvalidProperty("identityReference", q.Identity, millpond.AsError(err).Message)
	}
	t, err := s.issue(ctx, p, TokenWant{Resource: "https://storage.azure.com/", ResourceID: id})
	return t.Access, err
}
