package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/vhd"
)

// ImageExportCmd writes a disk as a file: one of a file, or one of the server.
type ImageExportCmd struct {
	What   string `arg:"" help:"A file (raw, VHD, VHDX, qcow2), or the resource id of a disk, snapshot, image or image version." placeholder:"FILE|RESOURCE-ID"`
	VHD    string `name:"vhd" xor:"out" required:"" help:"Write a fixed VHD." type:"path" placeholder:"OUT"`
	Raw    string `name:"raw" xor:"out" required:"" help:"Write the disk's bytes as they are, with holes." type:"path" placeholder:"OUT"`
	LUN    *int32 `name:"lun" help:"Of an image or image version: its data disk at this LUN." placeholder:"N"`
	Resume bool   `help:"Go on with a download that was broken off; for snapshots and image versions, which do not change."`
	Quiet  bool   `help:"Do not tell how far it is."`
}

// Run writes beside the target and renames, so that a broken export leaves none.
func (c *ImageExportCmd) Run(g *Globals) error {
	ctx, stop := interruptible()
	defer stop()
	if strings.HasPrefix(strings.ToLower(c.What), "/subscriptions/") {
		return c.resource(ctx, g)
	}
	if c.LUN != nil || c.Resume {
		return errors.New("--lun and --resume are for resources of the server, and this is a file")
	}
	src, done, err := openDisk(c.What)
	if err != nil {
		return err
	}
	defer done()
	out, err := os.CreateTemp(filepath.Dir(c.target()), ".export-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	id, err := uuid.NewRandomFromReader(rand.Reader)
	if err != nil {
		return err
	}
	size := src.Size()
	if _, err = vhd.Export(ctx, out, src, id.String(), clock.System{}.Now(), nil); err != nil {
		return err
	}
	if c.VHD != "" {
		size = vhd.Align(size)
	}
	return c.finish(out, size)
}

func (c *ImageExportCmd) target() string { return c.VHD + c.Raw }

// finish makes a VHD, complete in out, what was asked for; size is the disk's.
func (c *ImageExportCmd) finish(out *os.File, size int64) error {
	what, n := "fixed VHD", size+vhd.FooterSize
	if c.Raw != "" {
		what, n = "raw file", size
		if err := out.Truncate(size); err != nil {
			return err
		}
	}
	if err := errors.Join(out.Chmod(0o644), out.Sync()); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), c.target()); err != nil {
		return err
	}
	fmt.Printf("%s: %s of %d bytes for a disk of %s\n", c.target(), what, n, mebibytes(size))
	return nil
}

// exported are the members of a resource that an export reads.
type exported struct {
	Location   string
	Properties struct {
		ProvisioningState string
		UniqueID          string `json:"uniqueId"`
		TimeCreated       string
		PublishingProfile struct{ PublishedDate string }
	}
}

// resource downloads as az would: from a snapshot by its own access, from a disk
// by a snapshot of the moment, from an image by a disk that is made of it, which
// copies nothing. What was made for it is deleted afterwards.
func (c *ImageExportCmd) resource(ctx context.Context, g *Globals) (err error) {
	id, ok := millpond.ParseResourceID(c.What)
	if !ok {
		return fmt.Errorf("%s is no resource id", c.What)
	}
	cl, err := dial(g.Data)
	if err != nil {
		return err
	}
	var src exported
	if err := cl.get(ctx, armResource, id.String()+"?"+armVersion, &src); err != nil {
		return err
	}
	fixed := id.Is(millpond.TypeSnapshot) || id.Is(millpond.TypeVersion)
	if c.Resume && !fixed {
		return errors.New("what is in a disk or image of that name may have changed: take a snapshot, az snapshot create, and export that with --resume")
	}
	random := make([]byte, 6)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	name := "millpond-export-" + hex.EncodeToString(random)
	group := "/subscriptions/" + id.Subscription + "/resourceGroups/" + id.Group + "/providers/Microsoft.Compute/"
	from, creation := "", map[string]any(nil)
	reference := map[string]any{"id": id.String()}
	if c.LUN != nil {
		reference["lun"] = *c.LUN
	}
	switch {
	case c.LUN != nil && !id.Is(millpond.TypeImage) && !id.Is(millpond.TypeVersion):
		return errors.New("--lun is for images and image versions")
	case id.Is(millpond.TypeSnapshot):
		from = id.String()
	case id.Is(millpond.TypeDisk):
		from, creation = group+"snapshots/"+name, map[string]any{"createOption": "Copy", "sourceResourceId": id.String()}
	case id.Is(millpond.TypeVersion):
		from, creation = group+"disks/"+name, map[string]any{"createOption": "FromImage", "galleryImageReference": reference}
	case id.Is(millpond.TypeImage):
		from, creation = group+"disks/"+name, map[string]any{"createOption": "FromImage", "imageReference": reference}
	default:
		return fmt.Errorf("%s is a %s; a disk, snapshot, image or image version can be exported", id, id.Type())
	}
	// What is undone is undone also after Ctrl-C.
	undo := func(method, path string) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if uerr := cl.send(ctx, method, path+"?"+armVersion, nil, nil); uerr != nil {
			fmt.Fprintf(os.Stderr, "%s %s: %v\n", method, path, uerr)
		}
	}
	if creation != nil {
		if err := cl.send(ctx, http.MethodPut, from+"?"+armVersion, map[string]any{"location": src.Location, "properties": map[string]any{"creationData": creation}}, nil); err != nil {
			return err
		}
		defer undo(http.MethodDelete, from)
		if err := cl.made(ctx, from); err != nil {
			return err
		}
	}
	var access struct {
		SAS string `json:"accessSAS"`
	}
	if err := cl.send(ctx, http.MethodPost, from+"/beginGetAccess?"+armVersion, map[string]any{"access": "Read", "durationInSeconds": 7 * 86400}, &access); err != nil {
		return err
	}
	defer undo(http.MethodPost, from+"/endGetAccess")
	u, err := url.Parse(access.SAS)
	if err != nil {
		return err
	}
	// The name says of what the part is, so that none goes on with another's.
	key := fmt.Sprintf("%s %s %s %s", id.Key(), src.Properties.UniqueID, src.Properties.TimeCreated, src.Properties.PublishingProfile.PublishedDate)
	if c.LUN != nil {
		key += fmt.Sprintf(" %d", *c.LUN)
	}
	sum := sha256.Sum256([]byte(key))
	part := filepath.Join(filepath.Dir(c.target()), "."+filepath.Base(c.target())+"."+hex.EncodeToString(sum[:6])+".partial")
	mode := os.O_RDWR | os.O_CREATE
	if !c.Resume {
		mode |= os.O_TRUNC
	}
	out, err := os.OpenFile(part, mode, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	d := &download{blob: &uploader{client: g.blobClient(), url: u}, out: out}
	if !c.Quiet {
		d.say = func(done, size int64) { fmt.Fprintf(os.Stderr, "\r%s of %s", mebibytes(done), mebibytes(size)) }
	}
	size, err := d.run(ctx)
	if !c.Quiet {
		fmt.Fprintln(os.Stderr)
	}
	if err != nil {
		if fixed {
			return fmt.Errorf("%w; what is there is kept, go on with --resume", err)
		}
		return errors.Join(err, os.Remove(part))
	}
	return c.finish(out, size-vhd.FooterSize)
}

