package batchapi

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// followHeader tells that an answer goes on as its file grows.
const followHeader = "millpond-follow"

// Waits of a reader who follows.
const (
	// notYet is the time between two looks for a file that will come, or that an
	// agent cannot follow by itself.
	notYet = 100 * time.Millisecond
	// turn is the longest time without a look at the task, soon the shortest.
	turn = time.Second
	soon = 5 * time.Millisecond
)

// follows says whether a file is to be sent as it grows, which Azure does not
// have.
func follows(r *request) bool {
	return r.Method == http.MethodGet && strings.EqualFold(r.QueryValue("follow"), "true")
}

// followed is the file that a request follows, and where in it to begin.
func followed(r *request) (name string, offset int64, err error) {
	if name, err = fileName(r.Param("filePath")); err != nil {
		return "", 0, err
	}
	span, err := azwire.ParseByteRange(r.Header.Get("ocp-range"))
	return name, span.Start, err
}

// followTaskFile sends a file of a task from its beginning, or from the start of
// ocp-range, to the end of the task's attempt. It waits for a task that does not
// run yet, and for a file that a running task has not made yet.
func (e *Edge) followTaskFile(w http.ResponseWriter, r *request) error {
	name, offset, err := followed(r)
	if err != nil {
		return err
	}
	task, t, err := e.awaitTaskFile(r, name)
	if err != nil {
		return err
	}
	out := beginFollow(w, t, name)
	defer out.close()
	for {
		n, err := e.copyFollowed(r.Context(), out, t, name, offset)
		offset += n
		if out.err != nil || r.Context().Err() != nil {
			return nil
		}
		now, lookErr := e.Jobs.GetTask(r.Context(), r.acct.Name, r.job(), r.task())
		over := lookErr != nil || !now.OnNode() || now.Attempt != task.Attempt
		switch {
		case over && err == nil:
			// What an agent that cannot follow had not sent yet.
			_, _ = e.copyRest(r.Context(), out, t, name, offset)
			return nil
		case over:
			e.Log.Info("a file was not followed to its end", "request", r.ID, "file", name, "error", err)
			panic(http.ErrAbortHandler)
		}
		if e.rest(r.Context(), nil, notYet) != nil {
			// Only a broken connection tells the client that this is not the end.
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			// The node may be in contact again.
			if again, err := e.taskTree(r.Context(), r); err == nil {
				t = again
			}
		}
	}
}

// awaitTaskFile waits until a task has a file, and returns both.
func (e *Edge) awaitTaskFile(r *request, name string) (task millpond.Task, t tree, err error) {
	for {
		// Before the look: what comes after it wakes, also if it comes before the wait.
		after := e.Events.Last()
		if task, err = e.Jobs.GetTask(r.Context(), r.acct.Name, r.job(), r.task()); err != nil {
			return task, t, err
		}
		if task.OnNode() || task.State == millpond.TaskCompleted {
			if t, err = e.taskTree(r.Context(), r); err == nil {
				_, err = t.files.Stat(r.Context(), t.below(name))
			}
			// Its node may just have got it.
			if k := millpond.KindOf(err); err == nil || !task.OnNode() || k != millpond.NotFound && k != millpond.Conflict {
				return task, t, err
			}
			if err := e.rest(r.Context(), nil, notYet); err != nil {
				return task, t, err
			}
			continue
		}
		came, more, err := e.Events.Read(r.Context(), after)
		switch {
		case err != nil:
		case len(came) > 0:
			err = e.rest(r.Context(), nil, soon)
		default:
			err = e.rest(r.Context(), more, turn)
		}
		if err != nil {
			return task, t, err
		}
	}
}

// followNodeFile is the same for a file of a node, to the end of what runs in its
// directory.
func (e *Edge) followNodeFile(w http.ResponseWriter, r *request) error {
	name, offset, err := followed(r)
	if err != nil {
		return err
	}
	t, err := e.nodeTree(r.Context(), r)
	if err != nil {
		return err
	}
	if _, err := t.files.Stat(r.Context(), t.below(name)); err != nil {
		return err
	}
	out := beginFollow(w, t, name)
	defer out.close()
	if _, err := e.copyFollowed(r.Context(), out, t, name, offset); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

func beginFollow(w http.ResponseWriter, t tree, name string) *liveWriter {
	h := w.Header()
	h.Set("Content-Type", octetStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	h.Set("ocp-batch-file-url", t.url(name))
	h.Set(followHeader, "true")
	t.tell(w)
	w.WriteHeader(http.StatusOK)
	out := newLiveWriter(w)
	out.flush()
	return out
}

// rest waits for a change or a time; an error tells that it is over.
func (e *Edge) rest(ctx context.Context, more <-chan struct{}, most time.Duration) error {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-more:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-e.Events.Closed():
		return millpond.Errorf(millpond.Unavailable, "ServerBusy", "The server is stopping. Try again.")
	}
	return nil
}

func (e *Edge) copyFollowed(ctx context.Context, out *liveWriter, t tree, name string, offset int64) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-e.Events.Closed():
			cancel()
		case <-ctx.Done():
		}
	}()
	content, err := t.files.Follow(ctx, t.below(name), offset)
	if err != nil {
		return 0, err
	}
	return drain(out, content)
}

func (e *Edge) copyRest(ctx context.Context, out *liveWriter, t tree, name string, offset int64) (int64, error) {
	f, err := t.files.Stat(ctx, t.below(name))
	if err != nil || f.Size <= offset {
		return 0, err
	}
	content, err := t.files.Read(ctx, t.below(name), offset, 0)
	if err != nil {
		return 0, err
	}
	return drain(out, content)
}

// drain writes what comes, each piece at once.
func drain(out *liveWriter, content io.ReadCloser) (sent int64, err error) {
	defer func() { _ = content.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := content.Read(buf)
		if n > 0 {
			out.write(buf[:n])
			out.flush()
			if out.err != nil {
				return sent, out.err
			}
			sent += int64(n)
		}
		if err == io.EOF {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
	}
}
