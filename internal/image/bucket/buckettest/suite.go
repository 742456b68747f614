// Package buckettest is the conformance suite of bucket.Bucket, and a bucket for
// tests that fails as it is told. Tests of implementations and of the chunk store
// use it; nothing else imports it.
package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"millpond.dev/millpond/internal/image/bucket"
)

// Run checks that open makes buckets that keep the contract. Each call returns a
// new, empty bucket.
func Run(t *testing.T, open func(t *testing.T) bucket.Bucket) {
	ctx := context.Background()
	put := func(t *testing.T, b bucket.Bucket, key, data string, how bucket.How) {
		t.Helper()
		if err := b.Put(ctx, key, []byte(data), how); err != nil {
			t.Fatalf("Put %s: %v", key, err)
		}
	}
	get := func(t *testing.T, b bucket.Bucket, key, want string) {
		t.Helper()
		if got, err := b.Get(ctx, key, 1<<20); err != nil || string(got) != want {
			t.Errorf("Get %s = %q, %v; want %q", key, got, err, want)
		}
	}

	t.Run("what is put is there", func(t *testing.T) {
		b := open(t)
		began := time.Now()
		for _, how := range []bucket.How{bucket.Durable, bucket.Lazy} {
			put(t, b, "a/b/one", "first", how)
			get(t, b, "a/b/one", "first")
			put(t, b, "a/b/one", "second, and longer", how)
			get(t, b, "a/b/one", "second, and longer")
			put(t, b, "a/b/one", "3", how)
			get(t, b, "a/b/one", "3")
		}
		put(t, b, "a/empty", "", bucket.Durable)
		get(t, b, "a/empty", "")
		if err := b.Flush(ctx); err != nil {
			t.Error(err)
		}
		i, err := b.Stat(ctx, "a/b/one")
		if err != nil || i.Key != "a/b/one" || i.Size != 1 {
			t.Errorf("Stat = %+v, %v", i, err)
		}
		// Services tell whole seconds.
		if i.Modified.Before(began.Add(-2*time.Second)) || i.Modified.After(time.Now().Add(2*time.Second)) {
			t.Errorf("it was modified at %v, not at %v", i.Modified, began)
		}
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
		if err := b.Put(ctx, "big", big, bucket.Lazy); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Get(ctx, "big", int64(len(big))); err != nil || !bytes.Equal(got, big) {
			t.Errorf("Get of %d bytes = %d, %v", len(big), len(got), err)
		}
		if _, err := b.Get(ctx, "big", int64(len(big))-1); !errors.Is(err, bucket.ErrTooLarge) {
			t.Errorf("Get beyond the limit = %v", err)
		}
	})

	t.Run("what is not there", func(t *testing.T) {
		b := open(t)
		put(t, b, "here/too", "x", bucket.Durable)
		for _, key := range []string{"not", "here/not", "not/here/either"} {
			if _, err := b.Get(ctx, key, 10); !errors.Is(err, bucket.ErrNotFound) {
				t.Errorf("Get %s = %v", key, err)
			}
			if _, err := b.Stat(ctx, key); !errors.Is(err, bucket.ErrNotFound) {
				t.Errorf("Stat %s = %v", key, err)
			}
			if err := b.Delete(ctx, key); err != nil {
				t.Errorf("Delete %s = %v", key, err)
			}
		}
	})

	t.Run("lists by prefix", func(t *testing.T) {
		b := open(t)
		want := map[string]int64{}
		for i := range 30 {
			key := fmt.Sprintf("chunks/%02x/%030d", i%7, i)
			put(t, b, key, key[:i%20], bucket.Lazy)
			want[key] = int64(i % 20)
		}
		put(t, b, "chunksx", "no", bucket.Lazy)
		put(t, b, "manifests/m", "m", bucket.Lazy)
		for prefix, keep := range map[string]func(string) bool{
			"chunks/":    func(k string) bool { return true },
			"chunks/03/": func(k string) bool { return k[7:9] == "03" },
			"nothing/":   func(string) bool { return false },
		} {
			left := map[string]int64{}
			for k, n := range want {
				if keep(k) {
					left[k] = n
				}
			}
			for i, err := range b.List(ctx, prefix) {
				if err != nil {
					t.Fatal(err)
				}
				if n, ok := left[i.Key]; !ok || n != i.Size || i.Modified.IsZero() {
					t.Errorf("%s lists %+v", prefix, i)
				}
				delete(left, i.Key)
			}
			if len(left) > 0 {
				t.Errorf("%s does not list %v", prefix, left)
			}
		}
		for range b.List(ctx, "chunks/") {
			break // it may be left early
		}
	})

	t.Run("what is deleted has gone", func(t *testing.T) {
		b := open(t)
		put(t, b, "x/y", "1", bucket.Durable)
		put(t, b, "x/z", "2", bucket.Durable)
		if err := b.Delete(ctx, "x/y"); err != nil {
			t.Fatal(err)
		}
		var keys []string
		for i, err := range b.List(ctx, "x/") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, i.Key)
		}
		if !slices.Equal(keys, []string{"x/z"}) {
			t.Errorf("List = %v", keys)
		}
		if _, err := b.Stat(ctx, "x/y"); !errors.Is(err, bucket.ErrNotFound) {
			t.Errorf("Stat = %v", err)
		}
		put(t, b, "x/y", "again", bucket.Durable)
		get(t, b, "x/y", "again")
	})

	t.Run("a reader sees all of one or all of the other", func(t *testing.T) {
		b := open(t)
		one, two := bytes.Repeat([]byte("1"), 200<<10), bytes.Repeat([]byte("2"), 100<<10)
		put(t, b, "k", string(one), bucket.Lazy)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for range 10 {
					data := one
					if i%2 == 0 {
						data = two
					}
					if err := b.Put(ctx, "k", data, bucket.Lazy); err != nil {
						t.Error(err)
					}
					got, err := b.Get(ctx, "k", 1<<20)
					if err != nil || !bytes.Equal(got, one) && !bytes.Equal(got, two) {
						t.Errorf("Get = %d bytes, %v", len(got), err)
					}
				}
			})
		}
		wg.Wait()
	})

	t.Run("ends with its context", func(t *testing.T) {
		b := open(t)
		put(t, b, "k", "v", bucket.Durable)
		dead, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := b.Get(dead, "k", 10); err == nil {
			t.Error("Get went on")
		}
		if err := b.Put(dead, "k", []byte("w"), bucket.Durable); err == nil {
			t.Error("Put went on")
		}
		get(t, b, "k", "v")
	})
}
