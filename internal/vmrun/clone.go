package vmrun

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/revert"
)

// The steps of a clone that a machine with a boot of its own has not.
const (
	stepRestore     = "restore"
	stepGreet       = "greet"
	stepPersonalise = "personalise"
)

// cloneFailed begins what a status says of a clone that had to boot.
const cloneFailed = "The clone did not come to life: "

// CodeCloneIncomplete: a clone has answered, and then could not be given all that
// makes it a machine of its own.
const CodeCloneIncomplete = "CloneIncomplete"

// CloneFailed says that a VM's template did not do: it booted, or was ended half made.
func CloneFailed(st launch.Status) bool { return strings.HasPrefix(st.Clone.Cold, cloneFailed) }

const (
	// answerLimit is how long the agent of a clone may take to its first answer: a
	// tenth of a second, or some when many clones start at once.
	answerLimit = 30 * time.Second
	// wholeLimit is how long a clone's cable stays out for its agent's sake.
	wholeLimit = time.Minute
	// entropyBytes is what a clone's kernel gets from the host.
	entropyBytes = 64
)

// launch does the steps of a clone or, when there is no template, when the machine
// has run before (its memory is gone, its disks are there), or when the clone did
// not come to life, those of a boot.
func (s *supervisor) launch(ctx context.Context) (*revert.Stack, error) {
	if s.cfg.Template != "" && !Fresh(s.dir) {
		s.mu.Lock()
		s.status.Clone = launch.Clone{Cold: "The machine has run before and boots from its disks."}
		s.mu.Unlock()
	} else if s.cfg.Template != "" {
		return s.launchClone(ctx)
	}
	return revert.Run(ctx, s.steps(), s, s.clock.Now)
}

func (s *supervisor) launchClone(ctx context.Context) (*revert.Stack, error) {
	s.clones, s.disks.clones = true, true
	list := append(s.steps(), revert.Step{Name: stepRestore, Do: s.restore})
	if s.cfg.parks() {
		list = append(list, revert.Step{Name: stepGreet, Do: s.greet, Undo: s.closeHost}, revert.Step{Name: stepPark, Do: s.park})
	}
	list = append(list, revert.Step{Name: stepPersonalise, Do: s.personalise, Undo: s.closeHost})
	stack, err := revert.Run(ctx, list, s, s.clock.Now)
	// A spare that is nobody's has nobody to boot for.
	if err == nil || ctx.Err() != nil || s.asked.Load() || s.cfg.Park {
		return stack, err
	}
	s.log.Error("the clone did not come to life; booting", "template", s.cfg.Template, "err", err)
	s.clones, s.disks.clones = false, false
	s.mu.Lock()
	s.status.Steps = nil
	s.status.Clone = launch.Clone{Cold: cloneFailed + err.Error() + "."}
	s.mu.Unlock()
	return revert.Run(ctx, s.steps(), s, s.clock.Now)
}

// openState is the template's state for QEMU to inherit; nil for a boot.
func (s *supervisor) openState() (*os.File, error) {
	if !s.clones {
		return nil, nil
	}
	return os.Open(filepath.Join(s.cfg.Template, stateFile))
}

// restore gives the machine the template's state, which is that of a machine that
// was stopped, and lets it go on.
func (s *supervisor) restore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stateLimit)
	defer cancel()
	if err := s.capabilities(ctx); err != nil {
		return err
	}
	if err := s.qmp.Execute(ctx, "migrate-incoming", map[string]string{"uri": fmt.Sprintf("fd:%d", stateFD)}, nil); err != nil {
		return err
	}
	if err := s.migrated(ctx); err != nil {
		return err
	}
	return s.qmp.Execute(ctx, "cont", nil, nil)
}

// greet waits for the agent's first word, so that a spare has run what gives it.
func (s *supervisor) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	s.host = nodeproto.NewHost(s.engine.agent)
	session, err := s.host.Open(ctx)
	if err != nil {
		return fmt.Errorf("its agent did not answer: %w", err)
	}
	return session.Close()
}

