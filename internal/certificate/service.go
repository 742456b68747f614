// Package certificate holds the verbs of a Batch account's certificates, which
// api-versions before 2025-06-01 have: add, list, get, delete, and the loop that
// ends a deletion or says which pools and nodes stand in its way.
//
// It installs nothing: pools refer to certificates, and the sessions of package
// node bring them to tasks. What is secret of one is read there alone; no verb
// here gives it out. The edges batchapi and armapi call it.
package certificate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// most bounds the certificates of an account.
const most = 1000

// Service is safe for concurrent use.
type Service struct {
	db   *sqlite.DB
	log  *slog.Logger
	wake *wake.Signal
}

// New makes a Service.
func New(db *sqlite.DB, log *slog.Logger) *Service {
	return &Service{db: db, log: log, wake: wake.New()}
}

// Asked is a certificate that a user adds.
type Asked struct {
	Thumbprint string
	Format     millpond.CertificateFormat
	Data       []byte
	Password   string
}

// Add adds a certificate. It refuses what Parse refuses, and CertificateExists.
func (s *Service) Add(ctx context.Context, acct millpond.AccountName, a Asked) (millpond.Certificate, error) {
	c, secret, err := Parse(a.Thumbprint, a.Format, a.Data, a.Password)
	if err != nil {
		return c, err
	}
	c.Account, c.State = acct, millpond.CertificateActive
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		n, err := tx.CountCertificates(acct)
		if err != nil {
			return err
		}
		if n >= most {
			return millpond.Errorf(millpond.Conflict, "CertificateQuotaReached", "The account has %d certificates, which is its quota. Delete one.", n)
		}
		c.StateTransition = tx.Now
		return tx.InsertCertificate(c, secret)
	})
	if sqlite.IsUnique(err) {
		return c, millpond.Errorf(millpond.Conflict, "CertificateExists", "The specified certificate already exists. Delete it first to add it with other data.")
	}
	if err == nil {
		s.log.Info("certificate added", "account", acct, "thumbprint", c.Thumbprint, "format", c.Format)
	}
	return c, err
}

func notFound() error {
	return millpond.Errorf(millpond.NotFound, "CertificateNotFound", "The specified certificate does not exist. List the account's with: az batch certificate list")
}

// Get reads one by its thumbprint in any spelling.
func (s *Service) Get(ctx context.Context, acct millpond.AccountName, thumbprint string) (c millpond.Certificate, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		c, err = read(tx, acct, thumbprint)
		return err
	})
	return c, err
}

func read(tx *sqlite.Tx, acct millpond.AccountName, thumbprint string) (millpond.Certificate, error) {
	normal, ok := millpond.NormalThumbprint(thumbprint)
	if !ok {
		return millpond.Certificate{}, notFound()
	}
	c, err := tx.Certificate(acct, normal)
	if errors.Is(err, sqlite.ErrNoRow) {
		return c, notFound()
	}
	return c, err
}

// List lists them by thumbprint. next is empty at the end.
func (s *Service) List(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.Certificate]) (out []millpond.Certificate, next string, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		out, next, err = q.Page(func(c millpond.Certificate) string { return c.Thumbprint }, func(after string, limit int) ([]millpond.Certificate, error) {
			return tx.Certificates(acct, after, limit, q.States)
		})
		return err
	})
	return out, next, err
}

// Delete begins to delete a certificate; the loop ends it.
func (s *Service) Delete(ctx context.Context, acct millpond.AccountName, thumbprint string) error {
	err := s.apply(ctx, acct, thumbprint, millpond.CertificateDelete)
	s.wake.Wake()
	return err
}

// DeleteNow is Delete and what comes of it: nil when the certificate has gone, and
// a Conflict with the reason when it is in use.
func (s *Service) DeleteNow(ctx context.Context, acct millpond.AccountName, thumbprint string) error {
	if err := s.Delete(ctx, acct, thumbprint); err != nil {
		return err
	}
	if _, _, err := s.run(ctx); err != nil {
		return err
	}
	c, err := s.Get(ctx, acct, thumbprint)
	switch {
	case err != nil && millpond.KindOf(err) == millpond.NotFound:
		return nil
	case err != nil:
		return err
	case c.DeleteError == nil:
		return nil // somebody has cancelled it meanwhile
	}
	e := millpond.Errorf(millpond.Conflict, c.DeleteError.Code, "%s", c.DeleteError.Message)
	for _, v := range c.DeleteError.Values {
		e = e.With(v.Name, v.Value)
	}
	return e
}

