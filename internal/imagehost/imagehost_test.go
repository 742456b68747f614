package imagehost

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/process"
)

const testCache = 64 << 20

// The test binary is also the image host's command: image-host DIR VERSION BYTES.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "image-host" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		bytes, _ := strconv.ParseInt(os.Args[4], 10, 64)
		err := Run(ctx, Config{Dir: os.Args[2], Version: os.Args[3], CacheBytes: bytes, Ready: os.NewFile(3, "ready"), OpenStore: openStore,
			Clock: clock.System{}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func openStore(ctx context.Context, p Place) (cache.Store, error) {
	return chunkstore.Open(ctx, p.Name, p.URL)
}

func newRunner(t *testing.T, dir, version string) *Runner {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRunner(RunnerConfig{Dir: dir, Version: version, CacheBytes: testCache, Log: slog.New(slog.DiscardHandler),
		Command: []string{self, "image-host", dir, version, strconv.Itoa(testCache)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = NewClient(dir).Stop(context.Background(), true)
		r.Close()
		if h, err := LoadHandle(dir); err == nil {
			_ = r.kill(context.Background(), h.Process)
		}
	})
	return r
}

// source is a disk in memory.
type source []byte

func (s source) ReadAt(p []byte, off int64) (int, error) { return copy(p, s[off:]), nil }
func (s source) Size() int64                             { return int64(len(s)) }

// stored puts a disk of random bytes and a hole into a new store.
func stored(t *testing.T, name string, data []byte) (Place, image.ContentID) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	s, err := chunkstore.Open(context.Background(), name, dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Ingest(context.Background(), source(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	return Place{Name: name, URL: s.URL()}, c.ID
}

func disk(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(b[:size/2])
	_, _ = rand.NewChaCha8([32]byte{4}).Read(b[size-1000:])
	return b
}

// qemu copies an export with QEMU's own tool.
func qemu(t *testing.T, socket, export string) ([]byte, error) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (Debian: apt install qemu-utils)")
	}
	out := filepath.Join(t.TempDir(), "out.raw")
	msg, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "raw", "nbd+unix:///"+export+"?socket="+socket, out).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, msg)
	}
	return os.ReadFile(out)
}

func TestServesContentsAndOutlivesItsStarter(t *testing.T) {
	ctx := context.Background()
	data := disk(9<<20 + 512)
	a, id := stored(t, "a", data)
	dir := t.TempDir()
	r := newRunner(t, dir, "1")
	if err := r.Provide(ctx, []Export{{Name: string(id), Kind: Content, Stores: []Place{a}}}); err != nil {
		t.Fatal(err)
	}
	got, err := qemu(t, r.Socket(), string(id))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the export is not the content: %v", err)
	}
	st, err := r.Client().Export(ctx, string(id))
	// The end of the connection is noticed a moment after that of the client.
	for until := time.Now().Add(10 * time.Second); err == nil && st.Clients > 0 && time.Now().Before(until); {
		st, err = r.Client().Export(ctx, string(id))
	}
	if err != nil || st.Read == nil || st.Read.Touched != st.Read.Chunks || st.Clients != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	health, err := r.Client().Health(ctx)
	if err != nil || health.Version != "1" {
		t.Fatalf("%+v, %v", health, err)
	}

	// Its starter ends and another one finds it, with the same exports.
	r.Close()
	again := newRunner(t, dir, "1")
	if err := again.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	if h, err := again.Client().Health(ctx); err != nil || h.Process != health.Process {
		t.Errorf("the process was replaced: %+v, %v", h, err)
	}
	// A build of another version replaces it; the exports and chunks stay.
	next := newRunner(t, dir, "2")
	again.Close()
	if err := next.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	h, err := next.Client().Health(ctx)
	if err != nil || h.Process == health.Process || h.Version != "2" {
		t.Fatalf("%+v, %v", h, err)
	}
	if got, err := qemu(t, next.Socket(), string(id)); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("after the replacement: %v", err)
	}
	if s, err := next.Client().Stats(ctx); err != nil || s.Chunks == 0 || len(s.Stores) != 1 || s.Stores[0].Chunks != 0 {
		t.Errorf("the chunks were fetched again: %+v, %v", s, err)
	}
	if err := next.Keep(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := qemu(t, next.Socket(), string(id)); err == nil || !strings.Contains(err.Error(), "does not serve this") {
		t.Errorf("an ended export: %v", err)
	}
	if err := next.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := process.Find(h.Process); err == nil {
		t.Error("the process lives after Stop")
	}
}

// A process that is killed is there again, with what it served; its clients
// connect anew.
func TestKilledProcessComesBack(t *testing.T) {
	ctx := context.Background()
	data := disk(4 << 20)
	a, id := stored(t, "a", data)
	r := newRunner(t, t.TempDir(), "1")
	if err := r.Provide(ctx, []Export{{Name: string(id), Kind: Content, Stores: []Place{a}}}); err != nil {
		t.Fatal(err)
	}
	h, err := r.Client().Health(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Find(h.Process)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if now, err := r.Client().Health(ctx); err == nil && now.Process != h.Process {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no new process came")
		}
	}
	if got, err := qemu(t, r.Socket(), string(id)); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("after the crash: %v", err)
	}
}

