package chunkstore

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
)

// Fault is a chunk of a content that is damaged or missing, or the manifest if
// Digest is zero.
type Fault struct {
	Content image.ContentID
	// Chunk is the number of the first chunk of the content with that digest.
	Chunk  int64
	Digest image.Digest
	Length int
	Err    error
	// Source is the first of the other stores that has it sound, empty for none.
	Source string
	// Repaired says that it has been written anew from Source.
	Repaired bool
}

// Verify reads every chunk of a content and tells what is wrong with it. Other
// stores are asked for what is damaged here; with repair it is written anew from
// the first that has it. progress may be nil; it is called with bytes of data.
func (s *Store) Verify(ctx context.Context, id image.ContentID, repair bool, progress image.Progress, others ...image.Store) ([]Fault, error) {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if err := s.session.read(ctx, id); err != nil {
		return nil, s.failed("take a lease", err)
	}
	defer s.session.unread(id)
	m, err := s.Manifest(ctx, id)
	var faults []Fault
	if err != nil {
		if !isDamage(err) {
			return nil, err
		}
		f := Fault{Content: id, Chunk: -1, Err: err}
		if m, f.Source = manifestFrom(ctx, id, others); m == nil {
			return []Fault{f}, nil
		}
		if repair {
			// Its chunks are verified below; the manifest says nothing untrue meanwhile.
			if err := s.bucket.Put(ctx, manifestKey(id), encodeManifest(m), bucket.Durable); err != nil {
				return nil, s.failed("mend a manifest", err)
			}
			f.Repaired = true
		}
		faults = append(faults, f)
	}
	var mu sync.Mutex
	var done int64
	total := dataBytes(m)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.workers())
	seen := map[image.Digest]bool{}
	for _, n := range chunkNumbers(m) {
		d, length := m.Chunks[n], m.ChunkLen(n)
		again := seen[d]
		seen[d] = true
		g.Go(func() error {
			var fault *Fault
			if !again {
				var err error
				if fault, err = s.verifyChunk(gctx, id, n, d, length, repair, others); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if fault != nil {
				faults = append(faults, *fault)
			}
			done += int64(length)
			progress(done, total)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return faults, err
	}
	return faults, ctx.Err()
}

func manifestFrom(ctx context.Context, id image.ContentID, others []image.Store) (*image.Manifest, string) {
	for _, o := range others {
		if m, err := o.Manifest(ctx, id); err == nil {
			return m, o.Name()
		}
	}
	return nil, ""
}

// isDamage tells a content that is not what it should be from a store that
// cannot be asked.
func isDamage(err error) bool {
	var e *millpond.Error
	return errors.As(err, &e) && (e.Code == "ContentDamaged" || e.Code == "ContentNotFound")
}

func (s *Store) verifyChunk(ctx context.Context, id image.ContentID, n int64, d image.Digest, length int, repair bool, others []image.Store) (*Fault, error) {
	_, err := s.ReadChunk(ctx, d, length)
	if err == nil {
		return nil, nil
	}
	if !isDamage(err) {
		return nil, err
	}
	f := &Fault{Content: id, Chunk: n, Digest: d, Length: length, Err: err}
	for _, o := range others {
		plain, err := o.ReadChunk(ctx, d, length)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // damaged there too, or not to be had
		}
		f.Source = o.Name()
		if repair {
			if err := s.RepairChunk(ctx, d, plain); err != nil {
				return nil, err
			}
			f.Repaired = true
		}
		break
	}
	return f, nil
}

// Usage is what a store keeps, in bytes.
type Usage struct {
	Contents int `json:"contents"`
	// Logical is the sum of the contents' sizes, Data what of them is not holes or
	// zeros, Unique the same with each chunk counted once.
	Logical int64 `json:"logicalBytes"`
	Data    int64 `json:"dataBytes"`
	Unique  int64 `json:"uniqueBytes"`
	// Stored is what the chunks in use take, compressed; Garbage what waits for a
	// collection.
	Stored  int64 `json:"storedBytes"`
	Garbage int64 `json:"garbageBytes"`
	Chunks  int   `json:"chunks"`
}

// Usage counts. Contents that come and go meanwhile are counted or not.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	ids, err := s.IDs(ctx)
	if err != nil {
		return u, err
	}
	length := map[image.Digest]int{}
	for _, id := range ids {
		m, err := s.Manifest(ctx, id)
		if millpond.KindOf(err) == millpond.NotFound {
			continue
		}
		if err != nil {
			return u, err
		}
		u.Contents++
		u.Logical += m.Size
		u.Data += dataBytes(m)
		for n, d := range m.Chunks {
			length[d] = m.ChunkLen(n)
		}
	}
	for _, l := range length {
		u.Unique += int64(l)
	}
	for i, err := range s.bucket.List(ctx, chunkPrefix) {
		if err != nil {
			return u, s.failed("list the chunks", err)
		}
		if d, ok := parseDigest(i.Key[len(i.Key)-min(len(i.Key), 64):]); ok && length[d] > 0 {
			u.Chunks++
			u.Stored += i.Size
		} else {
			u.Garbage += i.Size
		}
	}
	return u, nil
}
