// Package agent is the guest's half of the node channel: it answers the Agent
// service of nodeproto/nodev1 for one machine. It keeps the attempts that run,
// the numbered events that the server has not acknowledged, and hands
// everything that touches the machine to four seams: Machine, Runner, Preparer,
// Files. A clone's supervisor has it answer a birth as well, before any session
// (clone.go).
//
// It never decides about retries, scheduling or states of nodes; the server
// does. It opens no socket and reads no clock of its own. Its callers are
// cmd/millpond-agent (with agent/guest and agent/proc below the seams) and
// launch/fake (with scripted ones).
//
// An agent that restarts does not adopt what ran: the processes end with it,
// and the next agent reports each of their attempts as completed with the
// server error AgentRestarted, upon which the server queues the task again.
package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent/managed"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Machine is the computer that the agent runs on.
type Machine interface {
	// Adopt gives the machine its identity, clock and entropy, and makes its
	// node directories ready. It is called for every Hello and does the second
	// time only what a reconnect needs. The answer has all that the machine
	// knows: boot id, os-release, address, root directory, stages.
	Adopt(ctx context.Context, q *nodev1.HelloRequest) (Place, *nodev1.HelloResponse, error)
	Heartbeat() *nodev1.Heartbeat
	// SetLogins makes the accounts that people log in with exactly those of q, now
	// and when one expires.
	SetLogins(q *nodev1.SetLoginsRequest) error
	// Shutdown ends the machine; it may return before it has ended.
	Shutdown(reboot bool) error
	// Freeze gives free blocks of the file systems back to their disks and then
	// holds every write to them until Thaw or, for a caller that dies, the limit.
	// With an error nothing is held.
	Freeze(limit time.Duration) (held int, trimmed uint64, err error)
	// Thaw fails if nothing is held any more.
	Thaw() error
}

// Place is where an adopted machine does its work.
type Place struct {
	Runner Runner
	Files  Files
	// Preparer may be nil: then there is nothing that could be prepared.
	Preparer Preparer
	// Journal is the file that events are kept in; empty for memory only.
	Journal string
}

// Runner runs commands.
type Runner interface {
	// Run takes one attempt from its directories to the clean-up after its
	// process. It calls started once, when the command runs, and not at all when
	// it never does. When ctx ends it kills the command; the cause of ctx, a
	// *millpond.Error, becomes the failure. It always returns a report.
	Run(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time)) *nodev1.TaskCompleted
	// Install brings application packages onto the machine; nil when all are there.
	Install(ctx context.Context, packages []*nodev1.ApplicationPackage) *nodev1.Failure
	// RunInstance is Run for an instance of a multi-instance task: its coordination
	// command, then coordinated, then for the primary, after proceed is closed, its
	// own command, and for the others nothing until ctx ends. started is called when
	// the coordination command begins, coordinated when it has succeeded.
	RunInstance(ctx context.Context, q *nodev1.RunTaskRequest, started func(time.Time), coordinated func(), proceed <-chan struct{}) *nodev1.TaskCompleted
	// Remove deletes a task's directory, given relative to the node's root.
	Remove(directory string) error
}

// Preparer makes a machine what its pool wants.
type Preparer interface {
	// Prepare returns when everything is there, or why it cannot be; again for the
	// same request it leaves alone what is done.
	Prepare(ctx context.Context, q *nodev1.PrepareRequest) *nodev1.Failure
	// Extend runs an extension's script once for each id and returns when it has
	// ended; the error is that of ctx.
	Extend(ctx context.Context, q *nodev1.ExtendRequest) (*nodev1.ExtendResponse, error)
	// Notice writes down what is about to happen where tasks can read it.
	Notice(q *nodev1.NoticeRequest) error
}

// Files are what lies below the node's root directory, but for hidden areas.
// Paths are relative to it with slashes; "" is the root itself. Errors wrap
// fs.ErrNotExist, fs.ErrInvalid (the path leaves the root, or is no file),
// fs.ErrPermission, or ErrNotEmpty.
type Files interface {
	List(directory string, recursive bool) ([]*nodev1.FileInfo, error)
	Stat(path string) (*nodev1.FileInfo, error)
	Open(path string) (File, error)
	Delete(path string, recursive bool) error
}

// File is an open file, as long as it was when it was opened.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Config is what an agent is made of. All but Log is needed.
type Config struct {
	Version string
	Machine Machine
	Clock   clock.Clock
	Log     *slog.Logger
	// Heartbeat is the time between heartbeats, 5 s in the product.
	Heartbeat time.Duration
	// Tokens has what of managed identities is wanted of the server; nil if nobody asks.
	Tokens *managed.Broker
	// MaxEvents bounds the events that wait for acknowledgement; RunTask is
	// refused when they would be exceeded. 0 means 10,000.
	MaxEvents int
}

// Agent serves one machine over any number of sessions, one after another or
// at once. Make it with New, end it with Close.
type Agent struct {
	cfg  Config
	ctx  context.Context // the attempts'; outlives every session
	stop context.CancelCauseFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	hello    *nodev1.HelloRequest // the identity; nil before the first Hello
	place    Place
	events   *events
	attempts map[attemptKey]*attempt
	// directories counts the attempts that run in each.
	directories map[string]int
	finished    []attemptKey // the oldest first, bounded by maxFinished
}

// maxFinished is how many finished attempts the agent remembers, so that a
// late repetition of RunTask does not run them again.
const maxFinished = 4096

type attemptKey struct {
	job, task string
	attempt   int32
}

func keyOf(k *nodev1.TaskKey) attemptKey {
	return attemptKey{k.GetJobId(), k.GetTaskId(), k.GetAttempt()}
}

