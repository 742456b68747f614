package machine

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

// A step that was decided by what a machine was does nothing to what it is by now: the
// end of one that was restarted is not the end of the one that starts.
func TestStepsOfThePast(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "m.db"), clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := &Service{Deps: Deps{DB: db, Log: slog.New(slog.DiscardHandler)}}
	v := &millpond.VirtualMachine{VMID: "1", Power: millpond.VMStarting, Generation: 2}
	v.ID, _ = millpond.ParseResourceID("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v")
	err = db.Update(t.Context(), func(tx *sqlite.Tx) error {
		return errors.Join(tx.InsertSubscription(millpond.Subscription{ID: "s", Tenant: "t"}), tx.PutGroup(millpond.Group{Subscription: "s", Name: "g", Location: "westus2"}), tx.Put(v))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []millpond.VirtualMachine{{Power: millpond.VMStopping, Generation: 1}, {Power: millpond.VMStopping, Generation: 2}, {Power: millpond.VMStarting, Generation: 1}} {
		by.Resource = v.Resource
		if err := s.act(t.Context(), &by, Down, &launch.Status{Phase: launch.Stopped, Generation: 1}); err != nil {
			t.Error(err)
		}
		if now, err := s.Get(t.Context(), v.ID); err != nil || now.Power != millpond.VMStarting || now.Failure != "" {
			t.Errorf("by %s of %d: %+v, %v", by.Power, by.Generation, now, err)
		}
	}
}
