package chunkstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"gocloud.dev/blob/memblob"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
	"millpond.dev/millpond/internal/image/bucket/buckettest"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/imagetest"
)

func TestConformanceInMemory(t *testing.T) {
	imagetest.Run(t, func(t *testing.T) image.Store {
		s, err := chunkstore.New("memory", "mem://", bucket.NewCloud(memblob.OpenBucket(nil)), chunkstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}

// both runs the suite of buckets and that of stores over new prefixes of a place,
// whose URL has one parameter at least, and then the life of a content.
func both(t *testing.T, place string) {
	var n atomic.Int32
	next := func() string { return fmt.Sprintf("%s&prefix=test/%d/", place, n.Add(1)) }
	t.Run("bucket", func(t *testing.T) {
		buckettest.Run(t, func(t *testing.T) bucket.Bucket {
			p, err := bucket.ParsePlace(next())
			if err != nil {
				t.Fatal(err)
			}
			b, err := p.Open(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return b
		})
	})
	open := func(t *testing.T) *chunkstore.Store {
		s, err := chunkstore.Open(context.Background(), "far", next())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	t.Run("store", func(t *testing.T) {
		imagetest.Run(t, func(t *testing.T) image.Store { return open(t) })
	})
	t.Run("life", func(t *testing.T) {
		ctx := context.Background()
		near, far := openLocal(t), open(t)
		c := take(t, near, full(1, 8))
		if _, err := far.Fetch(ctx, c.ID, nil, near); err != nil {
			t.Fatal(err)
		}
		sound(t, far, c.ID)
		back := openLocal(t)
		if _, err := back.Fetch(ctx, c.ID, nil, far); err != nil {
			t.Fatal(err)
		}
		sound(t, back, c.ID)
		again, err := chunkstore.Open(ctx, "again", far.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		sound(t, again, c.ID)
		if err := far.Delete(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		// Those who have read it let go when they are closed.
		if err := errors.Join(far.Close(), again.Close()); err != nil {
			t.Fatal(err)
		}
		third, err := chunkstore.Open(ctx, "third", far.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer third.Close()
		if done, err := third.Collect(ctx, chunkstore.CollectOptions{}); err != nil || done.Chunks != 8 {
			t.Errorf("Collect = %+v, %v", done, err)
		}
	})
	t.Run("a bucket that is not there", func(t *testing.T) {
		if _, err := chunkstore.Open(context.Background(), "nowhere", next()+"&x=1"); err == nil {
			t.Error("an unknown parameter was taken")
		}
	})
}

func openLocal(t *testing.T) *chunkstore.Store { return open(t) }

func TestS3(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("images"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(backend).Server())
	defer srv.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	both(t, "s3://images?region=eu-1&endpoint="+srv.URL)
	checked(t, "s3://images?region=eu-1&endpoint="+srv.URL, "s3://nothere?region=eu-1&endpoint="+srv.URL)
}

// checked: a store in a bucket that is not there is opened, and Check tells.
func checked(t *testing.T, there, gone string) {
	t.Helper()
	for at, good := range map[string]bool{there: true, gone: false} {
		s, err := chunkstore.Open(context.Background(), "checked", at)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(context.Background()); (err == nil) != good {
			t.Errorf("Check of %s = %v", at, err)
		}
		s.Close()
	}
}

// azurite is the emulator's program, installed by `scripts/install azurite`.
func azurite(t *testing.T) string {
	t.Helper()
	p, err := filepath.Abs("../../../.cache/azurite/node_modules/.bin/azurite-blob")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Skip("Azurite is not installed; scripts/install azurite")
	}
	return p
}

func TestAzurite(t *testing.T) {
	program := azurite(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd := exec.Command(program, "--location", t.TempDir(), "--blobHost", "127.0.0.1", "--blobPort", port, "--silent", "--skipApiVersionCheck", "--disableTelemetry")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	// The account and key that every Azurite has.
	const account, key = "devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
	endpoint := "http://127.0.0.1:" + port
	cred, err := azblob.NewSharedKeyCredential(account, key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := azblob.NewClientWithSharedKeyCredential(endpoint+"/"+account, cred, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		if _, err = client.CreateContainer(ctx, "images", nil); err == nil {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
	t.Setenv("AZURE_STORAGE_ACCOUNT", account)
	t.Setenv("AZURE_STORAGE_KEY", key)
	both(t, "azblob://images?endpoint="+endpoint)
	checked(t, "azblob://images?endpoint="+endpoint, "azblob://nothere?endpoint="+endpoint)
}