// send is a request about a resource; its success may be still to come.
func (c *client) send(ctx context.Context, method, path string, body, into any) error {
	token, err := c.token(ctx, armResource)
	if err != nil {
		return err
	}
	text := []byte{}
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	if into != nil {
		return c.do(req, into)
	}
	var ignored any
	err = c.do(req, &ignored)
	var e *apiError
	if err != nil && !errors.As(err, &e) && ctx.Err() == nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) { // an answer without a body
			return nil
		}
	}
	return err
}

// made waits until a resource is there.
func (c *client) made(ctx context.Context, id string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		var r exported
		if err := c.get(ctx, armResource, id+"?"+armVersion, &r); err != nil {
			return err
		}
		switch r.Properties.ProvisioningState {
		case "Succeeded":
			return nil
		case "Failed":
			return fmt.Errorf("%s could not be made; the server's log says why", id)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// download reads a page blob into a file, in order: all before the file's end is
// there, so that the file itself says where to go on.
type download struct {
	blob *uploader
	out  *os.File
	say  func(done, size int64)
}

const (
	// window is how much is under way at once.
	window = 4 * pageSize
	tries  = 5
)

// run returns the blob's size.
func (d *download) run(ctx context.Context) (size int64, err error) {
	resp, err := d.blob.do(ctx, http.MethodHead, "", nil, nil)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	size = resp.ContentLength
	if resp.StatusCode != http.StatusOK || size <= vhd.FooterSize {
		return 0, fmt.Errorf("download from %s: %s (%s)", d.blob.url.Host, resp.Status, resp.Header.Get("x-ms-error-code"))
	}
	if d.blob.there, err = d.blob.pages(ctx, size); err != nil {
		return 0, err
	}
	info, err := d.out.Stat()
	if err != nil {
		return 0, err
	}
	next := 0
	for off := min(info.Size(), size) / pageSize * pageSize; off < size; {
		end := min(off+window, size)
		g, wctx := errgroup.WithContext(ctx)
		for at := off; at < end; at += pageSize {
			n := min(pageSize, end-at)
			for next < len(d.blob.there) && d.blob.there[next].End < at {
				next++
			}
			if next == len(d.blob.there) || d.blob.there[next].Start >= at+n {
				continue
			}
			g.Go(func() error { return d.part(wctx, at, n) })
		}
		if err := g.Wait(); err != nil {
			// Of this window some later part may be there and an earlier one not.
			return 0, errors.Join(err, d.out.Truncate(off))
		}
		off = end
		if err := d.out.Truncate(off); err != nil {
			return 0, err
		}
		if d.say != nil {
			d.say(off, size)
		}
	}
	return size, nil
}

// part reads one range, again when the connection breaks.
func (d *download) part(ctx context.Context, off, n int64) error {
	for try := 1; ; try++ {
		b, err := d.read(ctx, off, n)
		if err == nil {
			if bytes.Count(b, []byte{0}) == len(b) {
				return nil
			}
			_, err = d.out.WriteAt(b, off)
			return err
		}
		if try == tries {
			return err
		}
		select {
		case <-time.After(time.Duration(try) * 300 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *download) read(ctx context.Context, off, n int64) ([]byte, error) {
	resp, err := d.blob.do(ctx, http.MethodGet, "", nil, map[string]string{"x-ms-range": "bytes=" + strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(off+n-1, 10)})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(resp.Body, b); err != nil || resp.StatusCode != http.StatusPartialContent {
		return nil, fmt.Errorf("download at %d: %s %v", off, resp.Status, err)
	}
	return b, nil
}
