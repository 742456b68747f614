package batchapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/application"
	"millpond.dev/millpond/internal/certificate"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

// service is the verbs over maps: enough of their behaviour to judge an edge by.
type service struct {
	mu       sync.Mutex
	now      func() time.Time
	pools    map[string]millpond.Pool
	nodes    map[string]millpond.Node
	jobs     map[string]millpond.Job
	tasks    map[string]map[string]millpond.Task
	files    map[string][]byte
	modified time.Time
	version  int64
	// what the last writes were given
	caller  millpond.Caller
	targets pool.Targets
	option  millpond.DeallocationOption
	patch   pool.Patch
	removed []millpond.NodeID
	update  job.Update
	jpatch  job.Patch
	reason  string
	force   bool
}

func newService(now func() time.Time) *service {
	return &service{now: now, pools: map[string]millpond.Pool{}, nodes: map[string]millpond.Node{}, jobs: map[string]millpond.Job{},
		tasks: map[string]map[string]millpond.Task{}, files: map[string][]byte{}, modified: now()}
}

func missingNoun(code string) error {
	return millpond.Errorf(millpond.NotFound, code, "The specified thing does not exist.")
}

func rows[T any](m map[string]T, q millpond.ListQuery[T], state func(T) string) ([]T, string, error) {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var out []T
	last := ""
	for _, k := range keys {
		v := m[k]
		if q.After != "" && k <= q.After || !q.Wants(v) {
			continue
		}
		if len(q.States) > 0 && state != nil && !strings.Contains(strings.Join(q.States, " ")+" ", state(v)+" ") {
			continue
		}
		if len(out) == q.PageSize() {
			return out, last, nil
		}
		out, last = append(out, v), k
	}
	return out, "", nil
}

type memPools struct{ *service }

func (s memPools) Add(_ context.Context, caller millpond.Caller, acct millpond.BatchAccount, spec millpond.PoolSpec, t pool.Targets) (millpond.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pools[spec.ID.Key()]; ok {
		return millpond.Pool{}, millpond.Errorf(millpond.Conflict, "PoolExists", "The specified pool already exists.")
	}
	s.version++
	s.caller, s.targets = caller, t
	p := millpond.Pool{Account: acct.Name, Spec: spec, State: millpond.PoolActive, StateTransition: s.now(), Allocation: millpond.AllocationSteady,
		AllocationTransition: s.now(), ResizeTimeout: millpond.DefaultResizeTimeout, Created: s.now(), LastModified: s.now(), Version: s.version}
	if t.Dedicated != nil {
		p.TargetDedicated = *t.Dedicated
	}
	if t.ResizeTimeout != nil {
		p.ResizeTimeout = *t.ResizeTimeout
	}
	if p.TargetDedicated > 600 {
		p.Warnings = []millpond.Warning{{Code: "TooFewReplicas", Message: "Keep at least 2 replicas.", Time: s.now()}, {Code: "ShortResizeTimeout", Message: `Use "PT30M".`, Time: s.now()}}
		p.ResizeErrors = []millpond.ResizeError{{Code: "AllocationTimedout", Message: "Late.", Values: []millpond.NameValue{{Name: "Reason", Value: "slow"}}, Time: s.now()}}
	}
	s.pools[spec.ID.Key()] = p
	return p, nil
}

func (s memPools) Get(_ context.Context, _ millpond.AccountName, id millpond.PoolID) (millpond.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pools[id.Key()]
	if !ok {
		return p, missingNoun("PoolNotFound")
	}
	return p, nil
}

func (s memPools) List(_ context.Context, _ millpond.AccountName, q millpond.ListQuery[millpond.Pool]) ([]millpond.Pool, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rows(s.pools, q, func(p millpond.Pool) string { return string(p.State) })
}

func (s memPools) change(id millpond.PoolID, cond millpond.Condition, f func(p *millpond.Pool)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pools[id.Key()]
	if !ok {
		return missingNoun("PoolNotFound")
	}
	if err := cond.Check(p, millpond.Write); err != nil {
		return err
	}
	f(&p)
	s.version++
	p.Version, p.LastModified = s.version, s.now()
	s.pools[id.Key()] = p
	return nil
}

