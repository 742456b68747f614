// Package blobapi serves managed disks as page blobs to whoever holds a signed
// URL, so that Storage clients upload and download disks. It speaks the part of
// Azure Storage's protocol that page blobs need: properties, ranges, put page,
// page ranges.
//
// It knows no accounts, containers or other blobs. httpd mounts it for
// *.blob.storage.azure.net and, in direct use, for /blob/.
package blobapi

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/compute"
)

const (
	pageSize = 512
	maxPut   = 4 << 20
	// maxRanges bounds one answer of Get Page Ranges.
	maxRanges = 10000
)

// Disks opens the bytes behind a signed URL; compute.Service does.
type Disks interface {
	OpenBlob(ctx context.Context, a compute.Access) (*compute.Blob, error)
}

// Edge is the handler.
type Edge struct {
	disks  Disks
	log    *slog.Logger
	router *azwire.Router
	crc    *crc64.Table
}

// New makes the handler.
func New(d Disks, log *slog.Logger) *Edge {
	// The polynomial of x-ms-content-crc64, reflected.
	e := &Edge{disks: d, log: log, crc: crc64.MakeTable(0x9A6C9329AC4BC9B5)}
	e.router = azwire.NewRouter(e.Routes())
	return e
}

// Signed is the Action of every operation: the URL's signature is the right.
const Signed = "(signed URL)"

// Routes is the table of operations. Storage tells operations of one method
// apart by query and headers, so several share a route's path.
func (e *Edge) Routes() []azwire.Route {
	const at = "/{container}/{blob}"
	return []azwire.Route{
		{Name: "Blob_GetProperties", Method: "HEAD", Path: at, Action: Signed, Handle: e.get},
		{Name: "Blob_Download", Method: "GET", Path: at, Action: Signed, Handle: e.get},
		{Name: "PageBlob_UploadPages", Method: "PUT", Path: at, Action: Signed, Handle: e.put},
	}
}

func (e *Edge) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	front := azwire.FrontOf(hr.Context())
	r := &azwire.Request{Request: hr, ID: front.ID}
	if r.ID == "" {
		r.ID = uuid.NewString()
	}
	w.Header().Set("x-ms-request-id", r.ID)
	w.Header().Set("x-ms-version", "2021-12-02")
	if v := hr.Header.Get("x-ms-version"); v != "" {
		w.Header().Set("x-ms-version", v)
	}
	if v := hr.Header.Get("x-ms-client-request-id"); v != "" {
		w.Header().Set("x-ms-client-request-id", v)
	}
	raw := hr.URL.EscapedPath()
	if strings.HasPrefix(raw, "/blob/") {
		raw = strings.TrimPrefix(raw, "/blob")
	}
	route, _, allowed := e.router.Match(hr.Method, raw)
	var err error
	switch {
	case route != nil:
		r.Route = route
		err = route.Handle(w, r)
	case len(allowed) > 0:
		err = millpond.Errorf(millpond.MethodNotAllowed, "UnsupportedHttpVerb", "The resource doesn't support the method %s: only reading and writing pages of a disk is served here.", hr.Method)
	default:
		err = millpond.Errorf(millpond.NotFound, "ResourceNotFound", "The specified resource does not exist. Only disks are served here, under the URL that beginGetAccess gave.")
	}
	if err != nil {
		e.writeError(w, r, err)
	}
}

func (e *Edge) writeError(w http.ResponseWriter, r *azwire.Request, err error) {
	me := millpond.AsError(err)
	if me.Kind == millpond.Internal {
		e.log.Error("blob request failed", "request", r.ID, "method", r.Method, "err", err)
	}
	w.Header().Set("x-ms-error-code", me.Code)
	for _, h := range []string{"Content-Length", "Content-Range", "Content-MD5"} {
		w.Header().Del(h)
	}
	status := azwire.Status(me.Kind)
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	body, _ := xml.Marshal(struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: me.Code, Message: me.Message + "\nRequestId:" + r.ID})
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(xml.Header), body...))
}

func (e *Edge) open(r *azwire.Request) (*compute.Blob, error) {
	return e.disks.OpenBlob(r.Context(), compute.AccessFromURL(r.URL))
}

func headers(w http.ResponseWriter, b *compute.Blob) {
	h := w.Header()
	h.Set("ETag", b.ETag)
	h.Set("Last-Modified", b.Modified.UTC().Format(http.TimeFormat))
	h.Set("x-ms-blob-type", "PageBlob")
	h.Set("x-ms-blob-sequence-number", "0")
	h.Set("x-ms-lease-status", "unlocked")
	h.Set("x-ms-lease-state", "available")
	h.Set("Accept-Ranges", "bytes")
}

