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

// TestDeletion goes through a certificate's life with a pool and a node that
// stand in the way of its deletion.
func TestDeletion(t *testing.T) {
	ctx := context.Background()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "m.db"), clock.NewManual(time.Unix(1000, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := New(db, slog.New(slog.DiscardHandler))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error, code string) {
		t.Helper()
		if millpond.AsError(err).Code != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
	_, leaf := pair(t, "leaf")
	print := Thumbprint(leaf)
	ask := Asked{Thumbprint: print, Format: millpond.CertificateCER, Data: leaf.Raw}
	_, err = s.Add(ctx, "Acct", ask)
	must(err)
	_, err = s.Add(ctx, "acct", ask)
	refused(err, "CertificateExists")
	_, err = s.Add(ctx, "other", ask)
	must(err)
	refused(s.CancelDelete(ctx, "acct", print), "CertificateStateActive")
	refused(s.Delete(ctx, "acct", "ab"), "CertificateNotFound")

	refs := []millpond.CertificateReference{{Thumbprint: print}}
	p := millpond.Pool{Account: "acct", Spec: millpond.PoolSpec{ID: "p", Certificates: refs}, State: millpond.PoolActive}
	n := millpond.Node{Account: "acct", Pool: "p", ID: "n", Certificates: refs, State: millpond.NodeIdle}
	named := millpond.Pool{Account: "acct", Spec: millpond.PoolSpec{ID: "named", DisplayName: print}, State: millpond.PoolActive}
	must(db.Update(ctx, func(tx *sqlite.Tx) error {
		must(tx.InsertPool(p))
		must(tx.InsertPool(named))
		return tx.InsertNode(n)
	}))
	state := func(want millpond.CertificateState, code, value string) {
		t.Helper()
		_, _, err := s.run(ctx)
		must(err)
		c, err := s.Get(ctx, "acct", print)
		must(err)
		if c.State != want || (c.DeleteError == nil) != (code == "") || code != "" && (c.DeleteError.Code != code || c.DeleteError.Values[0].Value != value) {
			t.Errorf("%+v %+v, want %s %s", c, c.DeleteError, want, code)
		}
	}
	must(s.Delete(ctx, "acct", print))
	refused(s.Delete(ctx, "acct", print), "CertificateBeingDeleted")
	refused(s.CancelDelete(ctx, "acct", print), "CertificateBeingDeleted")
	state(millpond.CertificateDeleteFailed, "PoolsReferencingCertificate", "p")
	must(s.CancelDelete(ctx, "acct", print))
	state(millpond.CertificateActive, "", "")
	must(s.Delete(ctx, "acct", print))
	state(millpond.CertificateDeleteFailed, "PoolsReferencingCertificate", "p")

	// The pool lets go of it; its node has it until it boots.
	p.Spec.Certificates = nil
	must(db.Update(ctx, func(tx *sqlite.Tx) error { return tx.PutPool(p) }))
	must(s.Delete(ctx, "acct", print))
	state(millpond.CertificateDeleteFailed, "NodesReferencingCertificate", "n")
	n.Certificates = nil
	must(db.Update(ctx, func(tx *sqlite.Tx) error { return tx.PutNode(n) }))
	must(s.Delete(ctx, "acct", print))
	_, _, err = s.run(ctx)
	must(err)
	_, err = s.Get(ctx, "acct", print)
	refused(err, "CertificateNotFound")
	if c, err := s.Get(ctx, "other", print); err != nil || c.State != millpond.CertificateActive {
		t.Errorf("another account's: %+v %v", c, err)
	}
	must(s.DeleteAccount(ctx, "other"))
	if list, _, err := s.List(ctx, "other", millpond.ListQuery[millpond.Certificate]{}); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}
