package batchapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/events"
)

// Webhooks are the verbs of webhooks, as package events has them.
type Webhooks interface {
	Put(ctx context.Context, w events.Webhook, after *uint64, validate bool) (events.Subscription, bool, error)
	List(ctx context.Context, acct millpond.AccountName) ([]events.Subscription, error)
	Get(ctx context.Context, acct millpond.AccountName, id string) (events.Subscription, error)
	Enable(ctx context.Context, acct millpond.AccountName, id string) error
	Delete(ctx context.Context, acct millpond.AccountName, id string) error
}

// A webhook makes the server send what the account does to others, so it needs the
// right to change the account itself.
const (
	actAccountRead  = "Microsoft.Batch/batchAccounts/read"
	actAccountWrite = "Microsoft.Batch/batchAccounts/write"
)

// maxHookBody bounds a webhook's body.
const maxHookBody = 64 << 10

// hookBody is a webhook as a client writes it.
type hookBody struct {
	URL      string   `json:"url"`
	Secret   string   `json:"secret"`
	Kinds    []string `json:"kinds"`
	Pools    []string `json:"poolIds"`
	Jobs     []string `json:"jobIds"`
	IDs      []string `json:"ids"`
	States   []string `json:"states"`
	After    *eventID `json:"after"`
	Validate bool     `json:"validate"`
}

// eventID is a number, or one in quotes as events have it.
type eventID uint64

func (n *eventID) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseUint(string(bytes.Trim(b, `"`)), 10, 63)
	*n = eventID(v)
	return err
}

// maxHookFilter bounds the words of one list.
const maxHookFilter = 100

func parseHook(text []byte) (hookBody, []events.Kind, error) {
	var b hookBody
	if err := json.Unmarshal(text, &b); err != nil {
		return b, nil, millpond.Errorf(millpond.Invalid, "InvalidRequestBody", "The body is no webhook: %v.", err)
	}
	for name, list := range map[string][]string{"kinds": b.Kinds, "poolIds": b.Pools, "jobIds": b.Jobs, "ids": b.IDs, "states": b.States} {
		if len(list) > maxHookFilter {
			return b, nil, millpond.InvalidProperty(name, "", "A list has at most 100 words.")
		}
	}
	kinds, unknown := events.KindsOf(b.Kinds)
	if len(unknown) > 0 {
		return b, nil, millpond.InvalidProperty("kinds", unknown[0], "The kinds are pool, node, job, task and jobschedule.")
	}
	if len(kinds) == 0 {
		kinds = events.Kinds()
	}
	return b, kinds, nil
}

// hookModel is a webhook as it is shown. Secrets of its URL are not.
func hookModel(r *request, s events.Subscription) map[string]any {
	shown := s.URL
	if u, err := url.Parse(s.URL); err == nil && u.RawQuery != "" {
		u.RawQuery = "..."
		shown = u.String()
	}
	m := map[string]any{"id": s.ID, "url": shown, "signed": s.Secret != "", "creationTime": s.Created.UTC().Format(time.RFC3339Nano), "lastEventId": strconv.FormatUint(s.Cursor, 10),
		"kinds": s.Filter.Kinds, "state": "enabled", "delivered": s.Status.Delivered, "self": r.address("millpond", "webhooks", s.ID)}
	for name, list := range map[string][]string{"poolIds": s.Filter.Pools, "jobIds": s.Filter.Jobs, "ids": s.Filter.IDs, "states": s.Filter.States} {
		if len(list) > 0 {
			m[name] = list
		}
	}
	for name, t := range map[string]time.Time{"lastSuccess": s.Status.LastSuccess, "failingSince": s.Status.FailingSince} {
		if !t.IsZero() {
			m[name] = t.UTC().Format(time.RFC3339Nano)
		}
	}
	if s.Status.LastError != "" {
		m["lastError"] = strings.ReplaceAll(s.Status.LastError, s.URL, shown)
	}
	if s.Status.Disabled != "" {
		m["state"], m["reason"] = "disabled", strings.ReplaceAll(s.Status.Disabled, s.URL, shown)
	}
	return m
}

func (e *Edge) putWebhook(w http.ResponseWriter, r *request) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxHookBody+1))
	if err != nil {
		return err
	}
	if len(text) > maxHookBody {
		return millpond.Errorf(millpond.TooLarge, "RequestBodyTooLarge", "A webhook has at most %d bytes.", maxHookBody)
	}
	b, kinds, err := parseHook(text)
	if err != nil {
		return err
	}
	for _, k := range kinds {
		if err := e.mayRead(r, k); err != nil {
			return err
		}
	}
	var after *uint64
	if b.After != nil {
		after = (*uint64)(b.After)
	}
	s, added, err := e.Webhooks.Put(r.Context(), events.Webhook{ID: r.Param("webhookId"), Account: r.acct.Name, Source: source(r.acct), URL: b.URL, Secret: b.Secret,
		Filter: events.Filter{Kinds: kinds, Pools: b.Pools, Jobs: b.Jobs, IDs: b.IDs, States: b.States}}, after, b.Validate)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if added {
		status = http.StatusCreated
	}
	e.writeJSON(w, r, status, hookModel(r, s))
	return nil
}

func (e *Edge) listWebhooks(w http.ResponseWriter, r *request) error {
	all, err := e.Webhooks.List(r.Context(), r.acct.Name)
	if err != nil {
		return err
	}
	value := []any{}
	for _, s := range all {
		value = append(value, hookModel(r, s))
	}
	e.writeJSON(w, r, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) getWebhook(w http.ResponseWriter, r *request) error {
	s, err := e.Webhooks.Get(r.Context(), r.acct.Name, r.Param("webhookId"))
	if err != nil {
		return err
	}
	e.writeJSON(w, r, http.StatusOK, hookModel(r, s))
	return nil
}

func (e *Edge) enableWebhook(w http.ResponseWriter, r *request) error {
	if err := e.Webhooks.Enable(r.Context(), r.acct.Name, r.Param("webhookId")); err != nil {
		return err
	}
	return empty(w, http.StatusNoContent)
}

func (e *Edge) deleteWebhook(w http.ResponseWriter, r *request) error {
	if err := e.Webhooks.Delete(r.Context(), r.acct.Name, r.Param("webhookId")); err != nil {
		return err
	}
	return empty(w, http.StatusNoContent)
}
