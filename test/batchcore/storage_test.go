package batchcore

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
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
	// identity, if set, opens the linked storage for nodes.
	identity string
	// metadata is where tasks get tokens.
	metadata string
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
	edge := storageapi.New(storageapi.Options{Accounts: s, Behind: behind, Verify: verifyIdentity, Auth: identityRights{}, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
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
func (s *store) Container(_ context.Context, _ millpond.AccountName, name string) (string, string, error) {
	if s.identity != "" {
		return "https://store.blob.core.windows.net/" + name, s.identity, nil
	}
	return s.link(name, "rl"), "", nil
}

func (s *store) Reachable(link string) string { return storage.ToAzure(link, []string{"direct:1"}) }

// Packages implements node.Links: packages are the archives id-version in the
// container "apps"; "unknown" is not known at all.
func (s *store) Packages(_ context.Context, _ millpond.AccountName, refs []millpond.PackageReference) ([]millpond.Package, error) {
	var out []millpond.Package
	for _, r := range refs {
		if r.Application == "unknown" {
			return nil, millpond.Errorf(millpond.Conflict, "InvalidApplicationPackageReferences", "There is no application unknown.")
		}
		p := millpond.Package{Application: r.Application, Version: r.Version, Stamp: "1", Default: r.Version == ""}
		if p.Default {
			p.Version = "2.0-b"
		}
		p.URL = strings.Replace(s.link("apps", "r"), "/apps?", "/apps/"+p.Application+"-"+p.Version+"?", 1)
		out = append(out, p)
	}
	return out, nil
}

// Token implements node.Links.
func (s *store) Token(_ context.Context, acct millpond.AccountName, t millpond.TaskIdentity) (string, error) {
	return fmt.Sprintf("token of %s/%s/%s/%d", acct, t.Job, t.Task, t.Attempt), nil
}

// Put implements node.Links.
func (s *store) Put(ctx context.Context, containerURL, token, name string, text []byte) error {
	if !strings.Contains(containerURL, "/logs?") && token != "writer for https://storage.azure.com/" {
		return millpond.InvalidProperty("containerUrl", "", "no such container")
	}
	_, err := s.behind.Container("store", "logs").NewBlockBlobClient(name).UploadBuffer(ctx, text, nil)
	return err
}

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

// setupStore is a core with real agents that reach a store.
func setupStore(t *testing.T) (*core, *store) {
	t.Helper()
	t.Parallel()
	s := newStore(t)
	h, path, clk := newHall(), filepath.Join(t.TempDir(), "state.db"), newShifted()
	h.real, h.links, h.identities, s.metadata = t.TempDir(), s, identityTokens{}, freeAddress(t)
	h.metadata = s.metadata
	c := start(t, path, h, clk, node.Config{Listener: s.address, ServerCA: s.ca, AzureHosts: azwire.ServedHosts()})
	t.Cleanup(func() {
		c.stop()
		h.close()
	})
	return c, s
}

// TestFilesFromAndToContainers: resource files from containers and the linked
// storage, output files by condition, and what the user is told when they fail.
func TestFilesFromAndToContainers(t *testing.T) {
	c, s := setupStore(t)
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

// TestPackagesTokensAndLogs: application packages of pools and tasks, with the
// variables that lead to them; a task's token; a node's logs in a container.
func TestPackagesTokensAndLogs(t *testing.T) {
	c, s := setupStore(t)
	pack := func(says string) string {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		h := &zip.FileHeader{Name: "bin/run"}
		h.SetMode(0o755)
		f, err := w.CreateHeader(h)
		c.must(err)
		_, err = io.WriteString(f, "#!/bin/sh\necho "+says+"\n")
		c.must(err)
		c.must(w.Close())
		return b.String()
	}
	s.container("apps", map[string]string{"tool-1.0": pack("tool one"), "tool-2.0-b": pack("tool two"), "bad-1": "this is no archive", "evil-1": string(evil(t))})
	out, logs := s.container("out", nil), s.container("logs", nil)
	packages := func(refs ...millpond.PackageReference) func(*millpond.PoolSpec) {
		return func(p *millpond.PoolSpec) { p.Packages = refs }
	}
	c.addPool("p", 1, packages(millpond.PackageReference{Application: "tool", Version: "1.0"}))
	c.addPool("bad", 1, packages(millpond.PackageReference{Application: "bad", Version: "1"}))
	c.addPool("gone", 1, packages(millpond.PackageReference{Application: "nowhere", Version: "1"}))
	c.idle("p", 1)
	for _, pool := range []string{"bad", "gone"} {
		c.wait("the node of "+pool+" is unusable", func() bool { return c.inState(pool, millpond.NodeUnusable) == 1 })
		e := c.list(pool)[0].Errors
		if len(e) != 1 || e[0].Code != "ApplicationPackageError" || e[0].Details[0].Name != "ApplicationPackageReference" {
			t.Errorf("%s: %+v", pool, e)
		}
	}
	c.addJob("j", "p", nil)
	c.addTask("j", "run", `/bin/sh -c '"$AZ_BATCH_APP_PACKAGE_tool_1_0/bin/run"; "$AZ_BATCH_APP_PACKAGE_TOOL_1_0/bin/run"; "$AZ_BATCH_APP_PACKAGE_tool/bin/run"; "$AZ_BATCH_APP_PACKAGE_TOOL_2_0_B/bin/run"; echo "$AZ_BATCH_AUTHENTICATION_TOKEN"'`, func(t *millpond.TaskSpec) {
		t.Packages, t.Token = []millpond.PackageReference{{Application: "tool"}}, true
		t.OutputFiles = []millpond.OutputFile{{Pattern: "../stdout.txt", ContainerURL: s.link("out", "cw"), Path: "said", Condition: "taskcompletion"}}
	})
	v := c.taskIn("j", "run", millpond.TaskCompleted)
	if got := s.read(out, "said"); v.Result != "success" || got != "tool one\ntool one\ntool two\ntool two\ntoken of acct/j/run/1\n" {
		t.Errorf("%+v, %q", v.Failure, got)
	}
	for _, id := range []string{"bad", "evil", "nowhere", "unknown"} {
		c.addTask("j", "t"+id, "/bin/true", func(t *millpond.TaskSpec) {
			t.Packages = []millpond.PackageReference{{Application: id, Version: "1"}}
		})
		if v := c.taskIn("j", "t"+id, millpond.TaskCompleted); v.ExitCode != nil || v.Failure == nil || v.Failure.Code != "ApplicationPackageError" {
			t.Errorf("%s: %v %+v", id, v.ExitCode, v.Failure)
		}
	}
	n := c.list("p")[0]
	done, err := c.nodes.UploadLogs(ctx, acct.Name, "p", n.ID, node.LogRequest{ContainerURL: s.link("logs", "cw"), Start: n.Created.Add(-time.Hour)})
	c.must(err)
	if done.Files != 2 || s.read(logs, done.Directory+"/console.log") != "scripted console\n" || !strings.Contains(s.read(logs, done.Directory+"/node.log"), "idle") {
		t.Errorf("%+v", done)
	}
	none, err := c.nodes.UploadLogs(ctx, acct.Name, "p", n.ID, node.LogRequest{ContainerURL: s.link("nowhere", "cw"), Start: n.Created})
	c.must(err)
	if none.Files != 2 {
		t.Errorf("%+v", none)
	}
	c.code(none.Failure, "InvalidPropertyValue")
	late, err := c.nodes.UploadLogs(ctx, acct.Name, "p", n.ID, node.LogRequest{ContainerURL: s.link("logs", "cw"), Start: n.Created.Add(-2 * time.Hour), End: n.Created.Add(-time.Hour)})
	c.must(err)
	if late.Files != 0 {
		t.Errorf("%+v", late)
	}
}

// evil is an archive that would leave its directory.
func evil(t *testing.T) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	if _, err := w.Create("../../escaped"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
