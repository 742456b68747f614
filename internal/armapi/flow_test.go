package armapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/armapi"
	"millpond.dev/millpond/internal/blobapi"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/deployment"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/machine"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/vhd"
)

const (
	tenant = "11111111-1111-1111-1111-111111111111"
	sub    = "22222222-2222-2222-2222-222222222222"
	rg     = "/subscriptions/" + sub + "/resourceGroups/rg"
	mc     = rg + "/providers/Microsoft.Compute"
)

// rights allow everything but what is denied by action.
type rights struct{ deny map[string]bool }

func (r *rights) Authorize(_ context.Context, c millpond.Caller, action, scope string) error {
	if c.Object == "nobody" || r.deny[c.Object+" "+action] {
		return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "no %s at %s", action, scope)
	}
	return nil
}

func (r *rights) Sees(_ context.Context, c millpond.Caller, _ string) bool {
	return c.Object != "nobody"
}

type world struct {
	t           *testing.T
	url         string
	rights      *rights
	res         *resource.Service
	gal         *gallery.Service
	acc         *account.Service
	net         *network.Service
	deployments *deployment.Service
	keeper      *custody.Keeper
	release     millpond.OSRelease
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	w := &world{t: t, rights: &rights{deny: map[string]bool{}}, release: millpond.OSRelease{OSType: "Linux", ID: "ubuntu", Version: "16.04", Name: "Ubuntu 16.04"}}
	c := clock.System{}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := sqlite.Open(ctx, filepath.Join(dir, "db"), c)
	check(t, err)
	regions := []millpond.Region{{Name: "westus2", DisplayName: "West US 2"}, {Name: "eastus", DisplayName: "East US"}}
	w.res = resource.New(resource.Options{DB: db, Clock: c, Regions: regions})
	check(t, w.res.EnsureSubscription(ctx, millpond.Subscription{ID: sub, Tenant: tenant, Name: "s"}, true))
	var places []custody.Region
	for _, r := range regions {
		p := custody.Region{Name: r.Name}
		for i := range 2 {
			name := fmt.Sprintf("%s-%d", r.Name, i)
			s, err := chunkstore.Open(context.Background(), name, filepath.Join(dir, name))
			check(t, err)
			p.Stores = append(p.Stores, image.Store(s))
		}
		places = append(places, p)
	}
	w.keeper, err = custody.New(db, places, nil)
	check(t, err)
	disks, err := layer.OpenDisks(filepath.Join(dir, "disks"), compute.Bases(w.keeper))
	check(t, err)
	comp, err := compute.New(ctx, compute.Options{DB: db, Clock: c, Log: log, Keeper: w.keeper, Disks: disks, Resources: w.res, Auth: w.rights})
	check(t, err)
	w.gal = gallery.New(gallery.Options{DB: db, Clock: c, Log: log, Keeper: w.keeper, Resources: w.res, Auth: w.rights, Freezer: comp,
		Inspect: func(context.Context, io.ReaderAt, int64) (inspect.Report, error) {
			return inspect.Report{OS: inspect.OS{Family: w.release.OSType, ID: w.release.ID, VersionID: w.release.Version, PrettyName: w.release.Name}}, nil
		}})
	comp.SetLatest(w.gal.Latest)
	w.acc = account.New(account.Options{DB: db, Clock: c, Log: log, Resources: w.res, Quotas: account.Quotas{Pools: 10, Cores: 10, ActiveJobs: 10, Accounts: 2}})
	armapi.Members(w.res, comp, w.gal, w.acc)
	w.net = network.New(db, w.res, w.rights)
	armapi.NetworkMembers(w.res, w.net)
	w.deployments = deployment.New(deployment.Options{DB: db, Clock: c, Log: log, Resources: w.res, Pause: 10 * time.Millisecond})
	machines := machine.New(machine.Deps{DB: db, Clock: c, Log: log, Resources: w.res, Auth: w.rights, Sizes: millpond.FindVMSize})
	arm := armapi.New(armapi.Options{Log: log, Machines: machines, Auth: w.rights, Resources: w.res, Compute: comp, Gallery: w.gal, Accounts: w.acc, Network: w.net, Deployments: w.deployments, PageSize: 3,
		Authenticate: func(r *http.Request) (millpond.Caller, error) {
			who := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			if who == "" {
				return millpond.Caller{}, millpond.Errorf(millpond.Unauthenticated, "AuthenticationFailed", "no token")
			}
			return millpond.Caller{Method: millpond.AuthToken, Tenant: tenant, Object: who}, nil
		}})
	w.deployments.Through(arm.Local())
	mux := http.NewServeMux()
	mux.Handle("/blob/", blobapi.New(comp, log))
	mux.Handle("/", arm)
	srv := httptest.NewTLSServer(mux)
	w.url = srv.URL
	client = srv.Client()
	driver := reconcile.NewDriver(c, log)
	for _, l := range []reconcile.Loop{w.res.Loop(), comp.Loop(), w.gal.Loop(), w.gal.Audit(), w.acc.Loop(), w.deployments.Loop()} {
		driver.Start(ctx, l)
	}
	t.Cleanup(func() {
		srv.Close()
		cancel()
		driver.Wait()
		comp.Wait()
		w.gal.Wait()
		w.deployments.Wait()
		check(t, db.Close())
	})
	w.do("PUT", rg, `{"location":"westus2"}`, 201)
	return w
}

