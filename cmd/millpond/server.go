package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/application"
	"millpond.dev/millpond/internal/armapi"
	"millpond.dev/millpond/internal/authz"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/batchapi"
	"millpond.dev/millpond/internal/blobapi"
	"millpond.dev/millpond/internal/certificate"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/datadir"
	"millpond.dev/millpond/internal/deployment"
	"millpond.dev/millpond/internal/directory"
	"millpond.dev/millpond/internal/events"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/httpd"
	"millpond.dev/millpond/internal/identity"
	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/kept"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/machine"
	"millpond.dev/millpond/internal/managedidentity"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/nodeapi"
	"millpond.dev/millpond/internal/pool"
	"millpond.dev/millpond/internal/portal"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sched"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/storage"
	"millpond.dev/millpond/internal/storageapi"
	"millpond.dev/millpond/internal/telemetry"
	"millpond.dev/millpond/internal/usage"
	"millpond.dev/millpond/internal/wake"
)

// server is everything that runs, in the order in which it is made.
type server struct {
	cfg   config.Config
	data  datadir.Dir
	log   *slog.Logger
	clock clock.Clock

	db *sqlite.DB
	// events is told each commit from the first on.
	events *events.Log
	hooks  *events.Hooks
	// kept has what tasks and nodes wrote that are gone.
	kept     *kept.Store
	chunks   []regionStores
	launcher machines
	// images sees that the host has its image host; nil with a launcher without
	// machines.
	images *imagehost.Runner
	// stores are all image stores as other processes open them.
	stores   []launch.Store
	sessions *nodeapi.Handler
	front    *httpd.Server
	edges    edges
	loops    []reconcile.Loop
	driver   *reconcile.Driver
	nodes    *node.Service
	machines *machine.Service
	// forward tells the owners of machines about the launcher's news.
	forward func(context.Context)

	// endTraces sends the traces that are left; nil before there are any.
	endTraces func()

	// copying waits for what loops began and go on with after an activation.
	copying              []func()
	beside               sync.WaitGroup
	endLoops, endServing context.CancelFunc
	served               chan error
}

// edges are the doors with their tables of routes; the auth test walks them all.
type edges struct {
	identity      *identity.Edge
	graph         *identity.Graph
	arm           *armapi.Edge
	authorization *armapi.AuthorizationHandler
	batch         *batchapi.Edge
	blob          *blobapi.Edge
	storage       *storageapi.Edge
	// status are the pages of the status mux by their patterns.
	status map[string]http.Handler
}

