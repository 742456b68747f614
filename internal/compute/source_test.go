package compute

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/vhd"
)

// ownStore is a storage account named store, whose blobs lie at base.
type ownStore struct{ base string }

const storeURL = "https://store.blob.core.windows.net/"

func (o ownStore) Account(_ context.Context, uri string) (millpond.ResourceID, bool) {
	id, _ := millpond.ParseResourceID("/subscriptions/" + testSub + "/resourceGroups/rg/providers/" + millpond.TypeStorageAccount + "/store")
	return id, strings.HasPrefix(uri, storeURL) && !strings.Contains(uri, "sig=")
}

func (o ownStore) Signed(_ context.Context, uri string) (string, error) {
	rest, ok := strings.CutPrefix(uri, storeURL)
	if !ok {
		return uri, nil
	}
	return o.base + "/" + strings.TrimSuffix(rest, "?sig=theirs") + "?sig=s3cret", nil
}

// keyHolder may have the keys of storage accounts; nobody else may do anything.
type keyHolder struct{}

func (keyHolder) Authorize(_ context.Context, c millpond.Caller, action, scope string) error {
	if c.Object == "holder" && action == "Microsoft.Storage/storageAccounts/listKeys/action" && strings.HasSuffix(scope, "/storageAccounts/store") {
		return nil
	}
	return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "no %s over %s", action, scope)
}

// TestImportFromOwnStorage: a VHD in a storage account of this server is read with a
// signature of the server's own, for callers who could make one; the service there
// knows no range that counts from the end.
func TestImportFromOwnStorage(t *testing.T) {
	const size = 2 << 20
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.vhd")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	end := vhd.NewFooter(size, "11111111-1111-1111-1111-111111111111", time.Unix(1e9, 0))
	if _, err := f.WriteAt([]byte("the first bytes"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(end, size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	blobs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Get("sig") != "s3cret":
			http.Error(w, "unsigned", http.StatusForbidden)
		case strings.HasPrefix(r.Header.Get("Range"), "bytes=-"):
			http.Error(w, "no such range", http.StatusServiceUnavailable)
		default:
			http.ServeFile(w, r, path)
		}
	}))
	defer blobs.Close()
	s, ctx := testService(t), context.Background()
	s.HTTP, s.Own, s.Auth = blobs.Client(), ownStore{blobs.URL}, keyHolder{}
	put := func(name, who, uri string) (*millpond.Disk, error) {
		id, _ := millpond.ParseResourceID("/subscriptions/" + testSub + "/resourceGroups/rg/providers/" + millpond.TypeDisk + "/" + name)
		_, _, err := s.PutDisk(ctx, millpond.Caller{Object: who}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"}, Creation: millpond.CreationData{Option: millpond.CreateImport, SourceURI: uri}}})
		if err != nil {
			return nil, err
		}
		s.start(ctx, id)
		s.Wait()
		return s.Disk(ctx, id)
	}
	for i, c := range []struct{ who, uri, refusal string }{
		{"holder", storeURL + "vhds/disk.vhd", ""},
		{"nobody", storeURL + "vhds/disk.vhd?sig=theirs", ""},
		{"nobody", storeURL + "vhds/disk.vhd", "generate-sas"},
	} {
		d, err := put(fmt.Sprintf("d%d", i), c.who, c.uri)
		if c.refusal != "" {
			if e := millpond.AsError(err); err == nil || e.Code != "LinkedAuthorizationFailed" || !strings.Contains(e.Message, c.refusal) || strings.Contains(e.Message, testSub) {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil || d.Base().State != millpond.StateSucceeded || d.SizeBytes != size || strings.Contains(ShownURI(d.Creation.SourceURI), "sig") {
			t.Errorf("%+v: %+v, %v", c, d, err)
		}
	}
}
