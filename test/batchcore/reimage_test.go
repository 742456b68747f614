package batchcore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

// TestTasksAfterReimages: with real agents, a task that runs when its node is
// reimaged runs again, and so does the next one.
func TestTasksAfterReimages(t *testing.T) {
	c, _ := realSetup(t)
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.StartTask = &millpond.StartTask{CommandLine: "/bin/true", WaitForSuccess: true}
	})
	c.idle("p", 1)
	c.addJob("j", "p", nil)
	for i := range 4 {
		before := c.list("p")[0]
		across, after := fmt.Sprintf("across%d", i), fmt.Sprintf("after%d", i)
		c.addTask("j", across, "/bin/sleep 0.2", nil)
		if i%2 == 0 {
			c.taskIn("j", across, millpond.TaskRunning)
		}
		c.must(c.nodes.Reimage(ctx, acct.Name, "p", before.ID, millpond.DeallocateRequeue))
		c.wait("the node is reimaged", func() bool { return c.list("p")[0].Generation > before.Generation })
		c.addTask("j", after, "/bin/true", nil)
		c.taskIn("j", across, millpond.TaskCompleted)
		c.taskIn("j", after, millpond.TaskCompleted)
	}
}

// TestNumbersThatDisagree: the journal of an agent may tell less than the server
// knows, for a reset tore its end off, or more, for the server's database is older.
// Either way a session begins, and the next task runs.
func TestNumbersThatDisagree(t *testing.T) {
	for _, test := range []struct {
		name string
		// torn: after the boot the agent finds its journal as it was before the second
		// task; else one that tells of more than the server saw.
		torn bool
	}{{"torn", true}, {"ahead", false}} {
		t.Run(test.name, func(t *testing.T) {
			c, h := realSetup(t)
			c.addPool("p", 1, nil)
			c.idle("p", 1)
			c.addJob("j", "p", nil)
			n := c.list("p")[0]
			journal := filepath.Join(h.root(n.ID), "volatile", "events.log")
			// all are acknowledged: nothing is left that the agent would send again.
			all := func(task string) []byte {
				t.Helper()
				c.addTask("j", task, "/bin/true", nil)
				c.taskIn("j", task, millpond.TaskCompleted)
				var b []byte
				c.wait("the journal is acknowledged", func() bool {
					b, _ = os.ReadFile(journal)
					return acknowledged(b)
				})
				return b
			}
			left := all("first")
			if test.torn {
				all("second")
			} else {
				left = append(left, `{"ack":100}`+"\n"...)
			}
			h.mu.Lock()
			h.disk = func(string) {
				if err := os.WriteFile(journal, left, 0o600); err != nil {
					t.Error(err)
				}
			}
			h.mu.Unlock()
			c.reboot("p", n.ID)
			for i := range 2 {
				id := fmt.Sprintf("after%d", i)
				c.addTask("j", id, "/bin/true", nil)
				c.taskIn("j", id, millpond.TaskCompleted)
			}
		})
	}
}

// acknowledged tells whether a journal ends with the acknowledgement of all.
func acknowledged(journal []byte) bool {
	lines := strings.Split(strings.TrimSpace(string(journal)), "\n")
	return len(lines) > 1 && strings.HasPrefix(lines[len(lines)-1], `{"ack":`)
}
