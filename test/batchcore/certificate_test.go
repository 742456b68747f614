package batchcore

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/test/lab"
)

// TestCertificatesThroughSDK: the Go SDK adds certificates and a pool that refers
// to them; start task, tasks and who logs in each find those that they may see; a
// change reaches a node when it boots; one that is used cannot be deleted.
func TestCertificatesThroughSDK(t *testing.T) {
	c, h := realSetup(t)
	client := c.sdk()
	sha1 := ptr("sha1")
	prints := map[string]string{}
	for _, name := range []string{"all", "start", "remote"} {
		pfx, print := lab.Certificate(t, "pw of "+name)
		data := base64.StdEncoding.EncodeToString(pfx)
		prints[name] = print
		if _, err := client.CreateCertificate(ctx, azbatch.Certificate{Data: &data, Password: ptr("wrong"), Thumbprint: &print, ThumbprintAlgorithm: sha1, Format: ptr(azbatch.CertificateFormatPFX)}, nil); !refusedWith(err, "InvalidPropertyValue") {
			t.Fatalf("a wrong password: %v", err)
		}
		_, err := client.CreateCertificate(ctx, azbatch.Certificate{Data: &data, Password: ptr("pw of " + name), Thumbprint: ptr(strings.ToUpper(print)), ThumbprintAlgorithm: sha1, Format: ptr(azbatch.CertificateFormatPFX)}, nil)
		c.must(err)
	}
	ref := func(name string, visible ...azbatch.CertificateVisibility) azbatch.CertificateReference {
		return azbatch.CertificateReference{Thumbprint: ptr(prints[name]), ThumbprintAlgorithm: sha1, StoreLocation: ptr(azbatch.CertificateStoreLocationLocalMachine), StoreName: ptr("Root"), Visibility: visible}
	}
	p := azbatch.CreatePoolContent{ID: ptr("p"), VMSize: ptr("standard_d2s_v3"), TargetDedicatedNodes: ptr(int32(1)),
		VirtualMachineConfiguration: &azbatch.VirtualMachineConfiguration{NodeAgentSKUID: ptr("batch.node.debian 12"), ImageReference: &azbatch.ImageReference{VirtualMachineImageID: ptr("/v/versions/1.0.0")}},
		UserAccounts:                []azbatch.UserAccount{{Name: ptr("crew"), Password: ptr("Secret-1"), LinuxUserConfiguration: &azbatch.LinuxUserConfiguration{UID: ptr(int32(4000)), GID: ptr(int32(4001))}}},
		StartTask:                   &azbatch.StartTask{CommandLine: ptr("/bin/sh -c 'ls $AZ_BATCH_CERTIFICATES_DIR'")}}
	p.CertificateReferences = []azbatch.CertificateReference{{Thumbprint: ptr(strings.Repeat("0", 40)), ThumbprintAlgorithm: sha1}}
	if _, err := client.CreatePool(ctx, p, nil); !refusedWith(err, "InvalidCertificateReferences") {
		t.Fatalf("a certificate that is not there: %v", err)
	}
	p.CertificateReferences = []azbatch.CertificateReference{ref("all"), ref("start", azbatch.CertificateVisibilityStartTask), ref("remote", azbatch.CertificateVisibilityRemoteUser)}
	_, err := client.CreatePool(ctx, p, nil)
	c.must(err)
	c.idle("p", 1)
	id := c.list("p")[0].ID
	got, err := client.GetNode(ctx, "p", string(id), nil)
	c.must(err)
	if r := got.CertificateReferences; len(r) != 3 || *r[1].Thumbprint != prints["start"] || len(r[1].Visibility) != 1 || *r[1].StoreName != "Root" {
		t.Errorf("the node's references: %+v", r)
	}

	names := func(list ...string) string {
		var out []string
		for _, n := range list {
			out = append(out, "sha1-"+prints[n]+".pfx", "sha1-"+prints[n]+".pfx.pw")
		}
		return strings.Join(out, " ")
	}
	same := func(what, got, want string) {
		t.Helper()
		a, b := strings.Fields(got), strings.Fields(want)
		for _, w := range b {
			if !strings.Contains(got, w) {
				t.Errorf("%s sees %q, want %q", what, got, want)
			}
		}
		if len(a) != len(b) {
			t.Errorf("%s sees %q, want %q", what, got, want)
		}
	}
	root := h.root(id)
	out, err := os.ReadFile(filepath.Join(root, "startup", "stdout.txt"))
	c.must(err)
	same("the start task", string(out), names("all", "start"))
	if _, err := os.Stat(filepath.Join(root, "startup", "certs")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the start task's are left: %v", err)
	}
	h.mu.Lock()
	homes := filepath.Join(h.machines[id.Key()].accounts(), "home")
	h.mu.Unlock()
	entries, err := os.ReadDir(filepath.Join(homes, "crew", "certs"))
	c.must(err)
	var home []string
	for _, e := range entries {
		home = append(home, e.Name())
	}
	same("who logs in", strings.Join(home, " "), names("all", "remote"))

	c.addJob("j", "p", nil)
	file := func(task, name string) string {
		t.Helper()
		f, err := client.GetTaskFile(ctx, "j", task, name, nil)
		c.must(err)
		return body(c, f.Body)
	}
	task := func(name string) string {
		t.Helper()
		c.addTask("j", name, "/bin/sh -c 'cd $AZ_BATCH_CERTIFICATES_DIR && ls && cat *.pw >&2'", nil)
		c.taskIn("j", name, millpond.TaskCompleted)
		return file(name, "stdout.txt")
	}
	same("a task", task("t1"), names("all"))
	if pw := file("t1", "stderr.txt"); pw != "pw of all" {
		t.Errorf("the password: %q", pw)
	}
	if _, err := client.GetTaskFile(ctx, "j", "t1", "certs/sha1-"+prints["all"]+".pfx", nil); !refusedWith(err, "FileNotFound") {
		t.Errorf("a key through files: %v", err)
	}

	// A deletion fails, and says why; cancelled, all is as before.
	gone := func(name string) (azbatch.Certificate, bool) {
		t.Helper()
		_, err := client.DeleteCertificate(ctx, "sha1", prints[name], nil)
		c.must(err)
		var x azbatch.Certificate
		over := false
		c.wait("the deletion of a certificate has ended", func() bool {
			a, err := client.GetCertificate(ctx, "sha1", prints[name], nil)
			if over = refusedWith(err, "CertificateNotFound"); over {
				return true
			}
			c.must(err)
			x = a.Certificate
			return *x.State != azbatch.CertificateStateDeleting
		})
		return x, over
	}
	x, over := gone("all")
	if over || *x.State != azbatch.CertificateStateDeleteFailed || *x.DeleteCertificateError.Code != "PoolsReferencingCertificate" || *x.DeleteCertificateError.Values[0].Value != "p" || x.Data != nil || x.Password != nil {
		t.Errorf("%v %+v", over, x)
	}
	_, err = client.CancelCertificateDeletion(ctx, "sha1", prints["all"], nil)
	c.must(err)
	if _, err := client.CancelCertificateDeletion(ctx, "sha1", prints["all"], nil); !refusedWith(err, "CertificateStateActive") {
		t.Errorf("a second time: %v", err)
	}

	// The pool lets go of two; its node has them until it boots.
	_, err = client.ReplacePoolProperties(ctx, "p", azbatch.ReplacePoolContent{ApplicationPackageReferences: []azbatch.ApplicationPackageReference{}, CertificateReferences: []azbatch.CertificateReference{ref("start")}, Metadata: []azbatch.MetadataItem{}}, nil)
	c.must(err)
	same("a task before the node boots", task("t2"), names("all"))
	if x, over := gone("all"); over || *x.DeleteCertificateError.Code != "NodesReferencingCertificate" {
		t.Errorf("%v %+v", over, x)
	}
	_, err = client.ReimageNode(ctx, "p", string(id), nil)
	c.must(err)
	c.wait("the node is reimaged", func() bool {
		n := c.list("p")[0]
		return n.State == millpond.NodeIdle && len(n.Certificates) == 1
	})
	for _, name := range []string{"all", "remote"} {
		if x, over := gone(name); !over {
			t.Errorf("%s is still used: %+v", name, x)
		}
	}
	same("a task on the new disk", task("t3"), names("start"))
	// updateproperties without them removes them.
	_, err = client.ReplacePoolProperties(ctx, "p", azbatch.ReplacePoolContent{ApplicationPackageReferences: []azbatch.ApplicationPackageReference{}, CertificateReferences: []azbatch.CertificateReference{}, Metadata: []azbatch.MetadataItem{}}, nil)
	c.must(err)
	after, err := client.GetPool(ctx, "p", nil)
	c.must(err)
	if len(after.CertificateReferences) != 0 {
		t.Errorf("%+v", after.CertificateReferences)
	}

	// A job's own pool is checked when the job is added.
	auto := azbatch.PoolSpecification{VMSize: p.VMSize, VirtualMachineConfiguration: p.VirtualMachineConfiguration, CertificateReferences: []azbatch.CertificateReference{ref("all")}}
	_, err = client.CreateJob(ctx, azbatch.CreateJobContent{ID: ptr("auto"), PoolInfo: &azbatch.PoolInfo{AutoPoolSpecification: &azbatch.AutoPoolSpecification{PoolLifetimeOption: ptr(azbatch.PoolLifetimeOptionJob), Pool: &auto}}}, nil)
	if e := (*azcore.ResponseError)(nil); !errors.As(err, &e) || e.ErrorCode != "InvalidCertificateReferences" {
		t.Errorf("a job's pool with a certificate that is gone: %v", err)
	}
}
