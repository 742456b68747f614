// Package account holds the verbs of Batch accounts: create, change, keys,
// delete, quotas, and the cheap look-up that the Batch data plane does on every
// request.
//
// It knows no HTTP and no pools: those of a deleted account are the business of
// the Pools hook. The edges armapi and batchapi call it.
package account

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Resources is what account needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	Begin(tx *sqlite.Tx, id millpond.ResourceID, verb string) (millpond.Operation, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
}

// Pools deletes everything that an account holds. It returns nil when all is
// gone and an error of kind Conflict while that is under way.
type Pools interface {
	DeleteAccount(ctx context.Context, name millpond.AccountName) error
}

// Quotas of each account and of a subscription's accounts per region.
type Quotas struct{ Pools, Cores, ActiveJobs, Accounts int }

// Account is a Batch account with all that the Resource Manager shows of it.
type Account struct {
	millpond.Resource `json:"-"`
	Primary           string
	Secondary         string
	// Modes are the allowed authentication modes: SharedKey, AAD, TaskAuthenticationToken.
	Modes        []string
	PublicAccess string
	Tenant       string
	// Identities are the resource ids of the account's user-assigned identities.
	Identities []string `json:",omitempty"`
	// Access says from where the Batch service of the account is reached; nil where
	// nobody said.
	Access *millpond.EndpointRules `json:",omitempty"`
	// AutoStorage is the linked storage account, nil without one.
	AutoStorage *millpond.AutoStorage `json:",omitempty"`
}

// Storage finds storage accounts that are to be linked.
type Storage interface {
	Of(ctx context.Context, id millpond.ResourceID) (*millpond.StorageAccount, error)
}

// Options are what a Service needs.
type Options struct {
	DB        *sqlite.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Resources Resources
	Pools     Pools // may be nil
	Storage   Storage
	Quotas    Quotas
}

// Service is safe for concurrent use.
type Service struct {
	Options
	wake *wake.Signal
	// cache maps an account's key to millpond.BatchAccount; every verb that
	// writes an account drops its entry after the commit.
	cache sync.Map
	// fresh orders the drops and the entries: a read that began before a drop
	// must not put an old value back, not even for a moment.
	fresh sync.Mutex
	// writes counts the drops.
	writes int64
}

// New makes a Service.
func New(o Options) *Service { return &Service{Options: o, wake: wake.New()} }

// SetPools gives the hook; it is called while the server is put together.
func (s *Service) SetPools(p Pools) { s.Pools = p }

var accountName = regexp.MustCompile(`^[a-z0-9]{3,24}$`)

// CheckName says why a name cannot be used for a new account; nil if it can.
func (s *Service) CheckName(ctx context.Context, name string) error {
	if !accountName.MatchString(name) {
		return millpond.Errorf(millpond.Invalid, "AccountNameInvalid", "The account name %q is not valid: 3 to 24 lower-case letters and digits.", name)
	}
	return s.DB.View(ctx, func(tx *sqlite.Tx) error { return nameFree(tx, name) })
}

func nameFree(tx *sqlite.Tx, name string) error {
	rs, err := tx.Resources(sqlite.Query{Type: millpond.TypeAccount, Name: name})
	if err == nil && len(rs) > 0 {
		return millpond.Errorf(millpond.Conflict, "AccountAlreadyExists", "An account named %s is already in use. Choose another name.", name)
	}
	return err
}

func newKey() (string, error) {
	b := make([]byte, 64)
	_, err := rand.Read(b)
	return base64.StdEncoding.EncodeToString(b), err
}

// Change is a PUT or PATCH of an account; nil leaves.
type Change struct {
	ID           millpond.ResourceID
	Location     string
	Tags         map[string]string
	Modes        []string
	PublicAccess string
	// Access is who reaches it; a PUT without it opens it to all.
	Access *millpond.EndpointRules
	// AutoStorage is the id of a storage account to link; a PUT without one unlinks.
	AutoStorage string
	// StorageMode is how it is opened; empty is by its keys. NodeIdentity is for the
	// other mode.
	StorageMode, NodeIdentity string
	// Identities are given, or with false taken away; those of a PUT are all that there
	// will be, as those of a PATCH are with NoIdentities.
	Identities   map[string]bool
	NoIdentities bool
	Patch        bool
}

