package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/kept"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// consoleBytes is how much of a console is kept after a node is gone.
const consoleBytes = 1 << 20

// console is the end of a machine's console, nil when there is none.
func (s *Service) console(ctx context.Context, id millpond.NodeID, tail int64) []byte {
	c, ok := s.Launcher.(launch.Consoler)
	if !ok {
		return nil
	}
	b, err := c.Console(ctx, id, tail)
	if err != nil {
		return nil
	}
	return b
}

// evidence is what an error shows of a machine's console.
func (s *Service) evidence(ctx context.Context, id millpond.NodeID) string {
	return string(s.console(ctx, id, evidenceBytes))
}

// keepConsole keeps the console of a machine that is about to be destroyed, which
// was the node's of a generation: in Kept for users, in LogDir for the operator.
// What cannot be kept is logged; it stops nothing.
func (s *Service) keepConsole(ctx context.Context, n millpond.Node, generation int) {
	b := s.console(ctx, n.ID, consoleBytes)
	if len(b) == 0 {
		return
	}
	var inLog, inKept error
	if s.Config.LogDir != "" {
		if inLog = os.MkdirAll(s.Config.LogDir, 0o700); inLog == nil {
			inLog = os.WriteFile(s.ConsolePath(n.ID, generation), b, 0o600)
		}
	}
	if s.Kept != nil {
		now := s.Clock.Now()
		p := kept.Place{Node: n.ID.Key(), Directory: fmt.Sprintf("%s/%d", placeConsole, generation)}
		inKept = s.Kept.Put(ctx, []kept.Place{p}, []kept.File{{Place: p, Name: "console.log", Account: n.Account.Key(), Pool: n.Pool.Key(), Size: int64(len(b)), Modified: now, Mode: 0o100600, Due: now.Add(s.Config.LogRetention), Content: b}})
	}
	if err := errors.Join(inLog, inKept); err != nil {
		s.Log.Warn("a node's console could not be kept", "node", n.ID, "err", err)
	}
}

// ConsolePath is where the console of a node's generation is kept once its
// machine is gone.
func (s *Service) ConsolePath(id millpond.NodeID, generation int) string {
	return filepath.Join(s.Config.LogDir, fmt.Sprintf("%s-%d.console.log", id.Key(), generation))
}

// Cleanup is the loop that removes what is kept no longer: task directories on
// nodes, by their sessions, and consoles.
func (s *Service) Cleanup() reconcile.Loop {
	return reconcile.Loop{Name: "cleanup", Every: time.Minute, Wake: wake.New(), Run: s.cleanup}
}

func (s *Service) cleanup(ctx context.Context) (string, time.Time, error) {
	var nodes []millpond.NodeID
	var next time.Time
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		nodes, next, err = tx.DueNodes(tx.Now)
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	for _, n := range nodes {
		s.Wake(n)
	}
	gone, err := s.cleanKept(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	removed := 0
	if s.Config.LogDir != "" {
		entries, err := os.ReadDir(s.Config.LogDir)
		if err != nil && !os.IsNotExist(err) {
			return "", time.Time{}, err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || !strings.HasSuffix(e.Name(), ".console.log") || s.Clock.Now().Sub(info.ModTime()) < s.Config.LogRetention {
				continue
			}
			if os.Remove(filepath.Join(s.Config.LogDir, e.Name())) == nil {
				removed++
			}
		}
	}
	return fmt.Sprintf("%d nodes have task directories to remove, %d consoles and %d kept files removed", len(nodes), removed, gone), next, nil
}
