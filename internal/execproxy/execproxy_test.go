package execproxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// proxied starts a proxy before a server that echoes what it gets, upper case.
func proxied(t *testing.T, p *Proxy) (address string) {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				all, _ := io.ReadAll(c)
				_, _ = c.Write(bytes.ToUpper(all))
			}()
		}
	}()
	if p.Server == nil {
		p.Server = func() (string, error) { return server.Addr().String(), nil }
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func connect(t *testing.T, proxy, target string) (net.Conn, *bufio.Reader, int) {
	t.Helper()
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	// The first bytes of the tunnel come with the request, as some clients send them.
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\nhello ", target, target)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	return c, r, resp.StatusCode
}

func TestAzureHostsAreTunnelled(t *testing.T) {
	proxy := proxied(t, &Proxy{})
	for _, host := range []string{"management.azure.com", "login.microsoftonline.com", "graph.microsoft.com", "acct.westus2.batch.azure.com", "s.blob.core.windows.net", "aka.ms"} {
		c, r, status := connect(t, proxy, host+":443")
		if status != 200 {
			t.Errorf("%s: %d", host, status)
			continue
		}
		fmt.Fprint(c, "world")
		_ = c.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(r); err != nil || string(got) != "HELLO WORLD" {
			t.Errorf("%s: %q %v", host, got, err)
		}
	}
}

func TestOtherHostsAreRefusedOnceAloud(t *testing.T) {
	var notice bytes.Buffer
	proxy := proxied(t, &Proxy{Notice: &notice})
	for _, target := range []string{"example.com:443", "EXAMPLE.com:443", "127.0.0.1:22", "vault.azure.net:443", "management.azure.com:22", "azure.microsoft.com:443"} {
		if _, _, status := connect(t, proxy, target); status != 403 {
			t.Errorf("%s: %d", target, status)
		}
	}
	if got := strings.ToLower(notice.String()); strings.Count(got, "example.com") != 1 || !strings.Contains(got, "--allow-internet") || strings.Contains(got, "azure.microsoft.com") {
		t.Errorf("notice: %s", got)
	}
}

func TestServerThatIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	proxy := proxied(t, &Proxy{Server: func() (string, error) { return gone, nil }})
	if _, _, status := connect(t, proxy, "management.azure.com:443"); status != 502 {
		t.Errorf("%d", status)
	}
}

func TestEnvironmentLeadsToMillpondOnly(t *testing.T) {
	got := Environment([]string{"PATH=/bin", "HTTPS_PROXY=http://corp", "no_proxy=azure.com", "AZURE_CLIENT_CERTIFICATE_PATH=x", "AZURE_TENANT_ID=real", "AZURE_BATCH_ACCOUNT=mine", "SSL_CERT_DIR=/x", "JAVA_TOOL_OPTIONS=-Xmx1g"},
		Surroundings{Identity: Identity{"t", "c", "s", "sub", "n"}, ProxyURL: "http://127.0.0.1:9", CAFile: "/d/ca.pem", BundleFile: "/d/b.pem", TrustStore: "/d e/b.jks", AzDir: "/d/az"})
	for _, want := range []string{"PATH=/bin", "AZURE_BATCH_ACCOUNT=mine", "HTTPS_PROXY=http://127.0.0.1:9", "https_proxy=http://127.0.0.1:9", "AZURE_TENANT_ID=t", "AZURE_CLIENT_SECRET=s",
		"REQUESTS_CA_BUNDLE=/d/b.pem", "SSL_CERT_FILE=/d/b.pem", "NODE_EXTRA_CA_CERTS=/d/ca.pem", "AZURE_CONFIG_DIR=/d/az", "AZURE_SUBSCRIPTION_ID=sub", "no_proxy=" + noProxy,
		`JAVA_TOOL_OPTIONS=-Xmx1g -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=9 -Dhttp.nonProxyHosts=localhost|127.*|[::1] -Djavax.net.ssl.trustStoreType=JKS -Djavax.net.ssl.trustStore="/d e/b.jks"`} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
	names := map[string]int{}
	for _, kv := range got {
		name, _, _ := strings.Cut(kv, "=")
		names[name]++
	}
	for name, n := range names {
		if n > 1 {
			t.Errorf("%s is there %d times", name, n)
		}
	}
	if names["AZURE_CLIENT_CERTIFICATE_PATH"]+names["SSL_CERT_DIR"]+names["AZURE_EXTENSION_DIR"] != 0 {
		t.Errorf("leads elsewhere: %v", got)
	}
}

