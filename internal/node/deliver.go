package node

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

func attemptOf(k *nodev1.TaskKey) attempt {
	return attempt{job: strings.ToLower(k.GetJobId()), task: strings.ToLower(k.GetTaskId()), number: int(k.GetAttempt())}
}

// numberOf is an attempt's number as agents know it. They remember attempts that
// have ended, and would take the first of a task that was deleted and added
// again for that of the one before.
func numberOf(t millpond.Task) int { return t.Incarnation + t.Attempt }

func attemptKey(t millpond.Task) attempt {
	return attempt{job: t.Job.Key(), task: t.Spec.ID.Key(), number: numberOf(t)}
}

func taskKey(t millpond.Task) *nodev1.TaskKey {
	return &nodev1.TaskKey{JobId: string(t.Job), TaskId: string(t.Spec.ID), Attempt: int32(numberOf(t))}
}

// again is how long a call that the agent cannot take now waits.
const again = 300 * time.Millisecond

// wanted is what the rows want of a node.
type wanted struct {
	node  millpond.Node
	pool  millpond.Pool
	tasks []millpond.Task
	jobs  []jobOnNode
	due   []sqlite.TaskDirectory
}

func (x *session) read(ctx context.Context) (wanted, error) {
	var w wanted
	err := x.svc.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if w.node, err = tx.Node(x.node); err != nil {
			return err
		}
		if w.node.Generation != x.generation {
			return sqlite.ErrNoRow
		}
		if w.tasks, err = tx.PlacedTasks(x.node); err != nil {
			return err
		}
		if w.tasks, err = withInstances(tx, x.node, w.tasks); err != nil {
			return err
		}
		if w.jobs, err = jobsOnNode(tx, x.node); err != nil {
			return err
		}
		if w.due, err = tx.DueTaskDirectories(x.node, tx.Now); err != nil {
			return err
		}
		w.pool, err = tx.Pool(w.node.Account, w.node.Pool)
		if errors.Is(err, sqlite.ErrNoRow) {
			err = nil
		}
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return w, errNoNode()
	}
	return w, err
}

// tell makes the agent do what the rows want. It begins when the reports that the
// agent had kept are applied.
func (x *session) tell(ctx context.Context) error {
	if !x.synced.Load() {
		return nil // sync wakes it
	}
	x.mu.Lock()
	x.round++
	round, offers := x.round, x.offers
	x.offers = nil
	x.mu.Unlock()
	// The offers were taken before the rows are read: what they tell is in the
	// rows, or it is over.
	stale := x.stale.Swap(false)
	var err error
	if x.look.Swap(false) || stale {
		if x.want, err = x.read(ctx); err == nil {
			err = x.compare(ctx, x.want, x.stopped)
		}
	} else {
		err = x.begin(ctx, x.want, offers)
	}
	if err != nil {
		return err
	}
	x.prune(x.stopped, round)
	return nil
}

// prune forgets ends and stops that no plan can need any more: rows that were
// read, and offers that were taken, in a round after the end was committed do
// not have it.
func (x *session) prune(stopped map[attempt]bool, round int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k, e := range x.ended {
		if e.committed && e.round < round {
			delete(x.ended, k)
		}
	}
	for k := range stopped {
		if !x.running[k] {
			delete(stopped, k)
		}
	}
}

// state says what is known of an attempt.
func (x *session) state(k attempt) (running, ended bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ended = x.ended[k]
	return x.running[k], ended
}

