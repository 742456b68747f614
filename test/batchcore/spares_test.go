package batchcore

import (
	"context"
	"fmt"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

// Park implements launch.Parker: the hall keeps none, and remembers what was wanted.
func (h *hall) Park(_ context.Context, wanted []launch.Spares) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wanted = wanted
	return nil
}

func (h *hall) Parked(context.Context) (out []launch.Parked, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.wanted {
		out = append(out, launch.Parked{Owner: w.Owner, Wanted: w.Count, Why: "the hall has none"})
	}
	return out, nil
}

// TestSparesAreWanted: the launcher is told what pools want, and told anew when a
// pool, its image or its metadata changes.
func TestSparesAreWanted(t *testing.T) {
	c, h, _ := setup(t, node.Config{Spares: 1})
	wanted := func() string {
		h.mu.Lock()
		defer h.mu.Unlock()
		text := ""
		for _, w := range h.wanted {
			if w.Spec.Node == "" || w.Spec.Channel.Token != "" || w.Spec.MemoryMiB == 0 {
				t.Errorf("%+v", w.Spec)
			}
			text += fmt.Sprintf("%s:%d ", w.Owner, w.Count)
		}
		return text
	}
	until := func(want string) {
		t.Helper()
		c.wait("spares are "+want, func() bool { return wanted() == want })
	}
	item := func(name, value string) *[]millpond.NameValue {
		return &[]millpond.NameValue{{Name: name, Value: value}}
	}
	c.addPool("a", 0, func(s *millpond.PoolSpec) { s.Metadata = *item(millpond.MetadataSpares, "3") })
	c.addPool("shared", 0, func(s *millpond.PoolSpec) { s.InterNode = true })
	until("acct/a:3 ")
	c.addPool("b", 0, nil)
	until("acct/a:3 acct/b:1 ")
	patch := func(p pool.Patch) error {
		return c.pools.Patch(ctx, millpond.Caller{}, acct, "a", millpond.Condition{}, p)
	}
	c.code(patch(pool.Patch{Metadata: item(millpond.MetadataSpares, "a few")}), "InvalidPropertyValue")
	c.must(patch(pool.Patch{Metadata: item(millpond.MetadataSpares, "0")}))
	until("acct/b:1 ")
	c.must(patch(pool.Patch{Metadata: item(millpond.MetadataClones, "off")}))
	c.must(patch(pool.Patch{Metadata: item("mine", "1")}))
	until("acct/a:1 acct/b:1 ")
	if s, ok := c.nodes.SparesOf(ctx, acct.Name, "A"); !ok || s.Wanted != 1 || s.Ready != 0 || s.Reason == "" {
		t.Errorf("%+v, %v", s, ok)
	}
	c.must(c.pools.Delete(ctx, acct.Name, "a", millpond.Condition{}))
	until("acct/b:1 ")
	if s, ok := c.nodes.SparesOf(ctx, acct.Name, "a"); ok {
		t.Errorf("%+v", s)
	}
}
