package fake

import (
	"context"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// dispatch hands each call to the agent whose connection it came on. One HTTP
// handler for all nodes saves a fifth of what an idle node costs.
type dispatch struct{}

// agentKey is the context key of a connection's *agent.Agent.
type agentKey struct{}

func of(ctx context.Context) *agent.Agent { return ctx.Value(agentKey{}).(*agent.Agent) }

func (dispatch) Hello(ctx context.Context, q *connect.Request[nodev1.HelloRequest]) (*connect.Response[nodev1.HelloResponse], error) {
	return of(ctx).Hello(ctx, q)
}

func (dispatch) Acknowledge(ctx context.Context, q *connect.Request[nodev1.AcknowledgeRequest]) (*connect.Response[nodev1.AcknowledgeResponse], error) {
	return of(ctx).Acknowledge(ctx, q)
}

func (dispatch) RunTask(ctx context.Context, q *connect.Request[nodev1.RunTaskRequest]) (*connect.Response[nodev1.RunTaskResponse], error) {
	return of(ctx).RunTask(ctx, q)
}

func (dispatch) RunTasks(ctx context.Context, q *connect.Request[nodev1.RunTasksRequest]) (*connect.Response[nodev1.RunTasksResponse], error) {
	return of(ctx).RunTasks(ctx, q)
}

func (dispatch) Prepare(ctx context.Context, q *connect.Request[nodev1.PrepareRequest]) (*connect.Response[nodev1.PrepareResponse], error) {
	return of(ctx).Prepare(ctx, q)
}

func (dispatch) Extend(ctx context.Context, q *connect.Request[nodev1.ExtendRequest]) (*connect.Response[nodev1.ExtendResponse], error) {
	return of(ctx).Extend(ctx, q)
}

func (dispatch) SetLogins(ctx context.Context, q *connect.Request[nodev1.SetLoginsRequest]) (*connect.Response[nodev1.SetLoginsResponse], error) {
	return of(ctx).SetLogins(ctx, q)
}

func (dispatch) Notice(ctx context.Context, q *connect.Request[nodev1.NoticeRequest]) (*connect.Response[nodev1.NoticeResponse], error) {
	return of(ctx).Notice(ctx, q)
}

func (dispatch) ProceedTask(ctx context.Context, q *connect.Request[nodev1.ProceedTaskRequest]) (*connect.Response[nodev1.ProceedTaskResponse], error) {
	return of(ctx).ProceedTask(ctx, q)
}

func (dispatch) StopTask(ctx context.Context, q *connect.Request[nodev1.StopTaskRequest]) (*connect.Response[nodev1.StopTaskResponse], error) {
	return of(ctx).StopTask(ctx, q)
}

func (dispatch) RemoveTask(ctx context.Context, q *connect.Request[nodev1.RemoveTaskRequest]) (*connect.Response[nodev1.RemoveTaskResponse], error) {
	return of(ctx).RemoveTask(ctx, q)
}

func (dispatch) Install(ctx context.Context, q *connect.Request[nodev1.InstallRequest]) (*connect.Response[nodev1.InstallResponse], error) {
	return of(ctx).Install(ctx, q)
}

func (dispatch) ListFiles(ctx context.Context, q *connect.Request[nodev1.ListFilesRequest]) (*connect.Response[nodev1.ListFilesResponse], error) {
	return of(ctx).ListFiles(ctx, q)
}

func (dispatch) StatFile(ctx context.Context, q *connect.Request[nodev1.StatFileRequest]) (*connect.Response[nodev1.FileInfo], error) {
	return of(ctx).StatFile(ctx, q)
}

func (dispatch) DeleteFile(ctx context.Context, q *connect.Request[nodev1.DeleteFileRequest]) (*connect.Response[nodev1.DeleteFileResponse], error) {
	return of(ctx).DeleteFile(ctx, q)
}

func (dispatch) Shutdown(ctx context.Context, q *connect.Request[nodev1.ShutdownRequest]) (*connect.Response[nodev1.ShutdownResponse], error) {
	return of(ctx).Shutdown(ctx, q)
}

func (dispatch) Freeze(ctx context.Context, q *connect.Request[nodev1.FreezeRequest]) (*connect.Response[nodev1.FreezeResponse], error) {
	return of(ctx).Freeze(ctx, q)
}

func (dispatch) Thaw(ctx context.Context, q *connect.Request[nodev1.ThawRequest]) (*connect.Response[nodev1.ThawResponse], error) {
	return of(ctx).Thaw(ctx, q)
}

func (dispatch) GiveToken(ctx context.Context, q *connect.Request[nodev1.GiveTokenRequest]) (*connect.Response[nodev1.GiveTokenResponse], error) {
	return of(ctx).GiveToken(ctx, q)
}

func (dispatch) Settle(ctx context.Context, q *connect.Request[nodev1.SettleRequest]) (*connect.Response[nodev1.SettleResponse], error) {
	return of(ctx).Settle(ctx, q)
}

func (dispatch) Watch(ctx context.Context, q *connect.Request[nodev1.WatchRequest], s *connect.ServerStream[nodev1.Event]) error {
	return of(ctx).Watch(ctx, q, s)
}

func (dispatch) ReadFile(ctx context.Context, q *connect.Request[nodev1.ReadFileRequest], s *connect.ServerStream[nodev1.FileChunk]) error {
	return of(ctx).ReadFile(ctx, q, s)
}

func (dispatch) Outputs(ctx context.Context, q *connect.Request[nodev1.OutputsRequest], s *connect.ServerStream[nodev1.Output]) error {
	return of(ctx).Outputs(ctx, q, s)
}

var _ nodev1.AgentHandler = dispatch{}