// newServer makes the parts; nothing runs yet. On an error everything that was
// opened is closed again.
func newServer(ctx context.Context, cfg config.Config, data datadir.Dir, addr string, log *slog.Logger) (_ *server, err error) {
	s := &server{cfg: cfg, data: data, log: log, clock: clock.System{}, served: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.driver = reconcile.NewDriver(s.clock, log)
	tracer, endTraces, err := telemetry.Start(ctx, telemetry.Config{Endpoint: cfg.Traces, Getenv: os.Getenv, Version: version, Log: log})
	if err != nil {
		return nil, err
	}
	s.endTraces = endTraces
	if s.db, err = sqlite.Open(ctx, data.Database(), s.clock); err != nil {
		return nil, err
	}
	if s.events, err = events.Open(ctx, s.db, s.clock, log, events.Config{KeepBytes: cfg.Events.KeepMiB << 20, KeepFor: time.Duration(cfg.Events.KeepFor)}); err != nil {
		return nil, err
	}
	s.hooks = events.NewHooks(s.events, hookClient(), events.HooksConfig{})
	if s.kept, err = kept.Open(ctx, data.Kept(), cfg.Nodes.KeepMiB<<20); err != nil {
		return nil, err
	}

	// Identity and rights.
	key, err := directory.LoadKey(data.TokenKey())
	if err != nil {
		return nil, err
	}
	dir := directory.New(s.db, s.clock, rand.Reader, key)
	var resources *resource.Service
	// A subscription never changes its tenant, and every request asks.
	var tenants sync.Map
	rights, err := authz.New(ctx, s.db, rand.Reader, func(ctx context.Context, subscription string) (string, bool) {
		key := strings.ToLower(subscription)
		if tenant, ok := tenants.Load(key); ok {
			return tenant.(string), true
		}
		sub, err := resources.Subscription(ctx, subscription)
		if err == nil {
			tenants.Store(key, sub.Tenant)
		}
		return sub.Tenant, err == nil
	})
	if err != nil {
		return nil, err
	}
	resources = resource.New(resource.Options{DB: s.db, Clock: s.clock, Regions: regionNouns(cfg), Grant: func(ctx context.Context, caller millpond.Caller, scope string) error {
		return makeOwner(ctx, s.db, rights, caller, scope)
	}, Grace: 2 * time.Second})
	home, err := bootstrap(ctx, dir, rights, resources, tenantSpecs(cfg, data, addr))
	if err != nil {
		return nil, err
	}

	authority, err := httpd.LoadAuthority(data.CA(), data.CAKey(), s.clock)
	if err != nil {
		return nil, err
	}
	// Disks, images, galleries, accounts.
	keeper, disks, err := s.openStores(ctx)
	if err != nil {
		return nil, err
	}
	var galleries *gallery.Service
	comp, err := compute.New(ctx, compute.Options{DB: s.db, Clock: s.clock, Log: log, Keeper: keeper, Disks: disks, Live: liveDisks{s}, Guests: guests{s}, Resources: resources, Auth: rights,
		HTTP: blobReader(addr, authority.PEM()),
		Base: s.baseFile,
		Latest: func(ctx context.Context, definition millpond.ResourceID, region string) (millpond.ResourceID, error) {
			return galleries.Latest(ctx, definition, region)
		},
		Usable: func(ctx context.Context, version millpond.ResourceID, sku string) error {
			_, err := galleries.Usable(ctx, version, gallery.Use{SKUs: []string{sku}})
			return err
		}})
	if err != nil {
		return nil, err
	}
	galleries = gallery.New(gallery.Options{DB: s.db, Clock: s.clock, Log: log, Keeper: keeper, Resources: resources, Auth: rights, Freezer: comp,
		Inspect: inspect.Inspect, Preflight: gallery.Policy(cfg.PreflightPolicy()), EndOfLife: gallery.Policy(cfg.Galleries.EndOfLife), BaseImages: s.baseImages,
		StandIns: cfg.Launcher == "fake"})
	blobs, err := openBlobService(cfg.BlobService)
	if err != nil {
		return nil, err
	}
	stores := storage.New(storage.Options{DB: s.db, Clock: s.clock, Log: log, Rand: rand.Reader, Resources: resources, Behind: blobs})
	comp.Own = ownBlobs{stores, ownAddresses(addr)}
	var pools *pool.Service
	var work *job.Service
	var accounts *account.Service
	var apps *application.Service
	certificates := certificate.New(s.db, log)
	accounts = account.New(account.Options{DB: s.db, Clock: s.clock, Log: log, Resources: resources, Pools: accountContents(func(ctx context.Context, name millpond.AccountName) error {
		if err := deleteContents(ctx, name, pools, work); err != nil {
			return err
		}
		doomed, err := accounts.List(ctx, sqlite.Query{Name: name.Key()})
		for _, a := range doomed {
			err = errors.Join(err, apps.DeleteAccount(ctx, a.ID))
		}
		return errors.Join(err, s.hooks.DeleteAccount(ctx, name), certificates.DeleteAccount(ctx, name))
	}), Storage: stores,
		Quotas: account.Quotas{Pools: cfg.Quotas.Pools, Cores: cfg.Quotas.Cores, ActiveJobs: cfg.Quotas.ActiveJobs, Accounts: cfg.Quotas.Accounts}})

	apps = application.New(s.db, rand.Reader, resources, accounts, stores)

	// Batch. The loops wake each other by these four signals.
	allocate, nodes, schedule, jobs := wake.New(), wake.New(), wake.New(), wake.New()
	var placer *sched.Scheduler
	if s.launcher, err = s.openLauncher(); err != nil {
		return nil, err
	}
	parts, forward := launch.Parts(s.launcher, func(n millpond.NodeID) bool { return !n.IsVM() }, millpond.NodeID.IsVM)
	s.forward = forward
	networks := network.New(s.db, resources, rights)
	identities := managedidentity.New(s.db, resources, rights)
	s.nodes = node.New(node.Deps{DB: s.db, Clock: s.clock, Log: log, Launcher: parts[0], Images: galleries, Accounts: accountsByName{accounts},
		Links: newNodeLinks(accounts, stores, apps, dir, addr, authority.PEM()), Sizes: s.size, Random: rand.Read, Kept: s.kept, Networks: nodeCards{networks}, Identities: nodeIdentities{identities, dir}, Tracer: tracer,
		Wakes: node.Wakes{Allocator: allocate, Nodes: nodes, Scheduler: schedule, Jobs: jobs},
		Config: node.Config{BootLimit: time.Duration(cfg.Nodes.BootLimit), BootsPerReplica: cfg.Pools.BootsPerReplica, Spares: cfg.Pools.Spares, Silence: time.Duration(cfg.Nodes.ContactLimit), LogDir: data.NodeLogs(),
			LogRetention: time.Duration(cfg.Nodes.LogRetention), KeepPart: cfg.Nodes.KeepPartKiB << 10, Version: version, EndpointFile: data.Endpoint(), CAFile: data.CA(),
			Listener: addr, ServerCA: authority.PEM(), AzureHosts: azwire.ServedHosts()}})
	pools = pool.New(pool.Deps{DB: s.db, Clock: s.clock, Log: log, Images: galleries, Machines: s.launcher, Accounts: accountsByName{accounts}, Packages: apps.Check, Subnets: networks, Identities: identities,
		Sizes: s.size, NewID: randomID, WakeSession: s.nodes.Wake,
		Blocked: func(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) (int, error) {
			return placer.Blocked(ctx, acct, id)
		},
		Wakes: pool.Wakes{Allocator: allocate, Nodes: nodes, Scheduler: schedule, Jobs: jobs},
		Usage: s.nodes.Usage, Config: pool.Config{IntervalOnly: !cfg.Pools.GrowOnArrival, NodesPerReplica: cfg.Pools.NodesPerReplica, TimeoutPer1000: time.Duration(cfg.Pools.MinutesPer1000Nodes) * time.Minute}})
	work = job.New(job.Deps{DB: s.db, Clock: s.clock, Log: log, WakeSession: s.nodes.Wake, Pools: pools,
		Wakes: job.Wakes{Jobs: jobs, Scheduler: schedule, Nodes: nodes}, Config: job.Config{ActiveJobs: cfg.Quotas.ActiveJobs}})
	armapi.Members(resources, comp, galleries, accounts)
	armapi.StorageMembers(resources, stores)
	armapi.ApplicationMembers(resources, apps)
	armapi.NetworkMembers(resources, networks)
	armapi.IdentityMembers(resources, identities)
	armapi.KeptMembers(resources, comp)
	s.machines = machine.New(machine.Deps{DB: s.db, Clock: s.clock, Log: log, Launcher: parts[1], Changed: parts[1].Changed(), Resources: resources, Auth: rights,
		Disks: machineDisks{comp}, Networks: machineCards{networks}, Images: machineImages{galleries, s}, Sizes: s.size, Random: rand.Read,
		Config: machine.Config{EndpointFile: data.Endpoint(), CAFile: data.CA(), Version: version}})
	networks.Notify(s.machines.Wake())
	guards := wake.New()
	networks.Notify(guards)
	armapi.MachineMembers(resources, s.machines)
	deployments := deployment.New(deployment.Options{DB: s.db, Clock: s.clock, Log: log, Resources: resources})
	channels := channels{s.nodes, s.machines}
	s.sessions = nodeapi.New(channels, channels, log)
	s.copying = []func(){comp.Wait, galleries.Wait, s.machines.Wait, deployments.Wait}
	placer = sched.New(s.db, log, s.nodes, schedule)
	s.loops = []reconcile.Loop{resources.Loop(), comp.Loop(), galleries.Loop(), galleries.Audit(), accounts.Loop(), stores.Loop(), pools.Allocator(), pools.AutoScaler(), pools.Rollouts(), s.nodes.Machines(), s.nodes.Spares(), s.nodes.Guards(guards), s.nodes.Cleanup(), s.machines.Loop(), placer.Loop(), work.Loop(), work.Schedules(), deployments.Loop(), s.storeLoop(keeper), s.chunkLoop(), work.AutoPools(), s.events.Forget(), certificates.Loop()}

	// The edges and the door.
	assignments := armapi.NewAuthorization(rights, log)
	assignments.Locks = resources
	rm := armapi.New(armapi.Options{Log: log, Auth: rights, Resources: resources, Compute: comp, Gallery: galleries, Accounts: accounts, Storage: stores, Applications: apps, Certificates: certificates, Network: networks, Identities: identities, Machines: s.machines, Deployments: deployments,
		Authenticate: func(r *http.Request) (millpond.Caller, error) {
			token, _ := identity.Bearer(r)
			return dir.Verify(r.Context(), token, directory.AudienceARM)
		},
		Authorization: func(w http.ResponseWriter, r *azwire.Request) error {
			assignments.ServeHTTP(w, r)
			return nil
		},
		VMSizes: s.sizes,
		TenantName: func(ctx context.Context, id string) string {
			t, err := dir.Tenant(ctx, id)
			if err != nil {
				return ""
			}
			return t.DisplayName
		}})
	deployments.Through(rm.Local())
	batch := batchapi.New(batchapi.Options{Accounts: accounts, Authz: rights, Pools: pools, Nodes: s.nodes, Jobs: work, Schedules: work, Stats: &usage.Service{DB: s.db, Clock: s.clock, Sizes: s.size}, Events: s.events, Webhooks: s.hooks, Clock: s.clock, Rand: rand.Reader, Log: log,
		Verify: func(ctx context.Context, token string) (millpond.Caller, error) {
			return dir.Verify(ctx, token, directory.AudienceBatch)
		},
		Applications:    apps.Summaries,
		Certificates:    certificates,
		SupportedImages: func(ctx context.Context) ([]batchapi.SupportedImage, error) { return supportedImages(ctx, galleries) }})
	rm.Pools = batch
	collectors := []prometheus.Collector{s.events, s.nodes.Metrics()}
	if s.images != nil {
		collectors = append(collectors, imagehost.NewCollector(s.images.Client()))
	}
	pages, err := portal.New(portal.Source{Collectors: collectors, Version: version, Started: s.clock.Now(), Launcher: cfg.Launcher, Clock: s.clock, Loops: s.driver.LastRuns,
		Counts: s.counts, Capacity: s.capacity, Images: func(ctx context.Context) ([]portal.Image, error) { return imageFindings(ctx, galleries) },
		Reader: pageReader(dir, rights, home)})
	if err != nil {
		return nil, err
	}
	s.edges = edges{identity: identity.New(dir, s.clock, log), graph: identity.NewGraph(dir, rights, s.clock, log), arm: rm, authorization: assignments,
		batch: batch, blob: blobapi.New(comp, log),
		storage: storageapi.New(storageapi.Options{Accounts: stores, OpenDisk: diskOpener(comp), Behind: blobs, Auth: rights, Clock: s.clock, Log: log, Verify: func(ctx context.Context, token string) (millpond.Caller, error) {
			return dir.Verify(ctx, token, directory.AudienceStorage)
		}}),
		status: map[string]http.Handler{"/metrics": pages.Metrics, "/healthz": http.HandlerFunc(s.healthz), "/": pages.Status}}
	status := http.NewServeMux()
	for pattern, page := range s.edges.status {
		status.Handle(pattern, page)
	}
	s.front = httpd.New(httpd.Config{Authority: authority, Clock: s.clock, Rand: rand.Reader, Log: log, Handlers: httpd.Handlers{
		Identity: s.edges.identity, Metadata: http.HandlerFunc(identity.Metadata), ARM: rm, Graph: s.edges.graph, Aliases: http.HandlerFunc(rm.Aliases),
		Batch: batch, Blob: s.edges.blob, Storage: s.edges.storage, Node: s.sessions, Status: status}})
	return s, nil
}

// start runs the listener and the loops.
func (s *server) start(ctx context.Context, l net.Listener) <-chan error {
	// The parts end in an order of their own, in stop, not with ctx.
	base := context.WithoutCancel(ctx)
	loops, endLoops := context.WithCancel(base)
	serving, endServing := context.WithCancel(base)
	s.endLoops, s.endServing = endLoops, endServing
	for _, loop := range s.loops {
		s.driver.Start(loops, loop)
	}
	for _, run := range []func(context.Context){s.hooks.Run, s.forward, s.edges.storage.Run, s.nodes.Forward, s.machines.Forward} {
		s.beside.Go(func() { run(loops) })
	}
	failed := make(chan error, 1)
	go func() {
		err := s.front.Run(serving, l)
		s.served <- err
		if err != nil {
			failed <- err
		}
	}()
	return failed
}

// stop is start in reverse: no new requests, no new decisions, then the node
// sessions, the machines as told, the rows.
func (s *server) stop(onStop string) error {
	// Streams would go on for ever.
	s.events.Close()
	s.endServing()
	err := <-s.served
	s.endLoops()
	s.driver.Wait()
	for _, wait := range s.copying {
		wait()
	}
	s.beside.Wait()
	err = errors.Join(err, s.sessions.Close())
	if onStop == "stop" {
		err = errors.Join(err, s.stopMachines())
	}
	return errors.Join(err, s.close())
}

// stopMachines powers every VM off, all at once, with a bound.
func (s *server) stopMachines() error {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	if k, ok := s.launcher.(launch.Keeper); ok {
		k.EndMaking()
	}
	all, err := s.launcher.List(ctx)
	if err != nil {
		return err
	}
	errs := make(chan error, len(all))
	for _, vm := range all {
		go func() { errs <- s.launcher.Stop(ctx, vm.Node, 20*time.Second) }()
	}
	for range all {
		err = errors.Join(err, <-errs)
	}
	if s.images != nil {
		err = errors.Join(err, s.images.Stop(ctx))
	}
	return err
}

func (s *server) close() error {
	var err error
	if s.endTraces != nil {
		s.endTraces()
	}
	if s.launcher != nil {
		err = s.launcher.Close()
	}
	if s.images != nil {
		err = errors.Join(err, s.images.Close())
	}
	if s.kept != nil {
		err = errors.Join(err, s.kept.Close())
	}
	if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	return errors.Join(err, closeStores(s.chunks))
}
