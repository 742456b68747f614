package imagehost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/image/layer"
)

// Client talks to the image host of a folder. Its zero value is not usable; it
// keeps no connection that has to be closed.
type Client struct {
	dir  string
	http *http.Client
}

// ErrNone says that the folder has no image host that answers.
var ErrNone = errors.New("the image host does not answer")

// NewClient makes a client for the image host in dir.
func NewClient(dir string) *Client {
	c := &Client{dir: dir}
	c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		path, release, err := shortPath(dir, ctlSocket)
		if err != nil {
			return nil, err
		}
		defer release()
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	return c
}

// Health says who answers.
func (c *Client) Health(ctx context.Context) (h Health, err error) {
	return h, c.call(ctx, http.MethodGet, "/v1/health", nil, &h)
}

// Stats are the cache's counters.
func (c *Client) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/stats", nil, &s)
}

// Register has an export served, now and after a restart of the image host. Code
// ImageUnreadable if no store gives the content.
func (c *Client) Register(ctx context.Context, e Export) (st ExportStatus, err error) {
	return st, c.call(ctx, http.MethodPut, "/v1/exports/"+url.PathEscape(e.Name), e, &st)
}

// Unregister ends an export when its last client has gone.
func (c *Client) Unregister(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/exports/"+url.PathEscape(name), nil, nil)
}

// Export tells about one export; NotFound if it is not served.
func (c *Client) Export(ctx context.Context, name string) (st ExportStatus, err error) {
	return st, c.call(ctx, http.MethodGet, "/v1/exports/"+url.PathEscape(name), nil, &st)
}

// Exports tells about all.
func (c *Client) Exports(ctx context.Context) (list []ExportStatus, err error) {
	return list, c.call(ctx, http.MethodGet, "/v1/exports", nil, &list)
}

// Touched are the numbers of the chunks that were read of a content.
func (c *Client) Touched(ctx context.Context, name string) (list []int64, err error) {
	return list, c.call(ctx, http.MethodGet, "/v1/exports/"+url.PathEscape(name)+"/touched", nil, &list)
}

// Map makes a map of a content that is served, with what is here of it. An error
// means that the content is to be read without one.
func (c *Client) Map(ctx context.Context, name string) (m cache.Mapping, err error) {
	return m, c.call(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(name)+"/map", nil, &m)
}

// Grow makes the larger map of a content that follows m, once; it waits some seconds
// until there is more.
func (c *Client) Grow(ctx context.Context, name string, m cache.Mapping) (larger cache.Mapping, err error) {
	return larger, c.call(ctx, http.MethodPost, fmt.Sprintf("/v1/exports/%s/map/%d/grow", url.PathEscape(name), m.Area), nil, &larger)
}

// Freeze makes a managed disk, as it is now, readable by layer.Disks.OpenFrozen.
func (c *Client) Freeze(ctx context.Context, disk string) (p layer.Point, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(disk)+"/freeze", nil, &p)
}

// Rebase puts a managed disk on a content that has its bytes at p.
func (c *Client) Rebase(ctx context.Context, disk string, p layer.Point, ref layer.Ref) error {
	return c.call(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(disk)+"/rebase", Rebasing{p, ref}, nil)
}

// Release ends the serving of a managed disk; kind Conflict while a machine has
// it open.
func (c *Client) Release(ctx context.Context, disk string) error {
	return c.call(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(disk)+"/release", nil, nil)
}

// Stop ends the image host. Without force it refuses, with kind Conflict, while
// machines read through it.
func (c *Client) Stop(ctx context.Context, force bool) error {
	path := "/v1/stop"
	if force {
		path += "?force=true"
	}
	return c.call(ctx, http.MethodPost, path, nil, nil)
}

func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://image-host"+path, in)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %v", ErrNone, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("%w: %v", ErrNone, err)
	}
	return nil
}

// refusal is an answer's error.
func refusal(resp *http.Response) error {
	var p problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&p); err != nil || p.Code == "" {
		return fmt.Errorf("the image host answered %s", resp.Status)
	}
	kind := millpond.Unavailable
	switch resp.StatusCode {
	case http.StatusBadRequest:
		kind = millpond.Invalid
	case http.StatusNotFound:
		kind = millpond.NotFound
	case http.StatusConflict:
		kind = millpond.Conflict
	}
	return millpond.Errorf(kind, p.Code, "%s", p.Message)
}

// gone says that the folder has no image host, rather than one that is slow.
func gone(err error) bool { return errors.Is(err, ErrNone) || errors.Is(err, os.ErrNotExist) }
