package storageapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/lease"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/compute"
)

// A copy of a disk into a page blob, Copy Blob with a disk's signed URL as its
// source: the blob is there at once and is filled after the answer. The service
// behind cannot fetch from here, so this server writes the pages.
//
// What became of the copy is kept in the blob's metadata behind, under a name that
// clients do not see, and read to them as the headers of Copy Blob. A copy that
// says pending and is not under way ended with the server, and is shown as failed.
const (
	copyMark   = "millpondcopy"
	markHeader = "X-Ms-Meta-Millpondcopy"

	// maxCopies is how many wait for their turn, copiesAtOnce how many are written.
	maxCopies    = 64
	copiesAtOnce = 2
	// copyPiece is the longest Put Page.
	copyPiece = 4 << 20
	// copyHold is the lease under which a blob is filled, in seconds: nobody else
	// writes it, and it ends soon after a server that is killed.
	copyHold = 60
)

// mark is the value of copyMark: id, state, size of the blob in bytes, and the
// disk's URL without its signature.
type mark struct {
	id, state string
	size      int64
	source    string
}

func (m mark) String() string { return fmt.Sprintf("%s %s %d %s", m.id, m.state, m.size, m.source) }

func parseMark(s string) (m mark, ok bool) {
	f := strings.Fields(s)
	if len(f) != 4 {
		return m, false
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	return mark{f[0], f[1], size, f[3]}, err == nil
}

// copies are the copies under way, by their ids.
type copies struct {
	waiting chan *diskCopy
	mu      sync.Mutex
	by      map[string]*diskCopy
}

type diskCopy struct {
	mark
	disk compute.Access
	blob *pageblob.Client
	done atomic.Int64
}

// Run fills blobs from disks until ctx ends. What has not ended by then is shown
// as failed.
func (e *Edge) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for range copiesAtOnce {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case c := <-e.copies.waiting:
					if err := e.runCopy(ctx, c); err != nil {
						e.Log.Warn("a disk was not copied into a blob", "copy", c.id, "err", err)
					}
					e.copies.mu.Lock()
					delete(e.copies.by, c.id)
					e.copies.mu.Unlock()
				}
			}
		})
	}
}

