package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

const (
	// callLimit bounds one call of an agent that does no work worth waiting for.
	callLimit = 30 * time.Second
	// outputTail is how much of a script's output is kept, as in Azure.
	outputTail = 4096
	// scriptJob is the job under which the agent keeps scripts; the id of the
	// provisioning script begins with provisionPrefix.
	scriptJob       = "run-command"
	provisionPrefix = "provision-"
)

// session is the contact with one machine's agent.
type session struct {
	svc    *Service
	node   millpond.NodeID
	gen    int
	client nodev1.AgentClient
	cancel context.CancelCauseFunc
	done   chan struct{}
	wake   *wake.Signal
	ready  bool // Service.mu guards it
	// sent are the scripts that this session has asked the agent to run.
	sent map[string]bool
	// still is taken by whoever holds the guest still.
	still chan struct{}
}

// tellAll makes every session look at its rows. There are few.
func (s *Service) tellAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		x.wake.Wake()
	}
}

// Serve runs the session with a machine's agent until ctx ends or contact is
// lost. The caller has authenticated it.
func (s *Service) Serve(ctx context.Context, node millpond.NodeID, generation int, client nodev1.AgentClient, _ *nodev1.HelloResponse) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := &session{svc: s, node: node, gen: generation, client: client, cancel: cancel, done: make(chan struct{}), wake: wake.New(), sent: map[string]bool{}, still: make(chan struct{}, 1)}
	defer close(x.done)
	s.mu.Lock()
	s.sessions[node.Key()] = x
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		if s.sessions[node.Key()] == x {
			delete(s.sessions, node.Key())
		}
		s.mu.Unlock()
	}()
	if err := x.hello(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	x.ready = true
	s.mu.Unlock()
	x.wake.Wake()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return x.listen(ctx) })
	g.Go(func() error { return x.tell(ctx) })
	err := g.Wait()
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}

// hello gives the machine its name and clock and notes what speaks there.
func (x *session) hello(ctx context.Context) error {
	s := x.svc
	var v *millpond.VirtualMachine
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		v, err = byNode(tx, x.node)
		return err
	})
	if err != nil {
		return err
	}
	entropy := make([]byte, 64)
	if _, err := s.Random(entropy); err != nil {
		return err
	}
	q := &nodev1.HelloRequest{NodeId: string(v.Node()), Generation: int32(x.gen), Now: timestamppb.New(s.Clock.Now()), Entropy: entropy, ServerVersion: s.Config.Version}
	if v.Profile != nil && !v.Specialized {
		q.Hostname = v.Profile.ComputerName
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := x.client.Hello(call, connect.NewRequest(q))
	if err != nil {
		return fmt.Errorf("say hello to machine %s: %w", x.node, err)
	}
	h := answer.Msg
	s.Log.Info("virtual machine speaks", "vm", v.ID.String(), "boot", h.GetBootId(), "agent", h.GetAgentVersion())
	return s.edit(ctx, v.ID, "", func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		if v.Generation != x.gen {
			return millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "The machine is of generation %d now.", v.Generation)
		}
		if v.Agent.BootID != h.GetBootId() && v.Agent.BootID != "" {
			if err := s.endCommands(tx, v, "The machine was restarted while the script ran."); err != nil {
				return err
			}
		}
		v.Agent = millpond.VMAgent{Version: h.GetAgentVersion(), BootID: h.GetBootId(), Heard: tx.Now}
		v.Agent.OSName, v.Agent.OSVersion = osNames(h.GetOsRelease())
		return tx.Put(v)
	})
}

// osNames reads ID and VERSION_ID of an os-release.
func osNames(text string) (name, version string) {
	for line := range strings.Lines(text) {
		k, val, _ := strings.Cut(strings.TrimSpace(line), "=")
		val = strings.Trim(val, `"'`)
		switch k {
		case "ID":
			name = val
		case "VERSION_ID":
			version = val
		}
	}
	return name, version
}

