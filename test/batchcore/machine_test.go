package batchcore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// hall is a scripted launcher. It outlives the core that uses it, as real
// machines outlive the server.
type hall struct {
	wanted   []launch.Spares // what Park was told last; mu guards it
	mu       sync.Mutex
	changed  chan struct{}
	machines map[string]*machine
	// fails says that machines of a node cannot be launched; holds that they
	// never leave preparing; mute that their agents never speak.
	// stutter says that agents report everything twice, older reports too.
	fails, holds, mute, stutter bool
	// notices are the kinds of those that agents were given.
	notices []string
	// engine, if set, is a folder for a container engine's client and its home.
	engine string
	// latest is the newest version of the image.
	latest   string
	limit    int
	launches int
	// attach is the core that sessions go to now; nil while the server is down.
	attach func(ctx context.Context, id millpond.NodeID, generation int, token string, client nodev1.AgentClient) error
	// overlap notes tasks that ran twice at once; runs counts every run by task.
	overlap []string
	active  map[string]int
	runs    map[string]int
	attempt map[string]int32
	resets  int
	// real, if set, is the folder below which machines are real agents that run
	// commands as processes of this one; resets keep a machine's files, a reimage
	// begins without any. disk, if set, is told of a machine's root directory before
	// its agent begins.
	real string
	disk func(root string)
	// shut, if set, is how long a real agent's machine takes to shut down: until it
	// is closed.
	shut chan struct{}
	// links, if set, are what nodes get at blobs by.
	links node.Links
	// identities issues tokens, and metadata is where the real agent of a node gives them out.
	identities node.Identities
	metadata   string
	// gate lets commands "gate" end.
	gate chan struct{}
}

type machine struct {
	hall   *hall
	spec   launch.Spec
	status launch.Status
	ctx    context.Context
	cancel context.CancelFunc
	agent  *agent
	// gone is closed when the real agent of the boot before has ended.
	gone chan struct{}
}

func newHall() *hall {
	return &hall{changed: make(chan struct{}, 1), machines: map[string]*machine{}, active: map[string]int{}, runs: map[string]int{}, attempt: map[string]int32{}, gate: make(chan struct{})}
}

func (h *hall) Changed() <-chan struct{} { return h.changed }

func (h *hall) notify() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *hall) Launch(_ context.Context, spec launch.Spec) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fails {
		return &launch.HostError{Step: "start-qemu", Err: errors.New("scripted failure")}
	}
	if m := h.machines[spec.Node.Key()]; m != nil {
		if m.spec.Generation >= spec.Generation {
			return nil
		}
		m.kill()
	}
	h.launches++
	m := &machine{hall: h, spec: spec, status: launch.Status{Node: spec.Node, Generation: spec.Generation, Phase: launch.Running, Started: time.Now()}}
	if h.holds {
		m.status.Phase = launch.Preparing
	}
	h.machines[spec.Node.Key()] = m
	m.boot()
	h.notify()
	return nil
}

// boot starts the guest: an agent and the supervisor that connects it.
func (m *machine) boot() {
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.hall.launches++
	m.agent = newAgent(m.hall, fmt.Sprintf("boot-%d", m.hall.launches), m.ctx)
	m.agent.node = m.spec.Node.Key()
	m.agent.old = m.hall.launches%2 == 1
	m.agent.reboot = func() { m.hall.reset(m) }
	if m.status.Phase != launch.Running || m.hall.mute {
		return
	}
	if m.hall.real == "" {
		go m.connect(m.ctx, m.agent)
		return
	}
	before := m.gone
	m.gone = make(chan struct{})
	go m.bootReal(m.ctx, m.agent.bootID, before, m.gone)
}

// kill pulls the plug; a real agent is given the time that it takes to be gone.
func (m *machine) kill() {
	m.cancel()
	m.agent.die()
}

