package sqlite

import (
	"database/sql"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

const statColumns = `updated, user_cpu, kernel_cpu, wall, reads, writes, bytes_read, bytes_written, succeeded, failed, retries, wait`

// AddStatistics adds to what the tasks of a job have come to; it is written
// once for a job, as the last thing of the transaction.
func (t *Tx) AddStatistics(account millpond.AccountName, job millpond.JobID, s millpond.JobStatistics) {
	if t.stats == nil {
		t.stats = map[statKey]millpond.JobStatistics{}
	}
	k := statKey{account.Key(), job.Key()}
	sum := t.stats[k]
	sum.Usage = sum.Plus(s.Usage)
	sum.Succeeded, sum.Failed, sum.Retries, sum.Wait = sum.Succeeded+s.Succeeded, sum.Failed+s.Failed, sum.Retries+s.Retries, sum.Wait+s.Wait
	t.stats[k] = sum
}

type statKey struct{ account, job string }

func (t *Tx) flushStatistics() error {
	for k, s := range t.stats {
		if err := t.addStatistics(k, s); err != nil {
			return err
		}
		delete(t.stats, k)
	}
	return nil
}

func (t *Tx) addStatistics(k statKey, s millpond.JobStatistics) error {
	_, err := t.exec(`INSERT INTO job_stat (account, job_key, `+statColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (account, job_key) DO UPDATE SET updated = excluded.updated, user_cpu = user_cpu + excluded.user_cpu, kernel_cpu = kernel_cpu + excluded.kernel_cpu,
		wall = wall + excluded.wall, reads = reads + excluded.reads, writes = writes + excluded.writes, bytes_read = bytes_read + excluded.bytes_read,
		bytes_written = bytes_written + excluded.bytes_written, succeeded = succeeded + excluded.succeeded, failed = failed + excluded.failed,
		retries = retries + excluded.retries, wait = wait + excluded.wait`,
		k.account, k.job, micros(t.Now), s.UserCPU.Microseconds(), s.KernelCPU.Microseconds(), s.WallClock.Microseconds(), s.Reads, s.Writes, s.BytesRead, s.BytesWritten,
		s.Succeeded, s.Failed, s.Retries, s.Wait.Microseconds())
	return err
}

const statSums = `coalesce(max(updated), 0), coalesce(sum(user_cpu), 0), coalesce(sum(kernel_cpu), 0), coalesce(sum(wall), 0), coalesce(sum(reads), 0), coalesce(sum(writes), 0),
	coalesce(sum(bytes_read), 0), coalesce(sum(bytes_written), 0), coalesce(sum(succeeded), 0), coalesce(sum(failed), 0), coalesce(sum(retries), 0), coalesce(sum(wait), 0)`

func (t *Tx) statistics(where string, args ...any) (s millpond.JobStatistics, err error) {
	var updated, user, kernel, wall, wait int64
	err = t.row(`SELECT `+statSums+` FROM job_stat WHERE `+where, args...).Scan(&updated, &user, &kernel, &wall, &s.Reads, &s.Writes, &s.BytesRead, &s.BytesWritten,
		&s.Succeeded, &s.Failed, &s.Retries, &wait)
	s.Updated = fromMicros(updated)
	s.UserCPU, s.KernelCPU, s.WallClock, s.Wait = duration(user), duration(kernel), duration(wall), duration(wait)
	return s, err
}

func duration(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

// JobStatistics are what the tasks of a job have come to.
func (t *Tx) JobStatistics(account millpond.AccountName, job millpond.JobID) (millpond.JobStatistics, error) {
	return t.statistics(`account = ? AND job_key = ?`, account.Key(), job.Key())
}

// ScheduleStatistics are those of all jobs of a schedule, deleted ones included.
func (t *Tx) ScheduleStatistics(account millpond.AccountName, id millpond.JobScheduleID) (millpond.JobStatistics, error) {
	// ';' follows ':' in the order of keys.
	return t.statistics(`account = ? AND job_key >= ? AND job_key < ?`, account.Key(), id.Key()+":", id.Key()+";")
}

// AccountStatistics are those of all jobs of an account, deleted ones included.
func (t *Tx) AccountStatistics(account millpond.AccountName) (millpond.JobStatistics, error) {
	return t.statistics(`account = ?`, account.Key())
}

// foldStatistics adds a row that goes to the one that stays.
func (t *Tx) foldStatistics(account millpond.AccountName, key, into string) error {
	if err := t.flushStatistics(); err != nil {
		return err
	}
	s, err := t.statistics(`account = ? AND job_key = ?`, account.Key(), key)
	if err != nil || s.Updated.IsZero() && s.Succeeded+s.Failed == 0 {
		return err
	}
	if err := t.addStatistics(statKey{account.Key(), into}, s); err != nil {
		return err
	}
	_, err = t.exec(`DELETE FROM job_stat WHERE account = ? AND job_key = ?`, account.Key(), key)
	return err
}

// foldJob keeps what a job that is deleted has come to.
func (t *Tx) foldJob(account millpond.AccountName, id millpond.JobID) error {
	into := ""
	if schedule, _, ok := strings.Cut(id.Key(), ":"); ok {
		into = schedule + ":"
	}
	return t.foldStatistics(account, id.Key(), into)
}

// NodeLife is a time in which a node was there. Ended is zero while it is.
type NodeLife struct {
	Pool         millpond.PoolID
	VMSize       string
	Dedicated    bool
	Began, Ended time.Time
}

// live notes that a node is there, or is not: it is from its first machine to
// its end, but while it is deallocated or preempted.
func (t *Tx) live(n millpond.Node) error {
	if n.Allocated.IsZero() {
		return nil
	}
	if n.State == millpond.NodeDeallocated || n.State == millpond.NodePreempted {
		return t.ended(n.ID)
	}
	var lives, open int
	if err := t.row(`SELECT count(*), coalesce(sum(CASE WHEN ended = 0 THEN 1 ELSE 0 END), 0) FROM node_life WHERE node_key = ?`, n.ID.Key()).Scan(&lives, &open); err != nil || open > 0 {
		return err
	}
	began := n.Allocated
	if lives > 0 {
		began = t.Now
	}
	_, err := t.exec(`INSERT INTO node_life (node_key, began, ended, account, pool_key, pool, vm_size, dedicated) VALUES (?, ?, 0, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		n.ID.Key(), micros(began), n.Account.Key(), n.Pool.Key(), string(n.Pool), n.VMSize, n.Dedicated)
	return err
}

func (t *Tx) ended(id millpond.NodeID) error {
	_, err := t.exec(`UPDATE node_life SET ended = ? WHERE node_key = ? AND ended = 0`, micros(t.Now), id.Key())
	return err
}

func (t *Tx) nodeLives(where string, args ...any) ([]NodeLife, error) {
	return collect(t, func(r *sql.Rows) (v NodeLife, err error) {
		var began, ended int64
		err = r.Scan(&v.Pool, &v.VMSize, &v.Dedicated, &began, &ended)
		v.Began, v.Ended = fromMicros(began), fromMicros(ended)
		return v, err
	}, `SELECT pool, vm_size, dedicated, began, ended FROM node_life WHERE `+where, args...)
}

// PoolLives lists when nodes of a pool were there, from a time on.
func (t *Tx) PoolLives(account millpond.AccountName, pool millpond.PoolID, since time.Time) ([]NodeLife, error) {
	return t.nodeLives(`account = ? AND pool_key = ? AND began >= ?`, account.Key(), pool.Key(), micros(since))
}

// AccountLives lists when nodes of an account were there, as far as that falls
// between two times.
func (t *Tx) AccountLives(account millpond.AccountName, from, to time.Time) ([]NodeLife, error) {
	return t.nodeLives(`account = ? AND began < ? AND (ended = 0 OR ended > ?) ORDER BY pool_key, began`, account.Key(), micros(to), micros(from))
}
