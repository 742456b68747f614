package azwire

import "context"

// Front is what the listener learned about a request before an edge sees it.
// Only httpd writes it; edges copy it into their Request.
type Front struct {
	// ID is the server's request id, a GUID.
	ID string
	// BaseURL is scheme, host and prefix as the client wrote them, without a
	// trailing slash: https://acct.westus2.batch.azure.com, or
	// https://127.0.0.1:7443/batch/acct.westus2 in direct use.
	BaseURL string
	// Prefix is the part of the path that the listener took off, such as
	// /batch/acct.westus2; empty when the host names the service. Shared Key
	// signs the path with it: http.Request.RequestURI still has the whole path.
	Prefix string
	// Account and Region come from the host or the prefix; Batch only.
	Account, Region string
}

type frontKey struct{}

// WithFront puts f where FrontOf finds it.
func WithFront(ctx context.Context, f Front) context.Context {
	return context.WithValue(ctx, frontKey{}, f)
}

// FrontOf is what the listener knows about the request; the zero Front when no
// listener has seen it (a test that calls an edge directly).
func FrontOf(ctx context.Context) Front {
	f, _ := ctx.Value(frontKey{}).(Front)
	return f
}