// identities is what an account's become.
func (c Change) identities(had []string) []string {
	var out []string
	if c.Patch && !c.NoIdentities {
		for _, id := range had {
			if give, named := c.named(id); give || !named {
				out = append(out, id)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.Identities)) {
		if c.Identities[id] && !slices.ContainsFunc(out, func(h string) bool { return strings.EqualFold(h, id) }) {
			out = append(out, id)
		}
	}
	return out
}

func (c Change) named(id string) (give, named bool) {
	for k, v := range c.Identities {
		if strings.EqualFold(k, id) {
			return v, true
		}
	}
	return false, false
}

// checkStorage refuses what cannot be linked and returns its id.
func (s *Service) checkStorage(ctx context.Context, c Change) (*millpond.AutoStorage, error) {
	if c.AutoStorage == "" {
		return nil, nil
	}
	bad := func(why string) error {
		e := millpond.Errorf(millpond.Invalid, "InvalidAutoStorageAccount", "The specified auto storage account '%s' cannot be used: %s", c.AutoStorage, why)
		e.Target = "properties.autoStorage.storageAccountId"
		return e
	}
	id, ok := millpond.ParseResourceID(c.AutoStorage)
	if !ok || !id.Is(millpond.TypeStorageAccount) {
		return nil, bad("it must be the id of a storage account, as az storage account show --query id prints it.")
	}
	if !strings.EqualFold(id.Subscription, c.ID.Subscription) {
		return nil, bad("it must be in the Batch account's subscription.")
	}
	a, err := s.Storage.Of(ctx, id)
	if err != nil {
		if millpond.KindOf(err) == millpond.Internal {
			return nil, err
		}
		return nil, bad("it does not exist. Make it first: az storage account create")
	}
	link := &millpond.AutoStorage{ID: a.ID, Mode: "StorageKeys", Synced: s.Clock.Now()}
	if c.StorageMode == millpond.StorageByIdentity {
		link.Mode, link.NodeIdentity = c.StorageMode, c.NodeIdentity
	}
	return link, nil
}

// SyncStorageKeys notes that the keys of the linked account changed. They are
// read whenever they are needed, so nothing else is to be done.
func (s *Service) SyncStorageKeys(ctx context.Context, id millpond.ResourceID) error {
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		a, err := sqlite.Load[Account](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.Resources.NotFound(tx, id)
		}
		if err != nil {
			return err
		}
		if a.AutoStorage == nil {
			return NoAutoStorage(a.ID.Name())
		}
		a.AutoStorage.Synced = tx.Now
		return tx.Put(a)
	})
	s.forget(id.Name())
	return err
}

// NoAutoStorage is the error of what needs a linked storage account.
func NoAutoStorage(name string) *millpond.Error {
	return millpond.Errorf(millpond.Conflict, "AccountHasNoAutoStorage", "The account %s has no auto-storage account. Link one: az batch account set --storage-account", name)
}

// Put creates or changes an account.
func (s *Service) Put(ctx context.Context, c Change) (out *Account, err error) {
	link, err := s.checkStorage(ctx, c)
	if err != nil {
		return nil, err
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.Load[Account](tx, c.ID.Key())
		missing := errors.Is(err, sqlite.ErrNoRow)
		if err != nil && !missing {
			return err
		}
		if c.Patch {
			if missing {
				return s.Resources.NotFound(tx, c.ID)
			}
		} else {
			if missing && c.Location == "" {
				return millpond.Errorf(millpond.Invalid, "LocationRequired", "The location property is required for this definition.")
			}
			if c.ID, c.Location, err = s.Resources.Admit(tx, c.ID, c.Location); err != nil {
				return err
			}
		}
		if missing {
			if out, err = s.create(tx, c); err != nil {
				return err
			}
		} else if out.State == millpond.StateDeleting {
			return millpond.Errorf(millpond.Conflict, "Conflict", "The account %s is being deleted. Wait until it has gone.", out.ID.Name())
		}
		if c.Tags != nil || !c.Patch {
			out.Tags = c.Tags
		}
		if c.Modes != nil {
			out.Modes = c.Modes
		}
		if c.PublicAccess != "" {
			out.PublicAccess = c.PublicAccess
		}
		if c.Access != nil || !c.Patch {
			out.Access = c.Access
		}
		if link != nil || !c.Patch {
			out.AutoStorage = link
		}
		out.Identities = c.identities(out.Identities)
		if s := out.AutoStorage; s != nil && s.Mode == millpond.StorageByIdentity && len(out.Identities) == 0 {
			e := millpond.Errorf(millpond.Invalid, "InvalidAutoStorageAuthenticationMode", "The auto storage authentication mode %s needs a Batch account with a managed identity, and %s has none. Give it one, or use the mode StorageKeys.", s.Mode, c.ID.Name())
			e.Target = "properties.autoStorage.authenticationMode"
			return e
		}
		return tx.Put(out)
	})
	s.forget(c.ID.Name())
	return out, err
}

