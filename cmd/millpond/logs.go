package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

// LogsCmd prints a file of a task.
type LogsCmd struct {
	Job    string `arg:"" help:"The task's job." placeholder:"ACCOUNT/JOB"`
	Task   string `arg:"" help:"The task." placeholder:"TASK"`
	Stderr bool   `help:"Print stderr.txt, not stdout.txt."`
	File   string `help:"Print another file of the task." placeholder:"PATH"`
	Follow bool   `short:"f" help:"Wait for the task, print what it writes as it writes it, and end with it."`
}

// Run prints.
func (l *LogsCmd) Run(g *Globals) error {
	ctx, stop := interruptible()
	defer stop()
	job, err := g.job(ctx, l.Job)
	if err != nil {
		return err
	}
	name := "stdout.txt"
	switch {
	case l.File != "":
		name = l.File
	case l.Stderr:
		name = "stderr.txt"
	}
	path := job.path + "/tasks/" + url.PathEscape(l.Task) + "/files/" + url.PathEscape(name) + "?" + batchVersion
	if l.Follow {
		path += "&follow=true"
	}
	offset := int64(0)
	begun := time.Now()
	for {
		n, err := job.copyFile(ctx, path, offset)
		if offset += n; n > 0 {
			begun = time.Now()
		}
		var refused *apiError
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case !l.Follow, errors.As(err, &refused) && refused.Status < 500, time.Since(begun) > retryLimit:
			return err
		}
		// The server restarts; what the task writes meanwhile is not lost.
		if job.redial(ctx, g) != nil {
			return nil
		}
	}
}

// copyFile prints a file from an offset on and tells how much that was.
func (c *client) copyFile(ctx context.Context, path string, offset int64) (int64, error) {
	resp, err := c.open(ctx, path, http.Header{"Ocp-Range": {fmt.Sprintf("bytes=%d-", offset)}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if notice := resp.Header.Get("millpond-kept"); notice != "" && offset == 0 {
		fmt.Fprintln(os.Stderr, notice)
	}
	return io.Copy(os.Stdout, resp.Body)
}
