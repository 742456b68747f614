package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Webhook is a subscription: whom to post which events.
type Webhook struct {
	ID      string               `json:"id"`
	Account millpond.AccountName `json:"account"`
	// Source is the account's address, as events name it.
	Source string `json:"source"`
	URL    string `json:"url"`
	// Secret signs deliveries; empty signs none. It is never given out.
	Secret  string    `json:"secret,omitempty"`
	Filter  Filter    `json:"filter"`
	Created time.Time `json:"created"`
	// Version tells one setting of a webhook from the next.
	Version int64 `json:"version"`
}

// Status is how the deliveries of a webhook go.
type Status struct {
	// Disabled says why nothing is posted any more; empty while it is.
	Disabled string `json:"disabled,omitempty"`
	// Delivered counts events that were taken.
	Delivered   int64     `json:"delivered"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	// FailingSince is when the first try failed that has had no success after it.
	FailingSince time.Time `json:"failingSince,omitzero"`
	LastError    string    `json:"lastError,omitempty"`
}

// Subscription is a webhook with its place and status.
type Subscription struct {
	Webhook
	Cursor uint64
	Status Status
}

// Limits of webhooks.
const (
	maxWebhooks  = 20 // of an account
	maxURL       = 2000
	minSecret    = 16
	validateTime = 10 * time.Second
)

// HooksConfig bounds the deliveries; zero values get defaults.
type HooksConfig struct {
	// Batch is how many events one POST has at most; 100.
	Batch int
	// Patience is how long an endpoint may fail before it is disabled; 24 h.
	Patience time.Duration
	// FirstPause and LastPause bound the wait after a failure, which doubles; 1 s
	// and 5 min.
	FirstPause, LastPause time.Duration
	// Timeout bounds one POST; 30 s.
	Timeout time.Duration
}

// Hooks are the verbs of webhooks and their delivery. Make it with NewHooks.
type Hooks struct {
	log    *Log
	client *http.Client
	cfg    HooksConfig
	wake   *wake.Signal
}

// NewHooks makes Hooks that post with client.
func NewHooks(l *Log, client *http.Client, cfg HooksConfig) *Hooks {
	if cfg.Batch == 0 {
		cfg.Batch = 100
	}
	if cfg.Patience == 0 {
		cfg.Patience = 24 * time.Hour
	}
	if cfg.FirstPause == 0 {
		cfg.FirstPause = time.Second
	}
	if cfg.LastPause == 0 {
		cfg.LastPause = 5 * time.Minute
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	return &Hooks{log: l, client: client, cfg: cfg, wake: wake.New()}
}

func (w Webhook) check() error {
	if !millpond.ValidBatchID(w.ID) {
		return millpond.InvalidProperty("id", w.ID, "An id has 1 to 64 letters, digits, hyphens and underscores.")
	}
	if w.URL == "" {
		return millpond.MissingProperty("url")
	}
	u, err := url.Parse(w.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || len(w.URL) > maxURL {
		return millpond.InvalidProperty("url", "", "The url must be an http or https URL with a host and without a password, of at most 2000 characters.")
	}
	if w.Secret != "" && len(w.Secret) < minSecret {
		return millpond.InvalidProperty("secret", "", "A secret has at least 16 characters.")
	}
	return nil
}

// Put adds a webhook, or replaces it; events after a sequence are posted, new ones
// only without it. With validate the endpoint must first agree, as the
// specification of CloudEvents for web hooks has it. It tells whether the webhook
// is new.
func (h *Hooks) Put(ctx context.Context, w Webhook, after *uint64, validate bool) (Subscription, bool, error) {
	if err := w.check(); err != nil {
		return Subscription{}, false, err
	}
	if after != nil && *after > h.log.Last() {
		return Subscription{}, false, millpond.InvalidProperty("after", fmt.Sprint(*after), "There is no such event yet.")
	}
	if validate {
		if err := h.validate(ctx, w); err != nil {
			return Subscription{}, false, err
		}
	}
	added := false
	s := Subscription{Webhook: w, Cursor: h.log.Last()}
	err := h.log.db.Update(ctx, func(tx *sqlite.Tx) error {
		all, err := tx.Webhooks(w.Account)
		if err != nil {
			return err
		}
		added = true
		s.Created = tx.Now
		for _, row := range all {
			if row.Key != strings.ToLower(w.ID) {
				continue
			}
			added = false
			old, err := subscription(row)
			if err != nil {
				return err
			}
			s.Created, s.Cursor = old.Created, old.Cursor
		}
		if added && len(all) >= maxWebhooks {
			return millpond.Errorf(millpond.Conflict, "QuotaReached", "An account has at most %d webhooks. Delete one first.", maxWebhooks)
		}
		if after != nil {
			s.Cursor = *after
		}
		s.Version = tx.Now.UnixMicro()
		row, err := s.row()
		if err != nil {
			return err
		}
		return tx.PutWebhook(row)
	})
	if err == nil {
		h.wake.Wake()
	}
	return s, added, err
}

// validate asks the endpoint whether it takes events from here.
func (h *Hooks) validate(ctx context.Context, w Webhook) error {
	ctx, cancel := context.WithTimeout(ctx, validateTime)
	defer cancel()
	u, err := url.Parse(w.Source)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodOptions, w.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("WebHook-Request-Origin", u.Host)
	resp, err := h.client.Do(req)
	if err == nil {
		resp.Body.Close()
		if allowed := resp.Header.Get("WebHook-Allowed-Origin"); resp.StatusCode < 300 && (allowed == "*" || strings.EqualFold(allowed, u.Host)) {
			return nil
		}
		err = fmt.Errorf("it answered %s with WebHook-Allowed-Origin %q", resp.Status, resp.Header.Get("WebHook-Allowed-Origin"))
	}
	return millpond.Errorf(millpond.Invalid, "WebhookValidationFailed",
		"The endpoint does not agree to take events: OPTIONS with WebHook-Request-Origin: %s must be answered with 200 and that origin, or *, as WebHook-Allowed-Origin. Let it do so, or leave validate out.", u.Host).
		With("Reason", err.Error())
}

func subscription(row sqlite.WebhookRow) (s Subscription, err error) {
	s.Cursor = row.Cursor
	if err := json.Unmarshal([]byte(row.Document), &s.Webhook); err != nil {
		return s, err
	}
	s.Filter.Account = s.Account
	return s, json.Unmarshal([]byte(row.Status), &s.Status)
}

func (s Subscription) row() (sqlite.WebhookRow, error) {
	doc, err := json.Marshal(s.Webhook)
	if err != nil {
		return sqlite.WebhookRow{}, err
	}
	status, err := json.Marshal(s.Status)
	return sqlite.WebhookRow{Account: s.Account, Key: strings.ToLower(s.ID), Document: string(doc), Cursor: s.Cursor, Status: string(status)}, err
}

func noHook() error {
	return millpond.Errorf(millpond.NotFound, "WebhookNotFound", "The specified webhook does not exist.")
}

// List lists the webhooks of an account.
func (h *Hooks) List(ctx context.Context, acct millpond.AccountName) (out []Subscription, err error) {
	err = h.log.db.View(ctx, func(tx *sqlite.Tx) error {
		rows, err := tx.Webhooks(acct)
		for _, row := range rows {
			s, err := subscription(row)
			if err != nil {
				return err
			}
			out = append(out, s)
		}
		return err
	})
	return out, err
}

// Get reads a webhook.
func (h *Hooks) Get(ctx context.Context, acct millpond.AccountName, id string) (s Subscription, err error) {
	err = h.log.db.View(ctx, func(tx *sqlite.Tx) error {
		row, err := tx.Webhook(acct, strings.ToLower(id))
		if errors.Is(err, sqlite.ErrNoRow) {
			return noHook()
		}
		if err == nil {
			s, err = subscription(row)
		}
		return err
	})
	return s, err
}

// Enable posts again to an endpoint that was disabled, from where it stopped.
func (h *Hooks) Enable(ctx context.Context, acct millpond.AccountName, id string) error {
	err := h.log.db.Update(ctx, func(tx *sqlite.Tx) error {
		row, err := tx.Webhook(acct, strings.ToLower(id))
		if errors.Is(err, sqlite.ErrNoRow) {
			return noHook()
		}
		if err != nil {
			return err
		}
		s, err := subscription(row)
		if err != nil {
			return err
		}
		s.Status.Disabled, s.Status.FailingSince = "", time.Time{}
		s.Version = tx.Now.UnixMicro()
		if row, err = s.row(); err != nil {
			return err
		}
		return tx.PutWebhook(row)
	})
	if err == nil {
		h.wake.Wake()
	}
	return err
}

// Delete removes a webhook; a POST that is under way still ends.
func (h *Hooks) Delete(ctx context.Context, acct millpond.AccountName, id string) error {
	err := h.log.db.Update(ctx, func(tx *sqlite.Tx) error {
		there, err := tx.DeleteWebhook(acct, strings.ToLower(id))
		if err == nil && !there {
			return noHook()
		}
		return err
	})
	h.wake.Wake()
	return err
}

// DeleteAccount removes the webhooks of an account that goes.
func (h *Hooks) DeleteAccount(ctx context.Context, acct millpond.AccountName) error {
	err := h.log.db.Update(ctx, func(tx *sqlite.Tx) error { return tx.DeleteWebhooks(acct) })
	h.wake.Wake()
	return err
}
