package httpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/clock"
)

func authority(t *testing.T, dir string, c clock.Clock) *Authority {
	t.Helper()
	a, err := LoadAuthority(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"), c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// echo names itself and tells what it was told.
func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := azwire.FrontOf(r.Context())
		fmt.Fprintf(w, "%s %s base=%s account=%s region=%s", name, r.URL.EscapedPath(), f.BaseURL, f.Account, f.Region)
	})
}

func TestRequestsGoToTheirEdge(t *testing.T) {
	h := Handlers{Identity: echo("identity"), Metadata: echo("metadata"), ARM: echo("arm"), Graph: echo("graph"), Batch: echo("batch"), Blob: echo("blob"), Storage: echo("storage"), Node: echo("node"), Status: echo("status")}
	s := New(Config{Handlers: h, Clock: clock.System{}, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	for address, want := range map[string]string{
		"https://login.microsoftonline.com/t/oauth2/v2.0/token":              "identity /t/oauth2/v2.0/token base=https://login.microsoftonline.com",
		"https://LOGIN.windows.net/common/discovery/instance":                "identity ",
		"https://management.azure.com/subscriptions":                         "arm /subscriptions base=https://management.azure.com",
		"https://management.azure.com:443/anything":                          "arm /anything",
		"https://management.azure.com/Metadata/endpoints":                    "metadata ",
		"https://graph.microsoft.com/v1.0/me":                                "graph ",
		"https://acct.westus2.batch.azure.com/pools":                         "batch /pools base=https://acct.westus2.batch.azure.com account=acct region=westus2",
		"https://acct.westus2.service.batch.azure.com/pools":                 "batch /pools base=https://acct.westus2.service.batch.azure.com account=acct region=westus2",
		"https://md-1.z01.blob.storage.azure.net/c/abcd":                     "blob /c/abcd",
		"https://store.blob.core.windows.net/c/b":                            "storage /c/b",
		"https://pond.lan/acct/container/a%2Fb":                              "storage /acct/container/a%2Fb",
		"https://pond.lan/acct":                                              "storage /acct",
		"https://raw.githubusercontent.com/Azure/azure-rest-api-specs/x":     "404",
		"https://vault.vault.azure.net/secrets":                              "404",
		"https://127.0.0.1:7443/subscriptions/s/resourceGroups":              "arm /subscriptions/s/resourceGroups base=https://127.0.0.1:7443",
		"https://127.0.0.1:7443/providers/x":                                 "arm ",
		"https://127.0.0.1:7443//metadata/endpoints":                         "metadata ",
		"https://[::1]:7443/tenants":                                         "arm ",
		"https://pond.lan/00000000-0000-0000-0000-000000000000/oauth2/token": "identity ",
		"https://pond.lan/my.domain/.well-known/openid-configuration":        "identity ",
		"https://pond.lan/adfs/oauth2/token":                                 "identity ",
		"https://vm.westeurope.cloudapp.azure.com/v1.0/applications":         "graph ",
		"https://pond.lan:1/Batch/Acct.westus2/jobs/j/tasks/t/files/a%2Fb":   "batch /jobs/j/tasks/t/files/a%2Fb base=https://pond.lan:1/Batch/Acct.westus2 account=acct region=westus2",
		"https://pond.lan:1/batch/acct.westus2":                              "batch / ",
		"https://pond.lan/batch":                                             "404",
		"https://pond.lan/portal":                                            "404",
		"https://pond.lan/consumers/oauth2/v2.0/token":                       "identity ",
		"https://pond.lan/blob/x/y":                                          "blob /blob/x/y",
		"https://pond.lan/node/v1/channel":                                   "node /node/v1/channel",
		"https://pond.lan/":                                                  "status / ",
		"https://pond.lan/healthz":                                           "status /healthz",
		"https://pond.lan/favicon.ico":                                       "404",
	} {
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, httptest.NewRequest("GET", address, nil))
		if rec.Header().Get("x-ms-request-id") == "" || rec.Header().Get("request-id") == "" {
			t.Errorf("%s: no request id", address)
		}
		if want == "404" {
			if rec.Code != 404 || !json.Valid(rec.Body.Bytes()) {
				t.Errorf("%s: %d %s", address, rec.Code, rec.Body)
			}
		} else if !strings.HasPrefix(rec.Body.String(), want) {
			t.Errorf("%s: %s", address, rec.Body)
		}
	}
}

// running is a server on a loopback port and a client that trusts its CA and
// reaches it under any name.
func running(t *testing.T, h Handlers) (client *http.Client, address string, stop func() error, log *lockedBuffer) {
	t.Helper()
	a := authority(t, t.TempDir(), clock.System{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log = &lockedBuffer{}
	s := New(Config{Authority: a, Handlers: h, Clock: clock.System{}, Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(log, nil)), Grace: 5 * time.Second})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		}}
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { transport.CloseIdleConnections(); _ = stop() })
	return &http.Client{Transport: transport}, l.Addr().String(), stop, log
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Storage has no HTTP/2 in Azure, and its clients do not expect it.
func TestBlobsComeByHTTP1(t *testing.T) {
	client, _, _, _ := running(t, Handlers{Storage: echo("storage"), Blob: echo("blob")})
	for _, url := range []string{"https://acct.blob.core.windows.net/c/b", "https://md-1.blob.storage.azure.net/c/abcd"} {
		resp, err := client.Get(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.ProtoMajor != 1 {
			t.Errorf("%s: %s %s", url, resp.Proto, resp.Status)
		}
	}
}

func TestEveryNameHasItsCertificate(t *testing.T) {
	client, address, _, _ := running(t, Handlers{ARM: echo("arm"), Batch: echo("batch"), Status: echo("status")})
	for _, url := range []string{"https://management.azure.com/subscriptions", "https://acct.westus2.batch.azure.com/pools", "https://localhost/", "https://millpond.internal/", "https://" + address + "/"} {
		resp, err := client.Get(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
			t.Errorf("%s: %s %s", url, resp.Proto, resp.Status)
		}
	}
}

func TestPanicBecomesAnAnswerAndALogLine(t *testing.T) {
	client, _, _, log := running(t, Handlers{ARM: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("the reason") })})
	resp, err := client.Get("https://management.azure.com/x?sig=secret-signature")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 500 || strings.Contains(string(body), "the reason") || !strings.Contains(string(body), resp.Header.Get("x-ms-request-id")) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if got := log.String(); !strings.Contains(got, "the reason") || !strings.Contains(got, "status=500") || strings.Contains(got, "secret-signature") {
		t.Errorf("log: %s", got)
	}
}

