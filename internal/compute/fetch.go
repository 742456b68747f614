package compute

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/vhd"
)

// fetch reads a fixed VHD from a URL into a new disk file and returns the size
// of the disk in it. A URL of this server's own disk access is read directly.
func (s *Service) fetch(ctx context.Context, uri, file string, atLeast int64) (int64, error) {
	u, err := url.Parse(uri)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return 0, invalid("sourceUri", "%q is not an http or https URL.", ShownURI(uri))
	}
	if b, err := s.OpenBlob(ctx, AccessFromURL(u)); err == nil {
		defer b.Close()
		if b.Writable() {
			return 0, invalid("sourceUri", "The URL grants write access; give one that grants read access.")
		}
		return s.importVHD(ctx, file, atLeast, b.Size(), b, io.NewSectionReader(b, 0, b.Size()))
	}
	total, tail, err := s.tail(ctx, uri)
	if err != nil {
		return 0, err
	}
	resp, err := s.get(ctx, uri, "")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fetchFailed(uri, resp.Status)
	}
	return s.importVHD(ctx, file, atLeast, total, tail, resp.Body)
}

// Source is a URL of a VHD as it is read. One of this server's own storage accounts
// needs no signature if the caller may have the account's keys, with which any could
// be made.
func (s *Service) Source(ctx context.Context, caller millpond.Caller, uri, target string) (string, error) {
	if s.Own == nil || uri == "" {
		return uri, nil
	}
	if id, ok := s.Own.Account(ctx, uri); ok && s.Auth != nil {
		err := s.Auth.Authorize(ctx, caller, millpond.TypeStorageAccount+"/listKeys/action", id.String())
		if err != nil && millpond.KindOf(err) == millpond.Forbidden {
			// Whose the account is, is not told: the URL has no more than its name.
			linked := millpond.Errorf(millpond.Forbidden, "LinkedAuthorizationFailed", "%s is a blob of a storage account whose keys you may not have. Sign the URL ('az storage blob generate-sas --permissions r'), or let somebody who may assign roles give you one with %s/listKeys/action on the account, such as Storage Account Contributor.", ShownURI(uri), millpond.TypeStorageAccount)
			linked.Target = target
			return "", linked
		}
		if err != nil {
			return "", err
		}
	}
	return s.Own.Signed(ctx, uri)
}

// importVHD checks the footer at the end of a VHD of total bytes, which footerAt
// reads, and copies the disk that body begins with.
func (s *Service) importVHD(ctx context.Context, file string, atLeast, total int64, footerAt io.ReaderAt, body io.Reader) (int64, error) {
	// Another format by its first bytes, so that the refusal names it.
	ahead := bufio.NewReaderSize(body, 1<<20)
	if head, err := ahead.Peek(footer); err == nil {
		format, err := vhd.Detect(bytes.NewReader(head), footer)
		if err == nil && format != vhd.Raw && format != vhd.Fixed {
			return 0, notVHD(fmt.Errorf("they are a %s", format))
		}
	}
	size, err := checkFooter(footerAt, total)
	if err != nil {
		return 0, err
	}
	if err := s.Disks.Delete(file); err != nil {
		return 0, err
	}
	if err := s.Disks.Create(file, max(atLeast, size)); err != nil {
		return 0, err
	}
	f, err := s.Disks.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := copyData(ctx, f, ahead, size); err != nil {
		return 0, millpond.Errorf(millpond.Invalid, "BlobReadFailed", "The VHD ended or broke off before its %d bytes were read. Try again.", total).Because(err)
	}
	return size, f.Sync()
}

// checkFooter reads the last 512 bytes of a blob and returns the size of the
// fixed VHD that they describe.
func checkFooter(r io.ReaderAt, total int64) (int64, error) {
	if total < 2*footer {
		return 0, notVHD(fmt.Errorf("%d bytes are too few", total))
	}
	b := make([]byte, footer)
	if _, err := r.ReadAt(b, total-footer); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return total - footer, footerOf(b, total-footer)
}

