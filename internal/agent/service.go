package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"sort"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// chunkSize is the size of a piece of a file on the channel.
const chunkSize = 128 << 10

// ErrNotEmpty says that a directory with content is deleted without recursion.
var ErrNotEmpty = errors.New("the directory is not empty; delete it recursively")

var _ nodev1.AgentHandler = (*Agent)(nil)

// Hello implements nodev1.AgentHandler.
func (a *Agent) Hello(ctx context.Context, q *connect.Request[nodev1.HelloRequest]) (*connect.Response[nodev1.HelloResponse], error) {
	answer, err := a.adoptAs(ctx, q.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// adoptAs makes the machine the node of q, or says again what it is.
func (a *Agent) adoptAs(ctx context.Context, q *nodev1.HelloRequest) (*nodev1.HelloResponse, *connect.Error) {
	if q.GetNodeId() == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("Hello needs a node id"))
	}
	a.mu.Lock()
	was := a.hello
	a.mu.Unlock()
	if was != nil && (was.GetNodeId() != q.GetNodeId() || was.GetGeneration() != q.GetGeneration()) {
		return nil, connect.NewError(connect.CodeFailedPrecondition,
			errors.New("this machine is node "+was.GetNodeId()+" already; it cannot become another"))
	}
	place, answer, err := a.cfg.Machine.Adopt(ctx, q)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	if err := a.adopt(q, place, answer.GetBootId()); err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	answer.AgentVersion = a.cfg.Version
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.attempts {
		if at.cancel != nil {
			answer.Running = append(answer.Running, at.key)
		}
	}
	sort.Slice(answer.Running, func(i, j int) bool { return answer.Running[i].String() < answer.Running[j].String() })
	last, forgotten := a.events.kept()
	answer.LastSequence, answer.Forgotten = last, &forgotten
	answer.Instances = true
	answer.Certificates = true
	return answer, nil
}

// Watch implements nodev1.AgentHandler.
func (a *Agent) Watch(ctx context.Context, q *connect.Request[nodev1.WatchRequest], s *connect.ServerStream[nodev1.Event]) error {
	ev, _, err := a.ready()
	if err != nil {
		return err
	}
	beat := time.NewTicker(a.cfg.Heartbeat)
	defer beat.Stop()
	after := q.Msg.GetAfter()
	// The headers go with the first message; the server waits for them.
	if err := a.beat(s); err != nil {
		return err
	}
	asked := map[string]bool{} // of this session
	for {
		wants, wanted := a.cfg.Tokens.Pending()
		for _, w := range wants {
			if asked[w.GetId()] {
				continue
			}
			asked[w.GetId()] = true
			if err := s.Send(&nodev1.Event{Time: timestamppb.New(a.cfg.Clock.Now()), What: &nodev1.Event_TokenWanted{TokenWanted: w}}); err != nil {
				return err
			}
		}
		if len(wants) == 0 {
			clear(asked)
		}
		list, changed := ev.since(after, q.Msg.GetBundles())
		for len(list) > 0 {
			e, n := list[0], 1
			if q.Msg.GetBundles() {
				e, n = bundle(list)
			}
			if err := s.Send(e); err != nil {
				return err
			}
			after, list = list[n-1].GetSequence(), list[n:]
		}
		select {
		case <-changed:
		case <-wanted:
		case <-beat.C:
			if err := a.beat(s); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-a.ctx.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("the agent is stopping"))
		}
	}
}

func (a *Agent) beat(s *connect.ServerStream[nodev1.Event]) error {
	return s.Send(&nodev1.Event{Time: timestamppb.New(a.cfg.Clock.Now()),
		What: &nodev1.Event_Heartbeat{Heartbeat: a.cfg.Machine.Heartbeat()}})
}

// Acknowledge implements nodev1.AgentHandler.
func (a *Agent) Acknowledge(_ context.Context, q *connect.Request[nodev1.AcknowledgeRequest]) (*connect.Response[nodev1.AcknowledgeResponse], error) {
	ev, _, err := a.ready()
	if err != nil {
		return nil, err
	}
	if err := ev.acknowledge(q.Msg.GetThrough()); err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return connect.NewResponse(&nodev1.AcknowledgeResponse{}), nil
}

