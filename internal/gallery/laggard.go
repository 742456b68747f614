package gallery

import (
	"context"
	"errors"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

const (
	// laggard is how long the other replicas of a disk are waited for once one has it:
	// a service that takes a request and never answers is given up after a minute, and
	// a node must not wait for that while another replica answers.
	laggard = 3 * time.Second
	// shunned is how long one that kept a node waiting is waited for no more.
	shunned = time.Minute
)

// laggards remembers the stores that did not answer in time. It is safe for
// concurrent use.
type laggards struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (l *laggards) shuns(store string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.until[store])
}

func (l *laggards) note(store string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[string]time.Time{}
	}
	l.until[store] = until
}

// chooseStores notes those of the stores that have the disk's content, in their
// order; an error if none has it. All are asked at the same time.
func (s *Service) chooseStores(ctx context.Context, d *millpond.BootDisk, stores []image.Store) error {
	type answer struct {
		store int
		err   error
	}
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(stores))
	for i, st := range stores {
		go func() {
			_, err := st.Stat(asking, image.ContentID(d.Content))
			answers <- answer{i, err}
		}()
	}
	has, answered := make([]bool, len(stores)), make([]bool, len(stores))
	var errs []error
	var enough <-chan time.Time
	found, late := 0, false
	for range stores {
		if found > 0 && s.restShunned(stores, answered) {
			break
		}
		select {
		case a := <-answers:
			if answered[a.store] = true; a.err != nil {
				errs = append(errs, a.err)
				continue
			}
			has[a.store] = true
			if found++; enough == nil {
				enough = time.After(laggard)
			}
		case <-enough:
			late = true
		case <-ctx.Done():
			return ctx.Err()
		}
		if late {
			break
		}
	}
	d.Stores = nil
	for i, st := range stores {
		switch {
		case has[i]:
			d.Stores = append(d.Stores, millpond.StorePlace{Name: st.Name(), URL: st.URL()})
		case late && !answered[i]:
			s.Log.Warn("a store does not say in time whether it has an image; nodes read it from the others", "store", st.Name(), "content", d.Content)
			s.laggards.note(st.Name(), s.Clock.Now().Add(shunned))
		}
	}
	if len(d.Stores) > 0 {
		return nil
	}
	// A store that does not answer may have it: that is worth another try.
	for _, err := range errs {
		if millpond.KindOf(err) != millpond.NotFound {
			return err
		}
	}
	return errors.Join(errs...)
}

// restShunned says whether all that have not answered are those that are waited for no more.
func (s *Service) restShunned(stores []image.Store, answered []bool) bool {
	now := s.Clock.Now()
	for i, st := range stores {
		if !answered[i] && !s.laggards.shuns(st.Name(), now) {
			return false
		}
	}
	return true
}
