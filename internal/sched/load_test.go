package sched

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
)

// BenchmarkLoad is reading 100,000 waiting tasks anew, as after a crash.
func BenchmarkLoad(b *testing.B) {
	ctx := context.Background()
	db, err := sqlite.Open(ctx, filepath.Join(b.TempDir(), "state.db"), clock.System{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	err = db.Update(ctx, func(tx *sqlite.Tx) error {
		if err := tx.InsertJob(millpond.Job{Account: "a", State: millpond.JobActive, Spec: millpond.JobSpec{ID: "j", Pool: "p", MaxParallelTasks: -1}}); err != nil {
			return err
		}
		for i := range 100_000 {
			t := millpond.Task{Account: "a", Job: "j", State: millpond.TaskActive, Order: int64(i), Created: tx.Now, Spec: millpond.TaskSpec{ID: millpond.TaskID(fmt.Sprintf("t%06d", i)), CommandLine: "/bin/true", RequiredSlots: 1}}
			if err := tx.InsertTask(t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		err := db.Update(ctx, func(tx *sqlite.Tx) error {
			s, err := Load(tx)
			if err == nil && s.jobs[jobKey{"a", "j"}].waiting != 100_000 {
				b.Fatal("tasks are missing")
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
