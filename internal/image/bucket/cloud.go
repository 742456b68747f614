package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/s3blob"    // s3://
	"gocloud.dev/gcerrors"
)

// Cloud is a Bucket in a service that Go CDK knows. What a Put has taken is
// durable there.
type Cloud struct{ b *blob.Bucket }

// openCloud names a bucket and its credentials; nothing is asked of the service
// yet, which may be away for now. Check asks.
func openCloud(ctx context.Context, u string) (*Cloud, error) {
	b, err := blob.OpenBucket(ctx, u)
	if err != nil {
		return nil, err
	}
	return &Cloud{b}, nil
}

// Check asks whether the bucket is there and may be used.
func (c *Cloud) Check(ctx context.Context) error {
	ctx, l := limited(ctx)
	defer l.end()
	ok, err := c.b.IsAccessible(ctx)
	if err == nil && !ok {
		err = errors.New("there is no such bucket or container; make it first")
	}
	return l.told(ctx, err)
}

const (
	// callLimit is how long a service may be silent: the clients of the services
	// wait without end for one that takes a request and never answers.
	callLimit = time.Minute
	// slowest is the bandwidth, in bytes a second, that a body's time is counted by.
	slowest = 64 << 10
)

// errSilent is the cause of a call that was given up.
var errSilent = fmt.Errorf("the service has not answered for %s: %w", callLimit, context.DeadlineExceeded)

// limit ends a call that the service leaves without an answer.
type limit struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func limited(ctx context.Context) (context.Context, *limit) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &limit{cancel, time.AfterFunc(callLimit, func() { cancel(errSilent) })}
}

// more gives time for n bytes.
func (l *limit) more(n int64) { l.timer.Reset(callLimit + time.Duration(n/slowest)*time.Second) }

func (l *limit) end() {
	l.timer.Stop()
	l.cancel(nil)
}

// told is err, or why the call was given up.
func (l *limit) told(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// NewCloud is a Bucket over an open bucket of Go CDK, which Close closes.
func NewCloud(b *blob.Bucket) *Cloud { return &Cloud{b} }

// Close lets go of it.
func (c *Cloud) Close() error { return c.b.Close() }

func known(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return ErrNotFound
	}
	return err
}

// Get implements Bucket.
func (c *Cloud) Get(ctx context.Context, key string, most int64) ([]byte, error) {
	// The in-memory one does not look.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, l := limited(ctx)
	defer l.end()
	r, err := c.b.NewReader(ctx, key, nil)
	if err != nil {
		return nil, l.told(ctx, known(err))
	}
	defer r.Close()
	if r.Size() > most {
		return nil, ErrTooLarge
	}
	l.more(r.Size())
	data := make([]byte, r.Size())
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, l.told(ctx, err))
	}
	return data, nil
}

// Put implements Bucket.
func (c *Cloud) Put(ctx context.Context, key string, data []byte, _ How) error {
	ctx, l := limited(ctx)
	defer l.end()
	l.more(int64(len(data)))
	return l.told(ctx, c.b.WriteAll(ctx, key, data, &blob.WriterOptions{ContentType: "application/octet-stream"}))
}

// Stat implements Bucket.
func (c *Cloud) Stat(ctx context.Context, key string) (Info, error) {
	ctx, l := limited(ctx)
	defer l.end()
	a, err := c.b.Attributes(ctx, key)
	if err != nil {
		return Info{}, l.told(ctx, known(err))
	}
	return Info{Key: key, Size: a.Size, Modified: a.ModTime}, nil
}

// List implements Bucket.
func (c *Cloud) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		it := c.b.List(&blob.ListOptions{Prefix: prefix})
		for {
			// The time that whoever lists takes for an object is not the service's.
			ctx, l := limited(ctx)
			o, err := it.Next(ctx)
			err = l.told(ctx, err)
			l.end()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Info{}, err)
				return
			}
			if !yield(Info{Key: o.Key, Size: o.Size, Modified: o.ModTime}, nil) {
				return
			}
		}
	}
}

// Delete implements Bucket.
func (c *Cloud) Delete(ctx context.Context, key string) error {
	ctx, l := limited(ctx)
	defer l.end()
	if err := l.told(ctx, known(c.b.Delete(ctx, key))); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// Flush has nothing to do.
func (c *Cloud) Flush(ctx context.Context) error { return ctx.Err() }
