package agent_test

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// TestFollow: what a running task writes is sent as it is written, and the stream
// ends with the task.
func TestFollow(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := bound(t)
	c, _ := n.session(ctx)
	defer c.Close()
	key := &nodev1.TaskKey{JobId: "j", TaskId: "t", Attempt: 1}
	if _, err := c.RunTask(ctx, connect.NewRequest(&nodev1.RunTaskRequest{Key: key, Directory: "workitems/j/job-1/t",
		CommandLine: "/bin/sh -c 'echo begin; echo $(date +%s%N); sleep 0.3; echo $(date +%s%N); sleep 0.3; echo end'"})); err != nil {
		t.Fatal(err)
	}
	var stream *connect.ServerStreamForClient[nodev1.FileChunk]
	for {
		var err error
		if stream, err = c.ReadFile(ctx, connect.NewRequest(&nodev1.ReadFileRequest{Path: "workitems/j/job-1/t/stdout.txt", Follow: true, Offset: 2})); err != nil {
			t.Fatal(err)
		}
		if stream.Receive() {
			break
		}
		if connect.CodeOf(stream.Err()) != connect.CodeNotFound {
			t.Fatal(stream.Err())
		}
		time.Sleep(5 * time.Millisecond) // the file is made when the command begins
	}
	var all bytes.Buffer
	pieces := 0
	for {
		if d := stream.Msg().GetData(); len(d) > 0 {
			all.Write(d)
			pieces++
			if written, err := strconv.ParseInt(strings.TrimSpace(string(d)), 10, 64); err == nil {
				t.Logf("sent %s after it was written", time.Since(time.Unix(0, written)))
			}
		}
		if !stream.Receive() {
			break
		}
	}
	if stream.Err() != nil || !strings.HasPrefix(all.String(), "gin\n") || !strings.HasSuffix(all.String(), "\nend\n") || pieces < 3 {
		t.Errorf("followed %q in %d pieces: %v", all.String(), pieces, stream.Err())
	}

	out, err := c.Outputs(ctx, connect.NewRequest(&nodev1.OutputsRequest{Directories: []string{"workitems/j/job-1/t", "../x", "workitems/none"}, Limit: 4}))
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for out.Receive() {
		m := out.Msg()
		if told = append(told, m.GetDirectory()+" "+m.GetName()); m.GetName() == "stdout.txt" && (string(m.GetHead()) != "begi" || string(m.GetTail()) != "end\n" || m.GetSize() < 40) {
			t.Errorf("%v", m)
		}
	}
	if want := "workitems/j/job-1/t stdout.txt|workitems/j/job-1/t stderr.txt|workitems/j/job-1/t |../x |workitems/none "; out.Err() != nil || strings.Join(told, "|") != want {
		t.Errorf("told %q, %v", told, out.Err())
	}
}
