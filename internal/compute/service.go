// Package compute holds the verbs of disks, snapshots and managed images, and
// the loop that gives them their bytes. A create writes a row in state Creating
// and an operation; the loop does the work and ends both in one transaction, so
// a crash in the middle only means that the loop begins again.
//
// It knows no HTTP but what it fetches for an import, and no galleries beyond
// the rows of versions. The edges armapi and blobapi call it.
package compute

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Resources is what compute needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	Begin(tx *sqlite.Tx, id millpond.ResourceID, verb string) (millpond.Operation, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
}

// Authorizer says whether a caller may do something.
type Authorizer interface {
	Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error
}

// OwnBlobs knows the storage accounts of this server.
type OwnBlobs interface {
	// Account is the account that a URL is of, if it is one of this server's and the
	// URL has no signature of its own.
	Account(ctx context.Context, uri string) (id millpond.ResourceID, ok bool)
	// Signed is the URL, at an address and with a signature by which HTTP can read it
	// for a while; others it leaves alone.
	Signed(ctx context.Context, uri string) (string, error)
}

// Options are what a Service needs.
type Options struct {
	DB        *sqlite.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Keeper    *custody.Keeper
	Disks     *layer.Disks
	Resources Resources
	Auth      Authorizer
	// Live freezes the disks of running VMs; nil where there are none.
	Live Live
	// Guests holds the guests of running VMs still; nil where none can be.
	Guests Guests
	// HTTP fetches imported VHDs.
	HTTP *http.Client
	// Own makes URLs readable that are of storage accounts of this server; nil where
	// there are none.
	Own OwnBlobs
	// Base finds a built base image by its name.
	Base func(ctx context.Context, name string) (Base, error)
	// Latest resolves an image definition to a version for a region.
	Latest func(ctx context.Context, definition millpond.ResourceID, region string) (millpond.ResourceID, error)
	// Usable refuses an image version that no disk of a SKU may be made of; nil
	// allows all.
	Usable func(ctx context.Context, version millpond.ResourceID, sku string) error
}

// Service is safe for concurrent use.
type Service struct {
	Options
	key  []byte // signs access URLs
	wake *wake.Signal

	mu      sync.Mutex
	working map[string]bool // keys of rows that a goroutine works on
	changed chan struct{}   // closed and replaced when a row's work ends
	wg      sync.WaitGroup

	// ingested are the contents that base images have become, by file; with mu.
	ingested map[string]image.ContentID
	adopting sync.Mutex
	progress progress
}

// New makes a Service and removes what a crash left in its disks' folder, which
// nobody else may use. The key that signs access URLs is made on first use and
// kept in the database.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{Options: o, wake: wake.New(), working: map[string]bool{}, ingested: map[string]image.ContentID{}, changed: make(chan struct{})}
	if s.HTTP == nil {
		s.HTTP = http.DefaultClient
	}
	if err := s.tidy(ctx); err != nil {
		return nil, err
	}
	return s, o.DB.Update(ctx, func(tx *sqlite.Tx) error {
		v, err := tx.Setting("disk-access-key")
		if err != nil {
			return err
		}
		if v == "" {
			k := make([]byte, 32)
			if _, err := rand.Read(k); err != nil {
				return err
			}
			v = base64.StdEncoding.EncodeToString(k)
			if err := tx.PutSetting("disk-access-key", v); err != nil {
				return err
			}
		}
		s.key, err = base64.StdEncoding.DecodeString(v)
		return err
	})
}

// SetLatest tells how a definition is resolved; it is called while the server
// is put together, because gallery is made after compute.
func (s *Service) SetLatest(f func(ctx context.Context, definition millpond.ResourceID, region string) (millpond.ResourceID, error)) {
	s.Latest = f
}

func (s *Service) sign(text string) string {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// Loop gives new disks, snapshots and images their bytes and lets access
// expire. Work that it started goes on between activations; Wait joins it.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "disks and images", Every: 5 * time.Second, Wake: s.wake, Run: s.run}
}

