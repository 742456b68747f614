package buckettest

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"time"

	"millpond.dev/millpond/internal/image/bucket"
)

// ErrCut is what a cut bucket answers.
var ErrCut = errors.New("the process has ended")

// Faults are what goes wrong; each may be nil.
type Faults struct {
	// Delay is how long an operation takes before and after it is done.
	Delay func(op, key string) time.Duration
	// Fail is an operation's error; it is asked before anything is done.
	Fail func(op, key string) error
	// Spoil may change what was read.
	Spoil func(key string, data []byte) []byte
}

// Faulty is a bucket that is slow, wrong or gone as it is told. It counts what it
// did.
type Faulty struct {
	bucket.Bucket
	faults atomic.Pointer[Faults]
	// Puts counts the objects written.
	Puts atomic.Int64
	cut  atomic.Bool
}

// Set changes what goes wrong from now on.
func (f *Faulty) Set(to Faults) { f.faults.Store(&to) }

func (f *Faulty) now() Faults {
	if p := f.faults.Load(); p != nil {
		return *p
	}
	return Faults{}
}

// Cut ends every operation from now on, as if the process that makes them had
// been killed: what was under way may have been done or not.
func (f *Faulty) Cut() { f.cut.Store(true) }

func (f *Faulty) op(ctx context.Context, op, key string, do func() error) error {
	now := f.now()
	wait := func() error {
		if now.Delay == nil {
			return ctx.Err()
		}
		t := time.NewTimer(now.Delay(op, key))
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(); err != nil {
		return err
	}
	if f.cut.Load() {
		return ErrCut
	}
	if now.Fail != nil {
		if err := now.Fail(op, key); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if err := wait(); err != nil {
		return err
	}
	if f.cut.Load() {
		return ErrCut
	}
	return nil
}

func (f *Faulty) Get(ctx context.Context, key string, limit int64) (data []byte, err error) {
	err = f.op(ctx, "get", key, func() error {
		data, err = f.Bucket.Get(ctx, key, limit)
		return err
	})
	if spoil := f.now().Spoil; err == nil && spoil != nil {
		data = spoil(key, data)
	}
	return data, err
}

func (f *Faulty) Put(ctx context.Context, key string, data []byte, how bucket.How) error {
	return f.op(ctx, "put", key, func() error {
		f.Puts.Add(1)
		return f.Bucket.Put(ctx, key, data, how)
	})
}

func (f *Faulty) Stat(ctx context.Context, key string) (i bucket.Info, err error) {
	err = f.op(ctx, "stat", key, func() error {
		i, err = f.Bucket.Stat(ctx, key)
		return err
	})
	return i, err
}

// List takes its time before the first object and is then of one moment.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[bucket.Info, error] {
	return func(yield func(bucket.Info, error) bool) {
		var all []bucket.Info
		err := f.op(ctx, "list", prefix, func() error {
			for i, err := range f.Bucket.List(ctx, prefix) {
				if err != nil {
					return err
				}
				all = append(all, i)
			}
			return nil
		})
		if err != nil {
			yield(bucket.Info{}, err)
			return
		}
		for _, i := range all {
			if !yield(i, nil) {
				return
			}
		}
	}
}

func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.op(ctx, "delete", key, func() error { return f.Bucket.Delete(ctx, key) })
}

func (f *Faulty) Flush(ctx context.Context) error {
	return f.op(ctx, "flush", "", func() error { return f.Bucket.Flush(ctx) })
}
