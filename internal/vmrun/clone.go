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

	"connectrpc.com/connect"
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

// CloneFailed says that a VM has booted because its template did not do.
func CloneFailed(st launch.Status) bool { return strings.HasPrefix(st.Clone.Cold, cloneFailed) }

const (
	// answerLimit is how long the agent of a clone may take to its first answer: a
	// tenth of a second, or some when many clones start at once.
	answerLimit = 30 * time.Second
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

// greet waits for the agent's first word.
func (s *supervisor) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	s.host = nodeproto.NewHost(s.engine.agent)
	session, err := s.host.Open(ctx)
	if err != nil {
		return fmt.Errorf("its agent did not answer: %w", err)
	}
	s.greeted = session
	return nil
}

// personalise makes the machine one of its own, before anything of its user's
// runs and before the server hears of it.
func (s *supervisor) personalise(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if s.greeted == nil {
		if err := s.greet(ctx); err != nil {
			return err
		}
	}
	// Not before: it asks now and then whether the agent is still there, which a
	// machine that is stopped does not answer.
	client, err := nodeproto.NewClient(ctx, s.greeted)
	s.greeted = nil
	if err != nil {
		return err
	}
	defer client.Close()
	var random [entropyBytes + 32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	q := &nodev1.PersonaliseRequest{
		Entropy: random[:entropyBytes], BootId: uuidOf(random[entropyBytes : entropyBytes+16]), MachineId: hex.EncodeToString(random[entropyBytes+16:]),
		Hostname: s.cfg.Spec.Hostname, InstanceId: s.cfg.instanceID(), Now: timestamppb.New(s.clock.Now()),
	}
	if s.cfg.network() != nil {
		q.Mac = s.cfg.mac()
	}
	answer, err := client.Personalise(ctx, connect.NewRequest(q))
	if err != nil {
		return err
	}
	for _, stage := range answer.Msg.GetStages() {
		s.log.Info("personalised", "stage", stage.GetName(), "took", stage.GetDuration().AsDuration().String())
	}
	if err := s.setLink(ctx, true); err != nil {
		return err
	}
	s.heard()
	return nil
}

func (s *supervisor) closeHost() error {
	if s.host == nil {
		return nil
	}
	err := s.host.Close()
	s.host, s.greeted = nil, nil
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