func notVHD(cause error) error {
	return millpond.Errorf(millpond.Invalid, "InvalidVhd",
		"The bytes are not a fixed VHD: %v. Upload the file with 'millpond image upload FILE URL', which converts raw, dynamic VHD, VHDX and qcow2 files on the way, or convert it with 'millpond image export FILE --vhd OUT'.", cause)
}

// footerOf checks the footer of a fixed VHD that holds a disk of size bytes.
func footerOf(b []byte, size int64) error {
	f, err := vhd.ParseFooter(b)
	if err != nil {
		return notVHD(err)
	}
	if f.CurrentSize != size {
		return notVHD(fmt.Errorf("its footer says %d bytes and there are %d", f.CurrentSize, size))
	}
	return nil
}

// tail learns a URL's size and reads its last 512 bytes.
func (s *Service) tail(ctx context.Context, uri string) (int64, io.ReaderAt, error) {
	// Blob services know no range that counts from the end; other servers sign links
	// for GET alone.
	last := "bytes=-512"
	if head, err := s.do(ctx, http.MethodHead, uri, ""); err == nil {
		head.Body.Close()
		if n := head.ContentLength; head.StatusCode == http.StatusOK && n >= footer {
			last = fmt.Sprintf("bytes=%d-%d", n-footer, n-1)
		}
	}
	resp, err := s.get(ctx, uri, last)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		var from, to, total int64
		if n, _ := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); n != 3 || to-from+1 != footer || to+1 != total {
			return 0, nil, fetchFailed(uri, "an unusable Content-Range "+resp.Header.Get("Content-Range"))
		}
		b := make([]byte, footer)
		if _, err := io.ReadFull(resp.Body, b); err != nil {
			return 0, nil, fetchFailed(uri, err.Error())
		}
		return total, tailAt{b, from}, nil
	case http.StatusOK:
		// No ranges: read it all once to see the end. It is read again later,
		// which costs time but no memory and no disk.
		b, n, err := lastBytes(resp.Body)
		if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
			err = fmt.Errorf("it broke off after %d of %d bytes", n, resp.ContentLength)
		}
		if err != nil {
			return 0, nil, fetchFailed(uri, err.Error())
		}
		return n, tailAt{b, n - int64(len(b))}, nil
	}
	return 0, nil, fetchFailed(uri, resp.Status)
}

// tailAt serves reads at the end of something longer.
type tailAt struct {
	b   []byte
	off int64
}

func (t tailAt) ReadAt(p []byte, off int64) (int, error) {
	if off < t.off || off-t.off+int64(len(p)) > int64(len(t.b)) {
		return 0, io.ErrUnexpectedEOF
	}
	return copy(p, t.b[off-t.off:]), nil
}

func lastBytes(r io.Reader) (last []byte, total int64, err error) {
	buf := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(r, buf)
		total += int64(n)
		last = append(last, buf[:n]...)
		if len(last) > footer {
			last = append([]byte(nil), last[len(last)-footer:]...)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return last, total, nil
		}
		if err != nil {
			return nil, 0, err
		}
	}
}

func (s *Service) get(ctx context.Context, uri, byteRange string) (*http.Response, error) {
	return s.do(ctx, http.MethodGet, uri, byteRange)
}

func (s *Service) do(ctx context.Context, method, uri, byteRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, uri, nil)
	if err != nil {
		return nil, invalid("sourceUri", "%q is not a URL.", ShownURI(uri))
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL, which may hold a signature
		}
		return nil, fetchFailed(uri, err.Error())
	}
	return resp, nil
}

func fetchFailed(uri, why string) error {
	return millpond.Errorf(millpond.Invalid, "BlobReadFailed", "The server could not read %s: %s. Check that the URL is right, has not expired and can be reached from the server.", ShownURI(uri), why)
}
