package agent_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/agent/guest"
	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// copied is a machine that is a copy of another.
type copied struct {
	agent.Machine
	rested bool
}

func (*copied) Settle(context.Context) (string, []*nodev1.Stage, error) { return "", nil, nil }

func (c *copied) Personalise(q *nodev1.PersonaliseRequest) ([]*nodev1.Stage, func() error, error) {
	return []*nodev1.Stage{{Name: q.GetHostname()}}, func() error { c.rested = true; return nil }, nil
}

// TestBirth: a copy that is told who it is is that node, once, and what it puts off
// is done when its answer is there.
func TestBirth(t *testing.T) {
	c := &copied{Machine: guest.New(guest.Config{Root: t.TempDir(), Clock: clock.System{}, Runner: func(root string) agent.Runner {
		return proc.New(proc.Config{Root: root, SameUser: true, Clock: clock.System{}, Grace: 100 * time.Millisecond})
	}})}
	a := agent.New(agent.Config{Version: "test", Machine: c, Clock: clock.System{}, Heartbeat: time.Second})
	defer a.Close()
	bear := func(b []byte) (*nodev1.BirthResponse, func() error) {
		t.Helper()
		b, rest := a.Birth(b)
		answer := new(nodev1.BirthResponse)
		if err := proto.Unmarshal(b, answer); err != nil {
			t.Fatal(err)
		}
		return answer, rest
	}
	question := func(node string) []byte {
		b, err := proto.Marshal(&nodev1.BirthRequest{Personalise: &nodev1.PersonaliseRequest{Hostname: "copy"}, Hello: &nodev1.HelloRequest{NodeId: node, Generation: 3, LastSequence: 9}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if answer, rest := bear([]byte{0xff}); answer.GetError() == "" || rest != nil {
		t.Errorf("what is no question was answered with %v", answer)
	}
	if answer, _ := bear(question("")); !strings.Contains(answer.GetError(), "node id") {
		t.Errorf("a Hello to nobody was answered with %v", answer)
	}
	answer, rest := bear(question("n1"))
	h := answer.GetHello()
	if answer.GetError() != "" || len(answer.GetStages()) != 1 || h.GetBootId() == "" || h.GetAgentVersion() != "test" || h.GetLastSequence() != 9 {
		t.Fatalf("the answer is %v", answer)
	}
	if c.rested || rest == nil {
		t.Fatal("what may be put off was not")
	}
	if err := rest(); err != nil || !c.rested {
		t.Error("what was put off is not done")
	}
	if answer, _ := bear(question("n1")); !strings.Contains(answer.GetError(), "n1 already") {
		t.Errorf("born twice: %v", answer)
	}
}

// FuzzBirth: whatever comes, an answer or an error goes back.
func FuzzBirth(f *testing.F) {
	f.Add([]byte(nil))
	if b, err := proto.Marshal(&nodev1.BirthRequest{Personalise: &nodev1.PersonaliseRequest{Hostname: "copy"}}); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a := agent.New(agent.Config{Version: "test", Machine: &copied{}, Clock: clock.System{}, Heartbeat: time.Second})
		defer a.Close()
		q := new(nodev1.BirthRequest)
		if proto.Unmarshal(b, q) == nil && q.GetHello().GetNodeId() != "" {
			return // this machine has nothing below it
		}
		out, rest := a.Birth(b)
		answer := new(nodev1.BirthResponse)
		if err := proto.Unmarshal(out, answer); err != nil {
			t.Fatal(err)
		}
		if (answer.GetError() == "") != (rest != nil) {
			t.Errorf("%v with rest %v", answer, rest != nil)
		}
	})
}