func (s *Service) create(tx *sqlite.Tx, c Change) (*Account, error) {
	if !accountName.MatchString(c.ID.Name()) {
		return nil, millpond.Errorf(millpond.Invalid, "AccountNameInvalid", "The account name %q is not valid: 3 to 24 lower-case letters and digits.", c.ID.Name())
	}
	if err := nameFree(tx, c.ID.Name()); err != nil {
		return nil, err
	}
	there, err := tx.Resources(sqlite.Query{Type: millpond.TypeAccount, Subscription: c.ID.Subscription})
	if err != nil {
		return nil, err
	}
	n := 0
	for _, r := range there {
		if r.Location == c.Location {
			n++
		}
	}
	if s.Quotas.Accounts > 0 && n >= s.Quotas.Accounts {
		return nil, millpond.Errorf(millpond.Conflict, "SubscriptionAccountQuotaReached", "The subscription has %d Batch accounts in %s, which is its quota. Delete one, or raise quotas.accounts in the server's configuration.", n, c.Location)
	}
	sub, err := tx.Subscription(c.ID.Subscription)
	if err != nil {
		return nil, err
	}
	a := &Account{Modes: []string{"SharedKey", "AAD", "TaskAuthenticationToken"}, PublicAccess: "Enabled", Tenant: sub.Tenant}
	a.ID, a.Location, a.State = c.ID, c.Location, millpond.StateSucceeded
	if a.Primary, err = newKey(); err != nil {
		return nil, err
	}
	a.Secondary, err = newKey()
	return a, err
}

// Get returns one account.
func (s *Service) Get(ctx context.Context, id millpond.ResourceID) (a *Account, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		a, err = sqlite.Load[Account](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.Resources.NotFound(tx, id)
		}
		return err
	})
	return a, err
}

// List lists accounts by key.
func (s *Service) List(ctx context.Context, q sqlite.Query) (out []*Account, err error) {
	q.Type = millpond.TypeAccount
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[Account](tx, q)
		return err
	})
	return out, err
}

// Keys returns an account whose keys may be shown.
func (s *Service) Keys(ctx context.Context, id millpond.ResourceID) (*Account, error) {
	a, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, m := range a.Modes {
		if strings.EqualFold(m, "SharedKey") {
			return a, nil
		}
	}
	return nil, millpond.Errorf(millpond.Conflict, "InvalidRequestBody", "The account %s does not allow shared keys. Allow them with allowedAuthenticationModes, or log in without --shared-key-auth.", id.Name())
}

// RegenerateKey makes a new Primary or Secondary key.
func (s *Service) RegenerateKey(ctx context.Context, id millpond.ResourceID, name string) (a *Account, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if a, err = sqlite.Load[Account](tx, id.Key()); errors.Is(err, sqlite.ErrNoRow) {
			return s.Resources.NotFound(tx, id)
		} else if err != nil {
			return err
		}
		k, err := newKey()
		switch {
		case err != nil:
			return err
		case strings.EqualFold(name, "Primary"):
			a.Primary = k
		case strings.EqualFold(name, "Secondary"):
			a.Secondary = k
		default:
			return millpond.Errorf(millpond.Invalid, "InvalidPropertyValue", "keyName must be Primary or Secondary, not %q.", name)
		}
		return tx.Put(a)
	})
	s.forget(id.Name())
	return a, err
}