// TestClientRequestID: it is told to who asks, in whatever case a language writes true.
func TestClientRequestID(t *testing.T) {
	for asks, want := range map[string]string{"true": "mine", "True": "mine", "TRUE": "mine", "false": "", "": ""} {
		s := New(Config{Handlers: Handlers{Batch: echo("batch")}, Clock: clock.System{}, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)})
		r := httptest.NewRequest("GET", "https://acct.westus2.batch.azure.com/pools", nil)
		r.Header.Set("client-request-id", "mine")
		r.Header.Set("return-client-request-id", asks)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if got := w.Header().Get("client-request-id"); got != want {
			t.Errorf("return-client-request-id: %q gives %q", asks, got)
		}
	}
}

func TestAnswersWithoutBodyHaveNone(t *testing.T) {
	client, _, _, _ := running(t, Handlers{ARM: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "HEAD" {
			azwire.WriteJSON(w, 404, "gone")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "4")
		w.WriteHeader(http.StatusNoContent)
		_, _ = w.Write([]byte("body"))
	})})
	for _, method := range []string{"DELETE", "HEAD", "DELETE"} {
		req, _ := http.NewRequest(method, "https://management.azure.com/x", nil)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(method, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(body) != 0 || (method == "DELETE" && resp.Header.Get("Content-Length") != "") {
			t.Errorf("%s: %v %q %v", method, err, body, resp.Header)
		}
	}
}

func TestNodeChannelLeavesHTTP(t *testing.T) {
	_, address, _, _ := running(t, Handlers{Node: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		line, _ := rw.ReadString('\n')
		fmt.Fprint(conn, "got "+line)
	})})
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) // trust is not what this test is about
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /node/v1/channel HTTP/1.1\r\nHost: millpond.internal\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	if line, err := r.ReadString('\n'); line != "got hello\n" {
		t.Errorf("%q %v", line, err)
	}
}

func TestStopLetsARequestFinish(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	client, _, stop, _ := running(t, Handlers{ARM: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		if r.Context().Err() != nil {
			w.WriteHeader(500)
		}
	})})
	status := make(chan int, 1)
	go func() {
		resp, err := client.Get("https://management.azure.com/x")
		if err != nil {
			status <- -1
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	<-entered
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	close(release)
	if got := <-status; got != 200 {
		t.Errorf("status %d", got)
	}
	client.CloseIdleConnections()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAuthorityIsKeptAndItsKeyIsPrivate(t *testing.T) {
	dir := t.TempDir()
	first := authority(t, dir, clock.System{})
	if !bytes.Equal(first.PEM(), authority(t, dir, clock.System{}).PEM()) {
		t.Error("a second start made another CA")
	}
	if fi, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
	ca := first.certificate
	if !ca.IsCA || len(ca.SubjectKeyId) == 0 || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("profile: %+v", ca)
	}
	l, err := first.certificateFor(&tls.ClientHelloInfo{ServerName: "Acct.WestUS2.batch.azure.com"})
	if err != nil {
		t.Fatal(err)
	}
	if l.Leaf.DNSNames[0] != "acct.westus2.batch.azure.com" || !bytes.Equal(l.Leaf.AuthorityKeyId, ca.SubjectKeyId) || l.Leaf.IsCA {
		t.Errorf("leaf: %+v", l.Leaf)
	}
	for _, bad := range []string{"a b", "x/../y", "*.azure.com", strings.Repeat("a", 254)} {
		if _, err := first.certificateFor(&tls.ClientHelloInfo{ServerName: bad}); err == nil {
			t.Errorf("minted %q", bad)
		}
	}
}

func TestLeavesAreCachedBoundedAndRenewed(t *testing.T) {
	c := clock.NewManual(time.Now())
	a := authority(t, t.TempDir(), c)
	get := func(name string) *tls.Certificate {
		cert, err := a.certificateFor(&tls.ClientHelloInfo{ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := get("a.test")
	if get("a.test") != first {
		t.Error("not cached")
	}
	for i := range maxLeaves {
		get(fmt.Sprintf("n%d.test", i))
	}
	if a.recent.Len() != maxLeaves || len(a.leaves) != maxLeaves || get("a.test") == first {
		t.Errorf("cache of %d", a.recent.Len())
	}
	second := get("a.test")
	c.Advance(leafLife - renewBefore/2)
	if get("a.test") == second {
		t.Error("not renewed before it expires")
	}
}