func TestStopWaitsForMachines(t *testing.T) {
	ctx := context.Background()
	a, id := stored(t, "a", disk(1<<20))
	r := newRunner(t, t.TempDir(), "1")
	if err := r.Provide(ctx, []Export{{Name: string(id), Kind: Content, Stores: []Place{a}}}); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", r.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// EXPORT_NAME, by hand: the client is there as long as the connection.
	if _, err := c.Write(slices.Concat([]byte{0, 0, 0, 3}, []byte("IHAVEOPT"), []byte{0, 0, 0, 1, 0, 0, 0, 64}, []byte(id))); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 28)
	if n, err := c.Read(answer); err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if st, err := r.Client().Export(ctx, string(id)); err == nil && st.Clients == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the client is not counted")
		}
	}
	if err := r.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Client().Health(ctx); err != nil {
		t.Fatalf("it ended under its client: %v", err)
	}
	// An export that is in use goes with its last client.
	if err := r.Keep(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Client().Export(ctx, string(id)); err != nil {
		t.Errorf("the export went under its client: %v", err)
	}
	c.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := r.Client().Export(ctx, string(id)); millpond.KindOf(err) == millpond.NotFound && err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the export did not go with its client")
		}
	}
	if err := r.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Client().Health(ctx); err == nil {
		t.Error("it lives after Stop")
	}
}

func TestMetrics(t *testing.T) {
	ctx := context.Background()
	a, id := stored(t, "a", disk(3<<20))
	r := newRunner(t, t.TempDir(), "1")
	reg := prometheus.NewRegistry()
	reg.MustRegister(NewCollector(r.Client()))
	if all, err := reg.Gather(); err != nil || len(all) != 1 || all[0].GetName() != "millpond_image_host_up" {
		t.Errorf("without a process: %v, %v", all, err)
	}
	if err := r.Provide(ctx, []Export{{Name: string(id), Kind: Content, Stores: []Place{a}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := qemu(t, r.Socket(), string(id)); err != nil {
		t.Fatal(err)
	}
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(all)
	for _, want := range []string{"millpond_image_cache_chunks_total", "millpond_image_store_read_bytes_total", `value:"a"`, "millpond_image_cache_limit_bytes"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	a, id := stored(t, "a", disk(1<<20))
	r := newRunner(t, t.TempDir(), "1")
	if err := r.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	c := r.Client()
	missing := strings.Repeat("0", 64)
	for _, bad := range []struct {
		e    Export
		code string
		says string
	}{
		{Export{Name: missing, Kind: Content, Stores: []Place{a}}, CodeUnreadable, "store a"},
		{Export{Name: string(id), Kind: Content, Stores: []Place{{Name: "b", URL: "gopher://x"}}}, CodeUnreadable, "store b"},
		{Export{Name: string(id), Kind: Content}, "InvalidExport", "needs a store"},
		{Export{Name: "../x", Kind: Content, Stores: []Place{a}}, "InvalidExport", ""},
		{Export{Name: string(id), Kind: "tape", Stores: []Place{a}}, "InvalidExport", "tape"},
	} {
		_, err := c.Register(ctx, bad.e)
		if e := millpond.AsError(err); err == nil || e.Code != bad.code || !strings.Contains(e.Message, bad.says) {
			t.Errorf("%+v: %v", bad.e, err)
		}
	}
	if _, err := c.Export(ctx, missing); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("an export that is not there: %v", err)
	}
	if err := Run(ctx, Config{Dir: r.cfg.Dir}); err == nil {
		t.Error("a second process took the folder")
	}
}

// A process whose folder has gone ends by itself.
func TestEndsWithItsFolder(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "d")
	r := newRunner(t, dir, "1")
	if err := r.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	h, err := r.Client().Health(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	p, err := process.Find(h.Process)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := p.Wait(limit); err != nil {
		t.Error("the process stays without its folder")
	}
}

func FuzzExports(f *testing.F) {
	f.Add([]byte(`{"version":1,"exports":[{"name":"` + strings.Repeat("a", 64) + `","kind":"content","stores":[{"name":"a","url":"file:///x"}]}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseExports(b)
		for _, e := range list {
			if err == nil && e.check() != nil {
				t.Fatalf("%+v is taken", e)
			}
		}
	})
}

// What cannot be written down is not served, and is written by the next registration.
func TestRegistrationIsWrittenOrRefused(t *testing.T) {
	h := &host{cfg: Config{Dir: t.TempDir()}, exports: map[string]*export{}}
	e := Export{Name: strings.Repeat("ab", 32), Kind: Content, Stores: []Place{{Name: "a", URL: "/a"}}}
	blocker := filepath.Join(h.cfg.Dir, exportsFile)
	block := func() {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(blocker, "not", "empty"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	saved := func() []Export {
		t.Helper()
		list, err := loadExports(h.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	block()
	if _, err := h.enter(e); err == nil || len(h.exports) != 0 {
		t.Fatalf("%v, %v", err, h.exports)
	}
	if err := os.RemoveAll(blocker); err != nil {
		t.Fatal(err)
	}
	if _, err := h.enter(e); err != nil || len(saved()) != 1 {
		t.Fatalf("%v, %v", err, saved())
	}
	other := e
	other.Stores = []Place{{Name: "b", URL: "/b"}}
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	block()
	if _, err := h.enter(other); err == nil || h.exports[e.Name].Stores[0].Name != "a" {
		t.Fatalf("%v, %v", err, h.exports[e.Name])
	}
	if err := os.RemoveAll(blocker); err != nil {
		t.Fatal(err)
	}
	if _, err := h.enter(other); err != nil || saved()[0].Stores[0].Name != "b" {
		t.Fatalf("%v, %v", err, saved())
	}
}
