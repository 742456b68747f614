package directory

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
)

// Service holds the directory. It is safe for concurrent use.
type Service struct {
	db    *sqlite.DB
	clock clock.Clock
	rand  io.Reader
	key   *Key
}

// New makes a directory over a database. rand is the source of ids and secrets.
func New(db *sqlite.DB, c clock.Clock, rand io.Reader, key *Key) *Service {
	return &Service{db: db, clock: c, rand: rand, key: key}
}

func (s *Service) guid() (string, error) {
	id, err := uuid.NewRandomFromReader(s.rand)
	return id.String(), err
}

// Tenant finds a tenant by id or domain, in any case.
func (s *Service) Tenant(ctx context.Context, idOrDomain string) (t millpond.Tenant, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		t, err = tx.Tenant(strings.ToLower(idOrDomain))
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		err = millpond.Errorf(millpond.NotFound, "TenantNotFound", "There is no tenant '%s' here.", idOrDomain)
	}
	return t, err
}

// Tenants lists all tenants, oldest first.
func (s *Service) Tenants(ctx context.Context) (out []millpond.Tenant, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		out, err = tx.Tenants()
		return err
	})
	return out, err
}

// notFound is Graph's answer for an object that is not in the caller's tenant.
func notFound(id string) error {
	return millpond.Errorf(millpond.NotFound, "Request_ResourceNotFound",
		"Resource '%s' does not exist or one of its queried reference-property objects are not present.", id)
}

// rowOr turns a missing row into Graph's error.
func rowOr(err error, id string) error {
	if errors.Is(err, sqlite.ErrNoRow) {
		return notFound(id)
	}
	return err
}
