// Package lab starts a real server on a data folder of its own for the tests
// that use real clients and real virtual machines, and runs those clients. It
// waits on conditions with a bound and ends only what it started.
package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a running `millpond serve`.
type Server struct {
	t    testing.TB
	Root string // the repository
	Bin  string
	Data string
	// Addr is host:port of the running server.
	Addr  string
	Creds Credentials

	args []string
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	log  *os.File
}

// Credentials is the administrator's file.
type Credentials struct {
	TenantID       string `json:"tenantId"`
	ClientID       string `json:"clientId"`
	ClientSecret   string `json:"clientSecret"`
	SubscriptionID string `json:"subscriptionId"`
}

// Root is the repository's root, found from the test's folder.
func Root(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
}

// Start runs a server with extra arguments; it is stopped, with its machines,
// at the test's end. The server's log is printed if the test failed.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := New(t, args...)
	s.Serve()
	return s
}

// New prepares a server without starting it.
func New(t testing.TB, args ...string) *Server {
	t.Helper()
	root := Root(t)
	bin := filepath.Join(root, "bin", "millpond")
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("%s is not there; run make build", bin)
	}
	// Not t.TempDir: its path is long, and sockets of machines lie below it.
	data, err := os.MkdirTemp("", "mp-")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, Root: root, Bin: bin, Data: data, args: args}
	s.log, err = os.Create(filepath.Join(data, "serve.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(s.log.Name())
			t.Logf("the server's log (last 200 lines):\n%s", tail(string(text), 200))
		}
		s.log.Close()
		if os.Getenv("MILLPOND_KEEP") == "" {
			os.RemoveAll(data)
		} else {
			t.Logf("kept %s", data)
		}
	})
	return s
}

