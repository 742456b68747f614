package resource_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

// A group that is being deleted is there for its grace, and goes after it.
func TestGrace(t *testing.T) {
	ctx := context.Background()
	c := clock.NewManual(time.Now())
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "db"), c)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	res := resource.New(resource.Options{DB: db, Clock: c, Regions: []millpond.Region{{Name: "westus2", DisplayName: "West US 2"}}, Grace: 2 * time.Second})
	mine, err := res.CreateSubscription(ctx, tenant, "s")
	if err != nil {
		t.Fatal(err)
	}
	g, _, err := res.PutGroup(ctx, millpond.Group{Subscription: mine.ID, Name: "rg", Location: "westus2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := res.DeleteGroup(ctx, g.Scope()); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		wait time.Duration
		gone bool
	}{{0, false}, {time.Second, false}, {time.Second, true}} {
		c.Advance(step.wait)
		_, next, err := res.Loop().Run(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, err = res.Group(ctx, g.Scope())
		if gone := millpond.KindOf(err) == millpond.NotFound; gone != step.gone || !gone && next.IsZero() {
			t.Errorf("after %s more: %v, again at %s", step.wait, err, next)
		}
	}
}
