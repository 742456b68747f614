package agent_test

import (
	"testing"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// TestInstance has a primary wait for its word to go on, which may come again
// and again; across sessions, as the attempt itself.
func TestInstance(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := bound(t)
	c, hello := n.session(ctx)
	if hello.GetInstances() != true {
		t.Fatal("it does not say that it knows instances", hello)
	}
	proceed := func(key *nodev1.TaskKey) error {
		_, err := c.ProceedTask(ctx, connect.NewRequest(&nodev1.ProceedTaskRequest{Key: key}))
		return err
	}
	q := task("a", 1, "/bin/sh -c 'exit 4'")
	q.Msg.Instance = &nodev1.Instance{CoordinationCommandLine: "true", Primary: true}
	if err := proceed(q.Msg.Key); connect.CodeOf(err) != connect.CodeNotFound {
		t.Fatal(err)
	}
	if _, err := c.RunTask(ctx, q); err != nil {
		t.Fatal(err)
	}
	list := events(ctx, t, c, 0, 2)
	if list[0].GetTaskStarted() == nil || list[1].GetTaskCoordinated().GetKey().GetTaskId() != "a" || !list[1].GetTaskCoordinated().GetStartTime().IsValid() {
		t.Fatal(list)
	}
	c.Close()
	if c, hello = n.session(ctx); len(hello.GetRunning()) != 1 {
		t.Fatal(hello)
	}
	defer c.Close()
	for range 2 {
		if err := proceed(q.Msg.Key); err != nil {
			t.Fatal(err)
		}
	}
	if e := events(ctx, t, c, 2, 1)[0].GetTaskCompleted(); e.GetExitCode() != 4 {
		t.Fatal(e)
	}
	if err := proceed(q.Msg.Key); err != nil {
		t.Fatal("after the end:", err)
	}
}