// client trusts the test server; tests of this package do not run in parallel.
var client *http.Client

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type object = map[string]any

func (w *world) as(who, method, path, body string, want int) (object, http.Header) {
	w.t.Helper()
	if !strings.HasPrefix(path, "https://") {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path = w.url + path + sep + "api-version=2022-03-03"
	}
	req, err := http.NewRequest(method, path, strings.NewReader(body))
	check(w.t, err)
	if who != "" {
		req.Header.Set("Authorization", "Bearer "+who)
	}
	resp, err := client.Do(req)
	check(w.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	check(w.t, err)
	if resp.StatusCode != want {
		w.t.Fatalf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, want, b)
	}
	var out object
	if len(b) > 0 {
		if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
			w.t.Fatalf("%s %s: content type %q", method, path, ct)
		}
		check(w.t, json.Unmarshal(b, &out))
	}
	return out, resp.Header
}

func (w *world) do(method, path, body string, want int) object {
	w.t.Helper()
	out, h := w.as("admin", method, path, body, want)
	if op := h.Get("Azure-AsyncOperation"); op != "" {
		if h.Get("Retry-After") != "1" {
			w.t.Fatalf("%s %s: Retry-After %q", method, path, h.Get("Retry-After"))
		}
		w.wait(op)
	}
	return out
}

// wait polls an operation to its end, as a client does.
func (w *world) wait(op string) object {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if st, _ := w.as("admin", "GET", op, "", 200); st["status"] != "InProgress" {
			return st
		}
	}
	w.t.Fatalf("%s did not end", op)
	return nil
}

func at(o object, path ...string) any {
	var v any = o
	for _, p := range path {
		m, _ := v.(object)
		v = m[p]
	}
	return v
}

func (w *world) code(want string, o object) {
	w.t.Helper()
	if got := at(o, "error", "code"); got != want {
		w.t.Fatalf("code %v, want %s: %v", got, want, o)
	}
}

func (w *world) upload(name string, content []byte) {
	w.t.Helper()
	size := int64(20 << 20)
	w.do("PUT", mc+"/disks/"+name, fmt.Sprintf(`{"location":"West US 2","sku":{"name":"standard_lrs"},"properties":{"osType":"linux","creationData":{"createOption":"upload","uploadSizeBytes":%d,"sourceUri":null}}}`, size+512), 200)
	grant := func() string {
		return at(w.do("POST", mc+"/disks/"+name+"/beginGetAccess", `{"access":"write","durationInSeconds":600}`, 200), "accessSAS").(string)
	}
	sas := grant()
	put := func(off int64, b []byte, want int) {
		w.t.Helper()
		req, _ := http.NewRequest("PUT", sas+"&comp=page", bytes.NewReader(b))
		req.Header.Set("x-ms-page-write", "update")
		req.Header.Set("x-ms-range", fmt.Sprintf("bytes=%d-%d", off, off+int64(len(b))-1))
		resp, err := client.Do(req)
		check(w.t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			w.t.Fatalf("put page: %d, want %d", resp.StatusCode, want)
		}
	}
	put(1<<20, content, 201)
	put(100, content, 416)
	w.code("InvalidVhd", w.do("POST", mc+"/disks/"+name+"/endGetAccess", "", 400))
	// The access has ended; the pages are still there for the next one.
	put(1<<20, content, 403)
	sas = grant()
	put(size, vhd.NewFooter(size, name, time.Now()), 201)
	w.do("POST", mc+"/disks/"+name+"/endGetAccess", "", 200)
	put(1<<20, content, 403)
	d := w.do("GET", mc+"/disks/"+name, "", 200)
	if at(d, "properties", "diskState") != "Unattached" || at(d, "properties", "diskSizeBytes") != float64(size) {
		w.t.Fatalf("after upload: %v", d)
	}
}