func (x *session) compare(ctx context.Context, w wanted, stopped map[attempt]bool) error {
	x.tellPreempted(ctx, w.node)
	want := map[attempt]bool{}
	start, hasStart := startAttempt(w.node)
	if hasStart {
		want[start] = true
	}
	for _, t := range w.tasks {
		want[attemptKey(t)] = true
	}
	for _, j := range w.jobs {
		want[attemptKey(j.task())] = true
	}
	// What the agent runs and nobody wants: a deleted task, a forced end.
	x.mu.Lock()
	var orphans []attempt
	for k := range x.running {
		if _, ended := x.ended[k]; !ended && !want[k] && !stopped[k] {
			orphans = append(orphans, k)
		}
	}
	x.mu.Unlock()
	for _, k := range orphans {
		stopped[k] = true
		key := &nodev1.TaskKey{JobId: k.job, TaskId: k.task, Attempt: int32(k.number)}
		if _, err := x.stop(ctx, key, millpond.CodeTaskEnded, "The task is not wanted any more."); err != nil {
			return err
		}
	}
	if err := x.discard(ctx, w.due); err != nil {
		return err
	}
	if hasStart {
		if running, ended := x.state(start); !running && !ended {
			q, err := x.startRequest(ctx, w)
			if err == nil {
				err = x.run(ctx, []*nodev1.RunTaskRequest{q})
			} else {
				err = x.impossible(ctx, q.GetKey(), err)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := x.tellJobs(ctx, w, stopped); err != nil {
		return err
	}
	var begin []millpond.Task
	for _, t := range w.tasks {
		k := attemptKey(t)
		running, ended := x.state(k)
		if running && !ended && t.Stopping == "" && t.Gang != nil && t.Gang.Ready {
			if err := x.proceed(ctx, t); err != nil {
				return err
			}
		}
		switch {
		case ended:
		case t.Stopping != "" && !running:
			// It was never started here, and now it never will be.
			if err := x.drop(ctx, t); err != nil {
				return err
			}
		case t.Stopping != "":
			if stopped[k] {
				continue
			}
			stopped[k] = true
			known, err := x.stop(ctx, taskKey(t), t.Stopping, t.StopMessage)
			if err != nil {
				return err
			}
			if !known {
				if err := x.drop(ctx, t); err != nil {
					return err
				}
			}
		case !running && t.State == millpond.TaskRunning:
			begin = append(begin, t)
		}
	}
	return x.begin(ctx, w, begin)
}

// mostAtOnce bounds the attempts of one call.
const mostAtOnce = 256

// begin starts the attempts of tasks that do not run here and have not ended.
func (x *session) begin(ctx context.Context, w wanted, tasks []millpond.Task) error {
	var list []*nodev1.RunTaskRequest
	for _, t := range tasks {
		if running, ended := x.state(attemptKey(t)); running || ended {
			continue
		}
		if t.Gang != nil && !x.instances {
			if err := x.refused(ctx, taskKey(t), errOldAgent); err != nil {
				return err
			}
			continue
		}
		settings, err := x.svc.settingsOf(ctx, t.Account, t.Job)
		if err != nil {
			return err
		}
		q, err := x.taskRequest(ctx, w, t, settings)
		if err != nil {
			if err := x.impossible(ctx, q.GetKey(), err); err != nil {
				return err
			}
			continue
		}
		list = append(list, q)
	}
	for len(list) > 0 {
		n := min(len(list), mostAtOnce)
		if err := x.run(ctx, list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// drop takes an attempt that does not run from the node, on its row as it is.
func (x *session) drop(ctx context.Context, t millpond.Task) error {
	return x.svc.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		now, err := tx.Task(t.Account, t.Job, t.Spec.ID)
		if errors.Is(err, sqlite.ErrNoRow) || err == nil && (now.Attempt != t.Attempt || !now.OnNode()) {
			return nil
		}
		if err != nil {
			return err
		}
		if now.Gang != nil {
			return book.InstanceLost(now, x.node)
		}
		return book.Lost(now)
	})
}

// stop tells whether the agent knew the attempt.
func (x *session) stop(ctx context.Context, key *nodev1.TaskKey, code, message string) (bool, error) {
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := x.client.StopTask(call, connect.NewRequest(&nodev1.StopTaskRequest{Key: key, Code: code, Message: message}))
	if connect.CodeOf(err) == connect.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("stop task %s on node %s: %w", key.GetTaskId(), x.node, err)
	}
	return true, nil
}

// run starts attempts. An agent that cannot take one now is asked again; one
// that refuses it for good ends the attempt.
func (x *session) run(ctx context.Context, list []*nodev1.RunTaskRequest) error {
	// Noted first: the report of a quick task may come before the answer.
	x.mu.Lock()
	for _, q := range list {
		x.running[attemptOf(q.GetKey())] = true
	}
	x.mu.Unlock()
	results, err := x.call(ctx, list)
	if err != nil {
		return err
	}
	for i, q := range list {
		if err := x.answered(ctx, q, results[i]); err != nil {
			return err
		}
	}
	return nil
}

// call asks the agent, all at once if it can; each attempt has its own answer.
func (x *session) call(ctx context.Context, list []*nodev1.RunTaskRequest) ([]error, error) {
	out := make([]error, len(list))
	if len(list) > 1 {
		call, cancel := context.WithTimeout(ctx, callLimit)
		a, err := x.client.RunTasks(call, connect.NewRequest(&nodev1.RunTasksRequest{Tasks: list}))
		cancel()
		switch {
		case err == nil && len(a.Msg.GetResults()) != len(list):
			return nil, fmt.Errorf("node %s answered %d of %d attempts", x.node, len(a.Msg.GetResults()), len(list))
		case err == nil:
			for i, r := range a.Msg.GetResults() {
				if r.GetCode() != 0 {
					out[i] = connect.NewError(connect.Code(r.GetCode()), errors.New(r.GetMessage()))
				}
			}
			return out, nil
		case connect.CodeOf(err) != connect.CodeUnimplemented:
			return nil, fmt.Errorf("run %d tasks on node %s: %w", len(list), x.node, err)
		}
		// The image has an agent from before there was RunTasks.
	}
	for i, q := range list {
		call, cancel := context.WithTimeout(ctx, callLimit)
		_, out[i] = x.client.RunTask(call, connect.NewRequest(q))
		cancel()
	}
	return out, nil
}

// answered applies the agent's answer about one attempt.
func (x *session) answered(ctx context.Context, q *nodev1.RunTaskRequest, err error) error {
	k := attemptOf(q.GetKey())
	if err == nil {
		if _, ended := x.state(k); ended {
			x.mu.Lock()
			delete(x.running, k)
			x.mu.Unlock()
		}
		return nil
	}
	x.mu.Lock()
	delete(x.running, k)
	x.mu.Unlock()
	switch connect.CodeOf(err) {
	case connect.CodeFailedPrecondition, connect.CodeResourceExhausted:
		x.blocked.Store(true)
		time.AfterFunc(again, func() {
			x.look.Store(true)
			x.wake.Wake()
		})
		return nil
	case connect.CodeInvalidArgument, connect.CodeInternal, connect.CodeUnimplemented:
		x.svc.Log.Error("the agent refuses a task", "node", x.node, "job", k.job, "task", k.task, "err", err)
		return x.refused(ctx, q.GetKey(), err)
	}
	return fmt.Errorf("run task %s on node %s: %w", q.GetKey().GetTaskId(), x.node, err)
}

func (x *session) refused(ctx context.Context, key *nodev1.TaskKey, why error) error {
	return x.conclude(ctx, &nodev1.TaskCompleted{Key: key, Failure: &nodev1.Failure{ServerError: true, Code: "Unknown", Message: "The node's agent could not start the task: " + why.Error()}})
}

// conclude applies the end of an attempt that the agent does not report.
func (x *session) conclude(ctx context.Context, c *nodev1.TaskCompleted) error {
	key := c.GetKey()
	return x.svc.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		if key.GetJobId() == "" {
			return x.startTaskEnded(tx, book, c)
		}
		return x.taskEnded(tx, book, c)
	})
}

// discard removes task directories that are due.
func (x *session) discard(ctx context.Context, due []sqlite.TaskDirectory) error {
	var gone []sqlite.TaskDirectory
	for _, d := range due {
		call, cancel := context.WithTimeout(ctx, callLimit)
		_, err := x.client.RemoveTask(call, connect.NewRequest(&nodev1.RemoveTaskRequest{
			Key: &nodev1.TaskKey{JobId: string(d.Job), TaskId: string(d.Task), Attempt: int32(d.Attempt)}, Directory: d.Directory}))
		cancel()
		switch connect.CodeOf(err) {
		case connect.CodeFailedPrecondition:
			// It still runs; its end wakes this session.
			x.blocked.Store(true)
			continue
		case connect.CodeUnavailable, connect.CodeCanceled, connect.CodeDeadlineExceeded:
			if err != nil {
				return fmt.Errorf("remove %s on node %s: %w", d.Directory, x.node, err)
			}
		}
		if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
			x.svc.Log.Warn("a task's directory could not be removed", "node", x.node, "directory", d.Directory, "err", err)
		}
		gone = append(gone, d)
	}
	if len(gone) == 0 {
		return nil
	}
	if len(due) == 256 {
		x.look.Store(true)
		x.wake.Wake()
	}
	return x.svc.DB.Update(ctx, func(tx *sqlite.Tx) error {
		for _, d := range gone {
			if err := tx.DropTaskDirectory(x.node, d.Directory); err != nil {
				return err
			}
			t, err := tx.Task(d.Account, d.Job, d.Task)
			if errors.Is(err, sqlite.ErrNoRow) {
				continue
			}
			if err != nil {
				return err
			}
			if t.State == millpond.TaskCompleted && t.Attempt == d.Attempt && t.Node.Key() == x.node.Key() {
				t.FilesRemoved = true
				if err := tx.PutTask(t); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// startAttempt is the attempt of the start task that is to run now.
func startAttempt(n millpond.Node) (attempt, bool) {
	i := n.StartTaskInfo
	if n.StartTask == nil || i == nil || i.State != "running" || n.Preparing || n.Installing {
		return attempt{}, false
	}
	return attempt{task: startTaskID, number: i.Attempt}, true
}

// startRequest is the start task's attempt; with an error all but its key may be
// missing.
func (x *session) startRequest(ctx context.Context, w wanted) (*nodev1.RunTaskRequest, error) {
	t := w.node.StartTask
	q := &nodev1.RunTaskRequest{
		Key:         &nodev1.TaskKey{TaskId: startTaskID, Attempt: int32(w.node.StartTaskInfo.Attempt)},
		CommandLine: t.CommandLine,
		Directory:   "startup",
		Environment: environment(x.nodeVariables(w.node), t.Environment),
		User:        user(w.pool, t.User),
		Container:   containerOf(w.pool, t.Container, "startup", ""),
	}
	var err error
	if q.Packages, err = x.packages(ctx, w.pool, nil); err != nil {
		return q, err
	}
	if q.Certificates, err = x.certificates(ctx, w.node, millpond.VisibleToStartTask); err != nil {
		return q, err
	}
	q.ResourceFiles, err = x.files(ctx, w.pool, t.ResourceFiles)
	return q, err
}

// taskRequest is a task's attempt; with an error all but its key may be missing.
func (x *session) taskRequest(ctx context.Context, w wanted, t millpond.Task, job jobSettings) (*nodev1.RunTaskRequest, error) {
	own := x.nodeVariables(w.node)
	own["AZ_BATCH_JOB_ID"], own["AZ_BATCH_TASK_ID"] = string(t.Job), string(t.Spec.ID)
	if job.prepared != "" && t.Directory != job.prepared {
		own["AZ_BATCH_JOB_PREP_DIR"] = path.Join(w.node.RootDir, job.prepared)
		own["AZ_BATCH_JOB_PREP_WORKING_DIR"] = path.Join(w.node.RootDir, job.prepared, "wd")
	}
	q := &nodev1.RunTaskRequest{
		Key: taskKey(t), CommandLine: t.Spec.CommandLine, Directory: t.Directory,
		Environment: environment(own, job.environment, t.Spec.Environment),
		User:        user(w.pool, t.Spec.User),
		Container:   containerOf(w.pool, t.Spec.Container, t.Directory, job.prepared),
	}
	if t.Spec.MaxWallClock > 0 {
		q.MaxWallClock = durationpb.New(t.Spec.MaxWallClock)
	}
	var err error
	if t.Spec.Token {
		if q.Environment["AZ_BATCH_AUTHENTICATION_TOKEN"], err = x.svc.Links.Token(ctx, t.Account, millpond.TaskIdentity{Job: t.Job, Task: t.Spec.ID, Attempt: t.Attempt}); err != nil {
			return q, err
		}
	}
	if q.Packages, err = x.packages(ctx, w.pool, t.Spec.Packages); err != nil {
		return q, err
	}
	if q.Certificates, err = x.certificates(ctx, w.node, millpond.VisibleToTask); err != nil {
		return q, err
	}
	if q.OutputFiles, err = x.outputs(w.pool, t.Spec.OutputFiles); err != nil {
		return q, err
	}
	q.ResourceFiles, err = x.files(ctx, w.pool, t.Spec.ResourceFiles)
	if err == nil && t.Gang != nil {
		err = x.asInstance(ctx, w.pool, q, t)
	}
	return q, err
}

func (x *session) nodeVariables(n millpond.Node) map[string]string {
	return map[string]string{
		"AZ_BATCH_ACCOUNT_NAME":      string(x.acct),
		"AZ_BATCH_ACCOUNT_URL":       x.url,
		"AZ_BATCH_POOL_ID":           string(n.Pool),
		"AZ_BATCH_NODE_ID":           string(n.ID),
		"AZ_BATCH_NODE_IS_DEDICATED": strconv.FormatBool(n.Dedicated),
	}
}

// environment merges settings, the later over the earlier; the service's own
// names win over all (batch-data-plane.md §6.2).
func environment(own map[string]string, settings ...[]millpond.NameValue) map[string]string {
	env := map[string]string{}
	for _, list := range settings {
		for _, v := range list {
			env[v.Name] = v.Value
		}
	}
	for k, v := range own {
		env[k] = v
	}
	return env
}

func user(p millpond.Pool, id millpond.UserIdentity) *nodev1.User {
	if id.UserName != "" {
		for _, u := range p.Spec.UserAccounts {
			if u.Name == id.UserName {
				return &nodev1.User{Name: u.Name, Admin: u.Admin, Uid: int32(u.UID), Gid: int32(u.GID)}
			}
		}
	}
	return &nodev1.User{Name: id.UserName, Admin: id.Admin, TaskScope: id.TaskScope}
}
