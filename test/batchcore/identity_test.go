package batchcore

import (
	"context"
	"net"
	"path"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
)

const identityBase = "/subscriptions/s/resourceGroups/g/providers/" + millpond.TypeManagedIdentity + "/"

// anyIdentity lets everybody assign every identity.
type anyIdentity struct{}

func (anyIdentity) AdmitIdentity(_ context.Context, _ millpond.Caller, id string) (string, error) {
	return id, nil
}

// identityTokens issues "NAME for RESOURCE".
type identityTokens struct{}

func (identityTokens) Token(_ context.Context, assigned []string, w node.TokenWant) (node.IdentityToken, error) {
	for _, id := range assigned {
		name := path.Base(id)
		if w.ResourceID == "" && w.ClientID == "" && len(assigned) == 1 || strings.EqualFold(w.ResourceID, id) || w.ClientID == "client-"+name {
			now := time.Now()
			return node.IdentityToken{Access: name + " for " + w.Resource, ClientID: "client-" + name, Resource: w.Resource, NotBefore: now, Expires: now.Add(time.Hour)}, nil
		}
	}
	return node.IdentityToken{}, millpond.Errorf(millpond.Invalid, "invalid_request", "Identity not found")
}

func verifyIdentity(_ context.Context, token string) (millpond.Caller, error) {
	name, ok := strings.CutSuffix(token, " for https://storage.azure.com/")
	if !ok {
		return millpond.Caller{}, millpond.Errorf(millpond.Unauthenticated, "InvalidAuthenticationToken", "bad token")
	}
	return millpond.Caller{Method: millpond.AuthToken, Object: name}, nil
}

// identityRights lets reader read and writer do everything.
type identityRights struct{}

func (identityRights) Authorize(_ context.Context, caller millpond.Caller, action, _ string) error {
	if caller.Object == "writer" || caller.Object == "reader" && strings.HasSuffix(action, "/read") {
		return nil
	}
	return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "no %s", action)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestIdentitiesOfNodes: resource and output files by the identities that a pool has,