// CancelDelete makes a certificate active again whose deletion has failed.
func (s *Service) CancelDelete(ctx context.Context, acct millpond.AccountName, thumbprint string) error {
	return s.apply(ctx, acct, thumbprint, millpond.CertificateCancelDelete)
}

func (s *Service) apply(ctx context.Context, acct millpond.AccountName, thumbprint string, e millpond.CertificateEvent) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		c, err := read(tx, acct, thumbprint)
		if err != nil {
			return err
		}
		if err := c.Apply(e, tx.Now); err != nil {
			return err
		}
		return tx.PutCertificate(c)
	})
}

// DeleteAccount removes those of an account that goes, whose pools are gone.
func (s *Service) DeleteAccount(ctx context.Context, acct millpond.AccountName) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error { return tx.DeleteCertificates(acct) })
}

// Loop ends the deletion of certificates.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "certificates", Every: time.Minute, Wake: s.wake, Run: s.run}
}

// shown is how many pools and nodes an error names.
const shown = 20

// verdict is what becomes of a certificate that is being deleted.
type verdict struct {
	certificate millpond.Certificate
	pools       []millpond.PoolID
	nodes       []millpond.NodeID
}

// run looks for users without holding writers up: from when a certificate is being
// deleted no pool can begin to refer to it, and so no node can begin to have it. What
// is seen to be unused stays so.
func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	var found []verdict
	err := s.db.View(ctx, func(tx *sqlite.Tx) error {
		doomed, err := tx.DoomedCertificates()
		if err != nil {
			return err
		}
		for _, c := range doomed {
			v := verdict{certificate: c}
			if v.pools, v.nodes, err = tx.CertificateUsers(c.Account, c.Thumbprint, shown); err != nil {
				return err
			}
			found = append(found, v)
		}
		return nil
	})
	if err == nil && len(found) > 0 {
		err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
			for _, v := range found {
				if err := v.apply(tx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return fmt.Sprintf("%d certificates to delete", len(found)), time.Time{}, err
}

func (v verdict) apply(tx *sqlite.Tx) error {
	c, err := tx.Certificate(v.certificate.Account, v.certificate.Thumbprint)
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.State != millpond.CertificateDeleting || !c.StateTransition.Equal(v.certificate.StateTransition) {
		return nil // another run was sooner; this may be a later certificate, or deletion
	}
	if len(v.pools)+len(v.nodes) == 0 {
		return tx.DeleteCertificate(c.Account, c.Thumbprint)
	}
	if err := c.Apply(millpond.CertificateInUse, tx.Now); err != nil {
		return err
	}
	c.DeleteError = inUse(v.pools, v.nodes, tx.Now)
	return tx.PutCertificate(c)
}

// inUse is Azure's error for a certificate that pools refer to, or that nodes
// still have although their pool does not refer to it any more.
func inUse(pools []millpond.PoolID, nodes []millpond.NodeID, now time.Time) *millpond.ResizeError {
	e := &millpond.ResizeError{Code: "PoolsReferencingCertificate", Message: "The specified certificate is being used by the below mentioned pool(s)", Time: now}
	if len(pools) == 0 {
		e.Code = "NodesReferencingCertificate"
		e.Message = "The specified certificate is installed on the below mentioned node(s), which let go of it when they reboot"
	}
	if len(pools) > 0 {
		e.Values = append(e.Values, millpond.NameValue{Name: "Pools", Value: join(pools)})
	}
	if len(nodes) > 0 {
		e.Values = append(e.Values, millpond.NameValue{Name: "Nodes", Value: join(nodes)})
	}
	return e
}

func join[T ~string](ids []T) string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return strings.Join(out, ",")
}