// RunTask implements nodev1.AgentHandler.
func (a *Agent) RunTask(_ context.Context, q *connect.Request[nodev1.RunTaskRequest]) (*connect.Response[nodev1.RunTaskResponse], error) {
	if _, _, err := a.ready(); err != nil {
		return nil, err
	}
	if err := a.start(q.Msg); err != nil {
		return nil, err
	}
	return connect.NewResponse(&nodev1.RunTaskResponse{}), nil
}

// RunTasks implements nodev1.AgentHandler.
func (a *Agent) RunTasks(_ context.Context, q *connect.Request[nodev1.RunTasksRequest]) (*connect.Response[nodev1.RunTasksResponse], error) {
	if _, _, err := a.ready(); err != nil {
		return nil, err
	}
	out := &nodev1.RunTasksResponse{}
	for _, t := range q.Msg.GetTasks() {
		r := &nodev1.RunTaskResult{}
		if err := a.start(t); err != nil {
			r.Code, r.Message = uint32(connect.CodeOf(err)), err.Message()
		}
		out.Results = append(out.Results, r)
	}
	return connect.NewResponse(out), nil
}

// start begins an attempt; one that is known already is left alone.
func (a *Agent) start(q *nodev1.RunTaskRequest) *connect.Error {
	if q.GetKey().GetTaskId() == "" || q.GetDirectory() == "" {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("RunTask needs a task id and a directory"))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ctx.Err() != nil {
		return connect.NewError(connect.CodeUnavailable, errors.New("the agent is stopping"))
	}
	if _, known := a.attempts[keyOf(q.GetKey())]; known {
		return nil
	}
	if a.directories[q.GetDirectory()] > 0 {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("another attempt runs in "+q.GetDirectory()+"; stop it first"))
	}
	if err := a.run(q); errors.Is(err, errFull) {
		return connect.NewError(connect.CodeResourceExhausted, err)
	} else if err != nil {
		return connect.NewError(connect.CodeInternal, err)
	}
	return nil
}

// Prepare implements nodev1.AgentHandler.
func (a *Agent) Prepare(ctx context.Context, q *connect.Request[nodev1.PrepareRequest]) (*connect.Response[nodev1.PrepareResponse], error) {
	p, err := a.preparer()
	if err != nil {
		return nil, err
	}
	failure := p.Prepare(ctx, q.Msg)
	if ctx.Err() != nil {
		return nil, connect.NewError(connect.CodeCanceled, ctx.Err())
	}
	return connect.NewResponse(&nodev1.PrepareResponse{Failure: failure}), nil
}

// Extend implements nodev1.AgentHandler.
func (a *Agent) Extend(ctx context.Context, q *connect.Request[nodev1.ExtendRequest]) (*connect.Response[nodev1.ExtendResponse], error) {
	p, err := a.preparer()
	if err != nil {
		return nil, err
	}
	answer, err := p.Extend(ctx, q.Msg)
	if err != nil {
		return nil, connect.NewError(connect.CodeCanceled, err)
	}
	return connect.NewResponse(answer), nil
}

// GiveToken implements nodev1.AgentHandler.
func (a *Agent) GiveToken(_ context.Context, q *connect.Request[nodev1.GiveTokenRequest]) (*connect.Response[nodev1.GiveTokenResponse], error) {
	a.cfg.Tokens.Answer(q.Msg)
	return connect.NewResponse(&nodev1.GiveTokenResponse{}), nil
}

// SetLogins implements nodev1.AgentHandler.
func (a *Agent) SetLogins(_ context.Context, q *connect.Request[nodev1.SetLoginsRequest]) (*connect.Response[nodev1.SetLoginsResponse], error) {
	if _, _, err := a.ready(); err != nil {
		return nil, err
	}
	if err := a.cfg.Machine.SetLogins(q.Msg); err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return connect.NewResponse(&nodev1.SetLoginsResponse{}), nil
}

// Notice implements nodev1.AgentHandler.
func (a *Agent) Notice(_ context.Context, q *connect.Request[nodev1.NoticeRequest]) (*connect.Response[nodev1.NoticeResponse], error) {
	p, err := a.preparer()
	if err != nil {
		return nil, err
	}
	if err := p.Notice(q.Msg); err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return connect.NewResponse(&nodev1.NoticeResponse{}), nil
}