// get serves Get Blob Properties, Get Blob and Get Page Ranges.
func (e *Edge) get(w http.ResponseWriter, r *azwire.Request) error {
	b, err := e.open(r)
	if err != nil {
		return err
	}
	defer b.Close()
	headers(w, b)
	switch comp := strings.ToLower(r.QueryValue("comp")); comp {
	case "":
	case "pagelist":
		return e.pageList(w, r, b)
	default:
		return unsupportedComp(comp)
	}
	off, n, ranged, err := requestRange(r.Request, b.Size())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	status := http.StatusOK
	if ranged {
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, b.Size()))
	}
	section := io.NewSectionReader(b, off, n)
	if strings.EqualFold(r.Header.Get("x-ms-range-get-content-md5"), "true") && n <= maxPut {
		buf := make([]byte, n)
		if _, err := io.ReadFull(section, buf); err != nil {
			return err
		}
		sum := md5.Sum(buf)
		w.Header().Set("Content-MD5", base64.StdEncoding.EncodeToString(sum[:]))
		w.WriteHeader(status)
		_, _ = w.Write(buf)
		return nil
	}
	w.WriteHeader(status)
	if _, err := io.Copy(w, section); err != nil {
		e.log.Debug("blob download ended early", "request", r.ID, "err", err)
	}
	return nil
}

func unsupportedComp(comp string) error {
	return millpond.Errorf(millpond.Unsupported, "UnsupportedQueryParameter", "comp=%s is not supported for disks. Supported: page, pagelist, properties.", comp)
}

// ParseRange reads "bytes=a-b", "bytes=a-" and "bytes=-n" against a size.
func ParseRange(s string, size int64) (off, n int64, err error) {
	bad := millpond.Errorf(millpond.Range, "InvalidRange", "The range %q specified is invalid for the current size of the resource, %d bytes.", s, size)
	spec, ok := strings.CutPrefix(strings.TrimSpace(s), "bytes=")
	from, to, ok2 := strings.Cut(spec, "-")
	if !ok || !ok2 {
		return 0, 0, bad
	}
	if from == "" {
		n, err = strconv.ParseInt(to, 10, 64)
		if err != nil || n <= 0 {
			return 0, 0, bad
		}
		n = min(n, size)
		return size - n, n, nil
	}
	if off, err = strconv.ParseInt(from, 10, 64); err != nil || off < 0 || off >= size {
		return 0, 0, bad
	}
	end := size - 1
	if to != "" {
		if end, err = strconv.ParseInt(to, 10, 64); err != nil || end < off {
			return 0, 0, bad
		}
	}
	return off, min(end, size-1) - off + 1, nil
}

func requestRange(r *http.Request, size int64) (off, n int64, ranged bool, err error) {
	s := r.Header.Get("x-ms-range")
	if s == "" {
		s = r.Header.Get("Range")
	}
	if s == "" || r.Method == http.MethodHead {
		return 0, size, false, nil
	}
	off, n, err = ParseRange(s, size)
	return off, n, true, err
}

type pageRange struct {
	Start int64 `xml:"Start"`
	End   int64 `xml:"End"`
}

type pageListBody struct {
	XMLName    xml.Name    `xml:"PageList"`
	Ranges     []pageRange `xml:"PageRange"`
	NextMarker string      `xml:"NextMarker"`
}

func (e *Edge) pageList(w http.ResponseWriter, r *azwire.Request, b *compute.Blob) error {
	off, n, _, err := requestRange(r.Request, b.Size())
	if err != nil {
		return err
	}
	if m := r.QueryValue("marker"); m != "" {
		at, err := strconv.ParseInt(m, 10, 64)
		if err != nil || at < off || at >= off+n {
			return millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "The marker is not one that this service gave.")
		}
		off, n = at, off+n-at
	}
	limit := maxRanges
	if m := r.QueryValue("maxresults"); m != "" {
		v, err := strconv.Atoi(m)
		if err != nil || v < 1 {
			return millpond.Errorf(millpond.Invalid, "OutOfRangeQueryParameterValue", "maxresults must be a positive number.")
		}
		limit = min(limit, v)
	}
	data, err := b.Data(off, n)
	if err != nil {
		return err
	}
	var out pageListBody
	for _, d := range data {
		if len(out.Ranges) == limit {
			out.NextMarker = strconv.FormatInt(d.Off, 10)
			break
		}
		out.Ranges = append(out.Ranges, pageRange{d.Off, d.Off + d.Len - 1})
	}
	body, err := xml.Marshal(out)
	if err != nil {
		return err
	}
	w.Header().Set("x-ms-blob-content-length", strconv.FormatInt(b.Size(), 10))
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(append([]byte(xml.Header), body...))
	return nil
}