// refusals of others, and tokens for the programs of tasks.
func TestIdentitiesOfNodes(t *testing.T) {
	c, s := setupStore(t)
	s.container("in", map[string]string{"a.txt": "a", "dir/b.txt": "b"})
	out, _ := s.container("out", nil), s.container("logs", nil)
	const reader, writer, stranger = identityBase + "reader", identityBase + "writer", identityBase + "stranger"
	const base = "https://store.blob.core.windows.net/"
	c.addPool("p", 1, func(p *millpond.PoolSpec) { p.Identities = []string{reader, writer, stranger} })
	c.idle("p", 1)
	c.addJob("j", "p", nil)
	run := func(id, command string, mod func(*millpond.TaskSpec)) millpond.Task {
		t.Helper()
		c.addTask("j", id, command, mod)
		return c.taskIn("j", id, millpond.TaskCompleted)
	}
	v := run("both", `/bin/sh -c 'cat one in/dir/b.txt'`, func(t *millpond.TaskSpec) {
		t.ResourceFiles = []millpond.ResourceFile{{URL: base + "in/a.txt", FilePath: "one", Identity: reader},
			{ContainerURL: base + "in", FilePath: "in", Identity: strings.ToUpper(writer)}}
		t.OutputFiles = []millpond.OutputFile{{Pattern: "../stdout.txt", ContainerURL: base + "out", Path: "said", Identity: writer, Condition: "taskcompletion"}}
	})
	if got := s.read(out, "said"); v.Result != "success" || got != "ab" {
		t.Errorf("%+v, %q", v.Failure, got)
	}
	file := func(f millpond.ResourceFile) func(*millpond.TaskSpec) {
		return func(t *millpond.TaskSpec) { t.ResourceFiles = []millpond.ResourceFile{f} }
	}
	for id, x := range map[string]struct {
		mod  func(*millpond.TaskSpec)
		code string
	}{
		"norole":    {file(millpond.ResourceFile{URL: base + "in/a.txt", FilePath: "x", Identity: stranger}), "BlobAccessDenied"},
		"nocontent": {file(millpond.ResourceFile{ContainerURL: base + "in", FilePath: "x", Identity: stranger}), "ResourceContainerAccessDenied"},
		"notmine":   {file(millpond.ResourceFile{URL: base + "in/a.txt", FilePath: "x", Identity: identityBase + "other"}), "ManagedIdentityNotFound"},
		// A token must not go where anybody says.
		"elsewhere": {file(millpond.ResourceFile{URL: "https://blobs.example/in/a.txt", FilePath: "x", Identity: reader}), "BlobAccessDenied"},
		"plain":     {file(millpond.ResourceFile{URL: "http://store.blob.core.windows.net/in/a.txt", FilePath: "x", Identity: reader}), "BlobAccessDenied"},
		"readonly": {func(t *millpond.TaskSpec) {
			t.OutputFiles = []millpond.OutputFile{{Pattern: "../stdout.txt", ContainerURL: base + "out", Identity: reader, Condition: "taskcompletion"}}
		}, "FileUploadAccessDenied"},
	} {
		if v := run(id, "/bin/true", x.mod); v.Failure == nil || v.Failure.Code != x.code || v.Failure.Category != "usererror" {
			t.Errorf("%s: %+v", id, v.Failure)
		}
	}

	s.identity = reader
	if v := run("linked", "/bin/sh -c 'test $(cat in/a.txt) = a'", file(millpond.ResourceFile{AutoContainer: "in", FilePath: "in"})); v.Result != "success" {
		t.Errorf("%+v", v.Failure)
	}

	// A task asks as the vendor's credential classes do.
	ask := func(id, header, query string) string {
		t.Helper()
		v := run(id, `/bin/sh -c 'curl -s -H "`+header+`" "$AT?api-version=2018-02-01&`+query+`"'`, func(t *millpond.TaskSpec) {
			t.Environment = []millpond.NameValue{{Name: "AT", Value: "http://" + s.metadata + "/metadata/identity/oauth2/token"}}
			t.OutputFiles = []millpond.OutputFile{{Pattern: "../stdout.txt", ContainerURL: base + "out", Path: id, Identity: writer, Condition: "taskcompletion"}}
		})
		if v.Result != "success" {
			t.Errorf("%s: %+v", id, v.Failure)
		}
		return s.read(out, id)
	}
	const arm = "resource=https://management.azure.com/"
	if got := ask("mine", "Metadata: true", arm+"&client_id=client-reader"); !strings.Contains(got, `"access_token":"reader for https://management.azure.com/"`) || !strings.Contains(got, `"token_type":"Bearer"`) || !strings.Contains(got, `"client_id":"client-reader"`) {
		t.Errorf("%s", got)
	}
	if got := ask("byid", "Metadata: true", arm+"&msi_res_id="+writer); !strings.Contains(got, `"access_token":"writer for`) {
		t.Errorf("%s", got)
	}
	if got := ask("unknown", "Metadata: true", arm+"&client_id=x"); !strings.Contains(got, `"error_description":"Identity not found"`) {
		t.Errorf("%s", got)
	}
	if got := ask("noheader", "X-Other: true", arm); !strings.Contains(got, "Required metadata header not specified") {
		t.Errorf("%s", got)
	}

	// More are asked for at once than one node is given at the same time.
	many := run("many", `/bin/sh -c 'for i in $(seq 24); do curl -s -H "Metadata: true" "$AT?api-version=2018-02-01&client_id=client-reader&resource=r$i" & done; wait'`, func(t *millpond.TaskSpec) {
		t.Environment = []millpond.NameValue{{Name: "AT", Value: "http://" + s.metadata + "/metadata/identity/oauth2/token"}}
		t.OutputFiles = []millpond.OutputFile{{Pattern: "../stdout.txt", ContainerURL: base + "out", Path: "many", Identity: writer, Condition: "taskcompletion"}}
	})
	if got := strings.Count(s.read(out, "many"), `"access_token":"reader for r`); many.Result != "success" || got != 24 {
		t.Errorf("%d tokens; %+v", got, many.Failure)
	}

	n := c.list("p")[0]
	done, err := c.nodes.UploadLogs(ctx, acct.Name, "p", n.ID, node.LogRequest{ContainerURL: base + "logs", Identity: writer, Start: n.Created.Add(-time.Hour)})
	c.must(err)
	if done.Files == 0 || done.Failure != nil {
		t.Errorf("%+v", done)
	}
	_, err = c.nodes.UploadLogs(ctx, acct.Name, "p", n.ID, node.LogRequest{ContainerURL: base + "logs", Identity: identityBase + "other", Start: n.Created})
	c.code(err, "InvalidPropertyValue")
}
