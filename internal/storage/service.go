// Package storage holds the verbs of storage accounts. An account is a name and
// two keys of Millpond's own before a part of the one real blob service that the
// operator gave: its containers lie there under the account's name. Nothing is
// stored here but that name and those keys (decision 36).
//
// It serves no blob requests; edge storageapi does, which finds accounts with
// Lookup, checks signatures with Verify and passes requests on to Backend.
// Package account links Batch accounts, package application keeps packages in
// what is linked, and package node has links made for nodes.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Resources is what storage needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
}

// Options are what a Service needs.
type Options struct {
	DB        *sqlite.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Rand      io.Reader
	Resources Resources
	// Behind is the real blob service; nil: there is none, and no account can be made.
	Behind *Backend
}

// Service is safe for concurrent use.
type Service struct {
	Options
	wake *wake.Signal

	mu sync.Mutex
	// known are accounts by name as requests read them; writes counts what has
	// made them old.
	known  map[string]*millpond.StorageAccount
	writes int
}

// New makes a Service.
func New(o Options) *Service {
	return &Service{Options: o, wake: wake.New(), known: map[string]*millpond.StorageAccount{}}
}

// CheckName says why a name cannot be used for a new account; nil if it can.
func (s *Service) CheckName(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return s.DB.View(ctx, func(tx *sqlite.Tx) error { return nameFree(tx, name) })
}

func checkName(name string) error {
	if !millpond.IsStorageAccountName(name) {
		return millpond.Errorf(millpond.Invalid, "AccountNameInvalid", "%s is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and use numbers and lower-case letters only.", name)
	}
	if millpond.IsServerPath(name) {
		return millpond.Errorf(millpond.Invalid, "AccountNameInvalid", "The name %s is used by the server itself. Choose another name.", name)
	}
	return nil
}

func nameFree(tx *sqlite.Tx, name string) error {
	rs, err := tx.Resources(sqlite.Query{Type: millpond.TypeStorageAccount, Name: name})
	if err == nil && len(rs) > 0 {
		return millpond.Errorf(millpond.Conflict, "StorageAccountAlreadyTaken", "The storage account named %s is already taken. Choose another name.", name)
	}
	return err
}

// Change is a PUT or PATCH of an account; empty members leave.
type Change struct {
	ID                                    millpond.ResourceID
	Location, Kind, SKU, Tier, MinimumTLS string
	PublicNetwork                         string
	Tags                                  map[string]string
	SharedKey, PublicBlobs, HTTPSOnly     *bool
	Patch                                 bool
}

// Put creates or changes an account.
func (s *Service) Put(ctx context.Context, c Change) (out *millpond.StorageAccount, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.Load[millpond.StorageAccount](tx, c.ID.Key())
		missing := errors.Is(err, sqlite.ErrNoRow)
		if err != nil && !missing {
			return err
		}
		switch {
		case missing && c.Patch:
			return s.Resources.NotFound(tx, c.ID)
		case !missing && out.State == millpond.StateDeleting:
			return millpond.Errorf(millpond.Conflict, "StorageAccountOperationInProgress", "The storage account %s is being deleted. Wait until it has gone.", out.ID.Name())
		}
		if !c.Patch {
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
		}
		set := func(into *string, v string) {
			if v != "" {
				*into = v
			}
		}
		if out.Kind != "" && c.Kind != "" && c.Kind != out.Kind && !(out.Kind == "Storage" && c.Kind == "StorageV2") {
			return millpond.Errorf(millpond.Conflict, "StorageAccountTypeConversionNotAllowed", "The kind of storage account %s cannot be changed from %s to %s. Make another account.", out.ID.Name(), out.Kind, c.Kind)
		}
		set(&out.Kind, c.Kind)
		set(&out.SKU, c.SKU)
		set(&out.Tier, c.Tier)
		set(&out.MinimumTLS, c.MinimumTLS)
		set(&out.PublicNetwork, c.PublicNetwork)
		for _, b := range []struct {
			into *bool
			v    *bool
		}{{&out.SharedKey, c.SharedKey}, {&out.PublicBlobs, c.PublicBlobs}, {&out.HTTPSOnly, c.HTTPSOnly}} {
			if b.v != nil {
				*b.into = *b.v
			}
		}
		if c.Tags != nil || !c.Patch {
			out.Tags = c.Tags
		}
		return tx.Put(out)
	})
	s.forget()
	return out, err
}

func (s *Service) create(tx *sqlite.Tx, c Change) (*millpond.StorageAccount, error) {
	if s.Behind == nil {
		return nil, millpond.Errorf(millpond.Unsupported, "BlobServiceNotConfigured",
			"This server has no blob service behind its storage accounts. Start one, for example Azurite, and restart the server with --blob-service http://127.0.0.1:10000/devstoreaccount1; docs/guide/storage.md says how.")
	}
	if err := checkName(c.ID.Name()); err != nil {
		return nil, err
	}
	if err := nameFree(tx, c.ID.Name()); err != nil {
		return nil, err
	}
	sub, err := tx.Subscription(c.ID.Subscription)
	if err != nil {
		return nil, err
	}
	a := &millpond.StorageAccount{Tenant: sub.Tenant, Kind: "StorageV2", SKU: "Standard_LRS", Tier: "Hot", SharedKey: true, HTTPSOnly: true, MinimumTLS: "TLS1_2", PublicNetwork: "Enabled"}
	if c.Kind != "" {
		a.Kind = c.Kind
	}
	a.ID, a.Location, a.State = c.ID, c.Location, millpond.StateSucceeded
	for i := range a.Keys {
		if a.Keys[i], err = newKey(s.Rand); err != nil {
			return nil, err
		}
		a.KeyTimes[i] = tx.Now
	}
	return a, nil
}

