package batchapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// Statistics tells what jobs, schedules and pools have come to, as package
// usage does. Maps are by key.
type Statistics interface {
	Jobs(ctx context.Context, acct millpond.AccountName, ids ...millpond.JobID) (map[string]millpond.JobStatistics, error)
	Schedules(ctx context.Context, acct millpond.AccountName, ids ...millpond.JobScheduleID) (map[string]millpond.JobStatistics, error)
	Pools(ctx context.Context, acct millpond.AccountName, ids ...millpond.PoolID) (map[string]millpond.PoolUsage, error)
	AllJobs(ctx context.Context, acct millpond.AccountName) (millpond.JobStatistics, error)
	AllPools(ctx context.Context, acct millpond.AccountName) (millpond.PoolUsage, error)
	Usage(ctx context.Context, acct millpond.AccountName, from, to time.Time, q millpond.ListQuery[millpond.UsageInterval]) ([]millpond.UsageInterval, string, error)
}

// wantsStats says whether the answer is to have statistics: they are asked for
// with $expand, and $select may leave them out again.
func (r *request) wantsStats() (bool, error) {
	x := r.QueryValue("$expand")
	if x == "" {
		return false, nil
	}
	if x != "stats" {
		return false, millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "The query parameter $expand can only be stats, not %q.", azwire.Clip(x)).
			With("QueryParameterName", "$expand").With("QueryParameterValue", azwire.Clip(x))
	}
	return true, nil
}

// withStats gives entities statistics: ask fetches those of rows by key, put
// adds them to one entity.
func withStats[T, S any](r *request, rows []T, key func(T) string, ask func([]T) (map[string]S, error), encode func(T) entity, put func(entity, S) entity) (func(T) entity, error) {
	wanted, err := r.wantsStats()
	if err != nil || !wanted {
		return encode, err
	}
	stats, err := ask(rows)
	if err != nil {
		return nil, err
	}
	return func(v T) entity {
		e := encode(v)
		if s, ok := stats[key(v)]; ok {
			e = put(e, s)
		}
		return e
	}, nil
}

// listWithStats is listOf for what can have statistics: encode fetches those of a
// page's rows.
func listWithStats[T any](e *Edge, w http.ResponseWriter, r *request, l list[T], fetch func(millpond.ListQuery[T]) ([]T, string, error), encode func(*request, []T) (func(T) entity, error)) error {
	var one func(T) entity
	return listOf(e, w, r, l, maxPage, func(q millpond.ListQuery[T]) ([]T, string, error) {
		rows, next, err := fetch(q)
		if err == nil {
			one, err = encode(r, rows)
		}
		return rows, next, err
	}, func(v T) entity { return one(v) })
}

func (e *Edge) jobStats(r *request, rows []millpond.Job) (func(millpond.Job) entity, error) {
	return withStats(r, rows, func(j millpond.Job) string { return j.Spec.ID.Key() }, func(rows []millpond.Job) (map[string]millpond.JobStatistics, error) {
		var ids []millpond.JobID
		for _, j := range rows {
			ids = append(ids, j.Spec.ID)
		}
		return e.Stats.Jobs(r.Context(), r.acct.Name, ids...)
	}, r.jobEntity, func(x entity, s millpond.JobStatistics) entity {
		m, _ := x.model.(azbatch.Job)
		m.Stats = jobStatistics(s, *m.URL)
		x.model = m
		return x
	})
}

func (e *Edge) scheduleStats(r *request, rows []millpond.JobSchedule) (func(millpond.JobSchedule) entity, error) {
	return withStats(r, rows, func(v millpond.JobSchedule) string { return v.Spec.ID.Key() }, func(rows []millpond.JobSchedule) (map[string]millpond.JobStatistics, error) {
		var ids []millpond.JobScheduleID
		for _, v := range rows {
			ids = append(ids, v.Spec.ID)
		}
		return e.Stats.Schedules(r.Context(), r.acct.Name, ids...)
	}, r.scheduleEntity, func(x entity, s millpond.JobStatistics) entity {
		m, _ := x.model.(azbatch.JobSchedule)
		j := jobStatistics(s, *m.URL)
		m.Stats = &azbatch.JobScheduleStatistics{URL: j.URL, StartTime: j.StartTime, LastUpdateTime: j.LastUpdateTime, UserCPUTime: j.UserCPUTime, KernelCPUTime: j.KernelCPUTime,
			WallClockTime: j.WallClockTime, ReadIOPS: j.ReadIOps, WriteIOPS: j.WriteIOps, ReadIOGiB: j.ReadIOGiB, WriteIOGiB: j.WriteIOGiB, NumSucceededTasks: j.NumSucceededTasks,
			NumFailedTasks: j.NumFailedTasks, NumTaskRetries: j.NumTaskRetries, WaitTime: j.WaitTime}
		x.model = m
		return x
	})
}

func (e *Edge) poolStats(r *request, rows []millpond.Pool) (func(millpond.Pool) entity, error) {
	return withStats(r, rows, func(p millpond.Pool) string { return p.Spec.ID.Key() }, func(rows []millpond.Pool) (map[string]millpond.PoolUsage, error) {
		var ids []millpond.PoolID
		for _, p := range rows {
			ids = append(ids, p.Spec.ID)
		}
		return e.Stats.Pools(r.Context(), r.acct.Name, ids...)
	}, func(p millpond.Pool) entity { return e.spared(r, p) }, func(x entity, u millpond.PoolUsage) entity {
		m, _ := x.model.(azbatch.Pool)
		m.Stats = poolStatistics(u, *m.URL, e.Clock.Now())
		x.model = m
		return x
	})
}

