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
	"os/signal"
	"strconv"
	"strings"
	"syscall"
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

// account finds the base URL of an account; of the only one if name is empty.
func (c *client) account(ctx context.Context, name string) (string, error) {
	all, err := list[accountView](ctx, c, armResource, "/subscriptions/"+c.creds.SubscriptionID+"/providers/Microsoft.Batch/batchAccounts?"+armVersion)
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if strings.EqualFold(a.Name, name) || name == "" && len(all) == 1 {
			return "https://" + a.Properties.AccountEndpoint, nil
		}
	}
	if name != "" {
		return "", fmt.Errorf("there is no Batch account %q here", name)
	}
	return "", fmt.Errorf("there are %d Batch accounts here; say which with --account", len(all))
}

// Run prints events.
func (e *EventsCmd) Run(g *Globals) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
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

// open begins a GET whose answer is read as it comes.
func (c *client) open(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	token, err := c.token(ctx, batchResource)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+token)
	// The client's own timeout is for answers that end.
	resp, err := (&http.Client{Transport: c.http.Transport}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		return nil, &apiError{Status: resp.StatusCode, Text: errorText(body)}
	}
	return resp, nil
}

// errEnough ends follow without an error.
var errEnough = errors.New("enough")

// retryLimit is how long follow waits for a server that has gone.
const retryLimit = 2 * time.Minute

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
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		// The next server may listen elsewhere and signs other tokens.
		if next, err := dial(g.Data); err == nil {
			*c = *next
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

// JobCmd has what the CLI of Azure lacks for jobs.
type JobCmd struct {
	Wait JobWaitCmd `cmd:"" help:"Wait until a job or all its tasks have completed; fail if a task failed."`
}

// JobWaitCmd waits for a job without polling.
type JobWaitCmd struct {
	Job     string        `arg:"" help:"The job." placeholder:"ACCOUNT/JOB"`
	Timeout time.Duration `help:"How long to wait; 0 is for ever." default:"0"`
	Quiet   bool          `short:"q" help:"Print nothing while waiting."`
}

// Run waits.
func (j *JobWaitCmd) Run(g *Globals) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if j.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, j.Timeout)
		defer cancel()
	}
	account, id, ok := strings.Cut(j.Job, "/")
	if !ok || id == "" {
		return fmt.Errorf("%q is not of the form ACCOUNT/JOB", j.Job)
	}
	c, err := dial(g.Data)
	if err != nil {
		return err
	}
	base, err := c.account(ctx, account)
	if err != nil {
		return err
	}
	type counts struct{ Active, Running, Completed, Succeeded, Failed int }
	var now struct {
		Tasks counts `json:"taskCounts"`
	}
	var state struct{ State string }
	look := func() error {
		if err := c.get(ctx, batchResource, base+"/jobs/"+url.PathEscape(id)+"?"+batchVersion, &state); err != nil {
			return err
		}
		if err := c.get(ctx, batchResource, base+"/jobs/"+url.PathEscape(id)+"/taskcounts?"+batchVersion, &now); err != nil {
			return err
		}
		if n := now.Tasks; state.State == "completed" || n.Completed > 0 && n.Active+n.Running == 0 {
			return errEnough
		}
		return nil
	}
	line := &EventsCmd{}
	// With many open tasks not each end is worth a look.
	var looked time.Time
	open := 0
	err = c.follow(ctx, g, base, url.Values{"job": {id}, "kind": {"job,task"}}, "", func(v change, raw []byte) error {
		if v.Type == "ready" {
			return look()
		}
		if !j.Quiet {
			if err := line.print(os.Stdout, v, raw); err != nil {
				return err
			}
		}
		switch {
		case v.Data.Kind == "job" && v.Data.State == "deleted":
			return &apiError{Status: http.StatusNotFound, Text: "the job was deleted"}
		case v.Data.Kind == "job" || v.Data.State == "completed" && (time.Since(looked) > 100*time.Millisecond || open <= 100):
			looked = time.Now()
			err := look()
			open = now.Tasks.Active + now.Tasks.Running
			return err
		case v.Data.State == "completed":
			open--
		}
		return nil
	})
	if ctx.Err() != nil {
		return fmt.Errorf("job %s is %s, with %d of %d tasks completed", id, state.State, now.Tasks.Completed, now.Tasks.Completed+now.Tasks.Active+now.Tasks.Running)
	}
	if err != nil {
		return err
	}
	fmt.Printf("job %s is %s: %d tasks succeeded, %d failed\n", id, state.State, now.Tasks.Succeeded, now.Tasks.Failed)
	if now.Tasks.Failed > 0 {
		return fmt.Errorf("%d of %d tasks failed", now.Tasks.Failed, now.Tasks.Completed)
	}
	return nil
}
