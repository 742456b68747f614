package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/vhd"
)

// ImageUploadCmd uploads to the SAS URL that `az disk grant-access` prints for a
// disk made with --upload-type Upload.
type ImageUploadCmd struct {
	File string `arg:"" help:"A raw image or a fixed VHD." type:"existingfile"`
	URL  string `arg:"" help:"The SAS URL of az disk grant-access --access-level Write."`
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
	if err := vhd.CheckAligned(src.Size()); err != nil {
		return err
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" {
		return fmt.Errorf("%q is not the URL of a disk; take the one that 'az disk grant-access --access-level Write' prints as accessSAS", c.URL)
	}
	id, err := uuid.NewRandomFromReader(rand.Reader)
	if err != nil {
		return err
	}
	up := &uploader{client: g.blobClient(), url: u}
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
		at, n := off, min(pageSize, size-off)
		off += n
		g.Go(func() error {
			b := make([]byte, n)
			if got, err := src.ReadAt(b, at); got < len(b) {
				return fmt.Errorf("read the image at %d: %w", at, err)
			}
			if bytes.Count(b, []byte{0}) == len(b) {
				return nil
			}
			return u.put(ctx, b, at)
		})
	}
	return g.Wait()
}

// put is one Put Page request.
func (u *uploader) put(ctx context.Context, b []byte, off int64) error {
	to := *u.url
	q := to.RawQuery
	if q != "" {
		q += "&"
	}
	to.RawQuery = q + "comp=page"
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, to.String(), bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("x-ms-version", "2023-11-03")
	req.Header.Set("x-ms-page-write", "update")
	req.Header.Set("x-ms-range", "bytes="+strconv.FormatInt(off, 10)+"-"+strconv.FormatInt(off+int64(len(b))-1, 10))
	resp, err := u.client.Do(req)
	if err != nil {
		// The URL holds the signature, which must not reach a terminal's log.
		if e, ok := err.(*url.Error); ok {
			err = e.Err
		}
		return fmt.Errorf("upload to %s: %w", u.url.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
		return fmt.Errorf("upload to %s: %s: %s", u.url.Host, resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}
