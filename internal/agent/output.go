package agent

import (
	"context"
	"errors"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/inotify"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// When a file that is followed is looked at. A look costs one read.
const (
	// followPeriod is for file systems where the kernel tells of no writes, and for
	// files that another is put in the place of.
	followPeriod = 100 * time.Millisecond
	// followPause is the least time between two looks: who writes line by line is not
	// read line by line.
	followPause = 5 * time.Millisecond
)

// runsIn says whether an attempt runs in the directory of a file.
func (a *Agent) runsIn(file string) bool {
	file = path.Clean(file)
	a.mu.Lock()
	defer a.mu.Unlock()
	for dir := range a.directories {
		if strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/") {
			return true
		}
	}
	return false
}

// follow sends a file from an offset on as it grows, until no attempt runs in its
// directory.
func (a *Agent) follow(ctx context.Context, place Place, q *nodev1.ReadFileRequest, s *connect.ServerStream[nodev1.FileChunk]) error {
	offset := q.GetOffset()
	if offset < 0 {
		return connect.NewError(connect.CodeOutOfRange, errors.New("the range lies outside of the file"))
	}
	if _, err := place.Files.Stat(q.GetPath()); err != nil {
		return fileError(err)
	}
	// The headers go with the first message; the server waits for them.
	if err := s.Send(&nodev1.FileChunk{}); err != nil {
		return err
	}
	look := time.NewTicker(followPeriod)
	defer look.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	var writes *inotify.File
	var written <-chan struct{}
	buf := make([]byte, chunkSize)
	for {
		// Asked before reading: what was written before the end is read.
		runs := a.runsIn(q.GetPath())
		// Opened anew: the task may have put another file in its place.
		f, err := place.Files.Open(q.GetPath())
		if err != nil {
			return fileError(err)
		}
		if o, ok := f.(osFile); ok && writes == nil && runs {
			// Before reading: what is written meanwhile is told. Without it the period does.
			if writes, err = inotify.WatchWrites(o.File); err == nil {
				defer writes.Close()
				written = writes.Changed()
			}
		}
		sent, err := sendRange(ctx, f, offset, math.MaxInt64, buf, s)
		f.Close()
		if err != nil {
			return err
		}
		if offset += sent; !runs {
			return nil
		}
		pause.Reset(followPause)
		if err := a.rest(ctx, pause.C, nil); err != nil {
			return err
		}
		if err := a.rest(ctx, look.C, written); err != nil {
			return err
		}
	}
}

// rest waits for a time or a write; an error tells that the following is over.
func (a *Agent) rest(ctx context.Context, timer <-chan time.Time, written <-chan struct{}) error {
	select {
	case <-timer:
	case <-written:
	case <-ctx.Done():
		return ctx.Err()
	case <-a.ctx.Done():
		return connect.NewError(connect.CodeUnavailable, errors.New("the agent is stopping"))
	}
	return nil
}

// outputNames are the files that a server keeps of a task.
var outputNames = [...]string{"stdout.txt", "stderr.txt"}

// maxOutput bounds what a server may ask for of one part of a file.
const maxOutput = 16 << 20

// Outputs sends what tasks wrote; what is not there, or cannot be read, is left
// out.
func (a *Agent) Outputs(ctx context.Context, q *connect.Request[nodev1.OutputsRequest], s *connect.ServerStream[nodev1.Output]) error {
	_, place, err := a.ready()
	if err != nil {
		return err
	}
	limit := q.Msg.GetLimit()
	if limit <= 0 || limit > maxOutput {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the limit is not above 0, or is too large"))
	}
	for _, dir := range q.Msg.GetDirectories() {
		for _, name := range outputNames {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			out, err := output(place.Files, dir, name, limit)
			if err != nil {
				continue
			}
			if err := s.Send(out); err != nil {
				return err
			}
		}
		if err := s.Send(&nodev1.Output{Directory: dir}); err != nil {
			return err
		}
	}
	return nil
}

func output(files Files, dir, name string, limit int64) (*nodev1.Output, error) {
	file := path.Join(dir, name)
	info, err := files.Stat(file)
	if err != nil {
		return nil, err
	}
	f, err := files.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := &nodev1.Output{Directory: dir, Name: name, Size: f.Size(), Modified: info.GetModified(), Mode: info.GetMode()}
	if out.Modified == nil {
		out.Modified = timestamppb.New(time.Time{})
	}
	if out.Head, err = part(f, 0, min(limit, out.Size)); err != nil {
		return nil, err
	}
	if rest := out.Size - int64(len(out.Head)); rest > 0 {
		n := min(limit, rest)
		out.Tail, err = part(f, out.Size-n, n)
	}
	return out, err
}

func part(f File, offset, length int64) ([]byte, error) {
	b := make([]byte, length)
	n, err := f.ReadAt(b, offset)
	if err == io.EOF {
		err = nil
	}
	return b[:n], err
}
