package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// consoleBytes is how much of a console is kept after a node is gone.
const consoleBytes = 1 << 20

// console is the end of a machine's console, empty when there is none.
func (s *Service) console(ctx context.Context, id millpond.NodeID) string {
	c, ok := s.Launcher.(launch.Consoler)
	if !ok {
		return ""
	}
	b, err := c.Console(ctx, id, evidenceBytes)
	if err != nil {
		return ""
	}
	return string(b)
}

// keepConsole writes a machine's console to LogDir before it is destroyed. What
// cannot be kept is logged; it stops nothing.
func (s *Service) keepConsole(ctx context.Context, id millpond.NodeID, generation int) {
	c, ok := s.Launcher.(launch.Consoler)
	if !ok || s.Config.LogDir == "" {
		return
	}
	b, err := c.Console(ctx, id, consoleBytes)
	if err != nil || len(b) == 0 {
		return
	}
	if err := os.MkdirAll(s.Config.LogDir, 0o700); err == nil {
		err = os.WriteFile(s.ConsolePath(id, generation), b, 0o600)
		if err == nil {
			return
		}
	}
	s.Log.Warn("a node's console could not be kept", "node", id, "err", err)
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