// connect dials the server again and again, as a supervisor does.
func (m *machine) connect(ctx context.Context, a nodev1.AgentHandler) {
	for ctx.Err() == nil {
		m.hall.mu.Lock()
		attach := m.hall.attach
		m.hall.mu.Unlock()
		if attach != nil {
			guest, host := net.Pipe()
			sctx, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() { defer close(done); _ = nodeproto.ServeConn(sctx, guest, nodeproto.NewHandler(a)) }()
			client, err := nodeproto.NewClient(sctx, host)
			if err == nil {
				_ = attach(sctx, m.spec.Node, m.spec.Generation, m.spec.Channel.Token, client)
				client.Close()
			}
			cancel()
			<-done
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (h *hall) List(context.Context) ([]launch.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []launch.Status
	for _, m := range h.machines {
		out = append(out, m.status)
	}
	return out, nil
}

func (h *hall) reset(m *machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.machines[m.spec.Node.Key()] != m {
		return // it was replaced or destroyed meanwhile
	}
	h.resets++
	m.kill()
	if m.status.Phase == launch.Stopped {
		m.status.Phase = launch.Running
	}
	m.boot()
}

func (h *hall) Reset(_ context.Context, id millpond.NodeID) error {
	h.mu.Lock()
	m := h.machines[id.Key()]
	h.mu.Unlock()
	if m == nil {
		return errors.New("no such machine")
	}
	h.reset(m)
	return nil
}

func (h *hall) Stop(_ context.Context, id millpond.NodeID, _ time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[id.Key()]
	if m == nil {
		return millpond.Errorf(millpond.NotFound, "NodeNotFound", "no such machine")
	}
	m.kill()
	m.status.Phase = launch.Stopped
	h.notify()
	return nil
}

func (h *hall) Destroy(_ context.Context, id millpond.NodeID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.machines[id.Key()]; m != nil {
		m.kill()
		delete(h.machines, id.Key())
		h.notify()
	}
	return nil
}

func (h *hall) Capacity(context.Context) (launch.Capacity, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return launch.Capacity{VMs: h.limit, UsedVMs: len(h.machines)}, nil
}

func (h *hall) Console(context.Context, millpond.NodeID, int64) ([]byte, error) {
	return []byte("scripted console\n"), nil
}

// began waits until a task has begun its nth run.
func (h *hall) began(id string, nth int) func() bool {
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.runs[id] >= nth
	}
}

// crash is a QEMU that was killed.
func (h *hall) crash(id millpond.NodeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[id.Key()]
	m.kill()
	m.status.Phase = launch.Failed
	m.status.Err = &launch.Failure{Host: true, Code: "QEMUDied", Message: "QEMU was killed by signal 9"}
	h.notify()
}

func (h *hall) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.machines {
		m.kill()
	}
}

// agent is a scripted agent. Commands: "sleep D", "exit N", "hang", "deaf", "gate",
// "hang-once", which hangs in its first run, "mostly", which fails each fifth
// time, and "fail-until N", which fails until its Nth run.
type agent struct {
	// What a script does not have.
	nodev1.UnimplementedAgentHandler
	hall   *hall
	bootID string
	ctx    context.Context
	reboot func()

	mu      sync.Mutex
	list    []*nodev1.Event
	last    uint64
	changed chan struct{}
	running map[string]*run
	known   map[string]bool
	removed []string
	dead    bool
	old     bool
	node    string
}

type run struct {
	key  *nodev1.TaskKey
	stop chan *nodev1.Failure
	// proceed and instance are of an instance of a multi-instance task.
	proceed  chan struct{}
	instance *nodev1.Instance
}

func newAgent(h *hall, boot string, ctx context.Context) *agent {
	return &agent{hall: h, bootID: boot, ctx: ctx, changed: make(chan struct{}), running: map[string]*run{}, known: map[string]bool{}}
}

func (a *agent) die() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead {
		return
	}
	a.dead = true
	for _, r := range a.running {
		a.left(r)
	}
}

// entered and left count who runs a task; the hall is locked. An instance may run
// beside others of its attempt, and beside nothing else.
func (a *agent) entered(r *run) {
	h, id := a.hall, a.id(r.key)
	if h.active[id]++; h.active[id] > 1 && r.key.JobId != "" && (r.instance == nil || h.attempt[id] != r.key.Attempt) {
		h.overlap = append(h.overlap, id)
	}
	h.attempt[id] = r.key.Attempt
}

func (a *agent) left(r *run) { a.hall.active[a.id(r.key)]-- }

// id is what must not run twice at once: a task, or a job's own task on a node.
func (a *agent) id(k *nodev1.TaskKey) string {
	id := k.JobId + "/" + k.TaskId
	if k.TaskId == "jobpreparation" || k.TaskId == "jobrelease" {
		id += "@" + a.node
	}
	return id
}