func tail(s string, n int) string {
	lines := strings.Split(s, "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// Serve starts the server process and waits for its line.
func (s *Server) Serve() {
	s.t.Helper()
	args := append([]string{"serve", "--data", s.Data, "--listen", "127.0.0.1:0", "--on-stop", "stop", "--log-level", "debug"}, s.args...)
	if s.Addr != "" { // a restart keeps the address, so that clients find it again
		args = append(args, "--listen", s.Addr)
	}
	cmd := exec.Command(s.Bin, args...)
	cmd.Stderr = s.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ready := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		buf := make([]byte, 4096)
		n, _ := out.Read(buf)
		ready <- string(buf[:n])
		for {
			if _, err := out.Read(buf); err != nil {
				break
			}
		}
		_ = cmd.Wait()
		close(done)
	}()
	s.mu.Lock()
	s.cmd, s.done = cmd, done
	s.mu.Unlock()
	select {
	case line := <-ready:
		if line == "" {
			s.t.Fatalf("serve ended at once; its log:\n%s", s.Log())
		}
	case <-time.After(60 * time.Second):
		s.t.Fatalf("serve was not ready in a minute; its log:\n%s", s.Log())
	}
	addr, err := os.ReadFile(filepath.Join(s.Data, "endpoint"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Addr = strings.TrimSpace(string(addr))
	text, err := os.ReadFile(filepath.Join(s.Data, "credentials.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &s.Creds); err != nil {
		s.t.Fatal(err)
	}
}

// Pid is the server's process id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Log is what the server has logged so far.
func (s *Server) Log() string {
	text, _ := os.ReadFile(s.log.Name())
	return string(text)
}

// Kill ends the server as a crash would.
func (s *Server) Kill() {
	s.signal(syscall.SIGKILL, 10*time.Second)
}

// Stop ends the server in order, its machines too.
func (s *Server) Stop() { s.signal(syscall.SIGTERM, 60*time.Second) }

func (s *Server) signal(sig syscall.Signal, bound time.Duration) {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(sig)
	select {
	case <-done:
	case <-time.After(bound):
		_ = cmd.Process.Kill()
		<-done
		s.t.Errorf("serve did not end within %s of %s", bound, sig)
	}
}

// Wait polls cond until it is true; a test fails after bound, with what cond
// said last.
func Wait(t testing.TB, bound time.Duration, what string, cond func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(bound)
	for {
		ok, last := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s not: %s; last seen: %s", bound, what, last)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Result is what a command did.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command with the environment of `millpond exec`.
func (s *Server) Run(command ...string) Result {
	s.t.Helper()
	return s.RunBin(append([]string{"exec", "--data", s.Data, "--"}, command...)...)
}

// RunBin runs millpond itself, for 10 minutes at most.
func (s *Server) RunBin(args ...string) Result {
	s.t.Helper()
	return s.runBin(10*time.Minute, args)
}

// RunLong is Run with a limit of its own, for whole suites.
func (s *Server) RunLong(limit time.Duration, command ...string) Result {
	s.t.Helper()
	return s.runBin(limit, append([]string{"exec", "--data", s.Data, "--"}, command...))
}

func (s *Server) runBin(limit time.Duration, args []string) Result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Bin, args...)
	cmd.Dir = s.Data
	cmd.Env = append(os.Environ(), "MILLPOND_DATA="+s.Data)
	// A child of exec may outlive it, and would keep the pipes.
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := Result{out.String(), errs.String(), 0}
	if err != nil {
		r.Code = -1
		if cmd.ProcessState != nil {
			r.Code = cmd.ProcessState.ExitCode()
		}
	}
	return r
}

// Az runs the current az under exec; it must succeed.
func (s *Server) Az(args ...string) string {
	s.t.Helper()
	return s.must(append([]string{s.AzPath()}, args...))
}

// OldAz runs Debian's az under exec; it must succeed.
func (s *Server) OldAz(args ...string) string {
	s.t.Helper()
	return s.must(append([]string{"/usr/bin/az"}, args...))
}

func (s *Server) must(command []string) string {
	s.t.Helper()
	r := s.Run(command...)
	if r.Code != 0 {
		s.t.Fatalf("%s\nexit code %d\n%s%s", strings.Join(command, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// AzRefused runs the current az, which must fail; it returns what az printed.
func (s *Server) AzRefused(args ...string) string {
	s.t.Helper()
	r := s.Run(append([]string{s.AzPath()}, args...)...)
	if r.Code == 0 {
		s.t.Fatalf("az %s was not refused:\n%s", strings.Join(args, " "), r.Stdout)
	}
	return r.Stderr
}

// AzPath is the current az that scripts/install made.
func (s *Server) AzPath() string { return filepath.Join(s.Root, ".cache", "az", "bin", "az") }

// AzJSON runs az and decodes what it printed.
func (s *Server) AzJSON(into any, args ...string) {
	s.t.Helper()
	out := s.Az(append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		s.t.Fatalf("az %s printed no JSON: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// HTTPClient trusts the server's authority and uses no proxy.
func (s *Server) HTTPClient() *http.Client {
	pem, err := os.ReadFile(filepath.Join(s.Data, "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		s.t.Fatal("ca.pem holds no certificate")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// TinyVHD is a tiny image that says it is the given OS release, as fixed VHD,
// built once per repository.
func (s *Server) TinyVHD(release string) string {
	s.t.Helper()
	return s.baseVHD("tiny", "--os-release", release)
}

// DebianVHD is the debian-12 image as fixed VHD.
func (s *Server) DebianVHD(flags ...string) string {
	s.t.Helper()
	return s.baseVHD("debian-12", flags...)
}

func (s *Server) baseVHD(name string, flags ...string) string {
	s.t.Helper()
	cache := filepath.Join(s.Root, ".cache", "images")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		s.t.Fatal(err)
	}
	stem := filepath.Join(cache, strings.NewReplacer(" ", "", "--", "-").Replace("test-"+name+strings.Join(flags, "-")))
	build := append([]string{"image", "build", name, "--cache", cache, "--out", stem + ".raw"}, flags...)
	if r := s.RunBin(build...); r.Code != 0 {
		s.t.Fatalf("millpond %s: %s%s", strings.Join(build, " "), r.Stdout, r.Stderr)
	}
	if r := s.RunBin("image", "export", stem+".raw", "--vhd", stem+".vhd"); r.Code != 0 {
		s.t.Fatalf("image export: %s%s", r.Stdout, r.Stderr)
	}
	return stem + ".vhd"
}

// Descendants lists the live processes whose command line names the data folder.
func (s *Server) Descendants(contains string) []int {
	s.t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(cmdline) == 0 {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		text := strings.ReplaceAll(string(cmdline), "\x00", " ")
		if strings.Contains(text, contains) && (strings.Contains(text, s.Data) || strings.HasPrefix(cwd, s.Data)) {
			pids = append(pids, pid)
		}
	}
	return pids
}
