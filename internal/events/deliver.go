package events

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"millpond.dev/millpond/internal/sqlite"
)

// Headers of a delivery.
const (
	// SignatureHeader has t=UNIX-SECONDS,v1=HEX: the HMAC-SHA256, by the secret, of
	// the seconds, a dot, and the body.
	SignatureHeader = "millpond-signature"
	HookHeader      = "millpond-webhook"
)

// Sign is the value of SignatureHeader.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(t + "."))
	m.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(m.Sum(nil))
}

// Run delivers to every webhook, each on its own, until ctx ends.
func (h *Hooks) Run(ctx context.Context) {
	type running struct {
		version int64
		cancel  context.CancelFunc
	}
	var all sync.WaitGroup
	defer all.Wait()
	now := map[[2]string]running{}
	defer func() {
		for _, r := range now {
			r.cancel()
		}
	}()
	for {
		var rows []sqlite.WebhookRow
		err := h.log.db.View(ctx, func(tx *sqlite.Tx) (err error) {
			rows, err = tx.Webhooks("")
			return err
		})
		if err != nil && ctx.Err() == nil {
			h.log.log.Error("the webhooks could not be read", "err", err)
		}
		there := map[[2]string]bool{}
		for _, row := range rows {
			s, err := subscription(row)
			if err != nil {
				h.log.log.Error("a webhook cannot be read", "webhook", row.Key, "err", err)
				continue
			}
			k := [2]string{string(row.Account), row.Key}
			there[k] = true
			if r, ok := now[k]; ok && r.version == s.Version {
				continue
			} else if ok {
				r.cancel()
			}
			own, cancel := context.WithCancel(ctx)
			now[k] = running{s.Version, cancel}
			if s.Status.Disabled == "" {
				all.Go(func() { h.deliver(own, s) })
			}
		}
		for k, r := range now {
			if err == nil && !there[k] {
				r.cancel()
				delete(now, k)
			}
		}
		var again <-chan time.Time
		if err != nil {
			again = time.After(h.cfg.FirstPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-h.wake.C():
		case <-again:
		}
	}
}

// passBy is how many events that a webhook does not want may pass before its place
// is written down.
const passBy = 5000

// deliver posts what comes to one webhook, in order, until it is changed, deleted
// or disabled.
func (h *Hooks) deliver(ctx context.Context, s Subscription) {
	log := h.log.log.With("account", s.Account, "webhook", s.ID)
	written := s.Cursor
	save := func() bool {
		row, err := s.row()
		ours := false
		if err == nil {
			err = h.log.db.Update(ctx, func(tx *sqlite.Tx) (err error) {
				ours, err = tx.PutWebhookStatus(row)
				return err
			})
		}
		if err != nil && ctx.Err() == nil {
			// The same events are posted again after a restart.
			log.Error("how far a webhook is could not be written", "err", err)
			return true
		}
		written = s.Cursor
		return ours
	}
	for ctx.Err() == nil {
		batch, through, more, err := h.next(ctx, s)
		switch {
		case err != nil && ctx.Err() == nil:
			log.Error("the events of a webhook could not be read", "err", err)
			if rest(ctx, h.cfg.LastPause) != nil {
				return
			}
			continue
		case err != nil:
			return
		case len(batch) == 0:
			if s.Cursor = through; s.Cursor-written > passBy && !save() {
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
			continue
		}
		for try := 0; ; try++ {
			wait, err := h.post(ctx, s, batch)
			if err == nil {
				s.Cursor, s.Status.Delivered = through, s.Status.Delivered+int64(len(batch))
				s.Status.LastSuccess, s.Status.FailingSince, s.Status.LastError = h.log.clock.Now(), time.Time{}, ""
				break
			}
			if ctx.Err() != nil {
				return
			}
			now := h.log.clock.Now()
			if s.Status.FailingSince.IsZero() {
				s.Status.FailingSince = now
			}
			s.Status.LastError = err.Error()
			switch {
			case errors.Is(err, errGone):
				s.Status.Disabled = "The endpoint answered 410, by which it says that it wants no more."
			case now.Sub(s.Status.FailingSince) >= h.cfg.Patience:
				s.Status.Disabled = fmt.Sprintf("Every try has failed for %s. The last error: %s", h.cfg.Patience, err)
			}
			log.Warn("a webhook does not take its events", "try", try+1, "disabled", s.Status.Disabled != "", "err", err)
			if !save() || s.Status.Disabled != "" {
				return
			}
			pause := min(h.cfg.FirstPause<<min(try, 16), h.cfg.LastPause)
			if rest(ctx, max(pause, min(wait, h.cfg.LastPause))) != nil {
				return
			}
		}
		if !save() {
			return
		}
	}
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// next collects what a webhook wants of the next events, up to a batch, and where
// that ends. more is closed when there are events after that.
func (h *Hooks) next(ctx context.Context, s Subscription) (batch []CloudEvent, through uint64, more <-chan struct{}, err error) {
	through = s.Cursor
	for {
		var list []Event
		list, more, err = h.log.Read(ctx, through)
		if errors.Is(err, ErrGone) {
			if len(batch) > 0 {
				return batch, through, more, nil
			}
			last := h.log.Last()
			return []CloudEvent{Lost(s.Source, last, h.log.clock.Now())}, last, more, nil
		}
		if err != nil || len(list) == 0 {
			return batch, through, more, err
		}
		for _, e := range list {
			if len(batch) == h.cfg.Batch {
				return batch, through, more, nil
			}
			through = e.Sequence
			if s.Filter.Match(e) {
				batch = append(batch, e.Cloud(s.Source))
			}
		}
		if len(batch) > 0 {
			return batch, through, more, nil
		}
	}
}

var errGone = errors.New("410 Gone")

// post makes one delivery. wait is how long the endpoint asks to be left alone.
func (h *Hooks) post(ctx context.Context, s Subscription, batch []CloudEvent) (wait time.Duration, err error) {
	body, err := json.Marshal(batch)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/cloudevents-batch+json; charset=utf-8")
	req.Header.Set("User-Agent", "millpond")
	req.Header.Set(HookHeader, s.ID)
	if s.Secret != "" {
		req.Header.Set(SignatureHeader, Sign(s.Secret, h.log.clock.Now(), body))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return 0, nil
	case resp.StatusCode == http.StatusGone:
		return 0, errGone
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		wait = time.Duration(n) * time.Second
	}
	return wait, fmt.Errorf("the endpoint answered %s", resp.Status)
}
