package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"
)

// JobCmd has what the CLI of Azure lacks for jobs.
type JobCmd struct {
	Wait JobWaitCmd `cmd:"" help:"Wait until a job or all its tasks have completed; fail if a task failed."`
}

// JobWaitCmd waits for a job by its events.
type JobWaitCmd struct {
	Job     string        `arg:"" help:"The job." placeholder:"ACCOUNT/JOB"`
	Timeout time.Duration `help:"How long to wait; 0 is for ever." default:"0"`
	Quiet   bool          `short:"q" help:"Print nothing while waiting."`
}

// Run waits.
func (j *JobWaitCmd) Run(g *Globals) error {
	ctx, stop := interruptible()
	defer stop()
	if j.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, j.Timeout)
		defer cancel()
	}
	t, err := g.job(ctx, j.Job)
	if err != nil {
		return err
	}
	type counts struct{ Active, Running, Completed, Succeeded, Failed int }
	var now struct {
		Tasks counts `json:"taskCounts"`
	}
	var state struct{ State string }
	look := func() error {
		if err := t.get(ctx, batchResource, t.path+"?"+batchVersion, &state); err != nil {
			return err
		}
		if err := t.get(ctx, batchResource, t.path+"/taskcounts?"+batchVersion, &now); err != nil {
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
	err = t.follow(ctx, g, t.endpoint, url.Values{"job": {t.id}, "kind": {"job,task"}}, "", func(v change, raw []byte) error {
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
		return fmt.Errorf("job %s is %s, with %d of %d tasks completed", t.id, state.State, now.Tasks.Completed, now.Tasks.Completed+now.Tasks.Active+now.Tasks.Running)
	}
	if err != nil {
		return err
	}
	fmt.Printf("job %s is %s: %s succeeded, %d failed\n", t.id, state.State, many(now.Tasks.Succeeded, "task"), now.Tasks.Failed)
	if now.Tasks.Failed > 0 {
		return fmt.Errorf("%d of %d tasks failed", now.Tasks.Failed, now.Tasks.Completed)
	}
	return nil
}