// Delete starts to delete an account, or returns the deletion under way; op is
// nil if it was not there.
func (s *Service) Delete(ctx context.Context, id millpond.ResourceID) (op *millpond.Operation, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		a, err := sqlite.Load[Account](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		o, err := tx.RunningOperation(a.ID.Key(), "delete")
		if a.State != millpond.StateDeleting || errors.Is(err, sqlite.ErrNoRow) {
			a.State = millpond.StateDeleting
			o, err = s.Resources.Begin(tx, a.ID, "delete")
		}
		if err != nil {
			return err
		}
		op = &o
		return tx.Put(a)
	})
	s.forget(id.Name())
	s.wake.Wake()
	return op, err
}

// Loop ends the deletion of accounts when their pools and jobs have gone.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "batch accounts", Every: 10 * time.Second, Wake: s.wake, Run: s.run}
}

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	doomed, err := s.List(ctx, sqlite.Query{States: []millpond.ProvisioningState{millpond.StateDeleting}})
	if err != nil {
		return "", time.Time{}, err
	}
	var next time.Time
	for _, a := range doomed {
		if s.Pools != nil {
			if err := s.Pools.DeleteAccount(ctx, millpond.AccountName(a.ID.Name())); err != nil {
				if millpond.KindOf(err) != millpond.Conflict {
					s.Log.Error("account not emptied", "account", a.ID.Name(), "err", err)
				}
				next = s.Clock.Now().Add(500 * time.Millisecond)
				continue
			}
		}
		err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
			if err := tx.EndOperations(a.ID.Key(), nil); err != nil {
				return err
			}
			return tx.DeleteResource(a.ID.Key())
		})
		if err != nil {
			return "", time.Time{}, err
		}
		s.forget(a.ID.Name())
	}
	return fmt.Sprintf("%d accounts to delete", len(doomed)), next, nil
}

func (s *Service) forget(name string) {
	s.fresh.Lock()
	defer s.fresh.Unlock()
	s.writes++
	s.cache.Delete(millpond.AccountName(name).Key())
}

// Lookup returns an account by name for the Batch data plane. It reads the
// database once per account and change.
func (s *Service) Lookup(ctx context.Context, name millpond.AccountName) (millpond.BatchAccount, error) {
	if b, ok := s.cache.Load(name.Key()); ok {
		return b.(millpond.BatchAccount), nil
	}
	s.fresh.Lock()
	before := s.writes
	s.fresh.Unlock()
	found, err := s.List(ctx, sqlite.Query{Name: name.Key()})
	if err != nil {
		return millpond.BatchAccount{}, err
	}
	if len(found) == 0 || found[0].State == millpond.StateDeleting {
		return millpond.BatchAccount{}, millpond.Errorf(millpond.NotFound, "AccountNotFound", "There is no Batch account %s. List yours with: az batch account list -o table", name)
	}
	a := found[0]
	b := millpond.BatchAccount{ID: a.ID, Name: millpond.AccountName(a.ID.Name()), Region: a.Location, Subscription: a.ID.Subscription, Tenant: a.Tenant,
		PrimaryKey: a.Primary, SecondaryKey: a.Secondary, PoolQuota: s.Quotas.Pools, CoreQuota: s.Quotas.Cores, Created: a.Created}
	for _, m := range a.Modes {
		b.SharedKeyAllowed = b.SharedKeyAllowed || strings.EqualFold(m, "SharedKey")
		b.TaskTokenAllowed = b.TaskTokenAllowed || strings.EqualFold(m, "TaskAuthenticationToken")
	}
	if a.Access != nil {
		b.Access = *a.Access
	}
	if a.AutoStorage != nil {
		b.AutoStorage = a.AutoStorage.ID
		b.AutoStorageByIdentity, b.AutoStorageIdentity = a.AutoStorage.Mode == millpond.StorageByIdentity, a.AutoStorage.NodeIdentity
	}
	s.fresh.Lock()
	defer s.fresh.Unlock()
	if s.writes == before {
		s.cache.Store(name.Key(), b)
	}
	return b, nil
}