func (s memPools) Patch(_ context.Context, _ millpond.Caller, _ millpond.BatchAccount, id millpond.PoolID, cond millpond.Condition, in pool.Patch) error {
	return s.change(id, cond, func(p *millpond.Pool) {
		s.patch = in
		if in.StartTask != nil {
			p.Spec.StartTask = *in.StartTask
		}
		if in.Metadata != nil {
			p.Spec.Metadata = *in.Metadata
		}
	})
}

func (s memPools) Delete(_ context.Context, _ millpond.AccountName, id millpond.PoolID, cond millpond.Condition) error {
	return s.change(id, cond, func(p *millpond.Pool) { p.State = millpond.PoolDeleting })
}

func (s memPools) Resize(_ context.Context, _ millpond.AccountName, id millpond.PoolID, cond millpond.Condition, t pool.Targets, o millpond.DeallocationOption) error {
	return s.change(id, cond, func(p *millpond.Pool) {
		s.targets, s.option = t, o
		p.Allocation = millpond.AllocationResizing
	})
}

func (s memPools) EnableAutoScale(_ context.Context, _ millpond.AccountName, id millpond.PoolID, cond millpond.Condition, a pool.AutoScale) error {
	return s.change(id, cond, func(p *millpond.Pool) {
		p.AutoScale = &millpond.AutoScale{Formula: text0(a.Formula), Interval: millpond.DefaultAutoScaleInterval}
	})
}

func (s memPools) DisableAutoScale(_ context.Context, _ millpond.AccountName, id millpond.PoolID) error {
	return s.change(id, millpond.Condition{}, func(p *millpond.Pool) { p.AutoScale = nil })
}

func (s memPools) AutoScaleHistory(context.Context, millpond.AccountName, millpond.PoolID, int) ([]millpond.ScaleRecord, error) {
	return nil, nil
}
func (s memPools) EvaluateAutoScale(context.Context, millpond.AccountName, millpond.PoolID, string) (millpond.AutoScaleRun, error) {
	return millpond.AutoScaleRun{}, nil
}

func (s memPools) StopResize(_ context.Context, _ millpond.AccountName, id millpond.PoolID, cond millpond.Condition) error {
	return s.change(id, cond, func(p *millpond.Pool) { p.Allocation = millpond.AllocationStopping })
}

func (s memPools) RemoveNodes(_ context.Context, _ millpond.AccountName, id millpond.PoolID, cond millpond.Condition, nodes []millpond.NodeID, _ *time.Duration, o millpond.DeallocationOption) error {
	return s.change(id, cond, func(*millpond.Pool) { s.removed, s.option = nodes, o })
}

func (s memPools) NodeCounts(_ context.Context, _ millpond.AccountName, q millpond.ListQuery[millpond.PoolNodeCounts]) ([]millpond.PoolNodeCounts, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]millpond.PoolNodeCounts{}
	for k, p := range s.pools {
		m[k] = millpond.PoolNodeCounts{Pool: p.Spec.ID, Dedicated: millpond.NodeCounts{millpond.NodeIdle: 2, millpond.NodeUnusable: 1}}
	}
	return rows(m, q, nil)
}

type memNodes struct{ *service }

func (s memNodes) SparesOf(_ context.Context, _ millpond.AccountName, id millpond.PoolID) (millpond.Spares, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.pools[id.Key()].Spec.SparesOr(0)
	return millpond.Spares{Wanted: n, Ready: n, MemoryMiB: int64(n) * 30}, n > 0
}

func (s memNodes) Get(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID) (millpond.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[id.Key()]
	if !ok {
		return n, missingNoun("NodeNotFound")
	}
	return n, nil
}

func (s memNodes) List(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, q millpond.ListQuery[millpond.Node]) ([]millpond.Node, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rows(s.nodes, q, func(n millpond.Node) string { return string(n.State) })
}

func (s memNodes) act(id millpond.NodeID, o millpond.DeallocationOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.nodes[id.Key()]; !ok {
		return missingNoun("NodeNotFound")
	}
	s.option = o
	return nil
}

func (s memNodes) Reboot(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return s.act(id, o)
}
func (s memNodes) Reimage(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return s.act(id, o)
}
func (s memNodes) Deallocate(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return s.act(id, o)
}
func (s memNodes) Start(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID) error {
	return s.act(id, "")
}
func (s memNodes) AddUser(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, _ node.User) error {
	return s.act(id, "")
}

