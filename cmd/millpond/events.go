package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// EventsCmd prints what changed, and with --follow what changes.
type EventsCmd struct {
	Account string   `help:"The Batch account; not needed where there is one." placeholder:"ACCOUNT"`
	Job     []string `help:"Only this job and its tasks." placeholder:"JOB"`
	Pool    []string `help:"Only this pool, its nodes, and what runs on it." placeholder:"POOL"`
	Kind    []string `help:"Only these kinds: pool, node, job, task, jobschedule." placeholder:"KIND"`
	State   []string `help:"Only these states." placeholder:"STATE"`
	After   string   `help:"Go on after this event; 0 is the oldest that is kept. Without it, --follow begins now." placeholder:"ID"`
	Follow  bool     `short:"f" help:"Print events as they come, until interrupted; reconnect when the server restarts."`
	JSON    bool     `name:"json" help:"Print each event as CloudEvents JSON, one a line."`
}

// change is an event as the service tells it.
type change struct {
	ID      string    `json:"id"`
	Type    string    `json:"type"`
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"`
	Data    struct {
		Kind, ID, State                            string
		AllocationState, PreviousState             string
		PoolID, JobID, NodeID, Result, FailureCode string
		ExitCode                                   *int
		Code, Reason                               string
	} `json:"data"`
}

// Run prints events.
func (e *EventsCmd) Run(g *Globals) error {
	ctx, stop := interruptible()
	defer stop()
	c, err := dial(g.Data)
	if err != nil {
		return err
	}
	base, err := c.account(ctx, e.Account)
	if err != nil {
		return err
	}
	q := url.Values{}
	for name, v := range map[string][]string{"job": e.Job, "pool": e.Pool, "kind": e.Kind, "state": e.State} {
		if len(v) > 0 {
			q.Set(name, strings.Join(v, ","))
		}
	}
	if e.Follow {
		err := c.follow(ctx, g, base, q, e.After, func(v change, raw []byte) error { return e.print(os.Stdout, v, raw) })
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	after := e.After
	if after == "" {
		after = "0"
	}
	for {
		q.Set("after", after)
		var page struct {
			Value []json.RawMessage `json:"value"`
			Last  string            `json:"lastEventId"`
			Reset bool              `json:"reset"`
		}
		if err := c.get(ctx, batchResource, base+"/millpond/events?"+batchVersion+"&"+q.Encode(), &page); err != nil {
			return err
		}
		if page.Reset {
			return fmt.Errorf("events after %s are no longer kept; --after 0 prints those that are", after)
		}
		if len(page.Value) == 0 {
			return nil
		}
		for _, raw := range page.Value {
			var v change
			if err := json.Unmarshal(raw, &v); err != nil {
				return err
			}
			if err := e.print(os.Stdout, v, raw); err != nil {
				return err
			}
		}
		after = page.Last
	}
}

func (e *EventsCmd) print(w io.Writer, v change, raw []byte) error {
	if v.Type == "ready" {
		return nil
	}
	if e.JSON {
		_, err := fmt.Fprintf(w, "%s\n", raw)
		return err
	}
	if v.Type == "millpond.batch.reset" {
		_, err := fmt.Fprintln(w, "events were missed; they are no longer kept")
		return err
	}
	d := v.Data
	text := fmt.Sprintf("%s  %-11s  %s  %s", v.Time.Local().Format("15:04:05.000"), d.Kind, strings.TrimPrefix(v.Subject, "/"), d.State)
	if d.AllocationState != "" {
		text += ", " + d.AllocationState
	}
	if d.NodeID != "" {
		text += "  on " + d.NodeID
	}
	if d.Result != "" {
		text += "  " + d.Result
	}
	if d.ExitCode != nil && *d.ExitCode != 0 {
		text += fmt.Sprintf(" (exit code %d)", *d.ExitCode)
	}
	if d.FailureCode != "" {
		text += "  " + d.FailureCode
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// errEnough ends follow without an error.
var errEnough = errors.New("enough")

// retryLimit is how long follow waits for a server that has gone.
const retryLimit = 2 * time.Minute

// redial waits a moment and finds the server again: the next one may listen
// elsewhere and signs other tokens.
func (c *client) redial(ctx context.Context, g *Globals) error {
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	if next, err := dial(g.Data); err == nil {
		*c = *next
	}
	return nil
}

// follow hands events to each as they come, over restarts of the server, until
// ctx ends or each says so. A first event with the type "ready" tells that
// whatever changes from now on will come.
func (c *client) follow(ctx context.Context, g *Globals, base string, q url.Values, after string, each func(change, []byte) error) error {
	lastHeard := time.Now()
	for {
		err := c.followOnce(ctx, base, q, &after, &lastHeard, each)
		var refused *apiError
		switch {
		case errors.Is(err, errEnough):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refused) && refused.Status != http.StatusUnauthorized && refused.Status < 500:
			return err
		case time.Since(lastHeard) > retryLimit:
			return fmt.Errorf("the server is gone: %w", err)
		}
		if err := c.redial(ctx, g); err != nil {
			return err
		}
	}
}

func (c *client) followOnce(ctx context.Context, base string, q url.Values, after *string, heard *time.Time, each func(change, []byte) error) error {
	h := http.Header{"Accept": {"text/event-stream"}}
	if *after != "" {
		h.Set("Last-Event-ID", *after)
	}
	resp, err := c.open(ctx, base+"/millpond/events?"+batchVersion+"&"+q.Encode(), h)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	name := ""
	for lines.Scan() {
		*heard = time.Now()
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			name = value
		case "id":
			if _, err := strconv.ParseUint(value, 10, 64); err == nil {
				*after = value
			}
		case "data":
			var v change
			if err := json.Unmarshal([]byte(value), &v.Data); name == "ready" || name == "end" {
				if err != nil {
					return err
				}
				if name == "end" {
					return fmt.Errorf("%s: %s", v.Data.Code, v.Data.Reason)
				}
				// What is followed need not be printed for this.
				if err := each(change{Type: "ready"}, nil); err != nil {
					return err
				}
				continue
			}
			if err := json.Unmarshal([]byte(value), &v); err != nil {
				return err
			}
			if err := each(v, []byte(value)); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}