// copyDisk begins a copy.
func (e *Edge) copyDisk(w http.ResponseWriter, b *behind, s source) error {
	if b.Header.Get("x-ms-requires-sync") != "" {
		return millpond.Errorf(millpond.Unsupported, "UnsupportedOperation", "A disk is copied after the answer. Leave x-ms-requires-sync out, and wait for the blob's copy status.")
	}
	d, err := e.OpenDisk(b.Context(), *s.disk)
	if err != nil {
		return err
	}
	size := d.Size()
	d.Close()
	link, _, _ := strings.Cut(s.link, "?")
	c := &diskCopy{mark: mark{uuid.NewString(), "pending", size, link}, disk: *s.disk,
		blob: e.Behind.Container(b.account.ID.Name(), b.place.Container).NewPageBlobClient(b.place.Blob)}
	// The blob is made by the client's own request: its right to it, its conditions
	// and its metadata count.
	in := b.Request.Request.Clone(context.WithValue(b.Context(), passKey{}, b))
	h := in.Header
	for name := range h {
		if n := strings.ToLower(name); strings.HasPrefix(n, "x-ms-source-") || strings.HasPrefix(n, "x-ms-copy-source") || n == "x-ms-access-tier" {
			h.Del(name)
		}
	}
	h.Del("Connection")
	h.Set("x-ms-blob-type", "PageBlob")
	h.Set("x-ms-blob-content-length", strconv.FormatInt(size, 10))
	h.Set("x-ms-blob-content-type", "application/octet-stream")
	h.Set(markHeader, c.String())
	in.Body, in.ContentLength = nil, 0
	out := &httputil.ProxyRequest{In: in, Out: in.Clone(in.Context())}
	e.rewrite(out)
	resp, err := e.Behind.HTTP.RoundTrip(out.Out)
	if err != nil {
		return e.silent(err)
	}
	defer resp.Body.Close()
	for _, name := range []string{"ETag", "Last-Modified", "Content-Type", "x-ms-error-code", "x-ms-version", "x-ms-request-id"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	if resp.StatusCode != http.StatusCreated {
		w.WriteHeader(resp.StatusCode)
		_, err := io.Copy(w, io.LimitReader(resp.Body, maxList))
		return err
	}
	e.copies.mu.Lock()
	e.copies.by[c.id] = c
	e.copies.mu.Unlock()
	select {
	case e.copies.waiting <- c:
	default:
		e.copies.mu.Lock()
		delete(e.copies.by, c.id)
		e.copies.mu.Unlock()
		return millpond.Errorf(millpond.Unavailable, "ServerBusy", "Too many disks are being copied. Try again when some have ended.")
	}
	w.Header().Del("Content-Type")
	w.Header().Set("x-ms-copy-id", c.id)
	w.Header().Set("x-ms-copy-status", "pending")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// runCopy fills a blob and notes how it went.
func (e *Edge) runCopy(ctx context.Context, c *diskCopy) error {
	holder, err := lease.NewBlobClient(c.blob, nil)
	if err != nil {
		return err
	}
	if _, err := holder.AcquireLease(ctx, copyHold, nil); err != nil {
		return fmt.Errorf("taking a lease: %w", err)
	}
	held := &blob.AccessConditions{LeaseAccessConditions: &blob.LeaseAccessConditions{LeaseID: holder.LeaseID()}}
	// Between the answer and the lease somebody may have put another blob there.
	meta, err := c.metadata(ctx)
	if err == nil {
		err = e.writePages(ctx, c, holder, held)
		c.state = "success"
		if err != nil {
			c.state = "failed"
		}
		if ctx.Err() == nil {
			meta[copyMark] = to.Ptr(c.String())
			if _, err2 := c.blob.SetMetadata(ctx, meta, &blob.SetMetadataOptions{AccessConditions: held}); err == nil {
				err = err2
			}
		}
	}
	ended, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, _ = holder.ReleaseLease(ended, nil)
	return err
}

// metadata is the blob's, if it still is this copy's blob.
func (c *diskCopy) metadata(ctx context.Context) (map[string]*string, error) {
	p, err := c.blob.GetProperties(ctx, nil)
	if err != nil {
		return nil, err
	}
	out := map[string]*string{}
	ours := false
	for name, v := range p.Metadata {
		if strings.EqualFold(name, copyMark) {
			m, ok := parseMark(*v)
			ours = ok && m.id == c.id
			continue
		}
		out[name] = v
	}
	if !ours {
		return nil, fmt.Errorf("another blob took its place")
	}
	return out, nil
}

// writePages puts what the disk has. Its footer comes last, so that no part of a
// copy is a whole VHD.
func (e *Edge) writePages(ctx context.Context, c *diskCopy, holder *lease.BlobClient, held *blob.AccessConditions) error {
	d, err := e.OpenDisk(ctx, c.disk)
	if err != nil {
		return err
	}
	defer d.Close()
	if d.Size() != c.size {
		return fmt.Errorf("the disk has %d bytes now and had %d", d.Size(), c.size)
	}
	data, err := d.Data(0, c.size)
	if err != nil {
		return err
	}
	renewed := e.Clock.Now()
	buf := make([]byte, copyPiece)
	for _, x := range data {
		for off := x.Off; off < x.Off+x.Len; {
			if e.Clock.Now().Sub(renewed) > copyHold/4*time.Second {
				if _, err := holder.RenewLease(ctx, nil); err != nil {
					return err
				}
				renewed = e.Clock.Now()
			}
			piece := buf[:min(copyPiece, x.Off+x.Len-off)]
			if n, err := d.ReadAt(piece, off); n < len(piece) {
				return err
			}
			_, err := c.blob.UploadPages(ctx, streaming.NopCloser(bytes.NewReader(piece)), blob.HTTPRange{Offset: off, Count: int64(len(piece))}, &pageblob.UploadPagesOptions{AccessConditions: held})
			if err != nil {
				return err
			}
			off += int64(len(piece))
			c.done.Store(off)
		}
	}
	c.done.Store(c.size)
	return nil
}

// showCopy turns the mark of a blob that was copied from a disk into what clients
// know.
func (e *Edge) showCopy(h http.Header) {
	m, ok := parseMark(h.Get(markHeader))
	h.Del(markHeader)
	if !ok {
		return
	}
	done := m.size
	if m.state == "pending" {
		e.copies.mu.Lock()
		c := e.copies.by[m.id]
		e.copies.mu.Unlock()
		if c != nil {
			done = c.done.Load()
		} else {
			m.state, done = "failed", 0
			h.Set("x-ms-copy-status-description", "The server ended while it copied. Copy again.")
		}
	}
	h.Set("x-ms-copy-id", m.id)
	h.Set("x-ms-copy-status", m.state)
	if m.state != "failed" {
		h.Set("x-ms-copy-progress", fmt.Sprintf("%d/%d", done, m.size))
	} else if h.Get("x-ms-copy-status-description") == "" {
		h.Set("x-ms-copy-status-description", "The disk could not be read, or the blob not written. Copy again.")
	}
	h.Set("x-ms-copy-source", m.source)
}