func (s memNodes) UpdateUser(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, _ node.User) error {
	return s.act(id, "")
}

func (s memNodes) DeleteUser(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, _ string) error {
	return s.act(id, "")
}

func (s memNodes) RemoteLogin(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID) (netip.AddrPort, error) {
	return netip.MustParseAddrPort("127.1.2.3:50001"), s.act(id, "")
}

func (s memNodes) Preempt(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, _ time.Duration) error {
	return s.act(id, "")
}
func (s memNodes) DisableScheduling(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return s.act(id, o)
}
func (s memNodes) EnableScheduling(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID) error {
	return s.act(id, "")
}
func (s memNodes) UploadLogs(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, q node.LogRequest) (node.UploadedLogs, error) {
	return node.UploadedLogs{Directory: "p/" + string(id), Files: 2}, s.act(id, "")
}
func (s memNodes) Files(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID) (node.Files, error) {
	return memFiles(s), s.act(id, "")
}

func (s memNodes) Usage(millpond.NodeID) (millpond.NodeUsage, bool) {
	return millpond.NodeUsage{}, false
}
func (s memNodes) KeptFiles(context.Context, millpond.NodeID, string) (node.Files, error) {
	return nil, missingNoun("FileNotFound")
}
func (s memNodes) Logs(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID) ([]node.Log, error) {
	return []node.Log{{Name: "console.log", Size: 5, Modified: s.modified}}, s.act(id, "")
}
func (s memNodes) ReadLog(_ context.Context, _ millpond.AccountName, _ millpond.PoolID, id millpond.NodeID, _ string) ([]byte, error) {
	return []byte("hello"), s.act(id, "")
}

type memFiles struct{ *service }

func (s memFiles) List(_ context.Context, dir string, recursive bool) ([]node.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]node.File{}
	for name, data := range s.files {
		rest := name
		if dir != "" {
			var ok bool
			if rest, ok = strings.CutPrefix(name, dir+"/"); !ok {
				continue
			}
		}
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			d := strings.TrimSuffix(name, rest) + rest[:i]
			seen[d] = node.File{Path: d, Dir: true, Modified: s.modified, Mode: 0o40755}
			if !recursive {
				continue
			}
		}
		seen[name] = node.File{Path: name, Size: int64(len(data)), Modified: s.modified, Mode: 0o100644}
	}
	var out []node.File
	for _, f := range seen {
		out = append(out, f)
	}
	return out, nil
}

func (s memFiles) Stat(_ context.Context, path string) (node.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, ok := s.files[path]; ok {
		return node.File{Path: path, Size: int64(len(data)), Modified: s.modified, Mode: 0o100644}, nil
	}
	for name := range s.files {
		if strings.HasPrefix(name, path+"/") {
			return node.File{Path: path, Dir: true, Modified: s.modified, Mode: 0o40755}, nil
		}
	}
	return node.File{}, missingNoun("FileNotFound")
}