// publish makes a generalized definition with version 1.0.0 in westus2.
func (w *world) publish() {
	w.t.Helper()
	w.upload("os", bytes.Repeat([]byte("pond"), 1024))
	w.do("PUT", mc+"/snapshots/os", `{"location":"westus2","properties":{"creationData":{"createOption":"Copy","sourceResourceId":"`+mc+`/disks/os"}}}`, 200)
	w.do("PUT", mc+"/images/os", `{"location":"westus2","properties":{"storageProfile":{"osDisk":{"osType":"Linux","osState":"Generalized","snapshot":{"id":"`+mc+`/snapshots/os"}}}}}`, 201)
	w.do("PUT", mc+"/galleries/gal", `{"location":"westus2","tags":{}}`, 201)
	w.do("PUT", mc+"/galleries/gal/images/def", definition("s", "generalized"), 201)
	w.do("PUT", mc+"/galleries/gal/images/def/versions/1.0.0", version("images/os", `{"name":"West US 2","regionalReplicaCount":2}`), 201)
}

func definition(sku, state string) string {
	return `{"location":"westus2","properties":{"osType":"linux","osState":"` + state + `","identifier":{"publisher":"p","offer":"o","sku":"` + sku + `"}}}`
}

func version(source, targets string) string {
	return `{"location":"westus2","properties":{"storageProfile":{"source":{"id":"` + mc + "/" + source + `"}},"publishingProfile":{"targetRegions":[` + targets + `]}}}`
}

func TestGalleryFlow(t *testing.T) {
	w := newWorld(t)
	w.publish()
	v := w.do("GET", mc+"/galleries/GAL/images/DEF/versions/1.0.0?$expand=replicationStatus", "", 200)
	if at(v, "properties", "provisioningState") != "Succeeded" || at(v, "properties", "replicationStatus", "aggregatedState") != "Completed" || at(v, "properties", "publishingProfile", "publishedDate") == nil {
		t.Fatalf("version: %v", v)
	}
	if v := w.do("GET", mc+"/galleries/gal/images/def/versions/1.0.0", "", 200); at(v, "properties", "replicationStatus") != nil {
		t.Error("replicationStatus without $expand")
	}
	// The update trap: no source means the source stays.
	v = w.do("PUT", mc+"/galleries/gal/images/def/versions/1.0.0", `{"location":"westus2","properties":{"storageProfile":{},"publishingProfile":{"targetRegions":[{"name":"westus2"},{"name":"eastus"}]}}}`, 200)
	if at(v, "properties", "storageProfile", "source", "id") != mc+"/images/os" {
		t.Errorf("the source got lost: %v", v)
	}
	w.code("PropertyChangeNotAllowed", w.do("PUT", mc+"/galleries/gal/images/def/versions/1.0.0", version("images/other", `{"name":"westus2"}`), 409))
	w.code("PropertyChangeNotAllowed", w.do("PUT", mc+"/galleries/gal/images/def", definition("other", "generalized"), 409))
	w.code("Conflict", w.do("PUT", mc+"/galleries/gal/images/def2", definition("s", "generalized"), 409))
	w.code("ParentResourceNotFound", w.do("PUT", mc+"/galleries/none/images/def", definition("s", "generalized"), 404))
	w.code("InvalidParameter", w.do("PUT", mc+"/galleries/gal/images/def/versions/2.0.0", version("images/os", `{"name":"eastus"}`), 400))
	w.code("InvalidParameter", w.do("PUT", mc+"/galleries/gal/images/def/versions/2.0.0", version("images/os", `{"name":"westus2"},{"name":"West US 2"}`), 400))
	w.code("InvalidParameter", w.do("PUT", mc+"/galleries/gal/images/def/versions/2.0.0", version("images/os", `{"name":"westus2","regionalReplicaCount":101}`), 400))
	w.code("CannotDeleteResource", w.do("DELETE", mc+"/galleries/gal", "", 409))
	w.code("CannotDeleteResource", w.do("DELETE", mc+"/galleries/gal/images/def", "", 409))
	// Sources may go; the version stays, and a disk can be made from it.
	for _, r := range []string{"/images/os", "/snapshots/os", "/disks/os"} {
		w.do("DELETE", mc+r, "", 200)
		w.do("DELETE", mc+r, "", 204)
	}
	w.do("PUT", mc+"/disks/again", `{"location":"westus2","properties":{"creationData":{"createOption":"FromImage","galleryImageReference":{"id":"`+mc+`/galleries/gal/images/def"}}}}`, 200)
	w.do("DELETE", rg, "", 202)
	w.code("ResourceGroupNotFound", w.do("GET", mc+"/disks/again", "", 404))
	for _, region := range []string{"westus2", "eastus"} {
		for i := range 2 {
			s, err := w.keeper.Replica(region, i)
			check(t, err)
			left, err := s.List(context.Background())
			check(t, err)
			if len(left) > 0 {
				t.Errorf("%s keeps %v after everything was deleted", s.Name(), left)
			}
		}
	}
}

