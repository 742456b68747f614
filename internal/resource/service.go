// Package resource holds the verbs of the Resource Manager that are the same
// for every kind of resource: subscriptions, groups, providers, tags, generic
// listing and long-running operations. It admits resources into groups for the
// other verb packages, and deletes the members of a group through them.
//
// It knows no HTTP and nothing about what a disk or a gallery is. The edge
// armapi calls it; compute, gallery and account get it as an interface.
package resource

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Options are what a Service needs.
type Options struct {
	DB      *sqlite.DB
	Clock   clock.Clock
	Regions []millpond.Region
	// Grant makes a principal the owner of a scope; it is called with the caller
	// who creates a subscription. Nil grants nothing.
	Grant func(ctx context.Context, caller millpond.Caller, scope string) error
	// Grace is how long a group that is to be deleted keeps what is in it. Clients
	// that do not wait for the deletion count on some seconds, which it takes in
	// Azure: az's own tests tidy up what is in a group after they deleted it.
	Grace time.Duration
}

// Service is safe for concurrent use.
type Service struct {
	db      *sqlite.DB
	clock   clock.Clock
	regions []millpond.Region
	grant   func(context.Context, millpond.Caller, string) error
	wake    *wake.Signal
	grace   time.Duration
	// doomed is when the loop first saw a group that is to be deleted, by scope.
	doomed map[string]time.Time
	// remove deletes one resource of a type; see Member.
	remove map[string]Remove
}

// Remove deletes one resource for its group. It returns false while the
// deletion is still under way.
type Remove func(ctx context.Context, id millpond.ResourceID) (gone bool, err error)

// New makes a Service.
func New(o Options) *Service {
	return &Service{db: o.DB, clock: o.Clock, regions: o.Regions, grant: o.Grant, grace: o.Grace, wake: wake.New(), remove: map[string]Remove{}, doomed: map[string]time.Time{}}
}

// Member tells how resources of a type are deleted with their group. It is
// called while the server is put together, before any request.
func (s *Service) Member(fullType string, r Remove) { s.remove[strings.ToLower(fullType)] = r }

// Regions lists the server's regions.
func (s *Service) Regions() []millpond.Region { return s.regions }

// Region finds a region by its name in any spelling.
func (s *Service) Region(name string) (millpond.Region, error) {
	if strings.TrimSpace(name) == "" {
		return millpond.Region{}, millpond.Errorf(millpond.Invalid, "LocationRequired", "The location property is required. Give one of: %s.", s.regionNames())
	}
	n := millpond.NormalizeRegion(name)
	for _, r := range s.regions {
		if r.Name == n {
			return r, nil
		}
	}
	return millpond.Region{}, millpond.Errorf(millpond.Invalid, "LocationNotAvailableForResourceType",
		"The location %q is not one of this server's regions. Use one of: %s; or add it under regions in the server's configuration.", name, s.regionNames())
}

func (s *Service) regionNames() string {
	names := make([]string, len(s.regions))
	for i, r := range s.regions {
		names[i] = r.Name
	}
	return strings.Join(names, ", ")
}

// CreateSubscription makes a subscription with a new id.
func (s *Service) CreateSubscription(ctx context.Context, tenant, name string) (millpond.Subscription, error) {
	sub := millpond.Subscription{ID: uuid.NewString(), Tenant: tenant, Name: name}
	return sub, s.EnsureSubscription(ctx, sub, false)
}

// EnsureSubscription makes a subscription with a given id unless it is there.
// With registered, all providers are registered in it, as in the default one.
func (s *Service) EnsureSubscription(ctx context.Context, sub millpond.Subscription, registered bool) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if err := tx.InsertSubscription(sub); err != nil {
			return err
		}
		for _, p := range Providers() {
			// Microsoft.Batch must be registered by hand in further
			// subscriptions; the seed document's rule depends on it.
			if !registered && p.Namespace != "Microsoft.Resources" && p.Namespace != "Microsoft.Authorization" {
				continue
			}
			if err := tx.Register(sub.ID, p.Namespace); err != nil {
				return err
			}
		}
		return nil
	})
}

