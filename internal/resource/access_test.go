package resource_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/vhd"
)

func TestAccessEnds(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	at := id(mc + "/disks/os")
	first, err := w.comp.Grant(w.ctx, at, false, time.Minute)
	w.ok(err)
	second, err := w.comp.Grant(w.ctx, at, false, time.Hour)
	w.ok(err)
	open := func(a compute.Access) error {
		b, err := w.comp.OpenBlob(w.ctx, a)
		if err == nil {
			if b.Writable() {
				t.Error("a read grant gives a writable blob")
			}
			b.Close()
		}
		return err
	}
	w.ok(open(first))
	for what, forge := range map[string]func(a *compute.Access){
		"longer":       func(a *compute.Access) { a.Expiry = time.Now().Add(48 * time.Hour).Format(time.RFC3339) },
		"writing":      func(a *compute.Access) { a.Permissions = "rw" },
		"other blob":   func(a *compute.Access) { a.Container = "000000000000" },
		"other grant":  func(a *compute.Access) { a.ID = second.ID },
		"no grant":     func(a *compute.Access) { a.ID = "" },
		"no signature": func(a *compute.Access) { a.Signature = "" },
	} {
		forged := first
		forge(&forged)
		w.refused(what, open(forged), millpond.Forbidden, "AuthenticationFailed", "az disk grant-access")
	}
	w.clock.advance(2 * time.Minute)
	w.refused("after its time", open(first), millpond.Forbidden, "AuthenticationFailed", "expired")
	w.ok(open(second))
	if st := w.disk("/disks/os").State; st != millpond.DiskActiveSAS {
		t.Errorf("state %s with one grant left", st)
	}
	w.clock.advance(2 * time.Hour)
	w.refused("all over", open(second), millpond.Forbidden, "AuthenticationFailed", "expired")
	// The loop ends it in the row too; a start looks at once.
	w.restart()
	w.until("the end of the grant", func() bool { return w.disk("/disks/os").State == millpond.DiskUnattached })
	third, err := w.comp.Grant(w.ctx, at, false, time.Hour)
	w.ok(err)
	w.restart() // grants survive a start: the key is in the database
	w.ok(open(third))
	w.ok(w.comp.Revoke(w.ctx, at))
	w.refused("revoked", open(third), millpond.Forbidden, "AuthenticationFailed", "revoked")
	w.ok(w.comp.Revoke(w.ctx, at)) // again is no error
	for _, d := range []time.Duration{0, -time.Second, time.Duration(1<<31) * time.Second * 2} {
		_, err := w.comp.Grant(w.ctx, at, false, d)
		w.refused(fmt.Sprint(d), err, millpond.Invalid, "InvalidParameter", "2147483647")
	}
}

// The verbs obey the state table in every state.
func TestEveryDiskState(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	at := id(mc + "/disks/os")
	set := func(s millpond.DiskState) {
		w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error {
			d, err := sqlite.Load[millpond.Disk](tx, at.Key())
			if err != nil {
				return err
			}
			d.State = s
			if err := tx.Revoke(at.Key()); err != nil {
				return err
			}
			return tx.Put(d)
		}))
	}
	verbs := map[millpond.DiskEvent]func() error{
		millpond.DiskGrantRead:  func() error { _, err := w.comp.Grant(w.ctx, at, false, time.Hour); return err },
		millpond.DiskGrantWrite: func() error { _, err := w.comp.Grant(w.ctx, at, true, time.Hour); return err },
		millpond.DiskRevoke:     func() error { return w.comp.Revoke(w.ctx, at) },
		millpond.DiskCopy: func() error {
			_, _, err := w.newDisk("copy", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateCopy, SourceID: at.String()}}, 0)
			if err == nil {
				_, err = w.comp.DeleteDisk(w.ctx, id(mc+"/disks/copy"))
			}
			return err
		},
	}
	for _, s := range millpond.DiskStates() {
		for e, verb := range verbs {
			set(s)
			next, allowed := s.Next(e)
			err := verb()
			switch {
			case allowed && err != nil:
				t.Errorf("%s in state %s: %v", e, s, err)
			case allowed && w.disk("/disks/os").State != next:
				t.Errorf("%s in state %s leads to %s, not %s", e, s, w.disk("/disks/os").State, next)
			case !allowed:
				w.refused(fmt.Sprintf("%s in state %s", e, s), err, millpond.Conflict, "OperationNotAllowed", string(s))
				if got := w.disk("/disks/os").State; got != s {
					t.Errorf("a refused %s leads from %s to %s", e, s, got)
				}
			}
		}
		if _, allowed := s.Next(millpond.DiskDelete); !allowed {
			set(s)
			_, err := w.comp.DeleteDisk(w.ctx, at)
			w.refused("delete in state "+string(s), err, millpond.Conflict, "OperationNotAllowed", string(s))
		}
	}
	set(millpond.DiskUnattached)
	if found, err := w.comp.DeleteDisk(w.ctx, at); err != nil || !found {
		t.Errorf("delete: %v, %v", found, err)
	}
}

