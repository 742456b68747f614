package chunkstore

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
)

// CollectOptions say how to collect; the zero value collects at once.
type CollectOptions struct {
	// Grace spares chunks that were written less than this ago, so that a broken-off
	// ingest or copy is resumed from where it was.
	Grace time.Duration
	// DryRun only counts.
	DryRun bool
	// Progress is told how many of how many chunks have been deleted; may be nil.
	Progress func(done, total int)
}

// Collected is what a collection did.
type Collected struct {
	// Chunks and Bytes are what was deleted, or would be; Bytes as stored.
	Chunks int   `json:"chunks"`
	Bytes  int64 `json:"bytes"`
	// Spared had no use when the collection began and has one now.
	Spared int `json:"spared"`
	// Young are chunks without a use that are within the grace time.
	Young int `json:"young"`
	// Busy says that a process that writes to the store did not answer in time; the
	// next collection tries again.
	Busy bool `json:"busy"`
}

// doomLimit bounds the chunks of one collection, 200 GiB; what is left is for
// the next.
const doomLimit = 400_000

const tombPrefix = "deleted/"

// Collect deletes the chunks that no manifest names. It may run while anything
// else runs, in any process, another Collect included, and may end anywhere;
// docs/adr/0012 has the argument. The order of its steps is that argument:
//
//	mark ► publish the doom ► hear every writer ► mark again ► delete ► withdraw the doom
func (s *Store) Collect(ctx context.Context, o CollectOptions) (Collected, error) {
	var done Collected
	tombs, err := s.tombs(ctx)
	if err != nil {
		return done, err
	}
	used, err := s.referenced(ctx)
	if err != nil {
		return done, err
	}
	found := map[image.Digest]int64{}
	now := time.Now()
	for i, err := range s.bucket.List(ctx, chunkPrefix) {
		if err != nil {
			return done, s.failed("list the chunks", err)
		}
		d, ok := parseDigest(i.Key[strings.LastIndexByte(i.Key, '/')+1:])
		switch {
		case !ok || used[d] || len(found) >= doomLimit:
		case o.Grace > 0 && now.Sub(i.Modified) < o.Grace:
			done.Young++
		default:
			found[d] = i.Size
		}
	}
	if o.DryRun {
		for _, size := range found {
			done.Chunks++
			done.Bytes += size
		}
		return done, nil
	}
	if len(found) == 0 && len(tombs) == 0 {
		return done, nil
	}
	c, err := s.session.begin(ctx)
	if err != nil {
		return done, s.failed("begin a collection", err)
	}
	defer c.end()
	if err := s.sweep(ctx, c, found, tombs, o.Progress, &done); err != nil {
		return done, s.failed("collect", err)
	}
	return done, nil
}

