package vmrun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"millpond.dev/millpond/internal/lan"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu/qmp"
	"millpond.dev/millpond/internal/revert"
)

// The steps of a launch, in their order.
const (
	stepOSDisk    = "os-disk"
	stepDataDisks = "data-disks"
	stepTempDisk  = "temp-disk"
	stepSeed      = "seed"
	stepFirmware  = "firmware"
	stepConsole   = "console"
	stepLAN       = "lan"
	stepTPM       = "tpm"
	stepQEMU      = "start-qemu"
	stepQMP       = "qmp"
)

// qmpLimit bounds the time from QEMU's start to its greeting. Under load of many
// starts it takes half a second.
const qmpLimit = 60 * time.Second

func (s *supervisor) steps() []revert.Step {
	d := s.disks
	s.askForMap()
	list := []revert.Step{
		{Name: stepOSDisk, Do: d.osDisk, Undo: d.undo(stepOSDisk)},
		{Name: stepDataDisks, Do: d.dataDisks, Undo: d.undo(stepDataDisks)},
		{Name: stepTempDisk, Do: d.tempDisk, Undo: d.undo(stepTempDisk)},
		{Name: stepSeed, Do: d.seed, Undo: d.undo(stepSeed)},
		{Name: stepFirmware, Do: d.firmware, Undo: d.undo(stepFirmware)},
		{Name: stepConsole, Do: s.openConsole, Undo: s.closeConsole},
		{Name: stepQEMU, Do: s.startQEMU, Undo: s.killQEMU},
		{Name: stepQMP, Do: s.connectQMP, Undo: nil},
	}
	if s.cfg.Spec.TPM {
		list = slices.Insert(list, slices.IndexFunc(list, func(x revert.Step) bool { return x.Name == stepQEMU }), revert.Step{Name: stepTPM, Do: s.startTPM, Undo: s.killTPM})
	}
	if s.cfg.LAN != "" {
		list = slices.Insert(list, slices.IndexFunc(list, func(x revert.Step) bool { return x.Name == stepQEMU }), revert.Step{Name: stepLAN, Do: s.joinLAN, Undo: s.leaveLAN})
	}
	return list
}

func (s *supervisor) openConsole(context.Context) error {
	c, err := newConsole(s.dir)
	s.console = c
	return err
}

func (s *supervisor) closeConsole() error {
	if s.console == nil {
		return nil
	}
	return s.console.close()
}

// joinLAN takes the machine's place in the network that it shares, if it does.
func (s *supervisor) joinLAN(context.Context) error {
	n := s.cfg.network()
	if n == nil {
		return nil
	}
	mac, ok := lan.ParseMAC(n.MAC)
	if !ok {
		return fmt.Errorf("%q is no MAC address", n.MAC)
	}
	var err error
	s.port, err = lan.Open(lan.Config{Dir: s.cfg.LAN, MAC: mac, Gateway: n.Gateway(), DNS: n.DNS(), Address: n.Guest(), Name: s.cfg.Spec.Hostname, Domain: launch.NetworkDomain, Filters: s.cfg.Spec.Card.Filters})
	return err
}

// leaveLAN comes after the sockets of QEMU are closed.
func (s *supervisor) leaveLAN() error {
	if s.port == nil {
		return nil
	}
	return s.port.Close(s.engine != nil)
}

func (s *supervisor) startQEMU(ctx context.Context) error {
	machine := s.disks.machine(consoleFD, qmpFD, agentFD)
	lease := s.takeMap(ctx, machine.Drives)
	if lease != nil {
		defer lease.Close() // QEMU's own stays
	}
	args, err := machine.Args()
	if err != nil {
		return err
	}
	if s.cfg.Freeze {
		// QEMU would make it readable by all.
		f, err := os.OpenFile(filepath.Join(s.dir, memoryFile), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	state, err := s.openState()
	if err != nil {
		return err
	}
	s.engine, err = startEngine(s.dir, s.cfg.Tools.QEMU, args, state, s.port != nil, s.tpm.forQEMU(), lease)
	if err != nil {
		s.engine = nil
		return err
	}
	if s.port != nil {
		s.port.Carry(s.engine.card, s.engine.gateway)
	}
	s.loops.Go(func() {
		if err := s.console.pump(s.engine.console); err != nil {
			s.log.Warn("the console was lost", "err", err)
		}
	})
	s.handle.QEMU = s.engine.id
	return s.handle.save(s.dir)
}

func (s *supervisor) killQEMU() error {
	if s.engine == nil {
		return nil
	}
	err := s.engine.kill()
	s.handle.QEMU.PID = 0
	return errors.Join(err, s.handle.save(s.dir))
}

// errEarlyExit says that QEMU ended before its greeting.
var errEarlyExit = errors.New("QEMU ended before its greeting")

func (s *supervisor) connectQMP(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, qmpLimit)
	defer cancel()
	c, err := qmp.Connect(ctx, s.engine.qmp, s.event)
	if err != nil {
		select {
		case <-s.engine.done:
			return errEarlyExit
		case <-time.After(100 * time.Millisecond):
			// The connection can end a moment before the process does.
			select {
			case <-s.engine.done:
				return errEarlyExit
			default:
			}
		}
		return err
	}
	s.qmp = c
	v := c.Version()
	s.log.Info("QEMU runs", "pid", s.engine.id.PID, "version", fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro))
	return nil
}