func (s memFiles) Read(_ context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.files[path][offset:]
	if length > 0 {
		data = data[:length]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (s memFiles) Follow(ctx context.Context, path string, offset int64) (io.ReadCloser, error) {
	return s.Read(ctx, path, offset, 0)
}

func (s memFiles) Delete(_ context.Context, path string, _ bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.files[path]; !ok {
		return missingNoun("FileNotFound")
	}
	delete(s.files, path)
	return nil
}

type memJobs struct{ *service }

func (s memJobs) AddJob(_ context.Context, acct millpond.AccountName, spec millpond.JobSpec) (millpond.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.jobs[spec.ID.Key()]; ok {
		return millpond.Job{}, millpond.Errorf(millpond.Conflict, "JobExists", "The specified job already exists.")
	}
	s.version++
	j := millpond.Job{Account: acct, Spec: spec, State: millpond.JobActive, StateTransition: s.now(), Created: s.now(), LastModified: s.now(), Version: s.version}
	s.jobs[spec.ID.Key()], s.tasks[spec.ID.Key()] = j, map[string]millpond.Task{}
	return j, nil
}

func (s memJobs) GetJob(_ context.Context, _ millpond.AccountName, id millpond.JobID) (millpond.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.jobs[id.Key()]
	if !ok {
		return j, missingNoun("JobNotFound")
	}
	return j, nil
}

func (s memJobs) ListJobs(_ context.Context, _ millpond.AccountName, q millpond.ListQuery[millpond.Job]) ([]millpond.Job, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rows(s.jobs, q, func(j millpond.Job) string { return string(j.State) })
}

func (s memJobs) change(id millpond.JobID, cond millpond.Condition, f func(j *millpond.Job)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.jobs[id.Key()]
	if !ok {
		return missingNoun("JobNotFound")
	}
	if err := cond.Check(j, millpond.Write); err != nil {
		return err
	}
	before := j.State
	f(&j)
	if j.State != before {
		j.Previous, j.PreviousTransition, j.StateTransition = before, j.StateTransition, s.now()
	}
	s.version++
	j.Version, j.LastModified = s.version, s.now()
	s.jobs[id.Key()] = j
	return nil
}

func (s memJobs) PatchJob(_ context.Context, _ millpond.AccountName, id millpond.JobID, cond millpond.Condition, p job.Patch) error {
	return s.change(id, cond, func(j *millpond.Job) {
		s.jpatch = p
		if p.Priority != nil {
			j.Spec.Priority = *p.Priority
		}
	})
}

func (s memJobs) UpdateJob(_ context.Context, _ millpond.AccountName, id millpond.JobID, cond millpond.Condition, u job.Update) error {
	return s.change(id, cond, func(*millpond.Job) { s.update = u })
}

func (s memJobs) DeleteJob(_ context.Context, _ millpond.AccountName, id millpond.JobID, cond millpond.Condition, force bool) error {
	return s.change(id, cond, func(j *millpond.Job) { j.State, s.force = millpond.JobDeleting, force })
}

func (s memJobs) DisableJob(_ context.Context, _ millpond.AccountName, id millpond.JobID, cond millpond.Condition, what millpond.DisableTasks) error {
	return s.change(id, cond, func(j *millpond.Job) { j.State, j.DisableTasks = millpond.JobDisabling, what })
}

func (s memJobs) EnableJob(_ context.Context, _ millpond.AccountName, id millpond.JobID, cond millpond.Condition) error {
	return s.change(id, cond, func(j *millpond.Job) { j.State = millpond.JobActive })
}

func (s memJobs) TerminateJob(_ context.Context, _ millpond.AccountName, id millpond.JobID, cond millpond.Condition, reason string, force bool) error {
	return s.change(id, cond, func(j *millpond.Job) {
		if reason == "" {
			reason = "UserTerminate"
		}
		j.State, j.TerminateReason, j.Ended, s.reason, s.force = millpond.JobCompleted, reason, s.now(), reason, force
	})
}

func (s memJobs) ListJobNodes(_ context.Context, _ millpond.AccountName, id millpond.JobID, q millpond.ListQuery[millpond.JobNode]) ([]millpond.JobNode, string, error) {
	if _, err := s.GetJob(context.Background(), "", id); err != nil {
		return nil, "", err
	}
	return nil, "", millpond.Errorf(millpond.Conflict, "JobPreparationTaskNotSpecified", "The job has no preparation task.")
}

func (s memJobs) AddTask(_ context.Context, acct millpond.AccountName, id millpond.JobID, spec millpond.TaskSpec) (millpond.Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tasks, ok := s.tasks[id.Key()]
	if !ok {
		return millpond.Task{}, missingNoun("JobNotFound")
	}
	if _, ok := tasks[spec.ID.Key()]; ok {
		return millpond.Task{}, millpond.Errorf(millpond.Conflict, "TaskExists", "The specified task already exists.")
	}
	s.version++
	t := millpond.Task{Account: acct, Job: id, Spec: spec, State: millpond.TaskActive, StateTransition: s.now(), Created: s.now(), LastModified: s.now(), Version: s.version}
	tasks[spec.ID.Key()] = t
	return t, nil
}

func (s memJobs) AddTasks(ctx context.Context, acct millpond.AccountName, id millpond.JobID, specs []millpond.TaskSpec) ([]job.AddResult, error) {
	if _, err := s.GetJob(ctx, acct, id); err != nil {
		return nil, err
	}
	var out []job.AddResult
	for _, spec := range specs {
		t, err := s.AddTask(ctx, acct, id, spec)
		r := job.AddResult{ID: spec.ID, Task: t}
		if err != nil {
			r.Err = millpond.AsError(err)
		}
		out = append(out, r)
	}
	return out, nil
}

func (s memJobs) GetTask(_ context.Context, _ millpond.AccountName, id millpond.JobID, task millpond.TaskID) (millpond.Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks[id.Key()][task.Key()]
	if !ok {
		return t, missingNoun("TaskNotFound")
	}
	return t, nil
}

func (s memJobs) ListTasks(_ context.Context, _ millpond.AccountName, id millpond.JobID, q millpond.ListQuery[millpond.Task]) ([]millpond.Task, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rows(s.tasks[id.Key()], q, func(t millpond.Task) string { return string(t.State) })
}

func (s memJobs) changeTask(id millpond.JobID, task millpond.TaskID, cond millpond.Condition, f func(t *millpond.Task)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks[id.Key()][task.Key()]
	if !ok {
		return missingNoun("TaskNotFound")
	}
	if err := cond.Check(t, millpond.Write); err != nil {
		return err
	}
	f(&t)
	s.version++
	t.Version = s.version
	s.tasks[id.Key()][task.Key()] = t
	return nil
}

func (s memJobs) UpdateTask(_ context.Context, _ millpond.AccountName, id millpond.JobID, task millpond.TaskID, cond millpond.Condition, c job.Constraints) error {
	return s.changeTask(id, task, cond, func(t *millpond.Task) {
		t.Spec.MaxWallClock, t.Spec.MaxRetries, t.Spec.Retention = c.MaxWallClock, c.MaxRetries, c.Retention
	})
}

func (s memJobs) TerminateTask(_ context.Context, _ millpond.AccountName, id millpond.JobID, task millpond.TaskID, cond millpond.Condition) error {
	return s.changeTask(id, task, cond, func(t *millpond.Task) {
		t.Previous, t.PreviousTransition, t.State, t.Ended, t.Result = t.State, s.now(), millpond.TaskCompleted, s.now(), "failure"
		t.Failure = &millpond.TaskFailure{Category: "usererror", Code: millpond.CodeTaskEnded, Message: "Ended by the user."}
	})
}

func (s memJobs) DeleteTask(_ context.Context, _ millpond.AccountName, id millpond.JobID, task millpond.TaskID, cond millpond.Condition) error {
	if err := s.changeTask(id, task, cond, func(*millpond.Task) {}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks[id.Key()], task.Key())
	return nil
}

func (s memJobs) ReactivateTask(_ context.Context, _ millpond.AccountName, id millpond.JobID, task millpond.TaskID, cond millpond.Condition) error {
	return s.changeTask(id, task, cond, func(t *millpond.Task) { t.State = millpond.TaskActive })
}

func (s memJobs) TaskCounts(_ context.Context, _ millpond.AccountName, id millpond.JobID) (tasks, slots millpond.TaskCounts, err error) {
	return millpond.TaskCounts{Active: 1, Running: 2, Completed: 3, Succeeded: 2, Failed: 1}, millpond.TaskCounts{Active: 10}, nil
}

// accounts, rights and tokens of the tests.

const (
	accountID = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.Batch/batchAccounts/acct"
	tenantID  = "22222222-2222-2222-2222-222222222222"
)

func testAccount() millpond.BatchAccount {
	id, _ := millpond.ParseResourceID(accountID)
	return millpond.BatchAccount{ID: id, Name: "acct", Region: "westus2", Tenant: tenantID, Subscription: id.Subscription,
		PrimaryKey: vectorKey, SecondaryKey: "b3RoZXIga2V5IG9mIHRoaXMgYWNjb3VudCBpcyBoZXJl", SharedKeyAllowed: true, TaskTokenAllowed: true}
}

type memAccounts []millpond.BatchAccount

func (m memAccounts) Lookup(_ context.Context, name millpond.AccountName) (millpond.BatchAccount, error) {
	for _, a := range m {
		if a.Name.Key() == name.Key() {
			return a, nil
		}
	}
	return millpond.BatchAccount{}, missingNoun("ResourceNotFound")
}

// memRights lets shared keys and the principal "admin" do everything, and
// "reader" read pools and jobs.
type memRights struct{}

func (memRights) Authorize(_ context.Context, c millpond.Caller, action, scope string) error {
	if action == "" || scope == "" {
		return errors.New("no action or scope")
	}
	if c.Method == millpond.AuthSharedKey && strings.HasSuffix(strings.ToLower(scope), "/"+c.Account.Key()) || c.Object == "admin" {
		return nil
	}
	if c.Object == "reader" && strings.HasSuffix(action, "/read") {
		return nil
	}
	return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "The client does not have authorization to perform action '%s'. az role assignment create grants it.", action)
}

type ticking struct {
	mu sync.Mutex
	t  time.Time
}

// Now moves on, so that no two changes have one time.
func (c *ticking) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(time.Millisecond)
	return c.t
}

