package sqlite

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
)

// TestFullDisk: a disk that is full is told as such, changes nothing, and a write
// succeeds once there is room again.
func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	db, err := Open(ctx, filepath.Join(t.TempDir(), "db"), clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	// SQLite has the same error for a file that may not grow.
	if _, err := db.write.ExecContext(ctx, "PRAGMA max_page_count=1"); err != nil {
		t.Fatal(err)
	}
	put := func(tx *Tx) error { return tx.PutSetting("x", strings.Repeat("x", 1<<20)) }
	err = db.Update(ctx, put)
	if e := millpond.AsError(err); err == nil || e.Kind != millpond.Unavailable || !strings.Contains(e.Message, "full") {
		t.Fatalf("%v", err)
	}
	if _, err := db.write.ExecContext(ctx, "PRAGMA max_page_count=1000000"); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(ctx, put); err != nil {
		t.Fatal(err)
	}
}