// Wait joins work in progress, after the loop's context has ended.
func (s *Service) Wait() { s.wg.Wait() }

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	var disks []*millpond.Disk
	var images []*millpond.ManagedImage
	creating := []millpond.ProvisioningState{millpond.StateCreating}
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		for _, typ := range []string{millpond.TypeDisk, millpond.TypeSnapshot} {
			some, err := sqlite.List[millpond.Disk](tx, sqlite.Query{Type: typ, States: creating})
			if err != nil {
				return err
			}
			disks = append(disks, some...)
		}
		var err error
		images, err = sqlite.List[millpond.ManagedImage](tx, sqlite.Query{Type: millpond.TypeImage, States: creating})
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	for _, d := range disks {
		s.start(ctx, d.ID)
	}
	for _, m := range images {
		s.start(ctx, m.ID)
	}
	next, err := s.expire(ctx)
	return fmt.Sprintf("%d to fill", len(disks)+len(images)), next, err
}

// work gives one row its bytes. It reads the row again: what the loop saw may
// have ended since, and to fill a disk twice would wipe what was written to it.
func (s *Service) work(ctx context.Context, id millpond.ResourceID) error {
	var d *millpond.Disk
	var m *millpond.ManagedImage
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if id.Is(millpond.TypeImage) {
			m, err = sqlite.Load[millpond.ManagedImage](tx, id.Key())
		} else {
			d, err = sqlite.Load[millpond.Disk](tx, id.Key())
		}
		return err
	})
	switch {
	case errors.Is(err, sqlite.ErrNoRow):
		return nil
	case err != nil:
		return err
	case m != nil && m.State == millpond.StateCreating:
		return s.fillImage(ctx, m)
	case d != nil && d.Base().State == millpond.StateCreating:
		return s.fillDisk(ctx, d)
	}
	return nil
}

// start runs work on a row unless it runs already.
func (s *Service) start(ctx context.Context, id millpond.ResourceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working[id.Key()] || ctx.Err() != nil {
		return
	}
	s.working[id.Key()] = true
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		if err := s.work(ctx, id); err != nil && ctx.Err() == nil {
			s.Log.Error("disk work failed", "resource", id.String(), "err", err)
			if err := s.fail(ctx, id, millpond.AsError(err)); err != nil {
				s.Log.Error("failure not recorded", "resource", id.String(), "err", err)
			}
		}
		s.mu.Lock()
		delete(s.working, id.Key())
		s.progress.forget(id)
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		s.wake.Wake()
	}()
}

// settle waits a moment for a row's work, so that small things are answered
// with their end and not with an operation to poll.
func (s *Service) settle(ctx context.Context, id millpond.ResourceID) (millpond.Resource, error) {
	s.wake.Wake()
	deadline := time.NewTimer(1500 * time.Millisecond)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		var r millpond.Resource
		err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
			r, err = tx.Resource(id.Key())
			return err
		})
		if err != nil || r.State != millpond.StateCreating {
			return r, err
		}
		select {
		case <-changed:
		case <-deadline.C:
			return r, nil
		case <-ctx.Done():
			return r, nil
		}
	}
}

func (s *Service) fail(ctx context.Context, id millpond.ResourceID, e *millpond.Error) error {
	file := ""
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if err := tx.EndOperations(id.Key(), e); err != nil {
			return err
		}
		if id.Is(millpond.TypeImage) {
			m, err := sqlite.Load[millpond.ManagedImage](tx, id.Key())
			if err != nil || m.State != millpond.StateCreating {
				return err
			}
			m.State, m.Failure = millpond.StateFailed, e.Message
			return tx.Put(m)
		}
		d, err := sqlite.Load[millpond.Disk](tx, id.Key())
		if err != nil {
			return err
		}
		if d.Base().State != millpond.StateCreating {
			return nil // the bytes are there; only tidying up failed
		}
		d.Base().State, d.Failure = millpond.StateFailed, e.Message
		file = d.File
		return tx.Put(d)
	})
	if err == nil && file != "" {
		err = s.Disks.Delete(file)
	}
	return err
}

