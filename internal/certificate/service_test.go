package certificate

import (
	"context"
	"encoding/pem"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
)

// TestLooksForUsersBesideWriters: the loop reads who uses what without the lock of
// writers, and does not ask for it when there is nothing to do.
func TestLooksForUsersBesideWriters(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "state.db"), clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := New(db, slog.New(slog.DiscardHandler))
	_, leaf := pair(t, "leaf")
	print := Thumbprint(leaf)
	add := func() {
		t.Helper()
		if _, err := s.Add(ctx, "acct", Asked{Thumbprint: print, Format: millpond.CertificateCER, Data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})}); err != nil {
			t.Fatal(err)
		}
	}
	add()
	writes, let, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- db.Update(ctx, func(*sqlite.Tx) error {
			close(writes)
			<-let
			return nil
		})
	}()
	<-writes
	if _, _, err := s.run(ctx); err != nil {
		t.Errorf("while another writes: %v", err)
	}
	close(let)
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	// A verdict holds for the deletion that it was found for, no later one.
	if err := s.Delete(ctx, "acct", print); err != nil {
		t.Fatal(err)
	}
	var doomed []millpond.Certificate
	if err := db.View(ctx, func(tx *sqlite.Tx) (err error) {
		doomed, err = tx.DoomedCertificates()
		return err
	}); err != nil || len(doomed) != 1 {
		t.Fatalf("%v %v", doomed, err)
	}
	if _, _, err := s.run(ctx); err != nil {
		t.Fatal(err)
	}
	add()
	if err := s.Delete(ctx, "acct", print); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(ctx, verdict{certificate: doomed[0]}.apply); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Get(ctx, "acct", print); err != nil || c.State != millpond.CertificateDeleting {
		t.Errorf("an old verdict was carried out: %+v %v", c, err)
	}
}