func TestTheEndOfAnUpload(t *testing.T) {
	w := newWorld(t)
	a := w.forUpload("up")
	at := id(mc + "/disks/up")
	w.ok(w.put(a, 0, random(1)))
	bad := vhd.NewFooter(diskSize, "up", time.Now())
	bad[100] ^= 1
	wrong := vhd.NewFooter(diskSize+1<<20, "up", time.Now())
	for what, c := range map[string]struct {
		footer []byte
		says   string
	}{"none": {make([]byte, 512), "conectix"}, "damaged": {bad, "checksum"}, "of another size": {wrong, "its footer says"}} {
		w.ok(w.put(a, diskSize, c.footer))
		w.refused(what, w.comp.Revoke(w.ctx, at), millpond.Invalid, "InvalidVhd", c.says)
		w.refused("write after the end", w.put(a, 0, make([]byte, 512)), millpond.Forbidden, "AuthenticationFailed", "")
		if st := w.disk("/disks/up").State; st != millpond.DiskReadyToUpload {
			t.Fatalf("%s: state %s", what, st)
		}
		var err error
		a, err = w.comp.Grant(w.ctx, at, true, time.Hour)
		w.ok(err)
	}
	// A crash in the middle of an upload loses no page that was answered.
	w.restart()
	b, err := w.comp.OpenBlob(w.ctx, a)
	w.ok(err)
	w.ok(w.put(a, diskSize, vhd.NewFooter(diskSize, "up", time.Now())))
	w.ok(w.comp.Revoke(w.ctx, at))
	if _, err := b.WriteAt(make([]byte, 512), diskSize); millpond.KindOf(err) != millpond.Forbidden {
		t.Errorf("a footer after the end: %v", err)
	}
	b.Close()
	if string(w.bytesOf("/disks/up")) != string(random(1)) {
		t.Error("pages were lost")
	}
	// An upload that was given up can be deleted.
	w.forUpload("given-up")
	if err := w.comp.Revoke(w.ctx, id(mc+"/disks/given-up")); err == nil {
		t.Error("an empty upload was taken")
	}
	if found, err := w.comp.DeleteDisk(w.ctx, id(mc+"/disks/given-up")); err != nil || !found {
		t.Errorf("delete: %v, %v", found, err)
	}
}

func TestImport(t *testing.T) {
	w := newWorld(t)
	good := append(random(1), vhd.NewFooter(diskSize, "x", time.Now())...)
	mux := http.NewServeMux()
	serve := func(name string, b []byte) {
		mux.HandleFunc("/"+name, func(rw http.ResponseWriter, r *http.Request) {
			http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(string(b)))
		})
	}
	serve("good.vhd", good)
	serve("short.vhd", append(append([]byte(nil), good[:diskSize/2]...), good[diskSize:]...))
	serve("raw.img", good[:diskSize])
	serve("tiny.vhd", good[:100])
	mux.HandleFunc("/noranges.vhd", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(good) })
	cut := func(rw http.ResponseWriter) {
		rw.Header().Set("Content-Length", fmt.Sprint(len(good)))
		_, _ = rw.Write(good[:diskSize/2])
		panic(http.ErrAbortHandler)
	}
	mux.HandleFunc("/cut.vhd", func(rw http.ResponseWriter, _ *http.Request) { cut(rw) })
	mux.HandleFunc("/cutlater.vhd", func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			cut(rw)
		}
		http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(string(good)))
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	importing := func(name, uri string, snapshot bool) error {
		path := "/disks/"
		if snapshot {
			path = "/snapshots/"
		}
		_, op, err := w.newDisk(name, millpond.Disk{Snapshot: snapshot, Creation: millpond.CreationData{Option: millpond.CreateImport, SourceURI: uri}}, 0)
		if err == nil && op != nil {
			if o := w.ended(op); o.Status == millpond.OperationFailed {
				err = &millpond.Error{Kind: millpond.Invalid, Code: o.Code, Message: o.Message}
			}
		}
		if err == nil && string(w.bytesOf(path+name)) != string(random(1)) {
			t.Errorf("%s has other bytes", name)
		}
		return err
	}
	for i, name := range []string{"good.vhd", "noranges.vhd"} {
		w.ok(importing(fmt.Sprintf("d%d", i), srv.URL+"/"+name, false))
		w.ok(importing(fmt.Sprintf("s%d", i), srv.URL+"/"+name+"?sig=secret", true))
	}
	if got := w.holds("westus2-0"); got != 1 {
		t.Errorf("%d contents of the same bytes", got)
	}
	for _, c := range []struct{ name, code, says string }{
		{"short.vhd", "InvalidVhd", "its footer says"}, {"raw.img", "InvalidVhd", "millpond image upload"}, {"tiny.vhd", "BlobReadFailed", ""},
		{"cut.vhd", "BlobReadFailed", "broke off"}, {"cutlater.vhd", "BlobReadFailed", "broke off"}, {"none.vhd", "BlobReadFailed", "404"},
	} {
		for _, snapshot := range []bool{false, true} {
			err := importing("bad", srv.URL+"/"+c.name+"?sig=secret", snapshot)
			if c.code == "BlobReadFailed" && c.says == "" {
				if err == nil {
					t.Errorf("%s was taken", c.name)
				}
				continue
			}
			w.refused(c.name, err, millpond.Invalid, c.code, c.says)
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: the message shows the signature: %v", c.name, err)
			}
		}
	}
	w.refused("no URL", importing("bad", "ftp://x/y", false), millpond.Invalid, "InvalidParameter", "http")
	// Failures leave no files, and the name can be used again or deleted.
	if files, err := w.disks.List(); err != nil || len(files) != 2 {
		t.Errorf("files %v, %v; want those of two disks", files, err)
	}
	w.ok(importing("bad", srv.URL+"/good.vhd", false))
	if found, err := w.comp.DeleteDisk(w.ctx, id(mc+"/snapshots/bad")); err != nil || !found {
		t.Errorf("delete of a failed snapshot: %v, %v", found, err)
	}
	// A disk of this server, by the URL that its grant gave.
	a, err := w.comp.Grant(w.ctx, id(mc+"/disks/d0"), false, time.Hour)
	w.ok(err)
	w.ok(importing("own", "https://md-x.blob.storage.azure.net"+a.Path(), false))
}

