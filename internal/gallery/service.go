// Package gallery holds the verbs of galleries, image definitions and image
// versions, the loop that replicates versions to their regions, and the rules
// by which a pool may boot from one.
//
// It knows rows, contents and stores; no HTTP and no VMs. The edges armapi and
// batchapi and the pool verbs call it.
package gallery

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Resources is what gallery needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	Begin(tx *sqlite.Tx, id millpond.ResourceID, verb string) (millpond.Operation, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
	Region(name string) (millpond.Region, error)
}

// Authorizer says whether a caller may do something.
type Authorizer interface {
	Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error
}

// Freezer makes the bytes of disks and snapshots immutable; compute does.
type Freezer interface {
	Freeze(ctx context.Context, hold *custody.Hold, id millpond.ResourceID, region string) (store, content string, size int64, err error)
	// Source is a URL as FreezeURL reads it; the error refuses the caller.
	Source(ctx context.Context, caller millpond.Caller, uri, target string) (string, error)
	FreezeURL(ctx context.Context, hold *custody.Hold, url, scratch, region string) (store, content string, size int64, err error)
}

// BaseImage is a built image of the catalogue, which Marketplace references
// resolve to.
type BaseImage struct {
	Name    string
	Path    string // raw file
	Size    int64
	HyperV  string // V1 or V2; empty: it boots as either
	Release millpond.OSRelease
}

// Options are what a Service needs.
type Options struct {
	DB        *sqlite.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Keeper    *custody.Keeper
	Resources Resources
	Auth      Authorizer
	Freezer   Freezer
	// Inspect looks into a disk. It may be nil: then nothing is known of what is
	// on a disk.
	Inspect func(ctx context.Context, r io.ReaderAt, size int64) (inspect.Report, error)
	// Preflight says whether findings refuse an image; the zero value keeps none.
	Preflight Policy
	// EndOfLife says what becomes of pools from versions past their end of life.
	EndOfLife Policy
	// Retries are the waits before a failed copy is tried again; nil is one second
	// and then longer.
	Retries []time.Duration
	// BaseImages lists the built base images. It may be nil.
	BaseImages func(ctx context.Context) ([]BaseImage, error)
	// StandIns is for a launcher that reads no disk: each Marketplace image of the
	// node agents' table can then be used, built or not.
	StandIns bool
}

// Service is safe for concurrent use.
type Service struct {
	Options
	wake *wake.Signal

	mu       sync.Mutex
	working  map[string]*worker // by key of the version
	attempts map[place]attempt
	wg       sync.WaitGroup
	// copies bounds the replicas that are copied at a time.
	copies *semaphore.Weighted
	// laggards are the stores that kept a node waiting.
	laggards laggards
}

// New makes a Service.
func New(o Options) *Service {
	if o.Retries == nil {
		o.Retries = retries()
	}
	return &Service{Options: o, wake: wake.New(), working: map[string]*worker{}, attempts: map[place]attempt{}, copies: semaphore.NewWeighted(copiesInAll)}
}

var (
	galleryName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.]{0,78}[A-Za-z0-9])?$`)
	definitionName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?$`)
)

func invalid(target, format string, args ...any) *millpond.Error {
	e := millpond.Errorf(millpond.Invalid, "InvalidParameter", format, args...)
	e.Target = target
	return e
}

// fixed is the error for a change of what cannot change.
func fixed(property, name string) error {
	e := millpond.Errorf(millpond.Conflict, "PropertyChangeNotAllowed", "Changing property '%s' of '%s' is not allowed. Create another one instead.", property, name)
	e.Target = property
	return e
}

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

// Patch is what a PATCH may change; nil leaves.
type Patch struct {
	Tags        map[string]string
	Description *string
	Permissions string
	Community   *millpond.CommunityInfo
}

