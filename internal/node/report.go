package node

import (
	"context"
	"errors"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// reporter applies what the agents of many nodes report in few transactions:
// while one is being committed, the reports that come wait for the next.
type reporter struct {
	svc   *Service
	mu    sync.Mutex
	queue []*report
	busy  bool
}

type report struct {
	x      *session
	events []*nodev1.Event
	done   chan error
}

// commitLimit bounds one transaction of reports; perCommit bounds its size.
const (
	commitLimit = 30 * time.Second
	perCommit   = 256
)

// apply returns when events of a session are in the database: each exactly
// once, because the node's last sequence moves in the same transaction.
func (r *reporter) apply(ctx context.Context, x *session, events []*nodev1.Event) error {
	p := &report{x: x, events: events, done: make(chan error, 1)}
	r.mu.Lock()
	r.queue = append(r.queue, p)
	lead := !r.busy
	r.busy = true
	r.mu.Unlock()
	if lead {
		// The leader must not be a session: its own end would be everyone's, and
		// it would serve the others forever. It ends when the queue is empty.
		go r.drain(context.WithoutCancel(ctx))
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *reporter) drain(ctx context.Context) {
	for {
		r.mu.Lock()
		n := min(len(r.queue), perCommit)
		batch := r.queue[:n:n]
		r.queue = r.queue[n:]
		if n == 0 {
			r.busy, r.queue = false, nil
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		err := r.commit(ctx, batch)
		if err != nil && len(batch) > 1 {
			// One bad report must not fail the others.
			for _, p := range batch {
				p.done <- r.commit(ctx, []*report{p})
			}
			continue
		}
		for _, p := range batch {
			p.done <- err
		}
	}
}

func (r *reporter) commit(ctx context.Context, batch []*report) error {
	ctx, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	return r.svc.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		for _, p := range batch {
			if err := p.x.applyTo(tx, book, p.events); err != nil {
				return err
			}
		}
		return nil
	})
}

func (x *session) applyTo(tx *sqlite.Tx, book *ledger.Book, events []*nodev1.Event) error {
	for _, e := range events {
		// The head is read again each time because a start task's end rewrites it.
		h, err := book.Head(x.node)
		if err != nil {
			return err
		}
		if h == nil || h.Generation != x.generation || e.GetSequence() <= h.Sequence {
			continue
		}
		h.Sequence = e.GetSequence()
		book.Touch(x.node)
		c := e.GetTaskCompleted()
		switch {
		case e.GetTaskCoordinated() != nil:
			err = x.coordinated(tx, book, e.GetTaskCoordinated())
		case c == nil:
		case c.GetKey().GetJobId() == "":
			err = x.startTaskEnded(tx, book, c)
		default:
			err = x.taskEnded(tx, book, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (x *session) taskEnded(tx *sqlite.Tx, book *ledger.Book, c *nodev1.TaskCompleted) error {
	k := c.GetKey()
	t, err := tx.Task(x.acct, millpond.JobID(k.GetJobId()), millpond.TaskID(k.GetTaskId()))
	if errors.Is(err, sqlite.ErrNoRow) {
		return x.jobTaskEnded(tx, book, c)
	}
	if err != nil {
		return err
	}
	if t.Gang != nil {
		if numberOf(t) != int(k.GetAttempt()) {
			return nil
		}
		r := reportOf(c)
		if r.Failure != nil && r.Failure.Code == millpond.CodeAgentRestarted {
			return book.InstanceLost(t, x.node)
		}
		return book.InstanceEnded(t, x.node, r)
	}
	// A late report of an earlier attempt, or of one that was given to another
	// node meanwhile, changes nothing.
	if !t.OnNode() || numberOf(t) != int(k.GetAttempt()) || t.Node.Key() != x.node.Key() {
		return nil
	}
	r := reportOf(c)
	if r.Failure != nil && r.Failure.Code == millpond.CodeAgentRestarted {
		return book.Lost(t)
	}
	retries := 0
	if r.Failure != nil && t.Spec.MaxRetries == nil {
		j, err := tx.Job(t.Account, t.Job)
		if err != nil && !errors.Is(err, sqlite.ErrNoRow) {
			return err
		}
		retries = j.Spec.MaxTaskRetries
	}
	return book.Ended(t, retries, r)
}

func reportOf(c *nodev1.TaskCompleted) ledger.Report {
	var r ledger.Report
	if t := c.GetStartTime(); t != nil {
		r.Start = t.AsTime()
	}
	if t := c.GetEndTime(); t != nil {
		r.End = t.AsTime()
	}
	if c.ExitCode != nil {
		code := int(c.GetExitCode())
		r.ExitCode = &code
	}
	if u := c.GetUsage(); u != nil {
		r.Usage = millpond.Usage{UserCPU: atLeast0(u.GetUserCpu().AsDuration()), KernelCPU: atLeast0(u.GetKernelCpu().AsDuration()),
			Reads: count0(u.GetReads()), Writes: count0(u.GetWrites()), BytesRead: count0(u.GetBytesRead()), BytesWritten: count0(u.GetBytesWritten())}
	}
	if x := c.GetContainer(); x != nil {
		r.Container = &millpond.ContainerInfo{ID: x.GetId(), State: x.GetState(), Error: x.GetError()}
	}
	if f := c.GetFailure(); f != nil {
		r.Failure = &millpond.TaskFailure{Category: "usererror", Code: f.GetCode(), Message: f.GetMessage()}
		if f.GetServerError() {
			r.Failure.Category = "servererror"
		}
		for name, value := range f.GetDetails() {
			r.Failure.Details = append(r.Failure.Details, millpond.NameValue{Name: name, Value: value})
		}
	} else if r.ExitCode != nil && *r.ExitCode != 0 {
		r.Failure = &millpond.TaskFailure{Category: "usererror", Code: "FailureExitCode", Message: "The task exited with an exit code representing a failure"}
	}
	return r
}

// A guest's figures are what a guest says: none may make a sum go backwards.
func atLeast0(d time.Duration) time.Duration { return min(max(0, d), mostUsage) }

func count0(n uint64) int64 { return int64(min(n, 1<<50)) }

// mostUsage is more than one attempt can have used.
const mostUsage = 10 * 365 * 24 * time.Hour

// startTaskEnded applies the end of a start task's attempt: ready, another try,
// or giving up.
func (x *session) startTaskEnded(tx *sqlite.Tx, book *ledger.Book, c *nodev1.TaskCompleted) error {
	// The head that the ledger has may be newer than the row.
	h, err := book.Head(x.node)
	if err != nil || h == nil {
		return err
	}
	n, err := tx.Node(x.node)
	if err != nil {
		return err
	}
	i := n.StartTaskInfo
	if i == nil || n.StartTask == nil || i.State != "running" || i.Attempt != int(c.GetKey().GetAttempt()) {
		return nil
	}
	n.LastSequence, n.State, n.StateTransition = h.Sequence, h.State, h.Changed
	r := reportOf(c)
	if !r.Start.IsZero() {
		i.StartTime = r.Start
	}
	i.EndTime, i.ExitCode, i.Failure, i.Container = r.End, r.ExitCode, r.Failure, r.Container
	again := false
	switch {
	case r.Failure == nil:
		i.State, i.Result = "completed", "success"
	case r.Failure.Code == millpond.CodeAgentRestarted:
		again = true
	case r.Failure.Code == "FailureExitCode" && (n.StartTask.MaxRetries < 0 || i.RetryCount < n.StartTask.MaxRetries):
		again = true
		i.RetryCount++
		i.LastRetry = tx.Now
	default:
		i.State, i.Result = "completed", "failure"
	}
	if again {
		i.Attempt++
		book.Sessions[x.node] = struct{}{}
	}
	x.svc.proceed(book, &n, tx.Now)
	return x.svc.putNode(tx, book, n)
}
