package pool

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

var account = millpond.BatchAccount{Name: "acme"}

// gallery resolves every image to a version of the same name.
type gallery struct{}

func (gallery) ResolveForPool(_ context.Context, _ millpond.Caller, _ millpond.BatchAccount, ref millpond.ImageReference, _ string) (millpond.BootImage, error) {
	return millpond.BootImage{VersionID: ref.ResourceID, HyperV: "V2", OSDisk: millpond.BootDisk{Content: "c", SizeBytes: 1 << 20}, Replicas: 1}, nil
}

func (gallery) Account(context.Context, millpond.AccountName) (millpond.BatchAccount, error) {
	return account, nil
}

func open(t *testing.T, g gallery) (*Service, *clock.Manual) {
	t.Helper()
	c := clock.NewManual(t0)
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := wake.New()
	return New(Deps{DB: db, Clock: c, Log: slog.New(slog.DiscardHandler), Images: g, Accounts: g,
		Wakes: Wakes{Allocator: w, Nodes: w, Scheduler: w, Jobs: w}}), c
}

func spec(id, image string) millpond.PoolSpec {
	return millpond.PoolSpec{ID: millpond.PoolID(id), VMSize: "STANDARD_D2S_V3", TaskSlotsPerNode: 1, NodeAgentSKU: "batch.node.debian 12",
		Image: millpond.ImageReference{ResourceID: image}}
}

// TestLooksAreForgotten: of pools that are gone nothing is remembered, and one of the
// same id that comes later is looked after at once.
func TestLooksAreForgotten(t *testing.T) {
	s, c := open(t, gallery{})
	for i := range 3 {
		for _, id := range []string{"a", "b"} {
			p := spec(id+fmt.Sprint(i), "/images/i")
			p.Upgrade = &millpond.UpgradePolicy{Mode: millpond.UpgradeAutomatic, AutomaticOS: true}
			if _, err := s.Add(t.Context(), millpond.Caller{}, account, p, Targets{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := s.rollOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(s.looked) != 2 {
			t.Fatalf("round %d: %d pools are remembered, not 2", i, len(s.looked))
		}
		for _, id := range []string{"a", "b"} {
			if err := s.Delete(t.Context(), account.Name, millpond.PoolID(id+fmt.Sprint(i)), millpond.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		c.Advance(time.Second)
		if _, _, err := s.rollOut(t.Context()); err != nil || len(s.looked) != 0 {
			t.Fatalf("round %d: %d pools that are gone are remembered (%v)", i, len(s.looked), err)
		}
	}
}

// TestPatchesOfTheSamePool: a patch that names the image that the pool has is not
// mixed with one that gives it another meanwhile: what boots is what the pool says.
func TestPatchesOfTheSamePool(t *testing.T) {
	s, _ := open(t, gallery{})
	ctx := t.Context()
	if _, err := s.Add(ctx, millpond.Caller{}, account, spec("p", "/images/a"), Targets{}); err != nil {
		t.Fatal(err)
	}
	machine := func(image string) *Machine {
		return &Machine{Image: millpond.ImageReference{ResourceID: image}, NodeAgentSKU: "batch.node.debian 12"}
	}
	overtaken := false
	s.Packages = func(context.Context, millpond.BatchAccount, []millpond.PackageReference) error {
		if !overtaken {
			overtaken = true
			return s.Patch(ctx, millpond.Caller{}, account, "p", millpond.Condition{}, Patch{Machine: machine("/images/b")})
		}
		return nil
	}
	refs := []millpond.PackageReference{{Application: "app", Version: "1"}}
	if err := s.Patch(ctx, millpond.Caller{}, account, "p", millpond.Condition{}, Patch{Machine: machine("/images/a"), Packages: &refs}); err != nil {
		t.Fatal(err)
	}
	p, err := s.Get(ctx, account.Name, "p")
	if err != nil {
		t.Fatal(err)
	}
	if !overtaken || p.Spec.Image.ResourceID != p.Boot.VersionID || p.Boot.VersionID != "/images/a" {
		t.Errorf("the pool says %s and boots %s", p.Spec.Image.ResourceID, p.Boot.VersionID)
	}
}
