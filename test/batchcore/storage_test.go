package batchcore

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/httpd"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/storage"
	"millpond.dev/millpond/internal/storageapi"
	"millpond.dev/millpond/test/lab"
)

// store is one storage account before an emulator, with the door through which
// nodes reach it.
type store struct {
	t       *testing.T
	account *millpond.StorageAccount
	behind  *storage.Backend
	address string
	ca      []byte
}

func newStore(t *testing.T) *store {
	t.Helper()
	behind, err := storage.NewBackend(lab.Azurite(t), "", http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	a := &millpond.StorageAccount{Keys: [2]string{"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="}, SharedKey: true}
	a.ID, _ = millpond.ParseResourceID("/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/store")
	s := &store{t: t, account: a, behind: behind}
	dir := t.TempDir()
	authority, err := httpd.LoadAuthority(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"), clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	edge := storageapi.New(storageapi.Options{Accounts: s, Behind: behind, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
	srv := &http.Server{Handler: edge, TLSConfig: authority.TLS()}
	go func() { _ = srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { srv.Close() })
	s.address, s.ca = l.Addr().String(), authority.PEM()
	return s
}

func (s *store) Lookup(_ context.Context, name string) (*millpond.StorageAccount, error) {
	if name != "store" {
		return nil, millpond.Errorf(millpond.NotFound, "ResourceNotFound", "no account")
	}
	return s.account, nil
}

// Container implements node.Links: every Batch account is linked to this one.
func (s *store) Container(_ context.Context, _ millpond.AccountName, name string) (string, error) {
	return s.link(name, "rl"), nil
}

func (s *store) Reachable(link string) string { return storage.ToAzure(link, []string{"direct:1"}) }

func (s *store) link(name, permissions string) string {
	s.t.Helper()
	u, err := storage.Link(s.account, blobsign.Place{Container: name}, blobsign.Grant{Permissions: permissions, Expiry: time.Now().Add(time.Hour)})
	if err != nil {
		s.t.Fatal(err)
	}
	return u
}

// container makes a container with blobs.
func (s *store) container(name string, blobs map[string]string) *container.Client {
	s.t.Helper()
	c := s.behind.Container("store", name)
	if err := storage.Ensure(ctx, c); err != nil {
		s.t.Fatal(err)
	}
	for b, text := range blobs {
		if _, err := c.NewBlockBlobClient(b).UploadBuffer(ctx, []byte(text), nil); err != nil {
			s.t.Fatal(err)
		}
	}
	return c
}

// read is a blob's text, or the code of why there is none.
func (s *store) read(c *container.Client, name string) string {
	s.t.Helper()
	resp, err := c.NewBlobClient(name).DownloadStream(ctx, nil)
	if bloberror.HasCode(err, bloberror.BlobNotFound) {
		return "BlobNotFound"
	}
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// TestFilesFromAndToContainers: resource files from containers and the linked
// storage, output files by condition, and what the user is told when they fail.
func TestFilesFromAndToContainers(t *testing.T) {
	s := newStore(t)
	h, path, clk := newHall(), filepath.Join(t.TempDir(), "state.db"), newShifted()
	h.real, h.links = t.TempDir(), s
	c := start(t, path, h, clk, node.Config{Listener: s.address, ServerCA: s.ca, AzureHosts: azwire.ServedHosts()})
	t.Cleanup(func() {
		c.stop()
		h.close()
	})
	s.container("in", map[string]string{"a.txt": "a", "dir/b.txt": "b", "dir/deep/c.txt": "c", "other/d": "d", "dir/": ""})
	out := s.container("out", nil)
	c.addPool("p", 1, nil)
	c.idle("p", 1)
	c.addJob("j", "p", nil)
	end := func(id string) millpond.Task {
		t.Helper()
		return c.taskIn("j", id, millpond.TaskCompleted)
	}
	files := func(f ...millpond.ResourceFile) func(*millpond.TaskSpec) {
		return func(t *millpond.TaskSpec) { t.ResourceFiles = f }
	}
	send := func(f ...millpond.OutputFile) func(*millpond.TaskSpec) {
		return func(t *millpond.TaskSpec) { t.OutputFiles = f }
	}
	to := s.link("out", "cw")

	c.addTask("j", "both", `/bin/sh -c 'cat in/a.txt in/dir/b.txt auto/dir/deep/c.txt one; test ! -e auto/a.txt; mkdir -p r/x; echo deep > r/x/y.txt; echo top > r/y.txt; : > empty; ln -s /etc/passwd r/x/link.txt'`, func(t *millpond.TaskSpec) {
		files(millpond.ResourceFile{ContainerURL: s.link("in", "rl"), FilePath: "in"}, millpond.ResourceFile{AutoContainer: "in", BlobPrefix: "dir/deep", FilePath: "auto", FileMode: "0640"},
			millpond.ResourceFile{URL: strings.Replace(s.link("in", "r"), "/in?", "/in/other/d?", 1), FilePath: "one"})(t)
		send(millpond.OutputFile{Pattern: "../std*.txt", ContainerURL: to, Path: "logs/both", Condition: "taskcompletion"},
			millpond.OutputFile{Pattern: "r/**/*.txt", ContainerURL: to, Path: "tree/", Condition: "tasksuccess", Headers: []millpond.NameValue{{Name: "Content-Type", Value: "text/x-pond"}, {Name: "x-ms-meta-from", Value: "here"}}},
			millpond.OutputFile{Pattern: "empty", ContainerURL: strings.Replace(to, "https://store.blob.core.windows.net/", "https://direct:1/store/", 1), Path: "named", Condition: "taskcompletion"},
			millpond.OutputFile{Pattern: "r/y.txt", ContainerURL: to, Path: "never", Condition: "taskfailure"},
			millpond.OutputFile{Pattern: "nothing*", ContainerURL: to, Condition: "taskcompletion"})(t)
	})
	if v := end("both"); v.Result != "success" {
		t.Fatalf("%+v", v.Failure)
	}
	for name, want := range map[string]string{"logs/both/stdout.txt": "abcd", "logs/both/stderr.txt": "", "tree/x/y.txt": "deep\n", "tree/y.txt": "top\n", "named": "", "never": "BlobNotFound", "tree/x/link.txt": "BlobNotFound"} {
		if got := s.read(out, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	props, err := out.NewBlobClient("tree/y.txt").GetProperties(ctx, nil)
	c.must(err)
	if *props.ContentType != "text/x-pond" || *props.Metadata["From"] != "here" {
		t.Errorf("%v %v", *props.ContentType, props.Metadata)
	}

	c.addTask("j", "fails", `/bin/sh -c 'echo why; exit 7'`, send(millpond.OutputFile{Pattern: "../stdout.txt", ContainerURL: to, Path: "why", Condition: "taskfailure"},
		millpond.OutputFile{Pattern: "../stdout.txt", ContainerURL: s.link("nowhere", "cw"), Path: "x", Condition: "taskcompletion"}))
	if v := end("fails"); v.Failure == nil || v.Failure.Code != "FailureExitCode" || *v.ExitCode != 7 || s.read(out, "why") != "why\n" {
		t.Errorf("%+v", v.Failure)
	}
	for id, x := range map[string]struct {
		mod  func(*millpond.TaskSpec)
		code string
		ran  bool
	}{
		"nocontainer": {files(millpond.ResourceFile{ContainerURL: s.link("nowhere", "rl")}), "ResourceContainerNotFound", false},
		"nolist":      {files(millpond.ResourceFile{ContainerURL: s.link("in", "r")}), "ResourceContainerAccessDenied", false},
		"noblob":      {files(millpond.ResourceFile{URL: strings.Replace(s.link("in", "r"), "/in?", "/in/gone?", 1), FilePath: "x"}), "BlobNotFound", false},
		"unsigned":    {files(millpond.ResourceFile{URL: "https://store.blob.core.windows.net/in/a.txt", FilePath: "x"}), "BlobAccessDenied", false},
		"nowhere":     {send(millpond.OutputFile{Pattern: "../stdout.txt", ContainerURL: s.link("nowhere", "cw"), Condition: "taskcompletion"}), "FileUploadContainerNotFound", true},
		"readonly":    {send(millpond.OutputFile{Pattern: "../stdout.txt", ContainerURL: s.link("out", "r"), Condition: "taskcompletion"}), "FileUploadAccessDenied", true},
		"badpattern":  {send(millpond.OutputFile{Pattern: "[", ContainerURL: to, Condition: "taskcompletion"}), "FileUploadMiscError", true},
	} {
		c.addTask("j", id, "/bin/true", x.mod)
		v := end(id)
		if v.Failure == nil || v.Failure.Code != x.code || v.Failure.Category != "usererror" || (v.ExitCode != nil) != x.ran || v.Result != "failure" {
			t.Errorf("%s: exit code %v, %+v", id, v.ExitCode, v.Failure)
		}
		for _, d := range v.Failure.Details {
			if strings.Contains(d.Value, "sig=") {
				t.Errorf("%s tells a secret: %s", id, d.Value)
			}
		}
	}

	// A task's own programs reach Azure's names, too.
	c.addTask("j", "curl", `/bin/sh -c 'curl -sS --fail "$LINK" && curl -sS --fail -o again "$LINK"'`, func(t *millpond.TaskSpec) {
		t.Environment = []millpond.NameValue{{Name: "LINK", Value: strings.Replace(s.link("in", "r"), "/in?", "/in/a.txt?", 1)}}
		send(millpond.OutputFile{Pattern: "../stdout.txt", ContainerURL: to, Path: "curled", Condition: "taskcompletion"})(t)
	})
	if v := end("curl"); v.Result != "success" || s.read(out, "curled") != "a" {
		t.Errorf("%+v", v.Failure)
	}
}
