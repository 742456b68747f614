package bucket_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gocloud.dev/blob/memblob"

	"millpond.dev/millpond/internal/image/bucket"
	"millpond.dev/millpond/internal/image/bucket/buckettest"
)

func TestFolder(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		b, err := bucket.OpenFolder(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	})
}

func TestCloudInMemory(t *testing.T) {
	buckettest.Run(t, func(*testing.T) bucket.Bucket { return bucket.NewCloud(memblob.OpenBucket(nil)) })
}

func TestAFolderKeepsToItself(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	b, err := bucket.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", ".", "..", "../x", "/etc/passwd", "a/../../x", ".tmp/x", "a//b", "a/"} {
		if err := b.Put(ctx, key, []byte("x"), bucket.Lazy); err == nil {
			t.Errorf("Put(%q) was taken", key)
		}
		if _, err := b.Get(ctx, key, 10); err == nil {
			t.Errorf("Get(%q) was answered", key)
		}
	}
}

func TestAFolderForgetsWhatWasHalfWritten(t *testing.T) {
	dir := t.TempDir()
	tmp := filepath.Join(dir, ".tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"put-old": 2 * time.Hour, "put-new": 0} {
		p := filepath.Join(tmp, name)
		if err := os.WriteFile(p, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	b, err := bucket.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	left, _ := filepath.Glob(filepath.Join(tmp, "*"))
	if len(left) != 1 || !strings.HasSuffix(left[0], "put-new") {
		t.Errorf("left: %v; another process may be writing the new one", left)
	}
}

func TestParsePlace(t *testing.T) {
	for at, want := range map[string]string{
		"/srv/images":                "the folder /srv/images",
		"file:///srv/images/../disk": "the folder /srv/disk",
		"file:///with%20blank":       "the folder /with blank",
		"s3://images?region=eu-1":    "s3://images?region=eu-1",
		"s3://images?prefix=a/b/&endpoint=http://127.0.0.1:9000": "s3://images?prefix=a/b/&endpoint=http://127.0.0.1:9000",
		"azblob://images?account=me":                             "azblob://images?account=me",
	} {
		p, err := bucket.ParsePlace(at)
		if err != nil || p.String() != want {
			t.Errorf("ParsePlace(%q) = %v, %v", at, p, err)
			continue
		}
		if again, err := bucket.ParsePlace(p.URL()); err != nil || again.String() != want {
			t.Errorf("%q does not find %q again: %v, %v", p.URL(), at, again, err)
		}
	}
	for _, at := range []string{"", "http://images", "file://host/x", "file:///x?y=1", "s3://", "s3://UPPER", "s3://images/below", "s3://key:secret@images",
		"s3://images?secret=1", "s3://images?region=a&region=b", "s3://images?prefix=x", "s3://images?endpoint=ftp://x", "azblob://c?endpoint=%zz", "gs://images"} {
		if p, err := bucket.ParsePlace(at); err == nil {
			t.Errorf("ParsePlace(%q) = %v", at, p)
		}
	}
}

func FuzzParsePlace(f *testing.F) {
	for _, s := range []string{"/a", "file:///a", "s3://images?prefix=a/&endpoint=http://h:1/p", "azblob://c?account=a", "s3://a%", "://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, at string) {
		p, err := bucket.ParsePlace(at)
		if err != nil {
			return
		}
		again, err := bucket.ParsePlace(p.URL())
		if err != nil || again.Dir != p.Dir || again.String() != p.String() {
			t.Errorf("%q became %q, which is %v, %v", at, p.URL(), again, err)
		}
	})
}