// Get returns one account.
func (s *Service) Get(ctx context.Context, id millpond.ResourceID) (a *millpond.StorageAccount, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		a, err = s.load(tx, id)
		return err
	})
	return a, err
}

// load hides an account that is being deleted: Azure's deletion is over when it
// is answered.
func (s *Service) load(tx *sqlite.Tx, id millpond.ResourceID) (*millpond.StorageAccount, error) {
	a, err := sqlite.Load[millpond.StorageAccount](tx, id.Key())
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && a.State == millpond.StateDeleting {
		return nil, s.Resources.NotFound(tx, id)
	}
	return a, err
}

// List lists accounts by key.
func (s *Service) List(ctx context.Context, q sqlite.Query) (out []*millpond.StorageAccount, err error) {
	q.Type, q.States = millpond.TypeStorageAccount, []millpond.ProvisioningState{millpond.StateSucceeded}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[millpond.StorageAccount](tx, q)
		return err
	})
	return out, err
}

// RegenerateKey makes a new key1 or key2. Links that were signed with the old
// one end.
func (s *Service) RegenerateKey(ctx context.Context, id millpond.ResourceID, name string) (a *millpond.StorageAccount, err error) {
	n := map[string]int{"key1": 0, "key2": 1}
	i, ok := n[strings.ToLower(name)]
	if !ok {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidValuesForRequestParameters", "keyName must be key1 or key2, not %q.", name)
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if a, err = s.load(tx, id); err != nil {
			return err
		}
		if a.Keys[i], err = newKey(s.Rand); err != nil {
			return err
		}
		a.KeyTimes[i] = tx.Now
		return tx.Put(a)
	})
	s.forget()
	return a, err
}

// Delete deletes an account with all that it holds; false if it was not there.
// A Batch account that is linked to it keeps the link, as in Azure.
func (s *Service) Delete(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		a, err := sqlite.Load[millpond.StorageAccount](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		found = a.State != millpond.StateDeleting
		a.State = millpond.StateDeleting
		return tx.Put(a)
	})
	s.forget()
	s.wake.Wake()
	return found, err
}

// Gone says whether nothing of an account is left, for whoever deletes its group.
func (s *Service) Gone(ctx context.Context, id millpond.ResourceID) (bool, error) {
	if _, err := s.Delete(ctx, id); err != nil {
		return false, err
	}
	gone := false
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.Resource(id.Key())
		if gone = errors.Is(err, sqlite.ErrNoRow); gone {
			return nil
		}
		return err
	})
	return gone, err
}

// Loop deletes what deleted accounts held, then the accounts.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "storage accounts", Every: time.Minute, Wake: s.wake, Run: s.run}
}

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	var doomed []*millpond.StorageAccount
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		doomed, err = sqlite.List[millpond.StorageAccount](tx, sqlite.Query{Type: millpond.TypeStorageAccount, States: []millpond.ProvisioningState{millpond.StateDeleting}})
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var next time.Time
	var errs []error
	for _, a := range doomed {
		if s.Behind != nil {
			if err := s.Behind.empty(ctx, a.ID.Name()); err != nil {
				errs = append(errs, fmt.Errorf("empty storage account %s: %w", a.ID.Name(), err))
				next = s.Clock.Now().Add(5 * time.Second)
				continue
			}
		}
		if err := s.DB.Update(ctx, func(tx *sqlite.Tx) error { return tx.DeleteResource(a.ID.Key()) }); err != nil {
			return "", time.Time{}, err
		}
	}
	return fmt.Sprintf("%d accounts to delete", len(doomed)), next, errors.Join(errs...)
}

func (s *Service) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	clear(s.known)
}

// Lookup finds an account by its name, for the blob edge: it is asked for every
// request and reads the database once per account and change.
func (s *Service) Lookup(ctx context.Context, name string) (*millpond.StorageAccount, error) {
	name = strings.ToLower(name)
	s.mu.Lock()
	a, have := s.known[name]
	before := s.writes
	s.mu.Unlock()
	if !have {
		found, err := s.List(ctx, sqlite.Query{Name: name})
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			a = found[0]
		}
		s.mu.Lock()
		if s.writes == before && len(s.known) < 1000 {
			s.known[name] = a
		}
		s.mu.Unlock()
	}
	if a == nil {
		return nil, millpond.Errorf(millpond.NotFound, "ResourceNotFound", "There is no storage account %s. List yours with: az storage account list -o table", name)
	}
	return a, nil
}
