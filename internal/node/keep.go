package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/kept"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// Keeping what tasks wrote must not slow down running them: it waits until a node
// has been quiet, takes many tasks at once, and few nodes at a time.
const (
	// keepBatch is how many tasks one call fetches.
	keepBatch = 256
	// keepLatest is how long a node that is never quiet may go without.
	keepLatest = 5 // times KeepDelay
	// keepBreath is the pause between two calls for one node.
	keepBreath = 100 * time.Millisecond
	// keepAgain is the pause after a call that failed, for a full disk say.
	keepAgain = 30 * time.Second
	// keepAtOnce is how many nodes are asked at the same time.
	keepAtOnce = 2
	// keepFlush bounds what is held in memory before it is written.
	keepFlush = 8 << 20
	// keepLimit bounds one call; lastLimit the calls before a machine goes.
	keepLimit = time.Minute
	lastLimit = 20 * time.Second
)

// errCannotKeep says that the agent is from before there was Outputs.
var errCannotKeep = errors.New("the agent cannot send outputs")

// Directories of a node in the store that are no task's.
const (
	placeStart   = "startup"
	placeConsole = "console"
)

// keepSoon has what tasks wrote kept when the node has been quiet.
func (x *session) keepSoon() {
	x.kept.Wake()
	x.keeps.Wake()
}

// keep waits until a node is quiet and then fetches what its tasks wrote.
func (x *session) keep(ctx context.Context) error {
	quiet := x.svc.Config.KeepDelay
	select {
	case <-x.kept.C():
	default:
		return nil // an earlier run has seen to it
	}
	latest := time.After(keepLatest * quiet)
waiting:
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.kept.C():
		case <-time.After(quiet):
			break waiting
		case <-latest:
			break waiting
		}
	}
	for {
		n, err := x.keepSome(ctx)
		if errors.Is(err, errCannotKeep) {
			return nil
		}
		pause := keepBreath
		if err != nil && ctx.Err() == nil {
			x.svc.Log.Warn("what tasks wrote could not be kept; it stays on the node and is tried again", "node", x.node, "err", err, "after", keepAgain)
			pause = keepAgain
		} else if n < keepBatch {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// keepSome fetches the outputs of some tasks that ended and tells of how many.
func (x *session) keepSome(ctx context.Context) (int, error) {
	var dirs []sqlite.TaskDirectory
	var n millpond.Node
	err := x.svc.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if dirs, err = tx.UnkeptDirectories(x.node, tx.Now, keepBatch); err != nil || len(dirs) == 0 {
			return err
		}
		n, err = tx.Node(x.node)
		return err
	})
	if err != nil || len(dirs) == 0 {
		return 0, err
	}
	select {
	case x.svc.keeping <- struct{}{}:
		defer func() { <-x.svc.keeping }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	due := map[string]time.Time{}
	var names []string
	for _, d := range dirs {
		due[d.Directory] = d.Due
		names = append(names, d.Directory)
	}
	if err := x.fetch(ctx, n, names, due); err != nil {
		return 0, err
	}
	err = x.svc.DB.Update(ctx, func(tx *sqlite.Tx) error {
		for _, d := range dirs {
			if err := tx.MarkKept(d); err != nil {
				return err
			}
		}
		return nil
	})
	return len(dirs), err
}

// fetch copies the outputs of directories from the node into the store.
func (x *session) fetch(ctx context.Context, n millpond.Node, directories []string, due map[string]time.Time) error {
	call, cancel := context.WithTimeout(ctx, keepLimit)
	defer cancel()
	stream, err := x.client.Outputs(call, connect.NewRequest(&nodev1.OutputsRequest{Directories: directories, Limit: x.svc.Config.KeepPart}))
	if err != nil {
		return err
	}
	defer stream.Close()
	var places []kept.Place
	var files []kept.File
	size := 0
	flush := func() error {
		if len(places) == 0 {
			return nil
		}
		x.svc.mu.Lock()
		for _, p := range places {
			delete(x.svc.dropped, p)
		}
		x.svc.mu.Unlock()
		err := x.svc.Kept.Put(ctx, places, files)
		places, files, size = nil, nil, 0
		return err
	}
	for stream.Receive() {
		m := stream.Msg()
		at, asked := due[m.GetDirectory()]
		if !asked {
			return fmt.Errorf("node %s sent outputs of %q, which nobody asked for", x.node, m.GetDirectory())
		}
		p := kept.Place{Node: x.node.Key(), Directory: m.GetDirectory()}
		if m.GetName() == "" {
			if places = append(places, p); size > keepFlush {
				if err := flush(); err != nil {
					return err
				}
			}
			continue
		}
		f := kept.File{Place: p, Name: m.GetName(), Account: n.Account.Key(), Pool: n.Pool.Key(), Size: m.GetSize(), Modified: m.GetModified().AsTime(), Mode: m.GetMode(), Due: at,
			Content: kept.Join(m.GetHead(), m.GetTail(), m.GetSize())}
		files = append(files, f)
		size += len(f.Content)
	}
	if err := stream.Err(); connect.CodeOf(err) == connect.CodeUnimplemented {
		return errCannotKeep
	} else if err != nil {
		return err
	}
	return flush()
}

// keepLast fetches what tasks wrote that is still on a node before its machine or
// its disks go. It is bounded in time; what it cannot fetch is logged and lost.
func (s *Service) keepLast(ctx context.Context, n millpond.Node) {
	x := s.session(n.ID)
	if s.Kept == nil || x == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastLimit)
	defer cancel()
	var err error
	more := keepBatch
	for err == nil && more == keepBatch {
		more, err = x.keepSome(ctx)
	}
	if err == nil && n.StartTask != nil {
		err = x.fetch(ctx, n, []string{placeStart}, map[string]time.Time{placeStart: s.Clock.Now().Add(s.Config.LogRetention)})
	}
	if err != nil && !errors.Is(err, errCannotKeep) && connect.CodeOf(err) != connect.CodeUnimplemented {
		s.Log.Warn("not all that tasks wrote could be kept before their node went", "node", n.ID, "err", err)
	}
}

// maxDropped bounds the places that wait to be forgotten; what is beyond goes when
// it is due.
const maxDropped = 100_000

// dropKept notes that a task is deleted, and what is kept of it with it; Service.mu
// is held.
func (s *Service) dropKept(t millpond.Task) {
	if s.Kept != nil && t.Node != "" && t.Directory != "" && len(s.dropped) < maxDropped {
		s.dropped[kept.Place{Node: t.Node.Key(), Directory: t.Directory}] = struct{}{}
	}
}

// cleanKept forgets what is kept of deleted tasks, what is due, and what is over
// the bound.
func (s *Service) cleanKept(ctx context.Context) (int, error) {
	if s.Kept == nil {
		return 0, nil
	}
	s.mu.Lock()
	var places []kept.Place
	for p := range s.dropped {
		places = append(places, p)
	}
	clear(s.dropped)
	s.mu.Unlock()
	for len(places) > 0 {
		n := min(len(places), keepBatch)
		if err := s.Kept.Drop(ctx, places[:n]...); err != nil {
			return 0, err
		}
		places = places[n:]
	}
	return s.Kept.Clean(ctx, s.Clock.Now())
}