// listen applies what the agent reports.
func (x *session) listen(ctx context.Context) error {
	stream, err := x.client.Watch(ctx, connect.NewRequest(&nodev1.WatchRequest{}))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		e := stream.Msg()
		if c := e.GetTaskCompleted(); c != nil && c.GetKey().GetJobId() == scriptJob {
			if err := x.ended(ctx, c); err != nil {
				return err
			}
		}
		if e.GetSequence() > 0 {
			if _, err := x.client.Acknowledge(ctx, connect.NewRequest(&nodev1.AcknowledgeRequest{Through: e.GetSequence()})); err != nil {
				return err
			}
		}
	}
	return stream.Err()
}

// tell has the agent run what the rows want.
func (x *session) tell(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.wake.C():
		}
		if err := x.look(ctx); err != nil {
			return err
		}
	}
}

func (x *session) look(ctx context.Context) error {
	s := x.svc
	var v *millpond.VirtualMachine
	var want []millpond.GuestCommand
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if v, err = byNode(tx, x.node); err != nil {
			return err
		}
		b, err := openBook(tx, v)
		want = b.wanted()
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return errors.New("the machine is gone")
	}
	if err != nil {
		return err
	}
	if !v.Provisioned && v.Profile != nil && !v.Specialized {
		want = append(want, millpond.GuestCommand{ID: fmt.Sprintf("%s%d", provisionPrefix, v.Generation), Limit: s.Config.Provision})
	}
	known := map[string]bool{}
	for _, c := range want {
		known[c.ID] = true
		if x.sent[c.ID] {
			continue
		}
		// First the row, then the agent: a script that may have run is not run again.
		err := s.edit(ctx, v.ID, "", func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
			b, err := openBook(tx, v)
			if err != nil {
				return err
			}
			return b.edit(tx, c.ID, func(c *millpond.GuestCommand) {
				c.State = millpond.CommandRunning
				if c.Started.IsZero() {
					c.Started = tx.Now
				}
			})
		})
		if err != nil {
			return err
		}
		x.sent[c.ID] = true
		if _, err := x.client.RunTask(ctx, connect.NewRequest(x.request(v, c))); err != nil {
			return fmt.Errorf("run a script on %s: %w", v.ID.Name(), err)
		}
	}
	for id := range x.sent {
		if known[id] {
			continue
		}
		delete(x.sent, id) // deleted, or ended
		_, err := x.client.StopTask(ctx, connect.NewRequest(&nodev1.StopTaskRequest{Key: scriptKey(id), Code: "Canceled", Message: "The run command was deleted."}))
		if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
			return err
		}
	}
	return nil
}

func scriptKey(id string) *nodev1.TaskKey {
	return &nodev1.TaskKey{JobId: scriptJob, TaskId: id, Attempt: 1}
}

func scriptFolder(id string) string { return "workitems/" + scriptJob + "/job-1/" + id }

// request is a script as the agent runs it.
func (x *session) request(v *millpond.VirtualMachine, c millpond.GuestCommand) *nodev1.RunTaskRequest {
	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	line := ""
	switch {
	case strings.HasPrefix(c.ID, provisionPrefix):
		line = "/usr/sbin/millpond-agent -provision"
		p := v.Profile
		env["MILLPOND_USER"], env["MILLPOND_PASSWORD_HASH"] = p.Admin, p.PasswordHash
		var keys []string
		for _, k := range p.Keys {
			keys = append(keys, strings.TrimSpace(k.Data))
		}
		env["MILLPOND_KEYS"] = strings.Join(keys, "\n")
	case strings.HasPrefix(c.Script, "#!"):
		// The script's own first line says who reads it.
		env["MILLPOND_SCRIPT"] = c.Script
		line = "/bin/sh -c " + quote(`umask 077; printf '%s' "$MILLPOND_SCRIPT" > script.sh && chmod 700 script.sh && unset MILLPOND_SCRIPT && exec ./script.sh "$@"`) + " script.sh"
	default:
		line = "/bin/sh -c " + quote(c.Script) + " script.sh"
	}
	for _, a := range c.Args {
		line += " " + quote(a)
	}
	user := &nodev1.User{Admin: true}
	if c.User != "" && c.User != "root" {
		user = &nodev1.User{Name: c.User, Existing: true}
	}
	return &nodev1.RunTaskRequest{Key: scriptKey(c.ID), CommandLine: line, Directory: scriptFolder(c.ID), Environment: env,
		User: user, MaxWallClock: durationpb.New(c.Limit)}
}

