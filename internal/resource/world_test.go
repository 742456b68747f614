// The tests of this package run the verbs of the Resource Manager together, over
// a real database and real stores, and through crashes.
package resource_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/armapi"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/vhd"
)

const (
	tenant   = "11111111-1111-1111-1111-111111111111"
	sub      = "22222222-2222-2222-2222-222222222222"
	group    = "/subscriptions/" + sub + "/resourceGroups/rg"
	mc       = group + "/providers/Microsoft.Compute"
	diskSize = 20 << 20
)

var admin = millpond.Caller{Method: millpond.AuthToken, Tenant: tenant, Object: "admin"}

// store is a store whose Ingest fails or stops in the middle when told to, and which
// does not answer when it is silent.
type store struct {
	*chunkstore.Store
	silent  bool
	mu      sync.Mutex
	fail    error
	stop    chan struct{} // closed to go on
	entered chan struct{}
}

func (s *store) Ingest(ctx context.Context, src image.Source, p image.Progress) (image.Content, error) {
	s.mu.Lock()
	fail, stop, entered := s.fail, s.stop, s.entered
	s.mu.Unlock()
	if fail != nil {
		return image.Content{}, fail
	}
	if stop != nil {
		src = &halfway{Source: src, ctx: ctx, stop: stop, entered: entered}
	}
	return s.Store.Ingest(ctx, src, p)
}

func (s *store) Fetch(ctx context.Context, id image.ContentID, p func(image.Moved), from ...image.Store) (image.Content, error) {
	s.mu.Lock()
	fail, stop, entered := s.fail, s.stop, s.entered
	s.mu.Unlock()
	if fail != nil {
		return image.Content{}, fail
	}
	if stop != nil {
		for i, src := range from {
			from[i] = &halfStore{Store: src, half: &halfway{ctx: ctx, stop: stop, entered: entered}}
		}
	}
	return s.Store.Fetch(ctx, id, p, from...)
}

// halfStore is a source that waits before it gives a chunk.
type halfStore struct {
	image.Store
	half *halfway
}

func (h *halfStore) ReadChunk(ctx context.Context, d image.Digest, length int) ([]byte, error) {
	if err := h.half.wait(); err != nil {
		return nil, err
	}
	return h.Store.ReadChunk(ctx, d, length)
}

func (s *store) Stat(ctx context.Context, id image.ContentID) (image.Content, error) {
	if s.silent {
		<-ctx.Done()
		return image.Content{}, ctx.Err()
	}
	return s.Store.Stat(ctx, id)
}

func (s *store) failing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// block makes the next ingests stop in the middle; entered is closed when one
// has, and resume lets them go on.
func (s *store) block() (entered <-chan struct{}, resume func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stop := make(chan struct{})
	s.stop, s.entered = stop, make(chan struct{})
	return s.entered, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(stop)
		s.stop = nil
	}
}

// halfway is a source that waits in its second half.
type halfway struct {
	image.Source
	ctx     context.Context
	stop    chan struct{}
	entered chan struct{}
	once    sync.Once
}

func (h *halfway) ReadAt(p []byte, off int64) (int, error) {
	if off >= h.Size()/2 {
		if err := h.wait(); err != nil {
			return 0, err
		}
	}
	return h.Source.ReadAt(p, off)
}

func (h *halfway) wait() error {
	h.once.Do(func() { close(h.entered) })
	select {
	case <-h.stop:
		return nil
	case <-h.ctx.Done():
		return h.ctx.Err()
	}
}

// clockAhead is the machine's clock plus what a test adds.
type clockAhead struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clockAhead) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().UTC().Add(c.ahead).Truncate(time.Microsecond)
}

func (c *clockAhead) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// rights allow everything but what is denied as "object action".
type rights map[string]bool

func (r rights) Authorize(_ context.Context, c millpond.Caller, action, scope string) error {
	if r[c.Object+" "+action] {
		return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "no %s at %s", action, scope)
	}
	return nil
}

type world struct {
	*testing.T
	dir     string
	clock   *clockAhead
	rights  rights
	release millpond.OSRelease
	base    []gallery.BaseImage
	// preflight is the policy from the next open on; report is what is found on
	// every disk, nil for a system of release.
	preflight, endOfLife gallery.Policy
	// retries are the waits after failed copies.
	retries []time.Duration
	report  *inspect.Report
	// silent are the stores that do not answer from the next open on.
	silent  map[string]bool
	pools   error // what emptying an account answers
	poolsMu sync.Mutex

	ctx    context.Context
	end    context.CancelFunc
	driver *reconcile.Driver
	db     *sqlite.DB
	stores map[string]*store
	disks  *layer.Disks
	keeper *custody.Keeper
	res    *resource.Service
	comp   *compute.Service
	gal    *gallery.Service
	acc    *account.Service
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, dir: t.TempDir(), clock: &clockAhead{}, rights: rights{}, retries: []time.Duration{time.Millisecond, time.Millisecond, time.Hour}, release: millpond.OSRelease{OSType: "Linux", ID: "ubuntu", Version: "16.04", Name: "Ubuntu 16.04"}}
	w.open()
	t.Cleanup(w.crash)
	w.ok(w.res.EnsureSubscription(w.ctx, millpond.Subscription{ID: sub, Tenant: tenant, Name: "s"}, true))
	w.group("rg")
	return w
}

