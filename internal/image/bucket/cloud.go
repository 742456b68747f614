package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/s3blob"    // s3://
	"gocloud.dev/gcerrors"
)

// Cloud is a Bucket in a service that Go CDK knows. What a Put has taken is
// durable there.
type Cloud struct{ b *blob.Bucket }

// openCloud opens what u names and looks whether it answers.
func openCloud(ctx context.Context, u string) (*Cloud, error) {
	b, err := blob.OpenBucket(ctx, u)
	if err != nil {
		return nil, err
	}
	ok, err := b.IsAccessible(ctx)
	if err == nil && !ok {
		err = errors.New("there is no such bucket or container; make it first")
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &Cloud{b}, nil
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

func (c *Cloud) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	// The in-memory one does not look.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := c.b.NewReader(ctx, key, nil)
	if err != nil {
		return nil, known(err)
	}
	defer r.Close()
	if r.Size() > limit {
		return nil, ErrTooLarge
	}
	data := make([]byte, r.Size())
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return data, nil
}

func (c *Cloud) Put(ctx context.Context, key string, data []byte, _ How) error {
	return c.b.WriteAll(ctx, key, data, &blob.WriterOptions{ContentType: "application/octet-stream"})
}

func (c *Cloud) Stat(ctx context.Context, key string) (Info, error) {
	a, err := c.b.Attributes(ctx, key)
	if err != nil {
		return Info{}, known(err)
	}
	return Info{Key: key, Size: a.Size, Modified: a.ModTime}, nil
}

func (c *Cloud) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		it := c.b.List(&blob.ListOptions{Prefix: prefix})
		for {
			o, err := it.Next(ctx)
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

func (c *Cloud) Delete(ctx context.Context, key string) error {
	if err := known(c.b.Delete(ctx, key)); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// Flush has nothing to do.
func (c *Cloud) Flush(ctx context.Context) error { return ctx.Err() }
