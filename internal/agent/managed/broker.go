// Package managed gives a node's programs access tokens of the node's managed
// identities: Broker asks the server for them over the node channel, and Handler
// answers as Azure's instance metadata service does, which the vendor's credential
// classes ask.
//
// It holds no secret but the tokens themselves, and decides nothing: the server
// knows which identities a node has. package agent carries the questions, agent/proc
// takes tokens for resource and output files, agent/guest makes Handler reachable.
package managed

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Want is a question: a token for a resource, of the identity that one of the
// three others names, or of the only one.
type Want struct{ Resource, ClientID, PrincipalID, ResourceID string }

// Token is an access token.
type Token struct {
	Access, ClientID, Resource string
	NotBefore, Expires         time.Time
}

// Refusal is why the server gives no token. Retry says that it may help to ask
// again.
type Refusal struct {
	Code, Message string
	Retry         bool
}

func (r *Refusal) Error() string { return r.Message }

const (
	// wait bounds how long a question waits for its answer.
	wait = 30 * time.Second
	// maxPending and maxKept bound the questions that wait and the tokens that are
	// kept: programs of tasks ask as they like.
	maxPending, maxKept = 64, 256
	// fresh is how long a token must still be good to be given out again.
	fresh = 5 * time.Minute
)

// Broker is safe for concurrent use. A nil one has no questions.
type Broker struct {
	clock clock.Clock

	mu      sync.Mutex
	number  int
	pending map[string]*question
	changed chan struct{} // closed and replaced at each new question
	kept    map[Want]Token
}

type question struct {
	asked  *nodev1.TokenWanted
	answer chan *nodev1.GiveTokenRequest // has room for one
}

// NewBroker makes a Broker.
func NewBroker(c clock.Clock) *Broker {
	return &Broker{clock: c, pending: map[string]*question{}, changed: make(chan struct{}), kept: map[Want]Token{}}
}

// Get gives a token, one that is kept or a new one of the server. Its error is a
// *Refusal, or that of ctx.
func (b *Broker) Get(ctx context.Context, w Want) (Token, error) {
	b.mu.Lock()
	if t, ok := b.kept[w]; ok && b.clock.Now().Before(t.Expires.Add(-fresh)) {
		b.mu.Unlock()
		return t, nil
	}
	if len(b.pending) >= maxPending {
		b.mu.Unlock()
		return Token{}, &Refusal{Code: "too_many_requests", Message: "Too many tokens are asked for at once. Ask again.", Retry: true}
	}
	b.number++
	q := &question{answer: make(chan *nodev1.GiveTokenRequest, 1),
		asked: &nodev1.TokenWanted{Id: strconv.Itoa(b.number), Resource: w.Resource, ClientId: w.ClientID, PrincipalId: w.PrincipalID, ResourceId: w.ResourceID}}
	b.pending[q.asked.Id] = q
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.pending, q.asked.Id)
		b.mu.Unlock()
	}()
	limit := time.NewTimer(wait)
	defer limit.Stop()
	select {
	case a := <-q.answer:
		if a.GetToken() == "" {
			return Token{}, &Refusal{Code: a.GetCode(), Message: a.GetMessage(), Retry: a.GetRetry()}
		}
		t := Token{Access: a.GetToken(), ClientID: a.GetClientId(), Resource: a.GetResource(), NotBefore: a.GetNotBefore().AsTime(), Expires: a.GetExpires().AsTime()}
		b.keep(w, t)
		return t, nil
	case <-limit.C:
		return Token{}, &Refusal{Code: "server_unavailable", Message: fmt.Sprintf("The server gave no token within %s. Ask again.", wait), Retry: true}
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}

func (b *Broker) keep(w Want, t Token) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) >= maxKept {
		clear(b.kept)
	}
	b.kept[w] = t
}

// Pending are the questions that have no answer, and a channel that is closed when
// there is another.
func (b *Broker) Pending() ([]*nodev1.TokenWanted, <-chan struct{}) {
	if b == nil {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*nodev1.TokenWanted
	for _, q := range b.pending {
		list = append(list, q.asked)
	}
	return list, b.changed
}

// Answer is what the server says to a question; nobody may wait for it any more.
func (b *Broker) Answer(a *nodev1.GiveTokenRequest) {
	if b == nil {
		return
	}
	b.mu.Lock()
	q := b.pending[a.GetId()]
	b.mu.Unlock()
	if q == nil {
		return
	}
	select {
	case q.answer <- a:
	default: // a second answer, of another session
	}
}

// File gives a token of one identity, for whoever moves files.
func (b *Broker) File(ctx context.Context, identity, resource string) (string, time.Time, error) {
	t, err := b.Get(ctx, Want{Resource: resource, ResourceID: identity})
	return t.Access, t.Expires, err
}