// PutGallery creates a gallery or changes its description and tags.
func (s *Service) PutGallery(ctx context.Context, g *millpond.Gallery, description *string) (out *millpond.Gallery, created bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if !galleryName.MatchString(g.ID.Name()) {
			return invalid("galleryName", "The gallery name %q is not valid: 1 to 80 letters, digits, '_' or '.', beginning and ending with a letter or digit; no hyphen.", g.ID.Name())
		}
		id, loc, err := s.Resources.Admit(tx, g.ID, g.Location)
		if err != nil {
			return err
		}
		g.ID, g.Location = id, loc
		old, err := sqlite.Load[millpond.Gallery](tx, id.Key())
		switch {
		case errors.Is(err, sqlite.ErrNoRow):
			same, err := tx.Resources(sqlite.Query{Type: millpond.TypeGallery, Subscription: id.Subscription, Name: id.Name()})
			if err != nil {
				return err
			}
			if len(same) > 0 {
				return millpond.Errorf(millpond.Conflict, "Conflict", "A gallery '%s' exists already in the subscription, in resource group '%s'. Gallery names are unique within a subscription; choose another.", id.Name(), same[0].ID.Group)
			}
			out, created = g, true
			if description != nil {
				out.Description = *description
			}
			permissions, info := g.Permissions, g.Community
			g.Permissions, g.Community = "", nil
			if err := applySharing(out, permissions, info); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			out = old
			if err := applySharing(out, g.Permissions, g.Community); err != nil {
				return err
			}
			out.Tags = g.Tags
			if description != nil {
				out.Description = *description
			}
		}
		out.State = millpond.StateSucceeded
		return tx.Put(out)
	})
	return out, created, err
}

// PatchGallery changes a gallery's description and tags.
func (s *Service) PatchGallery(ctx context.Context, id millpond.ResourceID, p Patch) (g *millpond.Gallery, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if g, err = load[millpond.Gallery](s, tx, id); err != nil {
			return err
		}
		if p.Tags != nil {
			g.Tags = p.Tags
		}
		if p.Description != nil {
			g.Description = *p.Description
		}
		if err := applySharing(g, p.Permissions, p.Community); err != nil {
			return err
		}
		return tx.Put(g)
	})
	return g, err
}

// Gallery returns one gallery.
func (s *Service) Gallery(ctx context.Context, id millpond.ResourceID) (g *millpond.Gallery, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		g, err = load[millpond.Gallery](s, tx, id)
		return err
	})
	return g, err
}

// Galleries lists galleries by key.
func (s *Service) Galleries(ctx context.Context, q sqlite.Query) (out []*millpond.Gallery, err error) {
	q.Type = millpond.TypeGallery
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[millpond.Gallery](tx, q)
		return err
	})
	return out, err
}

// DeleteGallery deletes an empty gallery; false if it was not there.
func (s *Service) DeleteGallery(ctx context.Context, id millpond.ResourceID) (bool, error) {
	return s.deleteEmpty(ctx, id, "image definitions", "az sig image-definition delete")
}

// DeleteDefinition deletes a definition without versions; false if it was not there.
func (s *Service) DeleteDefinition(ctx context.Context, id millpond.ResourceID) (bool, error) {
	return s.deleteEmpty(ctx, id, "image versions", "az sig image-version delete")
}

func (s *Service) deleteEmpty(ctx context.Context, id millpond.ResourceID, children, command string) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if _, err := tx.Resource(id.Key()); errors.Is(err, sqlite.ErrNoRow) {
			return nil
		} else if err != nil {
			return err
		}
		n, err := tx.CountChildren(id.Key())
		if err != nil {
			return err
		}
		if n > 0 {
			return millpond.Errorf(millpond.Conflict, "CannotDeleteResource", "Can not delete resource before nested resources are deleted: '%s' has %d %s. Delete them first with: %s", id.Name(), n, children, command)
		}
		found = true
		return tx.DeleteResource(id.Key())
	})
	return found, err
}

// leftover logs that contents could not be deleted yet. The keeper tries again.
func (s *Service) leftover(err error) {
	if err != nil {
		s.Log.Warn("unused contents not deleted yet", "err", err)
	}
}
