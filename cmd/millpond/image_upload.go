package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/diskformat"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/vhd"
)

// ImageUploadCmd uploads to the SAS URL that `az disk grant-access` prints for a
// disk made with --upload-type Upload.
type ImageUploadCmd struct {
	File   string `arg:"" help:"An image: raw, VHD, VHDX or qcow2." type:"existingfile"`
	URL    string `arg:"" help:"The SAS URL of az disk grant-access --access-level Write."`
	Resume bool   `help:"Go on with an upload that was broken off: what is there already is compared and not sent again."`
	Quiet  bool   `help:"Do not tell how far it is."`
}

// pageSize is the most that one Put Page takes, 4 MiB.
const pageSize = 4 << 20

// Run puts every page range that is not zeros, then the footer.
func (c *ImageUploadCmd) Run(g *Globals) error {
	ctx, stop := interruptible()
	defer stop()
	src, done, err := openDisk(c.File)
	if err != nil {
		return err
	}
	defer done()
	// Azure wants whole MiB; what is behind the disk's end is zeros.
	src = diskformat.Padded(src, vhd.Align(src.Size()))
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" {
		return fmt.Errorf("%q is not the URL of a disk; take the one that 'az disk grant-access --access-level Write' prints as accessSAS", c.URL)
	}
	id, err := uuid.NewRandomFromReader(rand.Reader)
	if err != nil {
		return err
	}
	up := &uploader{client: g.blobClient(), url: u}
	if err := up.fits(ctx, src.Size()); err != nil {
		return err
	}
	if c.Resume {
		if up.there, err = up.pages(ctx, src.Size()); err != nil {
			return err
		}
	}
	if !c.Quiet {
		up.say = func(done int64) {
			fmt.Fprintf(os.Stderr, "\r%s of %s", mebibytes(done), mebibytes(src.Size()))
			if done == src.Size() {
				fmt.Fprintln(os.Stderr)
			}
		}
	}
	if err := up.disk(ctx, src); err != nil {
		return err
	}
	if err := up.put(ctx, vhd.NewFooter(src.Size(), id.String(), clock.System{}.Now()), src.Size()); err != nil {
		return err
	}
	fmt.Printf("%s: uploaded; now end the upload with: az disk revoke-access\n", c.File)
	return nil
}

// blobClient trusts the server's own authority beside the system's.
func (g *Globals) blobClient() *http.Client {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if pem, err := os.ReadFile(g.Data.CA()); err == nil {
		roots.AppendCertsFromPEM(pem)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: t}
}

type uploader struct {
	client *http.Client
	url    *url.URL
	// there are the ranges that an upload before has left, in order.
	there []pageRange
	// say, if not nil, is told up to where the disk has been dealt with.
	say func(done int64)
}

// pageRange is a range of the blob that is not empty, with its last byte.
type pageRange struct {
	Start, End int64
}

// fits compares the blob's size with the disk's.
func (u *uploader) fits(ctx context.Context, size int64) error {
	resp, err := u.do(ctx, http.MethodHead, "", nil, nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("upload to %s: %s (%s)", u.url.Host, resp.Status, resp.Header.Get("x-ms-error-code"))
	}
	if resp.ContentLength != size+vhd.FooterSize {
		return fmt.Errorf("the disk was made for an upload of %d bytes, and this image needs %d: az disk create --upload-type Upload --upload-size-bytes %d", resp.ContentLength, size+vhd.FooterSize, size+vhd.FooterSize)
	}
	return nil
}

// pages asks which ranges are there.
func (u *uploader) pages(ctx context.Context, size int64) (all []pageRange, err error) {
	for marker := ""; ; {
		resp, err := u.do(ctx, http.MethodGet, "comp=pagelist&marker="+url.QueryEscape(marker), nil, nil)
		if err != nil {
			return nil, err
		}
		var list struct {
			PageRange  []pageRange
			NextMarker string
		}
		err = xml.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(&list)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("what was uploaded before cannot be listed: %s %v", resp.Status, err)
		}
		all = append(all, list.PageRange...)
		if marker = list.NextMarker; marker == "" {
			return all, nil
		}
	}
}

// same says whether the blob has b at off already. A range that is not there at
// all is not asked for.
func (u *uploader) same(ctx context.Context, b []byte, off int64) (bool, error) {
	i := sort.Search(len(u.there), func(i int) bool { return u.there[i].End >= off })
	if i == len(u.there) || u.there[i].Start >= off+int64(len(b)) {
		return false, nil
	}
	resp, err := u.do(ctx, http.MethodGet, "", nil, map[string]string{"x-ms-range": "bytes=" + strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(off+int64(len(b))-1, 10)})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(resp.Body, got); err != nil || resp.StatusCode != http.StatusPartialContent {
		return false, fmt.Errorf("what was uploaded before cannot be read: %s %v", resp.Status, err)
	}
	return bytes.Equal(got, b), nil
}

// do sends one request about the blob.
func (u *uploader) do(ctx context.Context, method, query string, body []byte, header map[string]string) (*http.Response, error) {
	to := *u.url
	if query != "" && to.RawQuery != "" {
		query = "&" + query
	}
	to.RawQuery += query
	req, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("x-ms-version", "2023-11-03")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := u.client.Do(req)
	if err != nil {
		// The URL holds the signature, which must not reach a terminal's log.
		if e, ok := err.(*url.Error); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("upload to %s: %w", u.url.Host, err)
	}
	return resp, nil
}

// disk puts the data of src, four ranges at a time.
func (u *uploader) disk(ctx context.Context, src image.Source) error {
	sparse, _ := src.(image.Sparse)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	size := src.Size()
	for off := int64(0); off < size && ctx.Err() == nil; {
		if sparse != nil {
			start, _, err := sparse.NextData(off)
			if err != nil {
				return err
			}
			if start >= size {
				break
			}
			off = max(off, start/pageSize*pageSize)
		}
		if u.say != nil {
			u.say(off)
		}
		at, n := off, min(pageSize, size-off)
		off += n
		g.Go(func() error {
			b := make([]byte, n)
			if got, err := src.ReadAt(b, at); got < len(b) {
				return fmt.Errorf("read the image at %d: %w", at, err)
			}
			zeros := bytes.Count(b, []byte{0}) == len(b)
			if zeros && len(u.there) == 0 {
				return nil
			}
			if len(u.there) > 0 {
				if same, err := u.same(ctx, b, at); err != nil || same {
					return err
				}
			}
			return u.put(ctx, b, at)
		})
	}
	err := g.Wait()
	if err == nil && u.say != nil {
		u.say(size)
	}
	return err
}

// put is one Put Page request.
func (u *uploader) put(ctx context.Context, b []byte, off int64) error {
	resp, err := u.do(ctx, http.MethodPut, "comp=page", b, map[string]string{"x-ms-page-write": "update",
		"x-ms-range": "bytes=" + strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(off+int64(len(b))-1, 10)})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
		return fmt.Errorf("upload to %s: %s: %s", u.url.Host, resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}
