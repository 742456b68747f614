package nodeproto

import (
	"context"
	"net/http"
	"sync"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// agents speaks for the sessions with all agents: a client holds 20 KiB for its
// methods, which is more than all else of a session. Whose it speaks for is in the
// context of each call. It is made once and never changed.
var agents = sync.OnceValue(func() nodev1.AgentClient {
	return nodev1.NewAgentClient(byContext{}, "http://node",
		connect.WithReadMaxBytes(maxMessage),
		// Packing costs a megabyte per stream and gains nothing on a local way.
		connect.WithAcceptCompression("gzip", nil, nil))
})

// httpKey is the context key of a call's connect.HTTPClient.
type httpKey struct{}

// byContext sends a call to the agent that its context names.
type byContext struct{}

func (byContext) Do(q *http.Request) (*http.Response, error) {
	return q.Context().Value(httpKey{}).(connect.HTTPClient).Do(q)
}

// bound is agents for one session.
type bound struct{ http connect.HTTPClient }

func newAgentClient(h connect.HTTPClient) nodev1.AgentClient { return bound{h} }

func (b bound) to(ctx context.Context) context.Context {
	return context.WithValue(ctx, httpKey{}, b.http)
}

func (b bound) Hello(ctx context.Context, q *connect.Request[nodev1.HelloRequest]) (*connect.Response[nodev1.HelloResponse], error) {
	return agents().Hello(b.to(ctx), q)
}

func (b bound) Watch(ctx context.Context, q *connect.Request[nodev1.WatchRequest]) (*connect.ServerStreamForClient[nodev1.Event], error) {
	return agents().Watch(b.to(ctx), q)
}

func (b bound) Acknowledge(ctx context.Context, q *connect.Request[nodev1.AcknowledgeRequest]) (*connect.Response[nodev1.AcknowledgeResponse], error) {
	return agents().Acknowledge(b.to(ctx), q)
}

func (b bound) RunTask(ctx context.Context, q *connect.Request[nodev1.RunTaskRequest]) (*connect.Response[nodev1.RunTaskResponse], error) {
	return agents().RunTask(b.to(ctx), q)
}

func (b bound) RunTasks(ctx context.Context, q *connect.Request[nodev1.RunTasksRequest]) (*connect.Response[nodev1.RunTasksResponse], error) {
	return agents().RunTasks(b.to(ctx), q)
}

func (b bound) Prepare(ctx context.Context, q *connect.Request[nodev1.PrepareRequest]) (*connect.Response[nodev1.PrepareResponse], error) {
	return agents().Prepare(b.to(ctx), q)
}

func (b bound) Extend(ctx context.Context, q *connect.Request[nodev1.ExtendRequest]) (*connect.Response[nodev1.ExtendResponse], error) {
	return agents().Extend(b.to(ctx), q)
}

func (b bound) SetLogins(ctx context.Context, q *connect.Request[nodev1.SetLoginsRequest]) (*connect.Response[nodev1.SetLoginsResponse], error) {
	return agents().SetLogins(b.to(ctx), q)
}

func (b bound) Notice(ctx context.Context, q *connect.Request[nodev1.NoticeRequest]) (*connect.Response[nodev1.NoticeResponse], error) {
	return agents().Notice(b.to(ctx), q)
}

func (b bound) ProceedTask(ctx context.Context, q *connect.Request[nodev1.ProceedTaskRequest]) (*connect.Response[nodev1.ProceedTaskResponse], error) {
	return agents().ProceedTask(b.to(ctx), q)
}

func (b bound) StopTask(ctx context.Context, q *connect.Request[nodev1.StopTaskRequest]) (*connect.Response[nodev1.StopTaskResponse], error) {
	return agents().StopTask(b.to(ctx), q)
}

func (b bound) RemoveTask(ctx context.Context, q *connect.Request[nodev1.RemoveTaskRequest]) (*connect.Response[nodev1.RemoveTaskResponse], error) {
	return agents().RemoveTask(b.to(ctx), q)
}

func (b bound) Install(ctx context.Context, q *connect.Request[nodev1.InstallRequest]) (*connect.Response[nodev1.InstallResponse], error) {
	return agents().Install(b.to(ctx), q)
}

func (b bound) ListFiles(ctx context.Context, q *connect.Request[nodev1.ListFilesRequest]) (*connect.Response[nodev1.ListFilesResponse], error) {
	return agents().ListFiles(b.to(ctx), q)
}

func (b bound) StatFile(ctx context.Context, q *connect.Request[nodev1.StatFileRequest]) (*connect.Response[nodev1.FileInfo], error) {
	return agents().StatFile(b.to(ctx), q)
}

func (b bound) ReadFile(ctx context.Context, q *connect.Request[nodev1.ReadFileRequest]) (*connect.ServerStreamForClient[nodev1.FileChunk], error) {
	return agents().ReadFile(b.to(ctx), q)
}

func (b bound) Outputs(ctx context.Context, q *connect.Request[nodev1.OutputsRequest]) (*connect.ServerStreamForClient[nodev1.Output], error) {
	return agents().Outputs(b.to(ctx), q)
}

func (b bound) DeleteFile(ctx context.Context, q *connect.Request[nodev1.DeleteFileRequest]) (*connect.Response[nodev1.DeleteFileResponse], error) {
	return agents().DeleteFile(b.to(ctx), q)
}

func (b bound) Shutdown(ctx context.Context, q *connect.Request[nodev1.ShutdownRequest]) (*connect.Response[nodev1.ShutdownResponse], error) {
	return agents().Shutdown(b.to(ctx), q)
}

func (b bound) Freeze(ctx context.Context, q *connect.Request[nodev1.FreezeRequest]) (*connect.Response[nodev1.FreezeResponse], error) {
	return agents().Freeze(b.to(ctx), q)
}

func (b bound) Thaw(ctx context.Context, q *connect.Request[nodev1.ThawRequest]) (*connect.Response[nodev1.ThawResponse], error) {
	return agents().Thaw(b.to(ctx), q)
}

func (b bound) GiveToken(ctx context.Context, q *connect.Request[nodev1.GiveTokenRequest]) (*connect.Response[nodev1.GiveTokenResponse], error) {
	return agents().GiveToken(b.to(ctx), q)
}

func (b bound) Settle(ctx context.Context, q *connect.Request[nodev1.SettleRequest]) (*connect.Response[nodev1.SettleResponse], error) {
	return agents().Settle(b.to(ctx), q)
}

var _ nodev1.AgentClient = bound{}