func TestOperations(t *testing.T) {
	w := newWorld(t)
	ops, _ := json.Marshal(w.do("GET", "/providers/microsoft.batch/operations", "", 200))
	if !bytes.Contains(ops, []byte(`"Microsoft.Batch/batchAccounts/write"`)) || bytes.Contains(ops, []byte("Microsoft.Compute")) {
		t.Errorf("%s", ops)
	}
	w.code("InvalidResourceNamespace", w.do("GET", "/providers/Microsoft.Nothing/operations", "", 404))
	if sizes := at(w.do("GET", strings.Split(rg, "/resourceGroups")[0]+"/providers/Microsoft.Batch/locations/westus2/cloudServiceSkus", "", 200), "value").([]any); len(sizes) != 0 {
		t.Errorf("%v", sizes)
	}
}

func TestResolveForPool(t *testing.T) {
	w := newWorld(t)
	w.publish()
	ctx := context.Background()
	w.do("PUT", rg+"/providers/Microsoft.Batch/batchAccounts/acct", `{"location":"westus2"}`, 200)
	acct, err := w.acc.Lookup(ctx, "acct")
	check(t, err)
	id := mc + "/galleries/gal/images/def/versions/1.0.0"
	const sku = "batch.node.ubuntu 16.04"
	good := millpond.Caller{Method: millpond.AuthToken, Tenant: tenant, Object: "admin"}
	boot, err := w.gal.ResolveForPool(ctx, good, acct, millpond.ImageReference{ResourceID: strings.ToUpper(id)}, sku)
	check(t, err)
	if boot.Replicas != 2 || boot.HyperV != "V1" || boot.OSDisk.SizeBytes != 20<<20 {
		t.Errorf("boot image %+v", boot)
	}
	first := map[string]bool{}
	for i := range 40 {
		b, err := w.gal.ChooseReplicas(ctx, acct, boot, millpond.NodeID(fmt.Sprintf("node-%d", i)))
		check(t, err)
		if len(b.OSDisk.Stores) != 2 {
			t.Fatalf("a node has the stores %v", b.OSDisk.Stores)
		}
		first[b.OSDisk.Stores[0].Name] = true
	}
	if len(first) != 2 {
		t.Errorf("nodes read from %d replicas, not 2", len(first))
	}
	if latest, err := w.gal.ResolveForPool(ctx, good, acct, millpond.ImageReference{ResourceID: mc + "/galleries/gal/images/def"}, sku); err != nil || latest.VersionID != id {
		t.Errorf("latest: %v %v", latest.VersionID, err)
	}
	w.do("PUT", mc+"/galleries/gal/images/spec", definition("spec", "Specialized"), 201)
	w.do("PUT", mc+"/galleries/gal/images/spec/versions/1.0.0", `{"location":"westus2","properties":{"storageProfile":{"osDiskImage":{"source":{"id":"`+mc+`/snapshots/os"}}}}}`, 201)
	w.rights.deny["reader Microsoft.Compute/galleries/images/versions/read"] = true
	far := acct
	far.Region = "eastus"
	abroad := acct
	abroad.Tenant = "elsewhere"
	other, err := w.res.CreateSubscription(ctx, tenant, "other")
	check(t, err)
	otherID := strings.Replace(id, sub, other.ID, 1)
	for _, c := range []struct {
		name   string
		caller millpond.Caller
		acct   millpond.BatchAccount
		ref    string
		sku    string
		kind   millpond.Kind
		code   string
		says   string
	}{
		{"shared key", millpond.Caller{Method: millpond.AuthSharedKey}, acct, id, sku, millpond.Forbidden, "AuthenticationFailed", "az batch account login"},
		{"no right", millpond.Caller{Method: millpond.AuthToken, Tenant: tenant, Object: "reader"}, acct, id, sku, millpond.Forbidden, "InsufficientAccountPermissions", "az role assignment create --assignee-object-id reader"},
		{"other tenant", good, abroad, id, sku, millpond.Forbidden, "LinkedAuthorizationFailed", "same tenant"},
		{"not registered", good, acct, otherID, sku, millpond.Conflict, "MissingSubscriptionRegistration", "az provider register --namespace Microsoft.Batch --subscription " + other.ID},
		{"no replica", good, far, id, sku, millpond.Invalid, "InvalidPropertyValue", "--target-regions westus2=2 eastus=1"},
		{"no latest", good, far, mc + "/galleries/gal/images/def", sku, millpond.Invalid, "InvalidPropertyValue", "no version that is replicated to eastus"},
		{"specialized", good, acct, mc + "/galleries/gal/images/spec/versions/1.0.0", sku, millpond.Invalid, "InvalidPropertyValue", "generalized images only"},
		{"other release", good, acct, id, "batch.node.ubuntu 18.04", millpond.Invalid, "InvalidPropertyValue", `"batch.node.ubuntu 16.04"`},
		{"windows", good, acct, id, "batch.node.windows amd64", millpond.Invalid, "InvalidPropertyValue", "not for"},
		{"unknown sku", good, acct, id, "batch.node.beos", millpond.Invalid, "InvalidPropertyValue", "Use one of"},
		{"no version", good, acct, strings.Replace(id, "1.0.0", "9.0.0", 1), sku, millpond.Invalid, "InvalidPropertyValue", "not found"},
		{"managed image", good, acct, mc + "/images/os", sku, millpond.Invalid, "InvalidPropertyValue", "az sig image-version create"},
		{"not an id", good, acct, "hello", sku, millpond.Invalid, "InvalidPropertyValue", "The form is"},
	} {
		_, err := w.gal.ResolveForPool(ctx, c.caller, c.acct, millpond.ImageReference{ResourceID: c.ref}, c.sku)
		e := millpond.AsError(err)
		if err == nil || e.Kind != c.kind || e.Code != c.code || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	_, err = w.gal.ResolveForPool(ctx, millpond.Caller{Method: millpond.AuthSharedKey}, acct, millpond.ImageReference{ResourceID: id}, sku)
	if d := millpond.AsError(err).Details; len(d) != 1 || d[0].Name != "AuthenticationErrorDetail" || !strings.HasPrefix(d[0].Value, "The specified type of authentication SharedKey is not allowed") {
		t.Errorf("shared key details %v", d)
	}
	w.do("DELETE", id, "", 200)
	if _, err := w.gal.ChooseReplicas(ctx, acct, boot, "n"); millpond.AsError(err).Code != "AllocationFailed" {
		t.Errorf("after deletion: %v", err)
	}
}

func TestProtocol(t *testing.T) {
	w := newWorld(t)
	anonymous, h := w.as("", "GET", "/subscriptions", "", 401)
	w.code("AuthenticationFailed", anonymous)
	if h.Get("WWW-Authenticate") == "" {
		t.Error("no WWW-Authenticate")
	}
	none, _ := w.as("admin", "GET", w.url+"/subscriptions", "", 400)
	w.code("MissingApiVersionParameter", none)
	denied, _ := w.as("nobody", "PUT", mc+"/disks/d", `{}`, 403)
	w.code("AuthorizationFailed", denied)
	w.code("SubscriptionNotFound", w.do("GET", "/subscriptions/33333333-3333-3333-3333-333333333333/resourcegroups", "", 404))
	w.code("ResourceGroupNotFound", w.do("GET", "/subscriptions/"+sub+"/resourcegroups/none/providers/Microsoft.Compute/disks/d", "", 404))
	w.code("ResourceNotFound", w.do("GET", mc+"/virtualMachines/vm", "", 404))
	w.code("InvalidParameter", w.do("PUT", mc+"/virtualMachines/vm", "{}", 400))
	w.code("VMMarketplaceInvalidInput", w.do("PUT", mc+"/virtualMachines/vm", `{"plan":{"name":"p","product":"x","publisher":"y"}}`, 400))
	w.code("NotSupported", w.do("PUT", mc+"/virtualMachines/vm", `{"properties":{"securityProfile":{"securityType":"TrustedLaunch"}}}`, 400))
	w.code("NotImplemented", w.do("POST", mc+"/virtualMachines/vm/capture", "{}", 400))
	w.code("InvalidRequestContent", w.do("PUT", mc+"/disks/d", `{"properties":7}`, 400))
	// What nothing can make has empty lists, as far as Azure knows the type.
	all := "/subscriptions/" + sub + "/providers/"
	for _, list := range []string{all + "Microsoft.Compute/virtualMachineScaleSets", all + "microsoft.compute/locations/westus2/virtualMachineScaleSets", rg + "/providers/Microsoft.Network/loadBalancers"} {
		if v, ok := w.do("GET", list, "", 200)["value"].([]any); !ok || len(v) > 0 {
			t.Errorf("%s: %v", list, v)
		}
	}
	w.code("NotImplemented", w.do("GET", all+"Microsoft.Network/loadBalancerz", "", 400))
	w.code("NotImplemented", w.do("GET", all+"Microsoft.Network/loadBalancers/x", "", 400))
	w.code("ResourceNotFound", w.do("GET", rg+"/providers/Microsoft.Network/loadBalancers/x", "", 404))
	w.code("NotImplemented", w.do("PUT", rg+"/providers/Microsoft.Network/loadBalancers/x", "{}", 400))
	// A type that is served says which methods it has; what it does not have is no missing type.
	for _, c := range []struct{ method, path, says string }{
		{"POST", mc + "/disks/d", "DELETE, GET, PATCH, PUT"}, {"POST", mc + "/disks", "GET"}, {"PUT", mc + "/disks", "GET"}, {"DELETE", rg + "/providers/Microsoft.Batch/batchAccounts/acct/listKeys", "POST"},
	} {
		refused := w.do(c.method, c.path, "{}", 405)
		w.code("MethodNotAllowed", refused)
		if says := fmt.Sprint(at(refused, "error", "message")); !strings.HasSuffix(says, "Allowed: "+c.says+".") {
			t.Errorf("%s %s: %s", c.method, c.path, says)
		}
	}
	w.code("NotImplemented", w.do("POST", mc+"/disks/d/frobnicate", "{}", 400))
	// A path of which every method is refused is no path that is served.
	w.code("NotImplemented", w.do("DELETE", mc+"/galleries/g/applications/app", "", 400))
	tags := func(path, operation, tags string) {
		w.do("PATCH", path+"/providers/Microsoft.Resources/tags/default", `{"operation":"`+operation+`","properties":{"tags":`+tags+`}}`, 200)
	}
	w.do("PUT", mc+"/disks/tagged", `{"location":"westus2","properties":{"creationData":{"createOption":"Empty"},"diskSizeGB":1},"tags":{"team":"a"}}`, 200)
	tags(rg, "Merge", `{"Team":"b","cost":"1"}`)
	names := w.do("GET", "/subscriptions/"+sub+"/tagNames", "", 200)["value"].([]any)
	if len(names) != 2 || at(names[1].(map[string]any), "count", "value") != 2.0 || len(names[1].(map[string]any)["values"].([]any)) != 2 {
		t.Errorf("tags: %v", names)
	}
	tags(rg, "Replace", `{}`)
	w.do("DELETE", mc+"/disks/tagged", "", 200)
	w.do("HEAD", rg, "", 204)
	w.do("PUT", strings.Replace(rg, "rg", "RG", 1), `{"location":"westus2"}`, 200)
	// Filters: clients delete what is listed.
	other := strings.Replace(rg, "rg", "other", 1)
	w.do("PUT", other, `{"location":"westus2","tags":{"env":"it's","x":"y"}}`, 201)
	groups := strings.TrimSuffix(rg, "/rg")
	for filter, want := range map[string]int{"": 2, "tagName eq 'ENV'": 1, "tagname eq 'env' and tagValue eq 'it''s'": 1, "(tagName eq 'env') and (tagValue eq 'test')": 0, "tagName eq 'none'": 0} {
		if got := len(w.do("GET", groups+"?$filter="+url.QueryEscape(filter), "", 200)["value"].([]any)); got != want {
			t.Errorf("%d groups with %q, not %d", got, filter, want)
		}
	}
	for _, filter := range []string{"tagValue eq 'x'", "name eq 'rg'", "tagName eq 'a' or tagName eq 'b'", "tagName eq 'a' tagValue eq 'b'", "tagName ne 'a'", "tagName eq 'a' and", "tagName eq 'a' and tagName eq 'b'", "x"} {
		w.code("InvalidFilterInQueryString", w.do("GET", groups+"?$filter="+url.QueryEscape(filter), "", 400))
	}
	w.code("InvalidFilterInQueryString", w.do("GET", rg+"/resources?$filter="+url.QueryEscape("resourceType eq 'a' and name ne 'b'"), "", 400))
	// $top is the size of a page.
	for _, list := range []string{groups, strings.TrimSuffix(groups, "/resourceGroups") + "/resources", rg + "/resources"} {
		for _, top := range []string{"0", "-1", "1001", "x"} {
			w.code("InvalidTopInQueryString", w.do("GET", list+"?$top="+top, "", 400))
		}
	}
	first := w.do("GET", groups+"?$top=1", "", 200)
	second := w.do("GET", fmt.Sprint(first["nextLink"]), "", 200)
	if len(first["value"].([]any)) != 1 || len(second["value"].([]any)) != 1 || second["nextLink"] != nil || reflect.DeepEqual(first["value"], second["value"]) {
		t.Errorf("pages of one group: %v, %v", first, second)
	}
	w.do("DELETE", other, "", 202)
	// Paging: five disks, pages of three.
	for i := range 5 {
		w.do("PUT", fmt.Sprintf("%s/disks/d%d", mc, i), `{"location":"westus2","properties":{"creationData":{"createOption":"Empty"},"diskSizeGB":1}}`, 200)
	}
	n, next := 0, mc+"/disks"
	for pages := 0; next != ""; pages++ {
		page := w.do("GET", next, "", 200)
		n += len(page["value"].([]any))
		next, _ = page["nextLink"].(string)
		if pages > 2 {
			t.Fatal("paging does not end")
		}
	}
	if n != 5 {
		t.Errorf("%d disks in all pages", n)
	}
	a := w.do("PUT", rg+"/providers/Microsoft.Batch/batchAccounts/acct", `{"location":"westus2"}`, 200)
	if want := strings.TrimPrefix(w.url, "https://") + "/batch/acct.westus2"; at(a, "properties", "accountEndpoint") != want {
		t.Errorf("endpoint %v, want %s", at(a, "properties", "accountEndpoint"), want)
	}
	w.code("LocationNotAvailableForResourceType", w.do("PUT", rg+"/providers/Microsoft.Batch/batchAccounts/acct2", `{"location":"mars"}`, 400))
}

func TestRoutesAreComplete(t *testing.T) {
	e := armapi.New(armapi.Options{})
	for _, r := range e.Routes() {
		if r.Action == "" {
			t.Errorf("%s is open to everybody", r.Name)
		}
		if (r.Handle == nil) == (r.Refused == "") {
			t.Errorf("%s must either be handled or refused", r.Name)
		}
	}
}

func FuzzScope(f *testing.F) {
	f.Add(mc + "/disks/d/beginGetAccess")
	f.Add("//subscriptions//")
	f.Fuzz(func(t *testing.T, path string) {
		if s := armapi.Scope(path); !strings.HasPrefix(s, "/") {
			t.Errorf("%q has scope %q", path, s)
		}
	})
}
