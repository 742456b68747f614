package qemutest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// stubMemory is what a machine has in its memory, stubState what its devices are in.
const (
	stubMemory = "the memory of a stub"
	stubState  = "the state of a stub"
	stateFD    = 6
)

// memory makes the file of a machine's memory, or looks whether it is that of the
// machine that this one is a copy of.
func (s *stub) memory(option string) error {
	fields := map[string]string{}
	for f := range strings.SplitSeq(option, ",") {
		k, v, _ := strings.Cut(f, "=")
		fields[k] = v
	}
	name, ok := fields["mem-path"]
	if !ok {
		return nil
	}
	if fields["share"] == "on" {
		return os.WriteFile(name, []byte(stubMemory), 0o600)
	}
	b, err := os.ReadFile(name)
	if err == nil && string(b) != stubMemory {
		err = fmt.Errorf("%s is not the memory of a stub", name)
	}
	return err
}

// migrate does what a command asks of a machine's state.
func (s *stub) migrate(cmd string, line []byte) error {
	var c struct {
		Arguments struct {
			URI string `json:"uri"`
		} `json:"arguments"`
	}
	if err := json.Unmarshal(line, &c); err != nil {
		return err
	}
	switch cmd {
	case "migrate":
		conn, err := net.Dial("unix", strings.TrimPrefix(c.Arguments.URI, "unix:"))
		if err != nil {
			return err
		}
		_, err = io.WriteString(conn, stubState)
		if err := errors.Join(err, conn.Close()); err != nil {
			return err
		}
	case "migrate-incoming":
		b, err := io.ReadAll(os.NewFile(stateFD, "state"))
		if err != nil {
			return err
		}
		if string(b) != stubState {
			s.event("MIGRATION", `{"status": "failed"}`)
			return nil
		}
	default:
		return nil
	}
	s.event("MIGRATION", `{"status": "active"}`)
	s.event("MIGRATION", `{"status": "completed"}`)
	return nil
}

// copied is the agent of a machine that is copied.
type copied struct {
	nodev1.UnimplementedAgentHandler
}

func (*copied) Settle(context.Context, *connect.Request[nodev1.SettleRequest]) (*connect.Response[nodev1.SettleResponse], error) {
	return connect.NewResponse(&nodev1.SettleResponse{State: "running", Births: true}), nil
}

// born answers a birth as an agent does.
func (s *stub) born(b []byte) ([]byte, func() error) {
	q, answer := new(nodev1.BirthRequest), new(nodev1.BirthResponse)
	if err := proto.Unmarshal(b, q); err != nil || len(q.GetPersonalise().GetEntropy()) < 32 || q.GetPersonalise().GetHostname() == "" {
		answer.Error = "no entropy or name"
	}
	b, err := proto.Marshal(answer)
	if err != nil {
		panic(err) // a constant
	}
	if s.script == HalfClones {
		return b, func() error { return errors.New("no card") }
	}
	return b, nil
}