func (w *world) group(name string) {
	w.Helper()
	_, _, err := w.res.PutGroup(w.ctx, millpond.Group{Subscription: sub, Name: name, Location: "westus2"})
	w.ok(err)
}

// open makes everything anew over what is on disk, as a start does.
func (w *world) open() {
	w.Helper()
	w.ctx, w.end = context.WithCancel(context.Background())
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	w.db, err = sqlite.Open(w.ctx, filepath.Join(w.dir, "db"), w.clock)
	w.ok(err)
	regions := []millpond.Region{{Name: "westus2", DisplayName: "West US 2"}, {Name: "eastus", DisplayName: "East US"}, {Name: "northeurope", DisplayName: "North Europe"}}
	w.stores = map[string]*store{}
	var places []custody.Region
	for _, r := range regions {
		p := custody.Region{Name: r.Name}
		for i := range 2 {
			name := fmt.Sprintf("%s-%d", r.Name, i)
			f, err := chunkstore.Open(context.Background(), name, filepath.Join(w.dir, name))
			w.ok(err)
			w.stores[name] = &store{Store: f, silent: w.silent[name]}
			p.Stores = append(p.Stores, w.stores[name])
		}
		places = append(places, p)
	}
	w.keeper, err = custody.New(w.db, places, func(ctx context.Context) (used map[string]bool, err error) {
		err = w.db.View(ctx, func(tx *sqlite.Tx) (err error) {
			used, err = tx.NodeContents()
			return err
		})
		return used, err
	})
	w.ok(err)
	_, err = w.keeper.Sweep(w.ctx, time.Minute, nil)
	w.ok(err)
	w.disks, err = layer.OpenDisks(filepath.Join(w.dir, "disks"), compute.Bases(w.keeper))
	w.ok(err)
	w.res = resource.New(resource.Options{DB: w.db, Clock: w.clock, Regions: regions})
	w.comp, err = compute.New(w.ctx, compute.Options{DB: w.db, Clock: w.clock, Log: log, Keeper: w.keeper, Disks: w.disks, Resources: w.res, Auth: w.rights,
		Usable: func(ctx context.Context, version millpond.ResourceID, sku string) error {
			_, err := w.gal.Usable(ctx, version, gallery.Use{SKUs: []string{sku}})
			return err
		}})
	w.ok(err)
	w.gal = gallery.New(gallery.Options{DB: w.db, Clock: w.clock, Log: log, Keeper: w.keeper, Resources: w.res, Auth: w.rights, Freezer: w.comp,
		Preflight: w.preflight, EndOfLife: w.endOfLife, Retries: w.retries,
		Inspect: func(context.Context, io.ReaderAt, int64) (inspect.Report, error) {
			if w.report != nil {
				return *w.report, nil
			}
			return inspect.Report{OS: inspect.OS{Family: w.release.OSType, ID: w.release.ID, VersionID: w.release.Version, PrettyName: w.release.Name}}, nil
		},
		BaseImages: func(context.Context) ([]gallery.BaseImage, error) { return w.base, nil }})
	w.comp.SetLatest(w.gal.Latest)
	w.acc = account.New(account.Options{DB: w.db, Clock: w.clock, Log: log, Resources: w.res, Pools: w, Quotas: account.Quotas{Pools: 10, Cores: 10, Accounts: 3}})
	armapi.Members(w.res, w.comp, w.gal, w.acc)
	w.driver = reconcile.NewDriver(w.clock, log)
	for _, l := range []reconcile.Loop{w.res.Loop(), w.comp.Loop(), w.gal.Loop(), w.gal.Audit(), w.acc.Loop()} {
		w.driver.Start(w.ctx, l)
	}
}

// crash ends everything where it is.
func (w *world) crash() {
	w.end()
	w.driver.Wait()
	w.comp.Wait()
	w.gal.Wait()
	if err := w.db.Close(); err != nil {
		w.Error(err)
	}
}

func (w *world) restart() {
	w.Helper()
	w.crash()
	w.open()
}

// DeleteAccount is account.Pools.
func (w *world) DeleteAccount(context.Context, millpond.AccountName) error {
	w.poolsMu.Lock()
	defer w.poolsMu.Unlock()
	return w.pools
}