// taskStats need nothing but the task: it has what its attempts used.
func (e *Edge) taskStats(r *request) (func(millpond.Task) entity, error) {
	wanted, err := r.wantsStats()
	if err != nil || !wanted {
		return r.taskEntity, err
	}
	return func(t millpond.Task) entity {
		x := r.taskEntity(t)
		if t.Started.IsZero() {
			return x
		}
		m, _ := x.model.(azbatch.Task)
		updated := t.StateTransition
		j := jobStatistics(millpond.JobStatistics{Usage: t.Usage, Wait: max(0, t.Started.Sub(t.Created)), Started: t.Created, Updated: updated}, *m.URL)
		m.Stats = &azbatch.TaskStatistics{URL: j.URL, StartTime: j.StartTime, LastUpdateTime: j.LastUpdateTime, UserCPUTime: j.UserCPUTime, KernelCPUTime: j.KernelCPUTime,
			WallClockTime: j.WallClockTime, ReadIOPS: j.ReadIOps, WriteIOPS: j.WriteIOps, ReadIOGiB: j.ReadIOGiB, WriteIOGiB: j.WriteIOGiB, WaitTime: j.WaitTime}
		x.model = m
		return x
	}, nil
}

func jobStatistics(s millpond.JobStatistics, url string) *azbatch.JobStatistics {
	return &azbatch.JobStatistics{URL: ptr(url), StartTime: at(s.Started), LastUpdateTime: at(s.Updated), UserCPUTime: ptr(azwire.FormatDuration(s.UserCPU)),
		KernelCPUTime: ptr(azwire.FormatDuration(s.KernelCPU)), WallClockTime: ptr(azwire.FormatDuration(s.WallClock)), ReadIOps: ptr(s.Reads), WriteIOps: ptr(s.Writes),
		ReadIOGiB: gib(s.BytesRead), WriteIOGiB: gib(s.BytesWritten), NumSucceededTasks: ptr(s.Succeeded), NumFailedTasks: ptr(s.Failed), NumTaskRetries: ptr(s.Retries),
		WaitTime: ptr(azwire.FormatDuration(s.Wait))}
}

func gib(n int64) *float32 { return ptr(float32(float64(n) / (1 << 30))) }

func poolStatistics(u millpond.PoolUsage, url string, now time.Time) *azbatch.PoolStatistics {
	return &azbatch.PoolStatistics{URL: ptr(url), StartTime: at(u.Started), LastUpdateTime: at(now),
		UsageStats: &azbatch.PoolUsageStatistics{StartTime: at(u.Started), LastUpdateTime: at(now), DedicatedCoreTime: ptr(azwire.FormatDuration(u.Dedicated))}}
}

// lifetimeJobs and lifetimePools answer as the versions before 2023 did.
func (e *Edge) lifetimeJobs(w http.ResponseWriter, r *request) error {
	s, err := e.Stats.AllJobs(r.Context(), r.acct.Name)
	if err != nil {
		return err
	}
	s.Started = r.acct.Created
	return e.writeEntity(w, r, "jobstats", nil, entity{model: *jobStatistics(s, r.address("lifetimejobstats"))})
}

func (e *Edge) lifetimePools(w http.ResponseWriter, r *request) error {
	u, err := e.Stats.AllPools(r.Context(), r.acct.Name)
	if err != nil {
		return err
	}
	return e.writeEntity(w, r, "poolstats", nil, entity{model: *poolStatistics(u, r.address("lifetimepoolstats"), e.Clock.Now())})
}

// usageMetrics is one item of the answer; the model of the SDK left with the
// operation's last versions.
type usageMetrics struct {
	PoolID         string  `json:"poolId"`
	StartTime      string  `json:"startTime"`
	EndTime        string  `json:"endTime"`
	VMSize         string  `json:"vmSize"`
	TotalCoreHours float64 `json:"totalCoreHours"`
}

func (e *Edge) listUsageMetrics(w http.ResponseWriter, r *request) error {
	var bounds [2]time.Time
	for i, name := range []string{"startTime", "endTime"} {
		text := strings.ReplaceAll(r.QueryValue(name), " ", "+") // a plus that was not escaped
		if text == "" {
			continue
		}
		t, ok := azwire.ParseTime(text)
		if !ok {
			return millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "The query parameter %s must be a date and time such as 2026-01-31T08:00:00Z.", name).
				With("QueryParameterName", name).With("QueryParameterValue", azwire.Clip(text))
		}
		bounds[i] = t
	}
	return listOf(e, w, r, e.lists.usage, maxPage, func(q millpond.ListQuery[millpond.UsageInterval]) ([]millpond.UsageInterval, string, error) {
		return e.Stats.Usage(r.Context(), r.acct.Name, bounds[0], bounds[1], q)
	}, func(u millpond.UsageInterval) entity {
		return entity{model: usageMetrics{PoolID: string(u.Pool), StartTime: azwire.ISO(u.Start), EndTime: azwire.ISO(u.End), VMSize: strings.ToLower(u.VMSize), TotalCoreHours: u.CoreTime.Hours()}}
	})
}