// quote makes one word of a text for the agent's splitter.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// ended takes a script's outcome and output.
func (x *session) ended(ctx context.Context, t *nodev1.TaskCompleted) error {
	s, id := x.svc, t.GetKey().GetTaskId()
	stdout, stderr := x.output(ctx, id, "stdout.txt"), x.output(ctx, id, "stderr.txt")
	var v *millpond.VirtualMachine
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		v, err = byNode(tx, x.node)
		return err
	})
	if err != nil {
		return err
	}
	err = s.edit(ctx, v.ID, "", func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		if strings.HasPrefix(id, provisionPrefix) {
			return x.provisioned(tx, v, t, stderr)
		}
		b, err := openBook(tx, v)
		if err != nil {
			return err
		}
		return b.edit(tx, id, func(c *millpond.GuestCommand) {
			if c.State.Ended() {
				return
			}
			c.State, c.Exit, c.Stdout, c.Stderr = millpond.CommandSucceeded, t.GetExitCode(), stdout, stderr
			c.Ended = t.GetEndTime().AsTime()
			if f := t.GetFailure(); f != nil {
				c.State, c.Message = millpond.CommandFailed, f.GetMessage()
				if f.GetCode() == millpond.CodeTaskEnded {
					c.State = millpond.CommandTimedOut
				}
			}
		})
	})
	if err != nil {
		return err
	}
	s.wake.Wake()
	_, err = x.client.RemoveTask(ctx, connect.NewRequest(&nodev1.RemoveTaskRequest{Key: t.GetKey(), Directory: scriptFolder(id)}))
	if err != nil && connect.CodeOf(err) != connect.CodeUnavailable {
		s.Log.Warn("a script's folder was left in the guest", "vm", v.ID.String(), "err", err)
		err = nil
	}
	return err
}

// badFlag is the exit code of an agent that is older than -provision.
const badFlag = 2

// provisioned notes that a machine has its user and ends its creation.
func (x *session) provisioned(tx *sqlite.Tx, v *millpond.VirtualMachine, t *nodev1.TaskCompleted, stderr string) error {
	code := t.GetFailure().GetCode()
	old := code == "CommandProgramNotFound" || code == "FailureExitCode" && t.GetExitCode() == badFlag
	if code != "" && !old {
		if v.Provisioned {
			return nil
		}
		return failed(tx, v, "OSProvisioningClientError", fmt.Sprintf("OS provisioning for VM '%s' failed. Error details: %s %s", v.ID.Name(), t.GetFailure().GetMessage(), stderr))
	}
	if old {
		v.Warnings = append(v.Warnings, "The image's agent is older than this server: whether cloud-init made the user is not known.")
	}
	v.Provisioned = true
	v.FailureCode, v.Failure = "", ""
	if v.Base().State == millpond.StateFailed {
		v.Base().State = millpond.StateSucceeded
	}
	return finish(tx, v)
}

// output is the end of a script's output; what cannot be read is left out.
func (x *session) output(ctx context.Context, id, name string) string {
	path := scriptFolder(id) + "/" + name
	info, err := x.client.StatFile(ctx, connect.NewRequest(&nodev1.StatFileRequest{Path: path}))
	if err != nil || info.Msg.GetSize() == 0 {
		return ""
	}
	stream, err := x.client.ReadFile(ctx, connect.NewRequest(&nodev1.ReadFileRequest{Path: path, Offset: max(0, info.Msg.GetSize()-outputTail), Length: outputTail}))
	if err != nil {
		return ""
	}
	defer stream.Close()
	var b strings.Builder
	for stream.Receive() {
		b.Write(stream.Msg().GetData())
	}
	if err := stream.Err(); err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return strings.ToValidUTF8(b.String(), "?")
}
