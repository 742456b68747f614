package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestDownloadGoesOn breaks a download off and goes on with it: what is there is
// not read again, and what breaks once is tried again.
func TestDownloadGoesOn(t *testing.T) {
	want := make([]byte, 50<<20)
	for _, at := range []int{0, 9 << 20, 33 << 20, 49 << 20} {
		copy(want[at:], bytes.Repeat([]byte("pond"), 1000))
	}
	var reads, broken atomic.Int64
	broken.Store(3) // the third read fails for good
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("comp") == "pagelist" {
			fmt.Fprint(w, `<PageList>`)
			for _, at := range []int{0, 9 << 20, 33 << 20, 49 << 20} {
				fmt.Fprintf(w, `<PageRange><Start>%d</Start><End>%d</End></PageRange>`, at, at+4095)
			}
			fmt.Fprint(w, `<NextMarker/></PageList>`)
			return
		}
		if r.Method == http.MethodGet {
			if n := reads.Add(1); broken.Load() > 0 && n >= broken.Load() || n == 2 {
				http.Error(w, "broken", http.StatusServiceUnavailable)
				return
			}
			r.Header.Set("Range", r.Header.Get("x-ms-range"))
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(want))
	}))
	defer srv.Close()
	u, _ := url.Parse(srv.URL + "/c/b?sig=x")
	out, err := os.Create(filepath.Join(t.TempDir(), "part"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	run := func() (int64, error) {
		return (&download{blob: &uploader{client: srv.Client(), url: u}, out: out}).run(t.Context())
	}
	if _, err := run(); err == nil {
		t.Fatal("it went through")
	}
	if st, err := out.Stat(); err != nil || st.Size()%window != 0 || st.Size() >= int64(len(want)) {
		t.Fatalf("%v, %v", st, err)
	}
	broken.Store(0)
	// As if the first run had got through its first window.
	if _, err := out.WriteAt(want[:window], 0); err != nil {
		t.Fatal(err)
	}
	reads.Store(10)
	size, err := run()
	if err != nil || size != int64(len(want)) {
		t.Fatalf("%d, %v", size, err)
	}
	if n := reads.Load() - 10; n != 2 {
		t.Errorf("%d reads for two ranges that were not there", n)
	}
	got, err := os.ReadFile(out.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes (%d), %v", len(got), err)
	}
}