// ProceedTask implements nodev1.AgentHandler.
func (a *Agent) ProceedTask(_ context.Context, q *connect.Request[nodev1.ProceedTaskRequest]) (*connect.Response[nodev1.ProceedTaskResponse], error) {
	return connect.NewResponse(&nodev1.ProceedTaskResponse{}), a.withAttempt(q.Msg.GetKey(), func(at *attempt) {
		if at.cancel != nil && at.proceed != nil && !at.proceeded {
			at.proceeded = true
			close(at.proceed)
		}
	})
}

// StopTask implements nodev1.AgentHandler.
func (a *Agent) StopTask(_ context.Context, q *connect.Request[nodev1.StopTaskRequest]) (*connect.Response[nodev1.StopTaskResponse], error) {
	code, message := q.Msg.GetCode(), q.Msg.GetMessage()
	if code == "" {
		code, message = millpond.CodeTaskEnded, "The task was ended."
	}
	return connect.NewResponse(&nodev1.StopTaskResponse{}), a.withAttempt(q.Msg.GetKey(), func(at *attempt) {
		if at.cancel != nil {
			at.cancel(millpond.Errorf(millpond.Conflict, code, "%s", message))
		}
	})
}

// withAttempt runs fn with an attempt under the agent's lock.
func (a *Agent) withAttempt(key *nodev1.TaskKey, fn func(*attempt)) error {
	if _, _, err := a.ready(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.attempts[keyOf(key)]
	if at == nil {
		return connect.NewError(connect.CodeNotFound, errors.New("this node does not know the attempt"))
	}
	fn(at)
	return nil
}

// RemoveTask implements nodev1.AgentHandler.
func (a *Agent) RemoveTask(_ context.Context, q *connect.Request[nodev1.RemoveTaskRequest]) (*connect.Response[nodev1.RemoveTaskResponse], error) {
	_, place, err := a.ready()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	runs := a.directories[q.Msg.GetDirectory()] > 0
	a.mu.Unlock()
	if runs {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the task runs; stop it first"))
	}
	if err := place.Runner.Remove(q.Msg.GetDirectory()); err != nil {
		return nil, fileError(err)
	}
	return connect.NewResponse(&nodev1.RemoveTaskResponse{}), nil
}

// Install goes on when its caller has gone: the next one finds what is there.
func (a *Agent) Install(_ context.Context, q *connect.Request[nodev1.InstallRequest]) (*connect.Response[nodev1.InstallResponse], error) {
	_, place, err := a.ready()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nodev1.InstallResponse{Failure: place.Runner.Install(a.ctx, q.Msg.GetPackages())}), nil
}

// ListFiles implements nodev1.AgentHandler.
func (a *Agent) ListFiles(_ context.Context, q *connect.Request[nodev1.ListFilesRequest]) (*connect.Response[nodev1.ListFilesResponse], error) {
	_, place, err := a.ready()
	if err != nil {
		return nil, err
	}
	list, err := place.Files.List(q.Msg.GetDirectory(), q.Msg.GetRecursive())
	if err != nil {
		return nil, fileError(err)
	}
	return connect.NewResponse(&nodev1.ListFilesResponse{Files: list}), nil
}

// StatFile implements nodev1.AgentHandler.
func (a *Agent) StatFile(_ context.Context, q *connect.Request[nodev1.StatFileRequest]) (*connect.Response[nodev1.FileInfo], error) {
	_, place, err := a.ready()
	if err != nil {
		return nil, err
	}
	info, err := place.Files.Stat(q.Msg.GetPath())
	if err != nil {
		return nil, fileError(err)
	}
	return connect.NewResponse(info), nil
}

// ReadFile sends the range as it was when the file was opened; a file that
// became shorter meanwhile ends early.
func (a *Agent) ReadFile(ctx context.Context, q *connect.Request[nodev1.ReadFileRequest], s *connect.ServerStream[nodev1.FileChunk]) error {
	_, place, err := a.ready()
	if err != nil {
		return err
	}
	if q.Msg.GetFollow() {
		return a.follow(ctx, place, q.Msg, s)
	}
	f, err := place.Files.Open(q.Msg.GetPath())
	if err != nil {
		return fileError(err)
	}
	defer f.Close()
	offset, length := q.Msg.GetOffset(), q.Msg.GetLength()
	if offset < 0 || length < 0 || offset > f.Size() {
		return connect.NewError(connect.CodeOutOfRange, errors.New("the range lies outside of the file"))
	}
	if length == 0 {
		length = math.MaxInt64
	}
	length = min(length, f.Size()-offset)
	_, err = sendRange(ctx, f, offset, length, make([]byte, min(chunkSize, max(length, 1))), s)
	return err
}

