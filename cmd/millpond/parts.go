package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/authz"
	"millpond.dev/millpond/internal/baseimage"
	"millpond.dev/millpond/internal/batchapi"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/datadir"
	"millpond.dev/millpond/internal/directory"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/identity"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/image/rawfile"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/pool"
	"millpond.dev/millpond/internal/portal"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

// openStores opens the writable disks and each region's replica stores.
func (s *server) openStores(ctx context.Context) (_ *custody.Keeper, _ *layer.Disks, err error) {
	if s.chunks, err = openRegionStores(ctx, s.cfg, s.data); err != nil {
		return nil, nil, err
	}
	var regions []custody.Region
	for _, r := range s.chunks {
		region := custody.Region{Name: r.region}
		for _, st := range r.stores {
			region.Stores = append(region.Stores, st)
			s.stores = append(s.stores, launch.Store{Name: st.Name(), URL: st.URL()})
		}
		regions = append(regions, region)
	}
	// A running node reads its image as long as it lives, also after the
	// version has been deleted.
	keeper, err := custody.New(s.db, regions, func(ctx context.Context) (used map[string]bool, err error) {
		err = s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
			used, err = tx.NodeContents()
			return err
		})
		return used, err
	})
	if err != nil {
		return nil, nil, err
	}
	disks, err := layer.OpenDisks(s.data.Disks(), compute.Bases(keeper))
	return keeper, disks, err
}

func regionNouns(cfg config.Config) []millpond.Region {
	var out []millpond.Region
	for _, r := range cfg.Regions {
		display := r.DisplayName
		if display == "" {
			display = r.Name
		}
		out = append(out, millpond.Region{Name: r.Name, DisplayName: display})
	}
	return out
}

// osRelease adapts preflight's report to what the galleries keep of it.
func osRelease(ctx context.Context, r io.ReaderAt, size int64) (millpond.OSRelease, error) {
	report, err := inspect.Inspect(ctx, r, size)
	if err != nil {
		return millpond.OSRelease{}, err
	}
	return millpond.OSRelease{OSType: report.OS.Family, ID: report.OS.ID, Version: report.OS.VersionID, Name: report.OS.PrettyName}, nil
}

// randomID is 8 random bytes in hexadecimal.
func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// tenantSpecs are the tenants that shall exist, the first one first.
func tenantSpecs(cfg config.Config, data datadir.Dir, addr string) []directory.TenantSpec {
	specs := []directory.TenantSpec{directory.Default(data.Credentials(), "https://"+addr)}
	for _, t := range cfg.Tenants {
		specs = append(specs, directory.TenantSpec{DisplayName: t.Name, Domain: t.Domain, SubscriptionName: t.Name,
			File: data.TenantCredentials(t.Name), Endpoint: "https://" + addr})
	}
	return specs
}

// bootstrap makes the tenants with an administrator and a subscription each. home is
// the first of them, whose administrator is the server's.
func bootstrap(ctx context.Context, dir *directory.Service, rights *authz.Service, resources *resource.Service, specs []directory.TenantSpec) (home string, err error) {
	for i, spec := range specs {
		if err := os.MkdirAll(filepath.Dir(spec.File), 0o700); err != nil {
			return "", err
		}
		c, _, err := dir.Bootstrap(ctx, spec, func(tx *sqlite.Tx, c directory.Credentials) error {
			return rights.GrantTx(tx, c.TenantID, c.ObjectID, authz.Owner, "/")
		})
		if err != nil {
			return "", err
		}
		if err := resources.EnsureSubscription(ctx, millpond.Subscription{ID: c.SubscriptionID, Name: c.SubscriptionName, Tenant: c.TenantID}, true); err != nil {
			return "", err
		}
		if i == 0 {
			home = c.TenantID
		}
	}
	return home, rights.Reload(ctx)
}

// makeOwner gives a caller all rights on a scope that the caller made.
func makeOwner(ctx context.Context, db *sqlite.DB, rights *authz.Service, caller millpond.Caller, scope string) error {
	err := db.Update(ctx, func(tx *sqlite.Tx) error {
		return rights.GrantTx(tx, caller.Tenant, caller.Object, authz.Owner, scope)
	})
	if err != nil {
		return err
	}
	return rights.Reload(ctx)
}

// size is a VM size by name, the configured ones first.
func (s *server) size(name string) (millpond.VMSize, bool) {
	for _, v := range s.sizes() {
		if strings.EqualFold(v.Name, name) {
			return v, true
		}
	}
	return millpond.VMSize{}, false
}

// sizes is the table of VM sizes with the configured ones over it.
func (s *server) sizes() []millpond.VMSize {
	var out []millpond.VMSize
	own := map[string]bool{}
	for _, v := range s.cfg.VMSizes {
		own[strings.ToLower(v.Name)] = true
		out = append(out, millpond.VMSize{Name: v.Name, VCPUs: v.VCPUs, MemoryMiB: v.MemoryMiB, TempDiskMiB: int(v.TempDiskMiB), MaxDataDisks: v.MaxDataDisks, CacheGiB: v.CacheDiskGiB, Gen1: true, Gen2: true})
	}
	for _, v := range millpond.VMSizes() {
		if !own[strings.ToLower(v.Name)] {
			out = append(out, v)
		}
	}
	return out
}

// accountsByName lends the accounts' look-up the name under which the Batch
// verbs know it.
type accountsByName struct{ *account.Service }

func (a accountsByName) Account(ctx context.Context, name millpond.AccountName) (millpond.BatchAccount, error) {
	return a.Lookup(ctx, name)
}

