package custody

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/sqlite"
)

// Hold keeps contents from deletion while work is done whose row does not name
// them yet. The use must be committed before End, which deletes what no row
// uses: so failed work leaves nothing behind. A Hold is for one goroutine.
type Hold struct {
	k    *Keeper
	mine []sqlite.ContentUse
}

// Hold begins one; the caller ends it.
func (k *Keeper) Hold() *Hold { return &Hold{k: k} }

func (h *Hold) keep(store, content string) {
	u := sqlite.ContentUse{Store: store, Content: content}
	h.k.mu.Lock()
	for h.k.deleting[u] != nil {
		ended := h.k.deleting[u]
		h.k.mu.Unlock()
		<-ended
		h.k.mu.Lock()
	}
	h.k.held[u]++
	h.k.mu.Unlock()
	h.mine = append(h.mine, u)
}

// Keep holds a content that is in a store already; NotFound kind if it is not.
func (h *Hold) Keep(ctx context.Context, from image.Store, id image.ContentID) (image.Content, error) {
	h.keep(from.Name(), string(id))
	return from.Stat(ctx, id)
}

// Ingest puts src into a store and holds the content.
func (h *Hold) Ingest(ctx context.Context, dst image.Store, src image.Source, p image.Progress) (image.Content, error) {
	for range 10 {
		c, err := dst.Ingest(ctx, src, p)
		if err != nil {
			return c, err
		}
		// The name is known only now. The same content may have been there and
		// have been deleted since, so look after it is held.
		h.keep(dst.Name(), string(c.ID))
		if _, err := dst.Stat(ctx, c.ID); err == nil || millpond.KindOf(err) != millpond.NotFound {
			return c, err
		}
	}
	return image.Content{}, millpond.Errorf(millpond.Unavailable, "ServiceUnavailable", "The store %s lost what was written to it. Check its folder and try again.", dst.Name())
}

// Fetch replicates a content into dst, chunk by chunk from the first of the
// sources that has it sound, and holds the copy. The error says which stores were
// in the way.
func (h *Hold) Fetch(ctx context.Context, dst image.Store, id image.ContentID, p func(image.Moved), from ...image.Store) (image.Content, error) {
	h.keep(dst.Name(), string(id))
	c, err := dst.Fetch(ctx, id, p, from...)
	if err == nil || ctx.Err() != nil {
		return c, err
	}
	e := millpond.AsError(err)
	text := e.Message
	// The system's own word for it is no secret, and what an operator needs.
	if no := syscall.Errno(0); errors.As(err, &no) {
		text = fmt.Sprintf("%s (%v)", text, no)
	}
	var names []string
	for _, s := range from {
		names = append(names, s.Name())
	}
	return c, millpond.Errorf(e.Kind, e.Code, "from %s to %s: %s", strings.Join(names, ", "), dst.Name(), text).Because(err)
}

// End lets go and deletes what no row uses.
func (h *Hold) End(ctx context.Context) error {
	h.k.mu.Lock()
	for _, u := range h.mine {
		if h.k.held[u]--; h.k.held[u] <= 0 {
			delete(h.k.held, u)
		}
	}
	h.k.mu.Unlock()
	return h.k.Release(ctx, h.mine)
}