func TestAzIsSignedInAndKeepsItsSettings(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "az")
	who := Identity{"tenant", "client", "secret", "sub", "Name"}
	if err := SignInAz(dir, who, "install"); err != nil {
		t.Fatal(err)
	}
	var profile struct {
		InstallationID string
		Subscriptions  []struct {
			ID, TenantID, EnvironmentName, State string
			IsDefault                            bool
			User                                 struct{ Name, Type string }
		}
	}
	read := func() {
		t.Helper()
		profile.Subscriptions = nil
		if err := readJSON(filepath.Join(dir, "azureProfile.json"), &profile); err != nil {
			t.Fatal(err)
		}
	}
	read()
	s := profile.Subscriptions
	if len(s) != 1 || !s[0].IsDefault || s[0].User.Type != "servicePrincipal" || s[0].User.Name != "client" || s[0].EnvironmentName != "AzureCloud" || profile.InstallationID != "install" {
		t.Errorf("%+v", profile)
	}
	// az rewrites its files with a byte order mark; the user sets a default.
	data, _ := os.ReadFile(filepath.Join(dir, "azureProfile.json"))
	if err := os.WriteFile(filepath.Join(dir, "azureProfile.json"), append([]byte("\xef\xbb\xbf"), data...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("[defaults]\ngroup = mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	who.Secret = "renewed"
	who.Subscription = "sub2"
	for range 2 {
		if err := SignInAz(dir, who, "other"); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if len(profile.Subscriptions) != 2 || !profile.Subscriptions[0].IsDefault || profile.Subscriptions[1].IsDefault || profile.InstallationID != "install" {
		t.Errorf("%+v", profile)
	}
	if config, _ := os.ReadFile(filepath.Join(dir, "config")); !strings.Contains(string(config), "mine") {
		t.Error("the user's settings were lost")
	}
	var entries []map[string]string
	secrets, _ := os.ReadFile(filepath.Join(dir, "service_principal_entries.json"))
	if err := json.Unmarshal(secrets, &entries); err != nil || len(entries) != 1 || entries[0]["client_secret"] != "renewed" {
		t.Errorf("%v %s", err, secrets)
	}
	for _, name := range []string{"azureProfile.json", "service_principal_entries.json"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
}

func TestBundleHasBothAndIsLeftAloneWhenUnchanged(t *testing.T) {
	dir := t.TempDir()
	ca, users, bundle := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "users.pem"), filepath.Join(dir, "bundle.pem")
	if err := os.WriteFile(ca, []byte("MILLPOND\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(users, []byte("USERS"), 0o600); err != nil {
		t.Fatal(err)
	}
	var before os.FileInfo
	for range 2 {
		if err := WriteBundle(bundle, ca, users); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(bundle)
		if err != nil || (before != nil && !os.SameFile(before, fi)) {
			t.Errorf("replaced: %v", err)
		}
		before = fi
	}
	if got, _ := os.ReadFile(bundle); string(got) != "USERS\nMILLPOND\n" {
		t.Errorf("%q", got)
	}
}

func TestChildsExitCode(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 143} {
		if got, err := RunChild([]string{"/bin/sh", "-c", script}, os.Environ()); got != want || err != nil {
			t.Errorf("%s: %d %v", script, got, err)
		}
	}
	if got, err := RunChild([]string{"millpond-no-such-program"}, nil); got != 127 || err == nil {
		t.Errorf("missing: %d %v", got, err)
	}
	if got, err := RunChild([]string{t.TempDir()}, nil); got != 126 || err == nil {
		t.Errorf("a folder: %d %v", got, err)
	}
}

// Java's own tool reads the store, and its password is the one that is usual.
func TestTrustStore(t *testing.T) {
	keytool, err := exec.LookPath("keytool")
	if err != nil {
		t.Skip("no Java here")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "store"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bundle, store := filepath.Join(dir, "b.pem"), filepath.Join(dir, "b.jks")
	text := append([]byte("# a comment\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no certificate")})...)
	if err := os.WriteFile(bundle, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteTrustStore(store, bundle); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keytool, "-list", "-v", "-keystore", store, "-storepass", storePassword).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "contains 1 entry") || !strings.Contains(string(out), "CN=store") {
		t.Errorf("%v\n%s", err, out)
	}
}