func newEdge(t testing.TB) (*Edge, *service) {
	t.Helper()
	clk := &ticking{t: time.Now().UTC().Truncate(time.Microsecond)}
	s := newService(clk.Now)
	disabled := testAccount()
	disabled.Name, disabled.SharedKeyAllowed = "keyless", false
	other := testAccount()
	other.Name, other.PrimaryKey, other.SecondaryKey = "other", "YW4gZW50aXJlbHkgZGlmZmVyZW50IGtleSBvZiBvdGhlcg==", ""
	other.ID.Names = []string{"other"}
	return New(Options{
		Accounts: memAccounts{testAccount(), disabled, other}, Authz: memRights{}, Pools: memPools{s}, Nodes: memNodes{s}, Jobs: memJobs{s}, Schedules: memSchedules{s}, Stats: memStats{}, Certificates: memCertificates{map[string]millpond.Certificate{}, clk},
		Verify: func(_ context.Context, token string) (millpond.Caller, error) {
			switch token {
			case "admin", "reader", "nobody":
				return millpond.Caller{Method: millpond.AuthToken, Tenant: tenantID, Object: token}, nil
			case "task", "elsewhere", "earlier":
				c := millpond.Caller{Method: millpond.AuthTaskToken, Tenant: tenantID, Account: "acct", Task: &millpond.TaskIdentity{Job: "j", Task: "manager", Attempt: 2}}
				if token == "elsewhere" {
					c.Account = "other"
				}
				if token == "earlier" {
					c.Task.Attempt = 1
				}
				return c, nil
			case "stranger":
				return millpond.Caller{Method: millpond.AuthToken, Tenant: "33333333-3333-3333-3333-333333333333", Object: "admin"}, nil
			}
			return millpond.Caller{}, millpond.Errorf(millpond.Unauthenticated, "InvalidAuthenticationToken", "The access token is invalid.")
		},
		Applications: func(context.Context, millpond.ResourceID) ([]application.Summary, error) { return nil, nil },
		SupportedImages: func(context.Context) ([]SupportedImage, error) {
			return []SupportedImage{
				{Publisher: "canonical", Offer: "server", SKU: "22_04", NodeAgentSKU: "batch.node.ubuntu 22.04", OSType: "linux", Verified: true},
				{Publisher: "debian", Offer: "debian-12", SKU: "12", NodeAgentSKU: "batch.node.debian 12", OSType: "linux"},
			}, nil
		},
		Clock: clk, Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}), s
}