func TestChangesOfADisk(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	empty := millpond.CreationData{Option: millpond.CreateEmpty}
	_, _, err := w.newDisk("Data", millpond.Disk{Creation: empty}, 1)
	w.ok(err)
	d, _, err := w.newDisk("DATA", millpond.Disk{Creation: empty}, 2)
	w.ok(err)
	if d.ID.Name() != "Data" || d.SizeBytes != 2<<30 {
		t.Errorf("after a PUT in other letters: %s, %d bytes", d.ID, d.SizeBytes)
	}
	if info, _ := w.disks.Stat(d.File); info.Size != 2<<30 {
		t.Errorf("the file has %d bytes", info.Size)
	}
	for what, c := range map[string]struct {
		creation millpond.CreationData
		size     int32
		kind     millpond.Kind
		code     string
	}{
		"shrink":       {empty, 1, millpond.Invalid, "OperationNotAllowed"},
		"other source": {millpond.CreationData{Option: millpond.CreateCopy, SourceID: mc + "/disks/os"}, 0, millpond.Conflict, "PropertyChangeNotAllowed"},
	} {
		_, _, err := w.newDisk("data", millpond.Disk{Creation: c.creation}, c.size)
		w.refused(what, err, c.kind, c.code, "")
	}
	_, _, err = w.newDisk("data", millpond.Disk{Creation: empty, Resource: millpond.Resource{Location: "eastus"}}, 0)
	w.refused("other location", err, millpond.Conflict, "InvalidResourceLocation", "already exists")
	_, _, err = w.newDisk("far", millpond.Disk{Resource: millpond.Resource{Location: "eastus"}, Creation: millpond.CreationData{Option: millpond.CreateCopy, SourceID: mc + "/disks/os"}}, 0)
	w.refused("copy to another region", err, millpond.Invalid, "InvalidParameter", "a copy stays in its region")
	// An image keeps its sources.
	image := func(m millpond.ManagedImage) error {
		m.ID, m.Location, m.OSType, m.OSState = id(mc+"/images/i"), "westus2", "Linux", "Generalized"
		_, _, _, err := w.comp.PutImage(w.ctx, admin, &m)
		return err
	}
	w.ok(image(millpond.ManagedImage{OSDisk: millpond.ImageDisk{DiskID: mc + "/disks/os"}}))
	w.ok(image(millpond.ManagedImage{OSDisk: millpond.ImageDisk{DiskID: strings.ToUpper(mc + "/disks/os")}}))
	w.refused("other OS disk", image(millpond.ManagedImage{OSDisk: millpond.ImageDisk{DiskID: mc + "/disks/data"}}), millpond.Conflict, "PropertyChangeNotAllowed", "storageProfile")
	// An image of two disks whose second cannot be frozen leaves nothing behind.
	_, err = w.comp.DeleteImage(w.ctx, id(mc+"/images/i"))
	w.ok(err)
	w.ok(w.disks.Delete(w.disk("/disks/data").File))
	if err := image(millpond.ManagedImage{OSDisk: millpond.ImageDisk{DiskID: mc + "/disks/os"}, DataDisks: []millpond.ImageDisk{{LUN: 0, DiskID: mc + "/disks/data"}}}); err == nil {
		t.Error("an image of a lost disk was made")
	}
	// The disk that was captured lies on its content, and goes with it.
	w.until("only the disk's own base is left", func() bool { return w.holds("westus2-0") == 1 })
	_, err = w.comp.DeleteDisk(w.ctx, id(mc+"/disks/os"))
	w.ok(err)
	w.until("nothing is left", func() bool { return w.holds("westus2-0") == 0 })
}
