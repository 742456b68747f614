// Package network holds the verbs of Microsoft.Network as far as virtual
// machines and nodes of pools need it: virtual networks with subnets, public addresses, network
// interfaces and security groups. Addresses are given out here, rules are
// checked here, and what others hold cannot be deleted.
//
// A public address is one of the host's loopback addresses (127.64.0.0/10), the
// same for as long as the resource lives. Nothing here opens a port: whoever
// runs the machines asks Card what a network interface comes to (MAC, private
// address, loopback address, open ports), claims interfaces in the transaction
// that writes the machine's row, and is woken through Notify when any of that
// may have changed.
//
// It knows no HTTP and no QEMU. The edge armapi calls it, the verbs of virtual
// machines through Claim, Release and Card, package pool for subnets and the
// addresses of nodes in them, package node for what a node's card comes to there.
package network

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Resources is what network needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
}

// Authorizer says whether a caller may do something.
type Authorizer interface {
	Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error
}

// Service is safe for concurrent use.
type Service struct {
	db        *sqlite.DB
	resources Resources
	auth      Authorizer

	mu     sync.Mutex
	notify []*wake.Signal
}

// New makes a Service.
func New(db *sqlite.DB, resources Resources, auth Authorizer) *Service {
	return &Service{db: db, resources: resources, auth: auth}
}

// Notify wakes a signal after every change that may alter what Card says.
func (s *Service) Notify(w *wake.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify = append(s.notify, w)
}

func (s *Service) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.notify {
		w.Wake()
	}
}

// update is a transaction whose success others are told of.
func (s *Service) update(ctx context.Context, fn func(tx *sqlite.Tx) error) error {
	err := s.db.Update(ctx, fn)
	if err == nil {
		s.changed()
	}
	return err
}

// get reads one resource or says that it is not there.
func get[T any, P interface {
	*T
	sqlite.Noun
}](s *Service, tx *sqlite.Tx, id millpond.ResourceID) (*T, error) {
	n, err := sqlite.Load[T, P](tx, id.Key())
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil, s.resources.NotFound(tx, id)
	}
	return n, err
}

// view is get in a transaction of its own.
func view[T any, P interface {
	*T
	sqlite.Noun
}](ctx context.Context, s *Service, id millpond.ResourceID) (n *T, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		n, err = get[T, P](s, tx, id)
		return err
	})
	return n, err
}

// list lists resources of one type by key.
func list[T any, P interface {
	*T
	sqlite.Noun
}](ctx context.Context, s *Service, typ string, q sqlite.Query) (out []*T, err error) {
	q.Type = typ
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[T, P](tx, q)
		return err
	})
	return out, err
}

// put writes a resource anew or over an old one, which keeps its ids. The
// caller has admitted it. created tells whether it is new.
func put[T any, P interface {
	*T
	sqlite.Noun
}](tx *sqlite.Tx, n *T, old *T) (created bool, err error) {
	r := P(n).Base()
	r.State = millpond.StateSucceeded
	if old != nil {
		r.Created = P(old).Base().Created
	}
	return old == nil, tx.Put(P(n))
}

// previous loads what is there already; nil if nothing is.
func previous[T any, P interface {
	*T
	sqlite.Noun
}](tx *sqlite.Tx, id millpond.ResourceID) (*T, error) {
	n, err := sqlite.Load[T, P](tx, id.Key())
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil, nil
	}
	return n, err
}

// Tags replaces the tags of a resource of any of the types here.
func (s *Service) Tags(ctx context.Context, id millpond.ResourceID, tags map[string]string) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		err := tx.SetTags(id.Key(), tags)
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.resources.NotFound(tx, id)
		}
		return err
	})
}

func newETag() string { return uuid.NewString() }

func invalid(code, target, format string, args ...any) *millpond.Error {
	e := millpond.Errorf(millpond.Invalid, code, format, args...)
	e.Target = target
	return e
}

// reference reads an id that a body names, of the type that it must have, in
// the subscription of the resource that names it.
func reference(text, typ, target string, by millpond.ResourceID) (millpond.ResourceID, error) {
	id, ok := millpond.ParseResourceID(text)
	if !ok || !id.Is(typ) {
		return id, invalid("LinkedInvalidPropertyId", target, "Property id '%s' at path '%s' is invalid. Expect the fully qualified resource id of a %s: /subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/%s/…", text, target, typ, typ)
	}
	if !strings.EqualFold(id.Subscription, by.Subscription) {
		return id, invalid("InvalidResourceReference", target, "Resource %s referenced by resource %s lies in another subscription. Use one of subscription %s.", text, by, by.Subscription)
	}
	return id, nil
}

func noReference(id, by millpond.ResourceID) error {
	return millpond.Errorf(millpond.Invalid, "InvalidResourceReference", "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, by)
}

// CheckName applies the rule for names of all resources here: 1 to 80 letters,
// digits, '_', '-' and '.', starting with a letter or digit and ending with one
// or '_'.
func CheckName(name string) error {
	ok := len(name) >= 1 && len(name) <= 80
	for i, c := range name {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		last := i == len(name)-1
		if !alnum && (i == 0 || c != '_' && (last || c != '-' && c != '.')) {
			ok = false
		}
	}
	if !ok {
		return invalid("InvalidResourceName", "name", "Resource name %s is invalid. The name can be up to 80 characters long. It must begin with a letter or digit, and it must end with a letter, digit or with '_'. The name may contain letters, digits or '.', '-', '_'.", name)
	}
	return nil
}
