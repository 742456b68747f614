package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// WebhookCmd looks after webhooks, which are posted events.
type WebhookCmd struct {
	Account string           `help:"The Batch account; not needed where there is one." placeholder:"ACCOUNT"`
	Add     WebhookAddCmd    `cmd:"" help:"Have events posted to a URL, or change how."`
	List    WebhookListCmd   `cmd:"" help:"List webhooks and how their deliveries go."`
	Enable  WebhookEnableCmd `cmd:"" help:"Post again to an endpoint that was disabled."`
	Remove  WebhookRemoveCmd `cmd:"" help:"Post no more."`
}

// WebhookAddCmd adds or replaces a webhook.
type WebhookAddCmd struct {
	Name       string   `arg:"" help:"A name for it."`
	URL        string   `arg:"" help:"Where to post." placeholder:"URL"`
	Kind       []string `help:"Only these kinds: pool, node, job, task, jobschedule." placeholder:"KIND"`
	Job        []string `help:"Only these jobs and their tasks." placeholder:"JOB"`
	Pool       []string `help:"Only these pools, their nodes, and what runs on them." placeholder:"POOL"`
	State      []string `help:"Only these states." placeholder:"STATE"`
	SecretFile string   `help:"A file with the secret that signs deliveries; without it one is made and printed." placeholder:"FILE" type:"existingfile"`
	Validate   bool     `help:"Ask the endpoint first whether it takes events from here."`
	After      string   `help:"Begin after this event; 0 is the oldest that is kept. Without it, with what comes." placeholder:"ID"`
}

// WebhookListCmd lists webhooks.
type WebhookListCmd struct{}

// WebhookEnableCmd enables one.
type WebhookEnableCmd struct {
	Name string `arg:"" help:"The webhook's name."`
}

// WebhookRemoveCmd removes one.
type WebhookRemoveCmd struct {
	Name string `arg:"" help:"The webhook's name."`
}

// hooks is the address of an account's webhooks and a bound for one command.
func (w *WebhookCmd) hooks(g *Globals) (*client, string, context.Context, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c, err := dial(g.Data)
	if err != nil {
		cancel()
		return nil, "", nil, nil, err
	}
	base, err := c.account(ctx, w.Account)
	if err != nil {
		cancel()
		return nil, "", nil, nil, err
	}
	return c, base + "/millpond/webhooks", ctx, cancel, nil
}

// Run adds.
func (a *WebhookAddCmd) Run(g *Globals, all *commands) error {
	c, base, ctx, cancel, err := all.Webhook.hooks(g)
	if err != nil {
		return err
	}
	defer cancel()
	secret, made := "", false
	if a.SecretFile != "" {
		text, err := os.ReadFile(a.SecretFile)
		if err != nil {
			return err
		}
		secret = strings.TrimSpace(string(text))
	} else {
		secret, made = rand.Text(), true
	}
	body := map[string]any{"url": a.URL, "secret": secret, "kinds": a.Kind, "jobIds": a.Job, "poolIds": a.Pool, "states": a.State, "validate": a.Validate}
	if a.After != "" {
		body["after"] = a.After
	}
	var answer json.RawMessage
	if err := c.batch(ctx, http.MethodPut, base+"/"+url.PathEscape(a.Name)+"?"+batchVersion, body, &answer); err != nil {
		return err
	}
	fmt.Printf("webhook %s posts to %s\n", a.Name, a.URL)
	if made {
		fmt.Printf("its secret, which is not shown again: %s\n", secret)
	}
	return nil
}

// Run lists.
func (*WebhookListCmd) Run(g *Globals, all *commands) error {
	c, base, ctx, cancel, err := all.Webhook.hooks(g)
	if err != nil {
		return err
	}
	defer cancel()
	var list struct {
		Value []struct {
			ID, URL, State, Reason, LastError string
			Delivered                         int64
		}
	}
	if err := c.get(ctx, batchResource, base+"?"+batchVersion, &list); err != nil {
		return err
	}
	if len(list.Value) == 0 {
		nothing("There are no webhooks. Add one with: millpond webhook add NAME URL")
	}
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	for _, w := range list.Value {
		note := w.Reason
		if note == "" && w.LastError != "" {
			note = "failing: " + w.LastError
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d delivered\t%s\n", w.ID, w.State, w.URL, w.Delivered, note)
	}
	return tw.Flush()
}

// Run enables.
func (e *WebhookEnableCmd) Run(g *Globals, all *commands) error {
	c, base, ctx, cancel, err := all.Webhook.hooks(g)
	if err != nil {
		return err
	}
	defer cancel()
	return c.batch(ctx, http.MethodPost, base+"/"+url.PathEscape(e.Name)+"/enable?"+batchVersion, nil, nil)
}

// Run removes.
func (r *WebhookRemoveCmd) Run(g *Globals, all *commands) error {
	c, base, ctx, cancel, err := all.Webhook.hooks(g)
	if err != nil {
		return err
	}
	defer cancel()
	return c.batch(ctx, http.MethodDelete, base+"/"+url.PathEscape(r.Name)+"?"+batchVersion, nil, nil)
}