// tidy brings the disks to what the rows say after a crash: files that no row
// names go, a disk whose growth was cut short grows, and a disk uses the content
// that it lies on and no other.
func (s *Service) tidy(ctx context.Context) error {
	if err := s.Disks.Tidy(); err != nil {
		return err
	}
	rows := map[string]*millpond.Disk{}
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		all, err := sqlite.List[millpond.Disk](tx, sqlite.Query{Type: millpond.TypeDisk})
		for _, d := range all {
			rows[d.File] = d
		}
		return err
	})
	if err != nil {
		return err
	}
	files, err := s.Disks.List()
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := s.tidyFile(ctx, f, rows[f]); err != nil {
			// One disk's trouble must not keep all others from their machines.
			s.Log.Warn("a disk was left as it is", "disk", f, "err", err)
		}
	}
	return nil
}

func (s *Service) tidyFile(ctx context.Context, file string, d *millpond.Disk) error {
	if d == nil {
		return s.Disks.Delete(file)
	}
	if d.Base().State != millpond.StateSucceeded {
		return nil
	}
	info, err := s.Disks.Stat(file)
	if err != nil {
		return err
	}
	if info.Size < d.SizeBytes {
		if err := s.Disks.Resize(file, d.SizeBytes); err != nil {
			return err
		}
	}
	return s.settleUses(ctx, d)
}

// load reads a noun or says that it is not there.
func load[T any, P interface {
	*T
	sqlite.Noun
}](s *Service, tx *sqlite.Tx, id millpond.ResourceID) (*T, error) {
	n, err := sqlite.Load[T, P](tx, id.Key())
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil, s.Resources.NotFound(tx, id)
	}
	return n, err
}

// busy is an error when something that is being created reads from a disk or
// snapshot.
func busy(tx *sqlite.Tx, id millpond.ResourceID) error {
	creating := []millpond.ProvisioningState{millpond.StateCreating}
	// A version whose creation failed reads its sources again when it is updated.
	publishing := append(creating, millpond.StateUpdating)
	refuse := func(by millpond.ResourceID) error {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The resource '%s' is being copied to %s. Wait until that has ended: az resource wait --created --ids %s", id.Name(), by, by)
	}
	same := func(s string) bool {
		p, ok := millpond.ParseResourceID(s)
		return ok && p.Key() == id.Key()
	}
	for _, typ := range []string{millpond.TypeDisk, millpond.TypeSnapshot} {
		ds, err := sqlite.List[millpond.Disk](tx, sqlite.Query{Type: typ, States: creating})
		if err != nil {
			return err
		}
		for _, d := range ds {
			if same(d.Creation.SourceID) {
				return refuse(d.ID)
			}
		}
	}
	ms, err := sqlite.List[millpond.ManagedImage](tx, sqlite.Query{Type: millpond.TypeImage, States: creating})
	if err != nil {
		return err
	}
	for _, m := range ms {
		for _, d := range append([]millpond.ImageDisk{m.OSDisk}, m.DataDisks...) {
			if same(d.DiskID) || same(d.SnapshotID) {
				return refuse(m.ID)
			}
		}
	}
	vs, err := sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion, States: publishing})
	if err != nil {
		return err
	}
	for _, v := range vs {
		for _, d := range v.Disks() {
			if d.Content == "" && same(d.SourceID) {
				return refuse(v.ID)
			}
		}
	}
	return nil
}

// leftover logs that contents could not be deleted yet. The keeper tries again.
func (s *Service) leftover(err error) {
	if err != nil {
		s.Log.Warn("unused contents not deleted yet", "err", err)
	}
}
