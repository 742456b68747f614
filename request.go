package millpond

import "context"

// Request names the call of a client that something was done for. Both may be empty.
type Request struct {
	// ID is the server's, the header request-id of its answer.
	ID string `json:"id,omitempty"`
	// Client is what the client called it, its header client-request-id.
	Client string `json:"client,omitempty"`
}

type requestKey struct{}

// WithRequest notes in a context what call it is of.
func WithRequest(ctx context.Context, r Request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// RequestOf is the call that a context is of; the zero Request for none.
func RequestOf(ctx context.Context) Request {
	r, _ := ctx.Value(requestKey{}).(Request)
	return r
}
