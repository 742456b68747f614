// Package usage tells what jobs, schedules and pools have come to: statistics
// and the usage of cores by interval. It only reads; what it reads is kept by
// the transactions in which tasks end and nodes come and go.
package usage

import (
	"context"
	"errors"
	"sort"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
)

// Service answers questions. It is safe for concurrent use.
type Service struct {
	DB    *sqlite.DB
	Clock clock.Clock
	// Sizes finds a VM size; nil is millpond.FindVMSize.
	Sizes func(name string) (millpond.VMSize, bool)
}

// Interval is the time over which the use of cores is summed up.
const Interval = 30 * time.Minute

func (s *Service) cores(vmSize string) int64 {
	find := s.Sizes
	if find == nil {
		find = millpond.FindVMSize
	}
	size, ok := find(vmSize)
	if !ok {
		return 0
	}
	return int64(size.VCPUs)
}

// Jobs are the statistics of jobs, by key. A job that is not there has none.
func (s *Service) Jobs(ctx context.Context, acct millpond.AccountName, ids ...millpond.JobID) (map[string]millpond.JobStatistics, error) {
	out := map[string]millpond.JobStatistics{}
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		for _, id := range ids {
			v, err := tx.JobStatistics(acct, id)
			if err != nil {
				return err
			}
			j, err := tx.Job(acct, id)
			if errors.Is(err, sqlite.ErrNoRow) {
				continue
			}
			if err != nil {
				return err
			}
			out[id.Key()] = settled(v, j.Created)
		}
		return nil
	})
	return out, err
}

// settled completes statistics of something that was made at a time.
func settled(v millpond.JobStatistics, made time.Time) millpond.JobStatistics {
	v.Started = made
	if v.Updated.Before(made) {
		v.Updated = made
	}
	return v
}

// Schedules are the statistics of all jobs of schedules, by key.
func (s *Service) Schedules(ctx context.Context, acct millpond.AccountName, ids ...millpond.JobScheduleID) (map[string]millpond.JobStatistics, error) {
	out := map[string]millpond.JobStatistics{}
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		for _, id := range ids {
			v, err := tx.ScheduleStatistics(acct, id)
			if err != nil {
				return err
			}
			made, err := tx.Schedule(acct, id)
			if errors.Is(err, sqlite.ErrNoRow) {
				continue
			}
			if err != nil {
				return err
			}
			out[id.Key()] = settled(v, made.Created)
		}
		return nil
	})
	return out, err
}

// AllJobs are the statistics of all jobs that an account ever had.
func (s *Service) AllJobs(ctx context.Context, acct millpond.AccountName) (v millpond.JobStatistics, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		v, err = tx.AccountStatistics(acct)
		return err
	})
	if v.Updated.IsZero() {
		v.Updated = s.Clock.Now()
	}
	return v, err
}

// Pools are the statistics of pools, by key. A pool that is not there has none.
func (s *Service) Pools(ctx context.Context, acct millpond.AccountName, ids ...millpond.PoolID) (map[string]millpond.PoolUsage, error) {
	out := map[string]millpond.PoolUsage{}
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		for _, id := range ids {
			p, err := tx.Pool(acct, id)
			if errors.Is(err, sqlite.ErrNoRow) {
				continue
			}
			if err != nil {
				return err
			}
			lives, err := tx.PoolLives(acct, id, p.Created)
			if err != nil {
				return err
			}
			out[id.Key()] = s.sum(lives, p.Created, tx.Now)
		}
		return nil
	})
	return out, err
}

// AllPools are the statistics of all pools that an account ever had.
func (s *Service) AllPools(ctx context.Context, acct millpond.AccountName) (u millpond.PoolUsage, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		lives, err := tx.AccountLives(acct, time.Time{}, tx.Now.Add(time.Second))
		if err != nil {
			return err
		}
		first := tx.Now
		for _, l := range lives {
			if l.Began.Before(first) {
				first = l.Began
			}
		}
		u = s.sum(lives, first, tx.Now)
		return nil
	})
	return u, err
}

func (s *Service) sum(lives []sqlite.NodeLife, from, now time.Time) millpond.PoolUsage {
	u := millpond.PoolUsage{Started: from}
	for _, l := range lives {
		d := overlap(l, from, now) * time.Duration(s.cores(l.VMSize))
		u.CoreTime += d
		if l.Dedicated {
			u.Dedicated += d
		}
	}
	return u
}

// overlap is how long a node was there between two times.
func overlap(l sqlite.NodeLife, from, to time.Time) time.Duration {
	began, ended := l.Began, l.Ended
	if ended.IsZero() || ended.After(to) {
		ended = to
	}
	if began.Before(from) {
		began = from
	}
	return max(0, ended.Sub(began))
}

// Key is an interval's place in a list of them.
func Key(u millpond.UsageInterval) string {
	return u.Start.UTC().Format(time.RFC3339) + "|" + u.Pool.Key() + "|" + strings.ToLower(u.VMSize)
}

// mostIntervals bounds what one question may sum up: a month.
const mostIntervals = 31 * 48

// Usage lists what pools used of cores in each interval between two times; a
// zero time means the last whole interval. next is empty at the end.
func (s *Service) Usage(ctx context.Context, acct millpond.AccountName, from, to time.Time, q millpond.ListQuery[millpond.UsageInterval]) (out []millpond.UsageInterval, next string, err error) {
	now := s.Clock.Now()
	if to.IsZero() {
		to = now.Truncate(Interval)
	}
	if from.IsZero() {
		from = to.Add(-Interval)
	}
	if to.After(now) {
		to = now
	}
	from = from.Truncate(Interval)
	if !from.Before(to) {
		return nil, "", millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "The start of the time must be before its end, and in the past.").With("QueryParameterName", "startTime")
	}
	if to.Sub(from) > mostIntervals*Interval {
		return nil, "", millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "At most 31 days can be listed at once. Ask for less.").With("QueryParameterName", "startTime")
	}
	var all []millpond.UsageInterval
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		lives, err := tx.AccountLives(acct, from, to)
		if err != nil {
			return err
		}
		all = s.intervals(lives, from, to)
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return q.Page(Key, func(after string, limit int) ([]millpond.UsageInterval, error) {
		i := sort.Search(len(all), func(i int) bool { return Key(all[i]) > after })
		return all[i:min(i+limit, len(all))], nil
	})
}

// intervals sums up nodes' times by interval, pool and size, in the order of keys.
func (s *Service) intervals(lives []sqlite.NodeLife, from, to time.Time) []millpond.UsageInterval {
	sums := map[string]*millpond.UsageInterval{}
	for _, l := range lives {
		first := from
		if l.Began.After(from) {
			first = l.Began.Truncate(Interval)
		}
		for at := first; at.Before(to) && (l.Ended.IsZero() || at.Before(l.Ended)); at = at.Add(Interval) {
			u := millpond.UsageInterval{Pool: l.Pool, VMSize: l.VMSize, Start: at, End: at.Add(Interval)}
			if u.End.After(to) {
				u.End = to
			}
			k := Key(u)
			if sums[k] == nil {
				sums[k] = &u
			}
			sums[k].CoreTime += overlap(l, u.Start, u.End) * time.Duration(s.cores(l.VMSize))
		}
	}
	out := make([]millpond.UsageInterval, 0, len(sums))
	for _, u := range sums {
		out = append(out, *u)
	}
	sort.Slice(out, func(i, k int) bool { return Key(out[i]) < Key(out[k]) })
	return out
}