// memSchedules has none.
type memSchedules struct{ *service }

func errNoSchedule() error {
	return millpond.Errorf(millpond.NotFound, "JobScheduleNotFound", "The specified job schedule does not exist.")
}

func (s memSchedules) AddSchedule(_ context.Context, _ millpond.AccountName, spec millpond.JobScheduleSpec) (millpond.JobSchedule, error) {
	return millpond.JobSchedule{Spec: spec}, nil
}

func (s memSchedules) GetSchedule(context.Context, millpond.AccountName, millpond.JobScheduleID) (millpond.JobSchedule, error) {
	return millpond.JobSchedule{}, errNoSchedule()
}

func (s memSchedules) ListSchedules(context.Context, millpond.AccountName, millpond.ListQuery[millpond.JobSchedule]) ([]millpond.JobSchedule, string, error) {
	return nil, "", nil
}

func (s memSchedules) ListScheduleJobs(context.Context, millpond.AccountName, millpond.JobScheduleID, millpond.ListQuery[millpond.Job]) ([]millpond.Job, string, error) {
	return nil, "", errNoSchedule()
}

func (s memSchedules) ChangeSchedule(context.Context, millpond.AccountName, millpond.JobScheduleID, millpond.Condition, job.SchedulePatch) error {
	return errNoSchedule()
}

