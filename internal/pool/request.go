package pool

import (
	"context"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// targetsOf is a request's size.
func targetsOf(q millpond.PoolRequest) Targets {
	t := Targets{Dedicated: q.Dedicated, LowPriority: q.LowPriority, ResizeTimeout: q.ResizeTimeout}
	if q.AutoScale {
		t.AutoScale = &AutoScale{Formula: q.Formula, Interval: q.Interval}
	}
	return t
}

// Check refuses a request for a pool as Add would, but for what depends on the
// moment: quotas.
func (s *Service) Check(ctx context.Context, caller millpond.Caller, name millpond.AccountName, q millpond.PoolRequest) error {
	q.Spec.ID = "pool"
	size, err := s.checkSpec(&q.Spec)
	if err != nil {
		return err
	}
	t := targetsOf(q)
	if err := checkTargets(t); err != nil {
		return err
	}
	if _, err := newAutoScale(t); err != nil {
		return err
	}
	acct, err := s.Accounts.Account(ctx, name)
	if err != nil {
		return err
	}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error { return checkCertificates(tx, name, q.Spec.Certificates) })
	if err != nil {
		return err
	}
	if _, err := s.admitSubnet(ctx, caller, acct, q.Spec.Subnet); err != nil {
		return err
	}
	boot, err := s.Images.ResolveForPool(ctx, caller, acct, q.Spec.Image, q.Spec.NodeAgentSKU)
	if err != nil {
		return err
	}
	return checkDisks(q.Spec, boot, size)
}

// Make is Add for a pool that the service makes itself; one that is there is
// what was asked for.
func (s *Service) Make(ctx context.Context, caller millpond.Caller, name millpond.AccountName, id millpond.PoolID, q millpond.PoolRequest) error {
	acct, err := s.Accounts.Account(ctx, name)
	if err != nil {
		return err
	}
	q.Spec.ID = id
	_, err = s.Add(ctx, caller, acct, q.Spec, targetsOf(q))
	if err != nil && millpond.AsError(err).Code == "PoolExists" {
		return nil
	}
	return err
}

// Drop deletes a pool that the service made; one that is going or gone is
// what was asked for.
func (s *Service) Drop(ctx context.Context, name millpond.AccountName, id millpond.PoolID) error {
	err := s.Delete(ctx, name, id, millpond.Condition{})
	if err != nil {
		switch millpond.AsError(err).Code {
		case "PoolNotFound", "PoolBeingDeleted":
			return nil
		}
	}
	return err
}
