// Package pool holds the verbs of pools and the allocator that brings each pool
// to its size. A verb writes what is wanted and wakes; the allocator plans
// purely, then creates and retires node rows. It launches nothing and speaks no
// HTTP: package node owns the machines, package batchapi calls the verbs.
package pool

import (
	"context"
	"time"

	millpond "millpond.dev/millpond"
)

// Service is the verbs of pools. It is safe for concurrent use.
type Service struct{}

// Targets is the size that a pool is to get; nil leaves a part as it is.
type Targets struct {
	Dedicated, LowPriority *int
	ResizeTimeout          *time.Duration
}

// Patch is what a PATCH or updateproperties changes; nil leaves a member as it
// is, and a pointer to nil removes it.
type Patch struct {
	StartTask         **millpond.StartTask
	Metadata          *[]millpond.NameValue
	NodeCommunication *string
	DisplayName       *string
}

var errSoon = millpond.Errorf(millpond.Unavailable, "ServerBusy", "This part of the server is not ready. Try again.")

// Add makes a pool.
func (s *Service) Add(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, spec millpond.PoolSpec, t Targets) (millpond.Pool, error) {
	return millpond.Pool{}, errSoon
}

func (s *Service) Get(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) (millpond.Pool, error) {
	return millpond.Pool{}, errSoon
}

func (s *Service) List(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.Pool]) ([]millpond.Pool, string, error) {
	return nil, "", errSoon
}

func (s *Service) Patch(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, p Patch) error {
	return errSoon
}

func (s *Service) Delete(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition) error {
	return errSoon
}

func (s *Service) Resize(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, t Targets, o millpond.DeallocationOption) error {
	return errSoon
}

func (s *Service) StopResize(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition) error {
	return errSoon
}

func (s *Service) RemoveNodes(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, nodes []millpond.NodeID, timeout *time.Duration, o millpond.DeallocationOption) error {
	return errSoon
}

func (s *Service) NodeCounts(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.PoolNodeCounts]) ([]millpond.PoolNodeCounts, string, error) {
	return nil, "", errSoon
}