func (a *agent) Hello(context.Context, *connect.Request[nodev1.HelloRequest]) (*connect.Response[nodev1.HelloResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &nodev1.HelloResponse{AgentVersion: "test", BootId: a.bootID, RootDir: "/mnt/batch", Address: "10.0.0.4", Booted: timestamppb.Now(), LastSequence: a.last, Instances: true, Certificates: true}
	for _, x := range a.running {
		r.Running = append(r.Running, x.key)
	}
	return connect.NewResponse(r), nil
}

func (a *agent) Watch(ctx context.Context, q *connect.Request[nodev1.WatchRequest], s *connect.ServerStream[nodev1.Event]) error {
	after := q.Msg.After
	if err := s.Send(&nodev1.Event{What: &nodev1.Event_Heartbeat{Heartbeat: &nodev1.Heartbeat{}}}); err != nil {
		return err
	}
	for {
		a.mu.Lock()
		var send []*nodev1.Event
		for _, e := range a.list {
			if e.Sequence > after {
				send = append(send, e)
			}
		}
		changed := a.changed
		a.mu.Unlock()
		a.hall.mu.Lock()
		if a.hall.stutter && len(send) > 0 {
			send = append(send, send...)
		}
		a.hall.mu.Unlock()
		for _, e := range send {
			if err := s.Send(e); err != nil {
				return err
			}
			after = max(after, e.Sequence)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.ctx.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("dead"))
		case <-changed:
		case <-time.After(200 * time.Millisecond):
			if err := s.Send(&nodev1.Event{What: &nodev1.Event_Heartbeat{Heartbeat: &nodev1.Heartbeat{}}}); err != nil {
				return err
			}
		}
	}
}

func (a *agent) Acknowledge(_ context.Context, q *connect.Request[nodev1.AcknowledgeRequest]) (*connect.Response[nodev1.AcknowledgeResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.list) > 0 && a.list[0].Sequence <= q.Msg.Through {
		a.list = a.list[1:]
	}
	return connect.NewResponse(&nodev1.AcknowledgeResponse{}), nil
}

func name(k *nodev1.TaskKey) string { return fmt.Sprintf("%s/%s/%d", k.JobId, k.TaskId, k.Attempt) }

func (a *agent) RunTask(_ context.Context, q *connect.Request[nodev1.RunTaskRequest]) (*connect.Response[nodev1.RunTaskResponse], error) {
	a.hall.mu.Lock()
	defer a.hall.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	k := q.Msg.Key
	if a.dead {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("dead"))
	}
	if a.known[name(k)] {
		return connect.NewResponse(&nodev1.RunTaskResponse{}), nil
	}
	a.known[name(k)] = true
	id := a.id(k)
	r := &run{key: k, stop: make(chan *nodev1.Failure, 1), instance: q.Msg.Instance, proceed: make(chan struct{})}
	a.entered(r)
	if k.JobId != "" {
		if r.instance == nil || r.instance.Primary {
			a.hall.runs[id]++
		}
		if x := r.instance; x != nil {
			var list []string
			for _, h := range x.Hosts {
				if h.Name != "" {
					list = append(list, h.Address)
				}
			}
			if strings.Join(list, ",") != q.Msg.Environment["AZ_BATCH_HOST_LIST"] {
				a.hall.overlap = append(a.hall.overlap, id+": the hosts are not those of the host list")
			}
		}
		if q.Msg.Environment["AZ_BATCH_JOB_ID"] != k.JobId || q.Msg.Environment["AZ_BATCH_ACCOUNT_URL"] == "" {
			a.hall.overlap = append(a.hall.overlap, id+": bad environment")
		}
	}
	a.running[name(k)] = r
	go a.execute(r, q.Msg.CommandLine, a.hall.runs[id])
	return connect.NewResponse(&nodev1.RunTaskResponse{}), nil
}

// RunTasks is not known to every agent: those of odd boots are older.
func (a *agent) RunTasks(ctx context.Context, q *connect.Request[nodev1.RunTasksRequest]) (*connect.Response[nodev1.RunTasksResponse], error) {
	if a.old {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("an old agent"))
	}
	out := &nodev1.RunTasksResponse{}
	for _, t := range q.Msg.Tasks {
		r := &nodev1.RunTaskResult{}
		if _, err := a.RunTask(ctx, connect.NewRequest(t)); err != nil {
			r.Code = uint32(connect.CodeOf(err))
		}
		out.Results = append(out.Results, r)
	}
	return connect.NewResponse(out), nil
}