// Alias makes a subscription under a caller's alias, or returns the one that is
// there, and makes the caller its owner.
func (s *Service) Alias(ctx context.Context, caller millpond.Caller, alias, name, tenant string) (millpond.Subscription, error) {
	if tenant == "" {
		tenant = caller.Tenant
	}
	if name == "" {
		name = alias
	}
	var sub millpond.Subscription
	err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		sub, err = tx.Alias(alias)
		return err
	})
	if err == nil && !strings.EqualFold(sub.Tenant, tenant) {
		return millpond.Subscription{}, millpond.Errorf(millpond.Conflict, "AliasNotAvailable", "The subscription alias %q is taken. Choose another name.", alias)
	}
	if err == nil || !errors.Is(err, sqlite.ErrNoRow) {
		return sub, err
	}
	if sub, err = s.CreateSubscription(ctx, tenant, name); err != nil {
		return sub, err
	}
	if err := s.db.Update(ctx, func(tx *sqlite.Tx) error { return tx.PutAlias(alias, sub.ID) }); err != nil {
		return sub, err
	}
	if s.grant != nil {
		return sub, s.grant(ctx, caller, sub.Scope())
	}
	return sub, nil
}

// FindAlias returns the subscription of an alias, which a caller of another
// tenant does not find.
func (s *Service) FindAlias(ctx context.Context, caller millpond.Caller, alias string) (sub millpond.Subscription, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		sub, err = tx.Alias(alias)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && !strings.EqualFold(sub.Tenant, caller.Tenant) {
		return millpond.Subscription{}, millpond.Errorf(millpond.NotFound, "AliasNotFound", "There is no subscription alias %q.", alias)
	}
	return sub, err
}

// Subscriptions lists the subscriptions of a tenant.
func (s *Service) Subscriptions(ctx context.Context, tenant string) ([]millpond.Subscription, error) {
	var out []millpond.Subscription
	err := s.db.View(ctx, func(tx *sqlite.Tx) error {
		all, err := tx.Subscriptions()
		for _, sub := range all {
			if strings.EqualFold(sub.Tenant, tenant) {
				out = append(out, sub)
			}
		}
		return err
	})
	return out, err
}

// Subscription returns one subscription of any tenant.
func (s *Service) Subscription(ctx context.Context, id string) (sub millpond.Subscription, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		sub, err = tx.Subscription(id)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return sub, millpond.Errorf(millpond.NotFound, "SubscriptionNotFound", "The subscription '%s' could not be found. List yours with: az account list --refresh", id)
	}
	return sub, err
}

// SubscriptionFor returns one subscription, which must be in the caller's tenant.
func (s *Service) SubscriptionFor(ctx context.Context, caller millpond.Caller, id string) (millpond.Subscription, error) {
	sub, err := s.Subscription(ctx, id)
	if err == nil && caller.Tenant != "" && !strings.EqualFold(caller.Tenant, sub.Tenant) {
		return sub, millpond.Errorf(millpond.Unauthenticated, "InvalidAuthenticationTokenTenant",
			"The access token is from tenant '%s', but subscription '%s' belongs to tenant '%s'. Log in with --tenant %s.", caller.Tenant, sub.ID, sub.Tenant, sub.Tenant)
	}
	return sub, err
}

// Operation returns a long-running operation of a subscription.
func (s *Service) Operation(ctx context.Context, subscription, id string) (o millpond.Operation, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		o, err = tx.Operation(id)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && !strings.EqualFold(o.Subscription, subscription) {
		return o, millpond.Errorf(millpond.NotFound, "OperationNotFound", "There is no operation %s. Operations are kept for a day after their end.", id)
	}
	return o, err
}

// operationRetention is how long the outcome of an operation can be read.
const operationRetention = 24 * time.Hour