// attempt is one run of a task; finished ones keep their place without a cancel.
type attempt struct {
	key       *nodev1.TaskKey
	directory string
	cancel    context.CancelCauseFunc
	// proceed is closed by ProceedTask; nil for what is no instance.
	proceed   chan struct{}
	proceeded bool
}

// New makes an agent that waits for its first Hello.
func New(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxEvents == 0 {
		cfg.MaxEvents = 10_000
	}
	a := &Agent{cfg: cfg, attempts: map[attemptKey]*attempt{}, directories: map[string]int{}}
	a.ctx, a.stop = context.WithCancelCause(context.Background())
	return a
}

// Serve answers every session of l until ctx ends or l fails. The attempts go
// on after it; Close ends them.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	return nodeproto.Serve(ctx, l, nodeproto.NewHandler(a))
}

// Close kills what runs, keeps the reports for the next agent and waits.
func (a *Agent) Close() error {
	a.stop(interrupted())
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.events == nil {
		return nil
	}
	return a.events.close()
}

// interrupted is why an attempt ends with its agent; the server queues it again.
func interrupted() *millpond.Error {
	return millpond.Errorf(millpond.Unavailable, millpond.CodeAgentRestarted,
		"The node's agent was restarted while the task ran. The task is queued again.")
}

// adopt makes the place of the first Hello the agent's own.
func (a *Agent) adopt(q *nodev1.HelloRequest, place Place, bootID string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.events != nil {
		return nil
	}
	ev, err := openEvents(place.Journal, a.cfg.MaxEvents)
	if err != nil {
		return fmt.Errorf("open the journal of events: %w", err)
	}
	ev.goOn(q.GetLastSequence())
	for _, ran := range ev.unfinished() {
		a.cfg.Log.Warn("an attempt did not outlive its agent", "job", ran.GetJobId(), "task", ran.GetTaskId(), "attempt", ran.GetAttempt())
		now := timestamppb.New(a.cfg.Clock.Now())
		why := interrupted()
		err := ev.add(&nodev1.Event{Time: now, What: &nodev1.Event_TaskCompleted{TaskCompleted: &nodev1.TaskCompleted{
			Key: ran, EndTime: now,
			Failure: &nodev1.Failure{ServerError: true, Code: why.Code, Message: why.Message},
		}}})
		if err != nil {
			return err
		}
	}
	for _, k := range ev.completed() {
		a.remember(keyOf(k), &attempt{key: k})
	}
	a.hello = proto.Clone(q).(*nodev1.HelloRequest)
	a.hello.Entropy = nil
	a.place, a.events = place, ev
	a.cfg.Log.Info("adopted", "node", q.GetNodeId(), "generation", q.GetGeneration(), "boot", bootID)
	return nil
}

// remember notes a finished attempt; a.mu is held.
func (a *Agent) remember(k attemptKey, at *attempt) {
	a.attempts[k] = at
	a.finished = append(a.finished, k)
	for len(a.finished) > maxFinished {
		delete(a.attempts, a.finished[0])
		a.finished = a.finished[1:]
	}
}

// run starts an attempt that a.attempts does not know; a.mu is held.
func (a *Agent) run(q *nodev1.RunTaskRequest) error {
	k := keyOf(q.GetKey())
	if err := a.events.begin(q.GetKey()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(a.ctx)
	at := &attempt{key: q.GetKey(), directory: q.GetDirectory(), cancel: cancel}
	if q.GetInstance() != nil {
		at.proceed = make(chan struct{})
	}
	a.attempts[k] = at
	a.directories[at.directory]++
	runner, ev := a.place.Runner, a.events
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		defer cancel(nil)
		var start time.Time
		started := func(t time.Time) {
			start = t
			a.emit(ev, &nodev1.Event{What: &nodev1.Event_TaskStarted{TaskStarted: &nodev1.TaskStarted{Key: q.GetKey(), StartTime: timestamppb.New(t)}}})
		}
		var report *nodev1.TaskCompleted
		if at.proceed == nil {
			report = runner.Run(ctx, q, started)
		} else {
			report = runner.RunInstance(ctx, q, started, func() {
				a.emit(ev, &nodev1.Event{What: &nodev1.Event_TaskCoordinated{TaskCoordinated: &nodev1.TaskCoordinated{Key: q.GetKey(), StartTime: timestamppb.New(start)}}})
			}, at.proceed)
		}
		report.Key = q.GetKey()
		if report.StartTime == nil && !start.IsZero() {
			report.StartTime = timestamppb.New(start)
		}
		if report.EndTime == nil {
			report.EndTime = timestamppb.New(a.cfg.Clock.Now())
		}
		a.cfg.Log.Info("attempt ended", "job", k.job, "task", k.task, "attempt", k.attempt, "failure", report.GetFailure().GetCode())
		// Under one lock: a Hello sees the attempt running or its report, and
		// whoever has seen the report may remove the directory.
		a.mu.Lock()
		defer a.mu.Unlock()
		at.cancel = nil
		if a.directories[at.directory]--; a.directories[at.directory] == 0 {
			delete(a.directories, at.directory)
		}
		a.remember(k, at)
		a.emit(ev, &nodev1.Event{What: &nodev1.Event_TaskCompleted{TaskCompleted: report}})
	}()
	return nil
}

func (a *Agent) emit(ev *events, e *nodev1.Event) {
	e.Time = timestamppb.New(a.cfg.Clock.Now())
	if err := ev.add(e); err != nil {
		// The event is in memory all the same; only a restart would lose it.
		a.cfg.Log.Error("an event could not be written to the journal", "error", err)
	}
}