func (a *agent) ProceedTask(_ context.Context, q *connect.Request[nodev1.ProceedTaskRequest]) (*connect.Response[nodev1.ProceedTaskResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.known[name(q.Msg.Key)] {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("unknown"))
	}
	if r := a.running[name(q.Msg.Key)]; r != nil && r.proceed != nil {
		close(r.proceed)
		r.proceed = nil
	}
	return connect.NewResponse(&nodev1.ProceedTaskResponse{}), nil
}

// emit adds an event; both locks are held.
func (a *agent) emit(e *nodev1.Event) {
	a.last++
	e.Sequence, e.Time = a.last, timestamppb.Now()
	a.list = append(a.list, e)
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) execute(r *run, command string, nth int) {
	started := timestamppb.Now()
	var exit int32
	var failure *nodev1.Failure
	var ok bool
	if r.instance != nil {
		a.mu.Lock()
		proceed := r.proceed
		a.mu.Unlock()
		if exit, failure, ok = a.act(r, r.instance.CoordinationCommandLine, nth); !ok {
			return
		}
		if exit != 0 || failure != nil {
			a.ended(r, started, exit, failure)
			return
		}
		a.hall.mu.Lock()
		a.mu.Lock()
		if !a.dead {
			a.emit(&nodev1.Event{What: &nodev1.Event_TaskCoordinated{TaskCoordinated: &nodev1.TaskCoordinated{Key: r.key, StartTime: started}}})
		}
		a.mu.Unlock()
		a.hall.mu.Unlock()
		if !r.instance.Primary {
			proceed = nil
		}
		select {
		case <-a.ctx.Done():
			return
		case failure = <-r.stop:
			a.ended(r, started, 137, failure)
			return
		case <-proceed:
		}
	}
	if exit, failure, ok = a.act(r, command, nth); ok {
		a.ended(r, started, exit, failure)
	}
}

// act acts one command out; false when the machine dies meanwhile.
func (a *agent) act(r *run, command string, nth int) (exit int32, failure *nodev1.Failure, ok bool) {
	var wait time.Duration
	var gate chan struct{}
	stop := r.stop
	words := strings.Fields(command)
	switch words[0] {
	case "sleep":
		wait, _ = time.ParseDuration(words[1])
	case "mostly": // one run in five fails
		wait = time.Duration(nth%4) * time.Millisecond
		if nth%5 == 0 {
			exit = 1
		}
	case "hang":
		wait = time.Hour
	case "deaf": // does not end when it is told to
		wait, stop = time.Hour, nil
	case "gate":
		wait, gate = time.Hour, a.hall.gate
	case "hang-once":
		if nth == 1 {
			wait = time.Hour
		}
	case "exit":
		fmt.Sscan(words[1], &exit)
	case "fail-until":
		n := 0
		fmt.Sscan(words[1], &n)
		if nth < n {
			exit = 1
		}
	}
	select {
	case <-a.ctx.Done():
		return 0, nil, false
	case failure = <-stop:
		exit = 137
	case <-gate:
	case <-time.After(wait):
	}
	return exit, failure, true
}

func (a *agent) ended(r *run, started *timestamppb.Timestamp, exit int32, failure *nodev1.Failure) {
	if failure == nil && exit != 0 {
		failure = &nodev1.Failure{Code: "FailureExitCode", Message: "exit"}
	}
	a.hall.mu.Lock()
	defer a.hall.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead {
		return
	}
	delete(a.running, name(r.key))
	a.left(r)
	a.emit(&nodev1.Event{What: &nodev1.Event_TaskCompleted{TaskCompleted: &nodev1.TaskCompleted{
		Key: r.key, StartTime: started, EndTime: timestamppb.Now(), ExitCode: &exit, Failure: failure}}})
}

