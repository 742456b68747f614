package local

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu/qemutest"
	"millpond.dev/millpond/internal/vmrun"
)

// shelf is Images that remembers what is served.
type shelf struct {
	mu     sync.Mutex
	served map[string]bool
	refuse error
}

func (s *shelf) Provide(_ context.Context, list []imagehost.Export) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range list {
		if s.refuse != nil {
			return s.refuse
		}
		s.served[e.Name] = true
	}
	return nil
}

func (s *shelf) Keep(_ context.Context, used map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.served {
		if !used[name] {
			delete(s.served, name)
		}
	}
	return nil
}

func (s *shelf) Socket() string { return "/run/nbd.sock" }

func (s *shelf) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served[name]
}

func TestContentsAreServedAsLongAsAVMNeedsThem(t *testing.T) {
	ctx := context.Background()
	images := &shelf{served: map[string]bool{}}
	f := newFixture(t, func(c *Config) { c.Images = images })
	one, two := strings.Repeat("1", 64), strings.Repeat("2", 64)
	spec := func(node millpond.NodeID, data ...string) launch.Spec {
		s := f.spec(t, qemutest.Boots)(node, 1)
		for i, d := range data {
			s.DataDisks = append(s.DataDisks, launch.Disk{LUN: i, Content: d, SizeBytes: 1 << 20, Stores: []launch.Store{{Name: "a", URL: "file:///a"}}})
		}
		return s
	}
	for _, s := range []launch.Spec{spec("n1", one, two), spec("n2", two)} {
		if err := f.l.Launch(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	until(t, func() bool { return images.has(one) && images.has(two) })
	if err := f.l.Destroy(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return !images.has(one) })
	if !images.has(two) {
		t.Error("what another VM needs was ended")
	}

	images.mu.Lock()
	images.refuse = millpond.Errorf(millpond.Unavailable, imagehost.CodeUnreadable, "chunk 12 of content x cannot be read; store a: gone")
	images.mu.Unlock()
	if err := f.l.Launch(ctx, spec("n3", one)); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		list, err := f.l.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range list {
			if st.Node == "n3" && st.Phase == launch.Failed {
				if st.Err.Code != vmrun.CodeImageUnreadable || !st.Err.Host || !strings.Contains(st.Err.Message, "store a") || st.Err.Suggestion == "" {
					t.Fatalf("%+v", st.Err)
				}
				return true
			}
		}
		return false
	})
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen")
		}
	}
}