// sweep is Collect from the doom on.
func (s *Store) sweep(ctx context.Context, c *claims, found map[image.Digest]int64, tombs []tomb, progress func(int, int), done *Collected) (err error) {
	name := randomName()
	if len(found) > 0 {
		d := doom{Session: c.id}
		for digest := range found {
			d.Chunks = append(d.Chunks, hex.EncodeToString(digest[:]))
		}
		data, err := json.Marshal(d)
		if err != nil {
			return err
		}
		defer func() {
			// Withdrawn whatever happened: writers wait for it.
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err = errors.Join(err, s.bucket.Delete(end, doomPrefix+name))
		}()
		if err := s.bucket.Put(ctx, doomPrefix+name, data, bucket.Durable); err != nil {
			return err
		}
	}
	heard, err := s.hear(ctx, c, name, len(found) > 0)
	if err != nil || heard == nil {
		done.Busy = heard == nil && err == nil
		return err
	}
	used, err := s.referenced(ctx)
	if err != nil {
		return err
	}
	for h := range heard.keeps {
		if d, ok := parseDigest(h); ok {
			used[d] = true
		}
	}
	// Listed after the manifests: what was deleted since the first mark is in
	// neither of them, and may have been opened before or after the sessions spoke.
	now, err := s.tombs(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, t := range tombs {
		known[t.key] = true
	}
	var unread []tomb
	for _, t := range now {
		if known[t.key] && !heard.reads[t.content] {
			unread = append(unread, t)
			continue
		}
		m, err := s.readManifest(ctx, t.key, t.content)
		if millpond.KindOf(err) == millpond.NotFound {
			// Another collection took it, so no reader began before it was made.
			continue
		}
		if err != nil {
			return err
		}
		for _, d := range m.Chunks {
			used[d] = true
		}
	}
	for d := range found {
		if used[d] {
			done.Spared++
			delete(found, d)
		}
	}
	if err := s.deleteChunks(ctx, c, found, progress, done); err != nil {
		return err
	}
	for _, t := range unread {
		if err := s.bucket.Delete(ctx, t.key); err != nil {
			return err
		}
	}
	if len(heard.dead) > 0 {
		// What the dead have written without a sync has nobody else to make it durable.
		if err := s.bucket.Flush(ctx); err != nil {
			return err
		}
	}
	for _, id := range heard.dead {
		if err := s.bucket.Delete(ctx, sessionPrefix+id); err != nil {
			return err
		}
	}
	return nil
}

// deleteChunks deletes as long as nobody can have taken the session for dead:
// others would rely on chunks of its doom then.
func (s *Store) deleteChunks(ctx context.Context, c *claims, found map[image.Digest]int64, progress func(int, int), done *Collected) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.workers())
	total := len(found)
	for d, size := range found {
		if gctx.Err() != nil {
			break
		}
		if !c.valid() {
			return errors.Join(errLost, g.Wait())
		}
		g.Go(func() error {
			call, cancel := context.WithDeadline(gctx, c.deadline())
			defer cancel()
			return s.bucket.Delete(call, chunkKey(d))
		})
		done.Chunks++
		done.Bytes += size
		if progress != nil {
			progress(done.Chunks, total)
		}
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// referenced are the digests that manifests name. A manifest that cannot be read
// is an error: what it names must not be deleted.
func (s *Store) referenced(ctx context.Context) (map[image.Digest]bool, error) {
	ids, err := s.IDs(ctx)
	if err != nil {
		return nil, err
	}
	used := map[image.Digest]bool{}
	for _, id := range ids {
		m, err := s.Manifest(ctx, id)
		if millpond.KindOf(err) == millpond.NotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, d := range m.Chunks {
			used[d] = true
		}
	}
	return used, nil
}

// tomb is the manifest of a deleted content, kept for those who still read it.
// Each deletion makes one of its own name, so that a collection deletes none
// that it has not seen before it asked who reads.
type tomb struct {
	key     string
	content image.ContentID
}

func (s *Store) tombs(ctx context.Context) ([]tomb, error) {
	var all []tomb
	for i, err := range s.bucket.List(ctx, tombPrefix) {
		if err != nil {
			return nil, s.failed("list what was deleted", err)
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(i.Key, tombPrefix), ".")
		all = append(all, tomb{i.Key, image.ContentID(id)})
	}
	return all, nil
}

// heardOf is what the sessions of a store said.
type heardOf struct {
	keeps map[string]bool
	reads map[image.ContentID]bool
	// dead are sessions whose processes have gone.
	dead []string
}

// hear asks every session that there is once a doom has been published: each
// that writes has to have seen the doom. A session that is not there yet sees
// the doom before it relies on anything. Nil without an error if one did not
// answer in time.
func (s *Store) hear(ctx context.Context, c *claims, doomName string, mustSee bool) (*heardOf, error) {
	h := &heardOf{keeps: map[string]bool{}, reads: map[image.ContentID]bool{}}
	waiting := map[string]bool{}
	ids, err := s.sessions(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		waiting[id] = true
	}
	// Our own record need not wait for its loop.
	if err := s.session.takeTurn(ctx); err != nil {
		return nil, err
	}
	err = s.session.observe(ctx)
	if err == nil {
		err = s.session.publish(ctx, bucket.Lazy)
	}
	<-s.session.turn
	if err != nil {
		return nil, err
	}
	dead := graveyard{}
	// A dead session is told from a silent one after a lease; twice that is time
	// enough for the living.
	timeout := time.After(2*s.session.timing.Lease + 2*s.session.timing.Poll)
	poll := time.NewTicker(s.session.timing.Poll)
	defer poll.Stop()
	for {
		for id := range waiting {
			r, err := s.readSession(ctx, id)
			if errors.Is(err, bucket.ErrNotFound) {
				delete(waiting, id) // its work is published, or given up
				continue
			}
			if err != nil {
				return nil, err
			}
			h.take(r)
			switch {
			case dead.isDead(id, r, s.session.timing.Lease):
				h.dead = append(h.dead, id)
				delete(waiting, id)
			case !mustSee || !r.Writing || r.saw(doomName):
				delete(waiting, id)
			}
		}
		if len(waiting) == 0 {
			return h, nil
		}
		select {
		case <-poll.C:
		case <-timeout:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !c.valid() {
			return nil, errLost
		}
	}
}

func (h *heardOf) take(r record) {
	for _, k := range r.Keeps {
		h.keeps[k] = true
	}
	for _, id := range r.Reads {
		h.reads[id] = true
	}
}

func (r record) saw(doomName string) bool {
	for _, s := range r.Seen {
		if s == doomName {
			return true
		}
	}
	return false
}

func (s *Store) sessions(ctx context.Context) ([]string, error) {
	var ids []string
	for i, err := range s.bucket.List(ctx, sessionPrefix) {
		if err != nil {
			return nil, s.failed("list the sessions", err)
		}
		ids = append(ids, strings.TrimPrefix(i.Key, sessionPrefix))
	}
	return ids, nil
}

func (s *Store) readSession(ctx context.Context, id string) (record, error) {
	var r record
	b, err := s.bucket.Get(ctx, sessionPrefix+id, maxRecord)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("the lease %s cannot be read; delete the object %s if no such process runs: %w", id, sessionPrefix+id, err)
	}
	return r, nil
}

// longDead is the age of a record, by its own clock, at which no clocks differ
// enough for its process to live.
const longDead = time.Hour

// graveyard tells dead sessions by their records, which stand still.
type graveyard map[string]lastSeen

type lastSeen struct {
	renewal int64
	since   time.Time
}

// isDead says that a session's record has not changed for a lease, by our own
// clock.
func (g graveyard) isDead(id string, r record, lease time.Duration) bool {
	now := time.Now()
	if now.Sub(r.Renewed) > longDead+lease {
		return true
	}
	seen, ok := g[id]
	if !ok || seen.renewal != r.Renewal {
		g[id] = lastSeen{r.Renewal, now}
		return false
	}
	return now.Sub(seen.since) > lease
}

// buryDooms withdraws the dooms of collections whose processes have gone.
func (s *Store) buryDooms(ctx context.Context, x *session) {
	x.mu.Lock()
	owners := map[string]string{}
	for name, f := range x.dooms {
		owners[name] = f.session
	}
	x.mu.Unlock()
	for name, owner := range owners {
		r, err := s.readSession(ctx, owner)
		if errors.Is(err, bucket.ErrNotFound) || err == nil && x.dead.isDead(owner, r, x.timing.Lease) {
			// An error is the next round's.
			_ = s.bucket.Delete(ctx, doomPrefix+name)
		}
	}
}
