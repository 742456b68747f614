package local

import "context"

// nodeLock is a node's turn; count is how many have or want it.
type nodeLock struct {
	turn  chan struct{}
	count int
}

// lock takes the node's turn; the returned function gives it back.
func (l *Launcher) lock(ctx context.Context, key string) (func(), error) {
	l.mu.Lock()
	n := l.locks[key]
	if n == nil {
		n = &nodeLock{turn: make(chan struct{}, 1)}
		l.locks[key] = n
	}
	n.count++
	l.mu.Unlock()
	done := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.count--; n.count == 0 {
			delete(l.locks, key)
		}
	}
	select {
	case n.turn <- struct{}{}:
		return func() { <-n.turn; done() }, nil
	case <-ctx.Done():
		done()
		return nil, ctx.Err()
	}
}