// accountContents is account.Pools by a function.
type accountContents func(ctx context.Context, name millpond.AccountName) error

func (f accountContents) DeleteAccount(ctx context.Context, name millpond.AccountName) error {
	return f(ctx, name)
}

// deleteContents begins to delete the jobs and pools of an account; it returns
// nil when none is left, and Conflict while they go.
func deleteContents(ctx context.Context, name millpond.AccountName, pools *pool.Service, jobs *job.Service) error {
	left, _, err := jobs.ListJobs(ctx, name, millpond.ListQuery[millpond.Job]{Limit: 1000})
	if err != nil {
		return err
	}
	for _, j := range left {
		if j.State == millpond.JobDeleting {
			continue
		}
		if err := jobs.DeleteJob(ctx, name, j.Spec.ID, millpond.Condition{}, true); err != nil && millpond.KindOf(err) == millpond.Internal {
			return err
		}
	}
	there, _, err := pools.List(ctx, name, millpond.ListQuery[millpond.Pool]{Limit: 1000})
	if err != nil {
		return err
	}
	for _, p := range there {
		if p.State == millpond.PoolDeleting {
			continue
		}
		if err := pools.Delete(ctx, name, p.Spec.ID, millpond.Condition{}); err != nil && millpond.KindOf(err) == millpond.Internal {
			return err
		}
	}
	if n := len(left) + len(there); n > 0 {
		return millpond.Errorf(millpond.Conflict, "Conflict", "%d pools and jobs of account %s are being deleted.", n, name)
	}
	return nil
}

// supportedImages is the catalogue in the words of the Batch edge.
func supportedImages(ctx context.Context, g *gallery.Service) ([]batchapi.SupportedImage, error) {
	all, err := g.SupportedImages(ctx)
	if err != nil {
		return nil, err
	}
	var out []batchapi.SupportedImage
	for _, i := range all {
		out = append(out, batchapi.SupportedImage{Publisher: i.Publisher, Offer: i.Offer, SKU: i.SKU, Version: "latest", NodeAgentSKU: i.NodeAgentSKU,
			OSType: strings.ToLower(i.OSType), Verified: i.Verified})
	}
	return out, nil
}

// baseImages lists what `millpond image build` left in the data folder.
func (s *server) baseImages(ctx context.Context) ([]gallery.BaseImage, error) {
	files, err := filepath.Glob(filepath.Join(s.data.BaseImages(), "*.raw"))
	if err != nil {
		return nil, err
	}
	var out []gallery.BaseImage
	for _, f := range files {
		d, err := baseimage.ReadDescription(f)
		if err != nil {
			// A build under way has no description yet.
			continue
		}
		file, err := rawfile.Open(f)
		if err != nil {
			return nil, err
		}
		release, err := osRelease(ctx, file, file.Size())
		file.Close()
		if err != nil {
			s.log.Warn("a base image cannot be read", "file", f, "err", err)
			continue
		}
		b := gallery.BaseImage{Name: d.Name, Path: f, Size: d.Size, HyperV: "V1", Release: release}
		if slices.Contains(d.Generations, "V2") {
			b.HyperV = "" // everything that is built here boots as V1 too
		}
		out = append(out, b)
	}
	return out, nil
}

func (s *server) counts(ctx context.Context) ([]portal.Count, error) {
	var out []portal.Count
	err := s.db.View(ctx, func(tx *sqlite.Tx) error {
		all, err := tx.StateCounts()
		for _, c := range all {
			out = append(out, portal.Count{Noun: c.Noun, State: c.State, N: c.N})
		}
		return err
	})
	return out, err
}

func (s *server) capacity(ctx context.Context) (portal.Capacity, error) {
	c, err := s.launcher.Capacity(ctx)
	return portal.Capacity{VMs: c.VMs, UsedVMs: c.UsedVMs, MemoryMiB: c.MemoryMiB, UsedMemoryMiB: c.UsedMemoryMiB}, err
}

// healthz is for whoever restarts servers: it answers 200 when requests can be
// served, which needs the rows.
func (s *server) healthz(w http.ResponseWriter, r *http.Request) {
	if _, err := s.counts(r.Context()); err != nil {
		http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// pageReader is what whoever asks for the status page may see: without a token
// numbers alone; with one the image versions that it may read; and all that is said of
// failures for who owns the home tenant, and so the server.
func pageReader(dir *directory.Service, rights *authz.Service, home string) func(*http.Request) (portal.Reader, error) {
	return func(r *http.Request) (portal.Reader, error) {
		if r.Header.Get("Authorization") == "" {
			return portal.Reader{}, nil
		}
		ctx := r.Context()
		token, _ := identity.Bearer(r)
		caller, err := dir.Verify(ctx, token, directory.AudienceARM)
		if err != nil {
			return portal.Reader{}, err
		}
		owns, err := rights.Allowed(ctx, caller, "Microsoft.Authorization/roleAssignments/write", "/")
		return portal.Reader{Host: owns && strings.EqualFold(caller.Tenant, home), Reads: func(version string) (bool, error) {
			return rights.Allowed(ctx, caller, "Microsoft.Compute/galleries/images/versions/read", version)
		}}, err
	}
}

// imageFindings are the versions that preflight has something to say about.
func imageFindings(ctx context.Context, g *gallery.Service) ([]portal.Image, error) {
	all, err := g.Warned(ctx)
	var out []portal.Image
	for _, v := range all {
		out = append(out, portal.Image{Version: v.ID.String(), Findings: v.Preflight.Findings})
	}
	return out, err
}

// hookClient posts to webhooks: no redirect, because a signed body is for the one
// who was named.
func hookClient() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