func (s memSchedules) DisableSchedule(context.Context, millpond.AccountName, millpond.JobScheduleID, millpond.Condition) error {
	return errNoSchedule()
}

func (s memSchedules) EnableSchedule(context.Context, millpond.AccountName, millpond.JobScheduleID, millpond.Condition) error {
	return errNoSchedule()
}

func (s memSchedules) TerminateSchedule(context.Context, millpond.AccountName, millpond.JobScheduleID, millpond.Condition, bool) error {
	return errNoSchedule()
}

func (s memSchedules) DeleteSchedule(context.Context, millpond.AccountName, millpond.JobScheduleID, millpond.Condition, bool) error {
	return errNoSchedule()
}

// memStats knows that nothing was ever used.
type memStats struct{}

func (memStats) Jobs(_ context.Context, _ millpond.AccountName, ids ...millpond.JobID) (map[string]millpond.JobStatistics, error) {
	out := map[string]millpond.JobStatistics{}
	for _, id := range ids {
		out[id.Key()] = millpond.JobStatistics{}
	}
	return out, nil
}

func (memStats) Schedules(context.Context, millpond.AccountName, ...millpond.JobScheduleID) (map[string]millpond.JobStatistics, error) {
	return nil, nil
}

func (memStats) Pools(context.Context, millpond.AccountName, ...millpond.PoolID) (map[string]millpond.PoolUsage, error) {
	return nil, nil
}

func (memStats) AllJobs(context.Context, millpond.AccountName) (millpond.JobStatistics, error) {
	return millpond.JobStatistics{}, nil
}

func (memStats) AllPools(context.Context, millpond.AccountName) (millpond.PoolUsage, error) {
	return millpond.PoolUsage{}, nil
}

func (memStats) Usage(context.Context, millpond.AccountName, time.Time, time.Time, millpond.ListQuery[millpond.UsageInterval]) ([]millpond.UsageInterval, string, error) {
	return nil, "", nil
}

// thumbprintA is a certificate's.
const thumbprintA = "8ca6895c58fd5c9aeed13121f784629be0261977"

// memCertificates takes anything for a certificate.
type memCertificates struct {
	all map[string]millpond.Certificate
	clk interface{ Now() time.Time }
}

func (s memCertificates) Add(_ context.Context, _ millpond.AccountName, a certificate.Asked) (millpond.Certificate, error) {
	c := millpond.Certificate{Thumbprint: a.Thumbprint, Format: a.Format, Public: a.Data, State: millpond.CertificateActive, StateTransition: s.clk.Now()}
	s.all[c.Thumbprint] = c
	return c, nil
}

func (s memCertificates) Get(_ context.Context, _ millpond.AccountName, thumbprint string) (millpond.Certificate, error) {
	c, ok := s.all[thumbprint]
	if !ok {
		return c, missingNoun("CertificateNotFound")
	}
	return c, nil
}

func (s memCertificates) List(_ context.Context, _ millpond.AccountName, q millpond.ListQuery[millpond.Certificate]) ([]millpond.Certificate, string, error) {
	return rows(s.all, q, func(c millpond.Certificate) string { return string(c.State) })
}

func (s memCertificates) Delete(ctx context.Context, acct millpond.AccountName, thumbprint string) error {
	return s.apply(ctx, acct, thumbprint, millpond.CertificateDelete)
}

func (s memCertificates) CancelDelete(ctx context.Context, acct millpond.AccountName, thumbprint string) error {
	return s.apply(ctx, acct, thumbprint, millpond.CertificateCancelDelete)
}

func (s memCertificates) apply(ctx context.Context, acct millpond.AccountName, thumbprint string, e millpond.CertificateEvent) error {
	c, err := s.Get(ctx, acct, thumbprint)
	if err == nil {
		err = c.Apply(e, s.clk.Now())
		s.all[thumbprint] = c
	}
	return err
}