// sendRange sends a range of a file in pieces of the size of buf, and as much of it
// as there is.
func sendRange(ctx context.Context, f File, offset, length int64, buf []byte, s *connect.ServerStream[nodev1.FileChunk]) (sent int64, err error) {
	for sent < length && ctx.Err() == nil {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), length-sent)], offset+sent)
		if n > 0 {
			if err := s.Send(&nodev1.FileChunk{Data: buf[:n]}); err != nil {
				return sent, err
			}
			sent += int64(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return sent, fileError(err)
		}
	}
	return sent, ctx.Err()
}

// DeleteFile implements nodev1.AgentHandler.
func (a *Agent) DeleteFile(_ context.Context, q *connect.Request[nodev1.DeleteFileRequest]) (*connect.Response[nodev1.DeleteFileResponse], error) {
	_, place, err := a.ready()
	if err != nil {
		return nil, err
	}
	if err := place.Files.Delete(q.Msg.GetPath(), q.Msg.GetRecursive()); err != nil {
		return nil, fileError(err)
	}
	return connect.NewResponse(&nodev1.DeleteFileResponse{}), nil
}

// Shutdown answers first and acts when the session has ended or the moment has
// passed in which the answer leaves the machine.
func (a *Agent) Shutdown(_ context.Context, q *connect.Request[nodev1.ShutdownRequest]) (*connect.Response[nodev1.ShutdownResponse], error) {
	reboot := q.Msg.GetReboot()
	a.cfg.Log.Info("shutdown", "reboot", reboot)
	time.AfterFunc(200*time.Millisecond, func() {
		if err := a.cfg.Machine.Shutdown(reboot); err != nil {
			a.cfg.Log.Error("shutdown failed", "error", err)
		}
	})
	return connect.NewResponse(&nodev1.ShutdownResponse{}), nil
}

// maxFreeze bounds how long a caller may hold the machine's writes.
const maxFreeze = time.Minute

// Freeze implements nodev1.AgentHandler.
func (a *Agent) Freeze(_ context.Context, q *connect.Request[nodev1.FreezeRequest]) (*connect.Response[nodev1.FreezeResponse], error) {
	if _, _, err := a.ready(); err != nil {
		return nil, err
	}
	limit := q.Msg.GetLimit().AsDuration()
	if limit <= 0 || limit > maxFreeze {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("the limit must be above 0 and at most "+maxFreeze.String()))
	}
	held, trimmed, err := a.cfg.Machine.Freeze(limit)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return connect.NewResponse(&nodev1.FreezeResponse{Frozen: int32(held), Trimmed: trimmed}), nil
}

// Thaw takes no lock of the agent and logs nothing before it has thawed:
// whoever holds one may wait for the file system that is frozen.
func (a *Agent) Thaw(context.Context, *connect.Request[nodev1.ThawRequest]) (*connect.Response[nodev1.ThawResponse], error) {
	if err := a.cfg.Machine.Thaw(); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return connect.NewResponse(&nodev1.ThawResponse{}), nil
}

// ready gives what the calls after Hello need.
func (a *Agent) ready() (*events, Place, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.events == nil {
		return nil, Place{}, connect.NewError(connect.CodeFailedPrecondition, errors.New("the node has no identity yet; call Hello first"))
	}
	return a.events, a.place, nil
}

// preparer is ready for the calls that need a Preparer.
func (a *Agent) preparer() (Preparer, error) {
	_, place, err := a.ready()
	if err == nil && place.Preparer == nil {
		err = connect.NewError(connect.CodeUnimplemented, errors.New("this machine cannot be prepared for anything, nor be given notice"))
	}
	return place.Preparer, err
}

// fileError gives an error of Files the code that the server tells apart.
func fileError(err error) error {
	code := connect.CodeInternal
	switch {
	case errors.Is(err, ErrNotEmpty):
		code = connect.CodeFailedPrecondition
	case errors.Is(err, fs.ErrNotExist):
		code = connect.CodeNotFound
	case errors.Is(err, fs.ErrInvalid):
		code = connect.CodeInvalidArgument
	case errors.Is(err, fs.ErrPermission):
		code = connect.CodePermissionDenied
	}
	return connect.NewError(code, err)
}