// put serves Put Blob, Put Page and the settings that clients send along.
func (e *Edge) put(w http.ResponseWriter, r *azwire.Request) error {
	b, err := e.open(r)
	if err != nil {
		return err
	}
	defer b.Close()
	if !b.Writable() {
		return millpond.Errorf(millpond.Forbidden, "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation using this permission: the URL grants read access. Ask for Write access to a disk created with --upload-type Upload.")
	}
	headers(w, b)
	switch comp := strings.ToLower(r.QueryValue("comp")); comp {
	case "page":
		return e.putPage(w, r, b)
	case "":
		return e.putBlob(w, r, b)
	case "properties", "metadata":
		// Upload tools set a content type at the end; a disk has none.
		w.WriteHeader(http.StatusOK)
		return nil
	default:
		return unsupportedComp(comp)
	}
}

// putBlob accepts the creation of the blob that is there already. Put Blob
// replaces a blob: pages that an upload before left are gone afterwards, as in
// Azure Storage. A client that resumes puts pages only, or sends If-None-Match.
func (e *Edge) putBlob(w http.ResponseWriter, r *azwire.Request, b *compute.Blob) error {
	if t := r.Header.Get("x-ms-blob-type"); !strings.EqualFold(t, "PageBlob") {
		return millpond.Errorf(millpond.Conflict, "InvalidBlobType", "The blob type is invalid for this operation: a disk is a page blob, and %q was sent. With az, add --type page.", t)
	}
	if got := r.Header.Get("x-ms-blob-content-length"); got != strconv.FormatInt(b.Size(), 10) {
		return millpond.Errorf(millpond.Conflict, "InvalidBlobResize", "The disk was created with --upload-size-bytes %d and the blob has %s bytes. Both must be the size of the VHD with its footer.", b.Size(), got)
	}
	if r.Header.Get("If-None-Match") == "*" {
		return millpond.Errorf(millpond.Conflict, "BlobAlreadyExists", "The specified blob already exists: a disk for upload is there from its creation. Put its pages.")
	}
	// What an upload before left must not show through the gaps of this one.
	if err := b.Zero(0, b.Size()); err != nil {
		return err
	}
	w.Header().Set("x-ms-request-server-encrypted", "true")
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (e *Edge) putPage(w http.ResponseWriter, r *azwire.Request, b *compute.Blob) error {
	off, n, ranged, err := requestRange(r.Request, b.Size())
	if err != nil {
		return err
	}
	s := r.Header.Get("x-ms-range") + r.Header.Get("Range")
	if !ranged || off%pageSize != 0 || n%pageSize != 0 || !strings.HasSuffix(s, strconv.FormatInt(off+n-1, 10)) {
		return millpond.Errorf(millpond.Range, "InvalidPageRange", "The page range specified is invalid: it must begin and end on a page of 512 bytes and lie inside of the disk's %d bytes.", b.Size())
	}
	w.Header().Set("x-ms-request-server-encrypted", "true")
	switch strings.ToLower(r.Header.Get("x-ms-page-write")) {
	case "clear":
		if err := b.Zero(off, n); err != nil {
			return err
		}
		w.WriteHeader(http.StatusCreated)
		return nil
	case "update":
	default:
		return millpond.Errorf(millpond.Invalid, "InvalidHeaderValue", "x-ms-page-write must be update or clear.")
	}
	if n > maxPut {
		return millpond.Errorf(millpond.TooLarge, "RequestBodyTooLarge", "One put of pages may have at most 4 MiB, and this one has %d bytes.", n)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(r.Body, buf); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return millpond.Errorf(millpond.Invalid, "InvalidInput", "The request's body is shorter than its range of %d bytes.", n)
		}
		return err
	}
	if want := r.Header.Get("Content-MD5"); want != "" {
		sum := md5.Sum(buf)
		if got := base64.StdEncoding.EncodeToString(sum[:]); got != want {
			return millpond.Errorf(millpond.Invalid, "Md5Mismatch", "The MD5 value specified in the request did not match the one calculated by the server.")
		}
		w.Header().Set("Content-MD5", want)
	}
	if want := r.Header.Get("x-ms-content-crc64"); want != "" {
		sum := crc64.Checksum(buf, e.crc)
		got := make([]byte, 8)
		for i := range got {
			got[i] = byte(sum >> (8 * i))
		}
		if base64.StdEncoding.EncodeToString(got) != want {
			return millpond.Errorf(millpond.Invalid, "Crc64Mismatch", "The CRC64 value specified in the request did not match the one calculated by the server.")
		}
		w.Header().Set("x-ms-content-crc64", want)
	}
	if _, err := b.WriteAt(buf, off); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}
