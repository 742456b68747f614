package vmrun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/seed"
)

// stepPark is where a spare waits for its node.
const stepPark = "park"

// Parked is the phase of a spare: a clone whose agent answers and that is stopped
// there, before it is anybody's. Only a launcher sees it; no node has it.
const Parked launch.Phase = "parked"

// errNotParked answers a launcher that wants a machine for a node which does not
// wait for one.
var errNotParked = errors.New("the machine is no spare, or not yet")

// park stops the machine and waits for the node that it is to be. It costs no
// processor time then, and its memory stays as small as it is.
func (s *supervisor) park(ctx context.Context) error {
	if err := s.qmp.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if err := s.change(func(st *launch.Status) { st.Phase, st.Step = Parked, "" }); err != nil {
		return err
	}
	select {
	case answer := <-s.adoptions:
		err := s.become()
		answer <- err
		if err != nil {
			return err
		}
		return s.qmp.Execute(ctx, "cont", nil, nil)
	case <-s.engine.done:
		return errors.New("QEMU ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// become makes the spare the machine of the node that its configuration names by
// now. What has taken time before is none of the node's.
func (s *supervisor) become() error {
	cfg, err := LoadConfig(s.dir)
	if err != nil {
		return err
	}
	if cfg.Park {
		return errors.New("its configuration names no node")
	}
	s.cfg, s.disks.cfg = cfg, cfg
	if err := s.disks.reseed(); err != nil {
		return err
	}
	s.log.Info("the spare is a node's now", "of", string(cfg.Spec.Node), "ofGeneration", cfg.Spec.Generation)
	return s.change(func(st *launch.Status) {
		st.Node, st.Generation, st.Phase, st.Step = cfg.Spec.Node, cfg.Spec.Generation, launch.Preparing, stepPersonalise
		st.Started, st.Steps, st.Clone.Spare = s.clock.Now(), nil, true
	})
}

// adopt answers a launcher that has written a node into the configuration. To ask
// again is no error.
func (s *supervisor) adopt(ctx context.Context) error {
	if s.now().Clone.Spare {
		return nil
	}
	answer := make(chan error, 1)
	select {
	case s.adoptions <- answer:
	case <-s.ended:
		return errNotParked
	case <-time.After(quitLimit): // the status says parked a moment before
		return errNotParked
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-s.ended:
		return errNotParked
	case <-ctx.Done():
		return ctx.Err()
	}
}

// instance is what the seed disk says of the machine.
func (d *disks) instance() seed.Instance {
	in := seed.Instance{ID: d.cfg.instanceID(), Hostname: d.cfg.Spec.Hostname, BringAgent: d.cfg.AgentDisk != ""}
	if f := d.cfg.Spec.FirstBoot; f != nil {
		in.User = &seed.User{Admin: f.Admin, PasswordHash: f.PasswordHash, Keys: f.Keys, PasswordLogin: f.PasswordLogin, CustomData: f.CustomData}
	}
	return in
}

// reseed writes the seed disk anew where it lies: QEMU has it open and keeps its
// size, and under KVM a reboot reads it through that.
func (d *disks) reseed() error {
	var b bytes.Buffer
	if err := seed.Write(&b, d.instance()); err != nil {
		return err
	}
	f, err := os.OpenFile(d.path(seedDisk), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if int64(b.Len()) > st.Size() {
		return fmt.Errorf("the node's seed disk has %d bytes, the spare's has %d", b.Len(), st.Size())
	}
	b.Write(make([]byte, st.Size()-int64(b.Len())))
	if _, err := f.WriteAt(b.Bytes(), 0); err != nil {
		return err
	}
	return f.Close()
}

// parks says that the machine is to wait for its node.
func (c Config) parks() bool { return c.Park && c.Template != "" }