// personalise makes the machine one of its own, and the node that it is to be,
// before anything of its user's runs. What its agent puts off is waited for by
// plugIn.
func (s *supervisor) personalise(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var random [entropyBytes + 32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	q := &nodev1.BirthRequest{Personalise: &nodev1.PersonaliseRequest{
		Entropy: random[:entropyBytes], BootId: uuidOf(random[entropyBytes : entropyBytes+16]), MachineId: hex.EncodeToString(random[entropyBytes+16:]),
		Hostname: s.cfg.Spec.Hostname, InstanceId: s.cfg.instanceID(), Now: timestamppb.New(s.clock.Now()),
	}}
	n := s.cfg.network()
	if n != nil {
		q.Personalise.Mac = s.cfg.mac()
	}
	if g := s.cfg.Spec.Greeting; g != nil {
		q.Hello = new(nodev1.HelloRequest)
		if err := proto.Unmarshal(g.Hello, q.Hello); err != nil {
			return fmt.Errorf("what the server says to its agent: %w", err)
		}
		if n != nil {
			q.Hello.HostAddress = n.Gateway().String()
		}
		q.Hello.ServerAddress = g.ServerAddress(q.Hello.GetHostAddress())
	}
	b, err := proto.Marshal(q)
	if err != nil {
		return err
	}
	if s.host == nil {
		s.host = nodeproto.NewHost(s.engine.agent)
	}
	b, whole, err := s.host.Birth(ctx, b)
	if err != nil {
		return fmt.Errorf("its agent did not answer: %w", err)
	}
	answer := new(nodev1.BirthResponse)
	if err := proto.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("its agent's answer: %w", err)
	}
	if answer.GetError() != "" {
		return fmt.Errorf("its agent says: %s", answer.GetError())
	}
	for _, stage := range answer.GetStages() {
		s.log.Info("personalised", "stage", stage.GetName(), "took", stage.GetDuration().AsDuration().String())
	}
	if answer.GetHello() != nil {
		if s.hello, err = proto.Marshal(answer.GetHello()); err != nil {
			return err
		}
	}
	s.whole, s.back = whole, s.giveWay()
	s.heard()
	return nil
}

// plugIn plugs the cable in when the agent has given the card its address, or when
// late says that this takes too long. A machine that turns out not to become one of its
// own ends, also then: nothing of its user's has run.
func (s *supervisor) plugIn(ctx context.Context, late <-chan time.Time) {
	plugged := false
	for {
		whole := false
		select {
		case err := <-s.whole:
			if err != nil {
				s.unborn(err)
				return
			}
			whole = true
		case <-late:
			s.log.Warn("the agent does not say that its machine is whole", "waited", wholeLimit)
		case <-ctx.Done():
			return
		}
		if !plugged {
			plugged = true
			if err := s.setLink(ctx, true); err != nil && ctx.Err() == nil {
				s.log.Error("the machine's cable was not plugged in", "err", err)
			}
		}
		if whole {
			return
		}
	}
}

// unborn ends a machine that is only half its own: nothing of its user's has run on
// it, and the next one of its node may have to boot.
func (s *supervisor) unborn(err error) {
	s.mu.Lock()
	s.status.Clone.Cold = cloneFailed + err.Error() + "."
	s.mu.Unlock()
	select {
	case s.broken <- &launch.Failure{Host: true, Code: CodeCloneIncomplete, Message: "The clone did not become a machine of its own: " + err.Error() + ".",
		Suggestion: "Another machine is made for the node. If it goes on, give the pool the metadata millpond:clones=off."}:
	default:
	}
}

func (s *supervisor) closeHost() error {
	if s.host == nil {
		return nil
	}
	err := s.host.Close()
	s.host = nil
	return err
}

// uuidOf is 16 random bytes as a UUID of version 4.
func uuidOf(b []byte) string {
	b = append([]byte(nil), b...)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	s := hex.EncodeToString(b)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