func (w *world) setPools(err error) {
	w.poolsMu.Lock()
	defer w.poolsMu.Unlock()
	w.pools = err
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// refused checks an error's code and a part of its message.
func (w *world) refused(what string, err error, kind millpond.Kind, code, says string) {
	w.Helper()
	e := millpond.AsError(err)
	if err == nil || e.Kind != kind || e.Code != code || !strings.Contains(e.Message, says) {
		w.Errorf("%s: %v; want %s with %q", what, err, code, says)
	}
}

func (w *world) until(what string, done func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	w.Fatalf("waited in vain: %s", what)
}

// waitFor waits for a signal of a store.
func (w *world) waitFor(what string, c <-chan struct{}) {
	w.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		w.Fatalf("waited in vain: %s", what)
	}
}

func id(s string) millpond.ResourceID {
	p, ok := millpond.ParseResourceID(s)
	if !ok {
		panic(s)
	}
	return p
}

// ended waits for an operation's outcome.
func (w *world) ended(op *millpond.Operation) millpond.Operation {
	w.Helper()
	var o millpond.Operation
	w.until("end of "+op.Verb+" of "+op.Target, func() bool {
		var err error
		o, err = w.res.Operation(w.ctx, sub, op.ID)
		w.ok(err)
		return o.Done()
	})
	return o
}

// random is a disk's bytes without holes; a short pattern, because the race
// detector makes every byte dear.
func random(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	pattern := make([]byte, 4093)
	for i := range pattern {
		pattern[i] = byte(r.Uint32())
	}
	return bytes.Repeat(pattern, diskSize/len(pattern)+1)[:diskSize]
}

// put writes pages through a grant.
func (w *world) put(a compute.Access, off int64, p []byte) error {
	b, err := w.comp.OpenBlob(w.ctx, a)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = b.WriteAt(p, off)
	return err
}

func (w *world) newDisk(name string, d millpond.Disk, sizeGB int32) (*millpond.Disk, *millpond.Operation, error) {
	d.ID = id(mc + "/disks/" + name)
	if d.Snapshot {
		d.ID = id(mc + "/snapshots/" + name)
	}
	if d.Location == "" {
		d.Location = "westus2"
	}
	return w.comp.PutDisk(w.ctx, admin, compute.Change{Disk: d, SizeGB: sizeGB})
}

// forUpload makes a disk that waits for an upload and grants the access.
func (w *world) forUpload(name string) compute.Access {
	w.Helper()
	_, op, err := w.newDisk(name, millpond.Disk{OSType: "Linux", Creation: millpond.CreationData{Option: millpond.CreateUpload, UploadBytes: diskSize + 512}}, 0)
	w.ok(err)
	if op != nil {
		w.ended(op)
	}
	a, err := w.comp.Grant(w.ctx, id(mc+"/disks/"+name), true, time.Hour)
	w.ok(err)
	return a
}

// upload makes a disk with bytes from a seed.
func (w *world) upload(name string, seed uint64) {
	w.Helper()
	a := w.forUpload(name)
	w.ok(w.put(a, 0, random(seed)))
	w.ok(w.put(a, diskSize, vhd.NewFooter(diskSize, name, time.Now())))
	w.ok(w.comp.Revoke(w.ctx, id(mc+"/disks/"+name)))
}

func (w *world) disk(path string) *millpond.Disk {
	w.Helper()
	d, err := w.comp.Disk(w.ctx, id(mc+path))
	w.ok(err)
	return d
}

// holds counts the contents of a store.
func (w *world) holds(name string) int {
	w.Helper()
	all, err := w.stores[name].List(w.ctx)
	w.ok(err)
	return len(all)
}

func (w *world) define(name, osType, state string) {
	w.Helper()
	_, _, err := w.gal.PutGallery(w.ctx, &millpond.Gallery{Resource: millpond.Resource{ID: id(mc + "/galleries/Gal"), Location: "westus2"}}, nil)
	w.ok(err)
	_, _, err = w.gal.PutDefinition(w.ctx, &millpond.ImageDefinition{Resource: millpond.Resource{ID: id(mc + "/galleries/gal/images/" + name), Location: "westus2"},
		OSType: osType, OSState: state, Publisher: "p", Offer: "o", SKU: name})
	w.ok(err)
}

const def = mc + "/galleries/gal/images/def"

func (w *world) putVersion(sp gallery.VersionSpec) (gallery.Published, *millpond.Operation, error) {
	sp.Location = "westus2"
	p, _, op, err := w.gal.PutVersion(w.ctx, admin, sp)
	return p, op, err
}

// publish makes a version of def from /disks/os and waits for its end.
func (w *world) publish(number string, targets ...millpond.TargetRegion) millpond.Operation {
	w.Helper()
	_, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/" + number), OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}, Targets: targets})
	w.ok(err)
	return w.ended(op)
}

func (w *world) version(number string) gallery.Published {
	w.Helper()
	p, err := w.gal.Version(w.ctx, id(def+"/versions/"+number))
	w.ok(err)
	return p
}

func (w *world) status(number string) (string, map[string]gallery.RegionStatus) {
	w.Helper()
	p := w.version(number)
	all, rs := gallery.Status(p.ImageVersion, p.Replicas)
	m := map[string]gallery.RegionStatus{}
	for _, r := range rs {
		m[r.Region] = r
	}
	return all, m
}