func (a *agent) StopTask(_ context.Context, q *connect.Request[nodev1.StopTaskRequest]) (*connect.Response[nodev1.StopTaskResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.known[name(q.Msg.Key)] {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("unknown"))
	}
	if r := a.running[name(q.Msg.Key)]; r != nil {
		select {
		case r.stop <- &nodev1.Failure{Code: q.Msg.Code, Message: q.Msg.Message}:
		default:
		}
	}
	return connect.NewResponse(&nodev1.StopTaskResponse{}), nil
}

func (a *agent) Prepare(context.Context, *connect.Request[nodev1.PrepareRequest]) (*connect.Response[nodev1.PrepareResponse], error) {
	return connect.NewResponse(&nodev1.PrepareResponse{}), nil
}

func (a *agent) GiveToken(context.Context, *connect.Request[nodev1.GiveTokenRequest]) (*connect.Response[nodev1.GiveTokenResponse], error) {
	return connect.NewResponse(&nodev1.GiveTokenResponse{}), nil
}

func (a *agent) Extend(context.Context, *connect.Request[nodev1.ExtendRequest]) (*connect.Response[nodev1.ExtendResponse], error) {
	return connect.NewResponse(&nodev1.ExtendResponse{ExitCode: new(int32)}), nil
}

func (a *agent) Notice(_ context.Context, q *connect.Request[nodev1.NoticeRequest]) (*connect.Response[nodev1.NoticeResponse], error) {
	a.hall.mu.Lock()
	defer a.hall.mu.Unlock()
	a.hall.notices = append(a.hall.notices, q.Msg.GetType())
	return connect.NewResponse(&nodev1.NoticeResponse{}), nil
}

func (a *agent) RemoveTask(_ context.Context, q *connect.Request[nodev1.RemoveTaskRequest]) (*connect.Response[nodev1.RemoveTaskResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.running {
		if r.key.JobId == q.Msg.Key.JobId && r.key.TaskId == q.Msg.Key.TaskId {
			return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("runs"))
		}
	}
	a.removed = append(a.removed, q.Msg.Directory)
	return connect.NewResponse(&nodev1.RemoveTaskResponse{}), nil
}

func (a *agent) Install(context.Context, *connect.Request[nodev1.InstallRequest]) (*connect.Response[nodev1.InstallResponse], error) {
	return connect.NewResponse(&nodev1.InstallResponse{}), nil
}

func (a *agent) ListFiles(context.Context, *connect.Request[nodev1.ListFilesRequest]) (*connect.Response[nodev1.ListFilesResponse], error) {
	return connect.NewResponse(&nodev1.ListFilesResponse{Files: []*nodev1.FileInfo{{Path: "startup/stdout.txt", Size: 5}}}), nil
}

func (a *agent) StatFile(context.Context, *connect.Request[nodev1.StatFileRequest]) (*connect.Response[nodev1.FileInfo], error) {
	return connect.NewResponse(&nodev1.FileInfo{Path: "startup/stdout.txt", Size: 5}), nil
}

func (a *agent) ReadFile(_ context.Context, q *connect.Request[nodev1.ReadFileRequest], s *connect.ServerStream[nodev1.FileChunk]) error {
	if q.Msg.Path != "startup/stdout.txt" {
		return connect.NewError(connect.CodeNotFound, errors.New("no such file"))
	}
	return s.Send(&nodev1.FileChunk{Data: []byte("hello")})
}

func (a *agent) DeleteFile(context.Context, *connect.Request[nodev1.DeleteFileRequest]) (*connect.Response[nodev1.DeleteFileResponse], error) {
	return connect.NewResponse(&nodev1.DeleteFileResponse{}), nil
}

func (a *agent) Shutdown(_ context.Context, q *connect.Request[nodev1.ShutdownRequest]) (*connect.Response[nodev1.ShutdownResponse], error) {
	if q.Msg.Reboot {
		time.AfterFunc(10*time.Millisecond, a.reboot)
	}
	return connect.NewResponse(&nodev1.ShutdownResponse{}), nil
}

func (a *agent) Freeze(context.Context, *connect.Request[nodev1.FreezeRequest]) (*connect.Response[nodev1.FreezeResponse], error) {
	return connect.NewResponse(&nodev1.FreezeResponse{}), nil
}

func (a *agent) Thaw(context.Context, *connect.Request[nodev1.ThawRequest]) (*connect.Response[nodev1.ThawResponse], error) {
	return connect.NewResponse(&nodev1.ThawResponse{}), nil
}
