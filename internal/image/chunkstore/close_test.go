package chunkstore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"gocloud.dev/blob/memblob"

	"millpond.dev/millpond/internal/image/bucket"
	"millpond.dev/millpond/internal/image/bucket/buckettest"
	"millpond.dev/millpond/internal/image/chunkstore"
)

// A store that is closed while a renewal hangs says so, and leaves no loop behind
// that renews its lease for ever: the bubble would not end.
func TestCloseWhileTheBucketHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &buckettest.Faulty{Bucket: bucket.NewCloud(memblob.OpenBucket(nil))}
		s, err := chunkstore.New("hangs-0", "mem://", b, chunkstore.Options{Timing: chunkstore.Timing{Lease: time.Minute, Poll: 2 * time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Ingest(context.Background(), full(1, 2), nil); err != nil {
			t.Fatal(err)
		}
		b.Set(buckettest.Faults{Delay: func(op, _ string) time.Duration {
			if op == "put" {
				return 6 * time.Second // before and after
			}
			return 0
		}})
		time.Sleep(3 * time.Second)
		if err := s.Close(); err == nil {
			t.Error("Close did not tell that the store does not answer")
		}
		time.Sleep(2 * time.Second)
	})
}
