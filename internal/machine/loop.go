package machine

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// Loop makes the launcher run what the rows say. What takes long goes on between
// activations, one thing at a time for each machine; Wait joins it.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "virtual machines", Every: 5 * time.Second, Wake: s.wake, Run: s.run}
}

// Forward wakes the loop when the launcher says that a machine changed.
func (s *Service) Forward(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Changed:
			s.wake.Wake()
		}
	}
}

// pollDisks is how soon disks that are being made are looked at again; compute
// tells nobody when one is done.
const pollDisks = 300 * time.Millisecond

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	// The launcher is asked before the rows are read: a row is then never younger
	// than the machine that it is missing.
	list, err := s.Launcher.List(ctx)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("list machines: %w", err)
	}
	s.holds.See(list, s.Log)
	byKey := map[string]*launch.Status{}
	for i := range list {
		byKey[list[i].Node.Key()] = &list[i]
	}
	var vms []*millpond.VirtualMachine
	disks := map[string][]millpond.ProvisioningState{}
	luns := map[string]map[int]string{}
	var now time.Time
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		now = tx.Now
		if vms, err = sqlite.List[millpond.VirtualMachine](tx, sqlite.Query{Type: millpond.TypeVM}); err != nil {
			return err
		}
		for _, v := range vms {
			if v.Power == millpond.VMRunning {
				// A machine whose disk has lost its row keeps nobody else waiting.
				if want, err := s.luns(tx, v); err == nil {
					luns[v.ID.Key()] = want
				} else if millpond.KindOf(err) != millpond.NotFound {
					return err
				}
			}
			if v.Power != millpond.VMCreating {
				continue
			}
			if disks[v.ID.Key()], err = diskStates(tx, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var next time.Time
	n := 0
	for _, v := range vms {
		f := facts{machine: byKey[v.Node().Key()], disks: disks[v.ID.Key()], luns: luns[v.ID.Key()], now: now, provision: s.Config.Provision}
		delete(byKey, v.Node().Key())
		if v.Power == millpond.VMRunning && s.Networks != nil && len(v.Cards) > 0 {
			if card, err := s.card(ctx, v); err == nil && card != nil {
				f.ports, f.filters, f.known = card.Ports, card.Filters, true
			}
		}
		if v.Power == millpond.VMCreating {
			next = now.Add(pollDisks)
		}
		if w := decide(v, f); w != "" {
			n++
			s.begin(ctx, v, w, f.machine)
		}
	}
	for _, m := range byKey {
		s.Log.Warn("a machine that no row has is destroyed", "machine", m.Node)
		err = errors.Join(err, s.Launcher.Destroy(ctx, m.Node))
	}
	s.expire(ctx, vms, now)
	return fmt.Sprintf("%d machines, %d actions", len(vms), n), next, err
}

// diskStates are the provisioning states of a machine's disks, "" for one that
// is not there.
func diskStates(tx *sqlite.Tx, v *millpond.VirtualMachine) ([]millpond.ProvisioningState, error) {
	var out []millpond.ProvisioningState
	for _, d := range disksOf(v) {
		id, ok := millpond.ParseResourceID(d.ID)
		if !ok {
			continue
		}
		r, err := tx.Resource(id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			out = append(out, "")
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r.State)
	}
	return out, nil
}

// begin does one thing about a machine on a goroutine, unless another is under way. v
// and m are what it was decided by.
func (s *Service) begin(ctx context.Context, v *millpond.VirtualMachine, w What, m *launch.Status) {
	id := v.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working[id.Key()] || ctx.Err() != nil {
		return
	}
	s.working[id.Key()] = true
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		err := s.act(ctx, v, w, m)
		if err != nil && ctx.Err() == nil {
			s.Log.Error("a machine's step failed", "vm", id.String(), "step", string(w), "err", err)
		}
		s.mu.Lock()
		delete(s.working, id.Key())
		s.mu.Unlock()
		if err == nil {
			s.wake.Wake()
		}
	}()
}

// edit changes a machine's row as it is now, if its state is still the one in
// which the step was decided; one that is gone is left alone.
func (s *Service) edit(ctx context.Context, id millpond.ResourceID, state millpond.VMState, fn func(tx *sqlite.Tx, v *millpond.VirtualMachine) error) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		v, err := sqlite.Load[millpond.VirtualMachine](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil || state != "" && v.Power != state {
			return err
		}
		return fn(tx, v)
	})
}

func (s *Service) act(ctx context.Context, by *millpond.VirtualMachine, w What, m *launch.Status) error {
	id := by.ID
	v, err := s.Get(ctx, id)
	if err != nil {
		if millpond.KindOf(err) == millpond.NotFound {
			return nil
		}
		return err
	}
	// Between the decision and its turn another step may have ended: the end of a
	// machine that was restarted is not the end of the one that starts.
	if v.Power != by.Power || v.Generation != by.Generation {
		return nil
	}
	switch w {
	case MakeDisks:
		return s.makeDisks(ctx, v)
	case FailDisks:
		return s.failDisks(ctx, v)
	case Begin:
		return s.edit(ctx, id, millpond.VMCreating, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
			if err := s.eachDisk(v, func(d millpond.ResourceID) error { return s.Disks.Event(tx, d, millpond.DiskAttach, v.ID) }); err != nil {
				return err
			}
			if _, err := move(v, millpond.VMReady, tx.Now); err != nil {
				return err
			}
			v.Generation++
			return tx.Put(v)
		})
	case Launch:
		return s.launch(ctx, v)
	case Ran:
		return s.ran(ctx, v, m)
	case Down:
		return s.down(ctx, v, m)
	case Stop:
		s.Log.Info("machine is stopped", "vm", id.Name())
		return s.Launcher.Stop(ctx, v.Node(), s.Config.Grace)
	case Release:
		return s.Launcher.Destroy(ctx, v.Node())
	case Released:
		if err := s.destroyed(ctx, v); err != nil {
			return err
		}
		return s.edit(ctx, id, millpond.VMDeallocating, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
			if err := s.eachDisk(v, func(d millpond.ResourceID) error { return s.Disks.Event(tx, d, millpond.DiskDeallocate, v.ID) }); err != nil {
				return err
			}
			if _, err := move(v, millpond.VMReleased, tx.Now); err != nil {
				return err
			}
			return finish(tx, v)
		})
	case Remove:
		if err := s.destroyed(ctx, v); err != nil {
			return err
		}
		return s.remove(ctx, v)
	case DataDisks:
		return s.settleDisks(ctx, v)
	case Ports:
		return s.ports(ctx, v)
	case GiveUp:
		return s.edit(ctx, id, millpond.VMRunning, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
			if v.Provisioned {
				return nil
			}
			return failed(tx, v, "OSProvisioningTimedOut", fmt.Sprintf("OS Provisioning for VM '%s' did not finish in the allotted time: its agent was not heard within %s. The image needs the agent or cloud-init, and must have been generalized. The console says more: millpond image check on the image, or the machine's console log.", v.ID.Name(), s.Config.Provision))
		})
	}
	return fmt.Errorf("unknown step %q", w)
}

func (s *Service) failDisks(ctx context.Context, v *millpond.VirtualMachine) error {
	return s.edit(ctx, v.ID, millpond.VMCreating, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		why := ""
		for _, d := range disksOf(v) {
			id, _ := millpond.ParseResourceID(d.ID)
			disk, err := sqlite.Load[millpond.Disk](tx, id.Key())
			if err == nil && disk.Base().State == millpond.StateFailed {
				why = fmt.Sprintf("The disk '%s' could not be made: %s", id.Name(), disk.Failure)
			}
		}
		if _, err := move(v, millpond.VMFail, tx.Now); err != nil {
			return err
		}
		return failed(tx, v, "DiskCreationFailed", why)
	})
}

// destroyed sees that the launcher has forgotten a machine before its disks are
// given free. The launcher may have been listed just before a launch that has
// ended since.
func (s *Service) destroyed(ctx context.Context, v *millpond.VirtualMachine) error {
	return s.Launcher.Destroy(ctx, v.Node())
}

// launched says whether the launcher has this or a later generation of a machine.
func (s *Service) launched(ctx context.Context, v *millpond.VirtualMachine) (bool, error) {
	list, err := s.Launcher.List(ctx)
	return slices.ContainsFunc(list, func(m launch.Status) bool {
		return m.Node.Key() == v.Node().Key() && m.Generation >= v.Generation
	}), err
}

// launch gives a machine its credential and has it launched.
func (s *Service) launch(ctx context.Context, v *millpond.VirtualMachine) error {
	// The decision may be older than the end of the last launch, and another
	// credential would shut out the machine that has the first one.
	if done, err := s.launched(ctx, v); done || err != nil {
		return err
	}
	secret := make([]byte, 32)
	if _, err := s.Random(secret); err != nil {
		return err
	}
	token := base64.RawURLEncoding.EncodeToString(secret)
	ok := false
	err := s.edit(ctx, v.ID, millpond.VMStarting, func(tx *sqlite.Tx, now *millpond.VirtualMachine) error {
		now.TokenHash, ok = launch.HashToken(token), true
		*v = *now
		return tx.Put(now)
	})
	if err != nil || !ok {
		return err
	}
	spec, err := s.spec(ctx, v, token)
	if err == nil {
		err = s.Launcher.Launch(ctx, spec)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		s.Log.Info("virtual machine launched", "vm", v.ID.String(), "machine", v.Node(), "generation", v.Generation)
		return nil
	}
	s.Log.Warn("a virtual machine could not be launched", "vm", v.ID.String(), "err", err)
	return s.edit(ctx, v.ID, millpond.VMStarting, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		if _, err := move(v, millpond.VMDown, tx.Now); err != nil {
			return err
		}
		return failed(tx, v, "AllocationFailed", fmt.Sprintf("Allocation failed: %s Stop or delete other machines, or choose a smaller size; then: az vm start --ids %s", sentence(err), v.ID))
	})
}

func sentence(err error) string {
	var me *millpond.Error
	if errors.As(err, &me) {
		return me.Message
	}
	return "The host could not take the machine: " + err.Error() + "."
}

func (s *Service) ran(ctx context.Context, v *millpond.VirtualMachine, m *launch.Status) error {
	return s.edit(ctx, v.ID, millpond.VMStarting, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		if _, err := move(v, millpond.VMRan, tx.Now); err != nil {
			return err
		}
		v.Started = tx.Now
		v.Warnings = warnings(m.Ports)
		if v.Profile == nil || v.Specialized {
			v.Provisioned = true
		}
		return finish(tx, v)
	})
}

func warnings(ports []launch.PortStatus) []string {
	var out []string
	for _, p := range ports {
		if p.Err != "" {
			out = append(out, p.Err)
		}
	}
	return out
}

// down notes that a machine does not run any more, and why if nobody asked.
func (s *Service) down(ctx context.Context, v *millpond.VirtualMachine, m *launch.Status) error {
	return s.edit(ctx, v.ID, v.Power, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		was := v.Power
		if _, err := move(v, millpond.VMDown, tx.Now); err != nil {
			return err
		}
		if err := s.endCommands(tx, v, "The machine was stopped while the script ran."); err != nil {
			return err
		}
		if v.Restart {
			if _, err := move(v, millpond.VMStart, tx.Now); err != nil {
				return err
			}
			if err := s.powerOn(tx, v, millpond.VMStopped); err != nil {
				return err
			}
			return tx.Put(v)
		}
		if was != millpond.VMStopping && m != nil && m.Err != nil {
			s.Log.Warn("a virtual machine died", "vm", v.ID.String(), "code", m.Err.Code, "message", m.Err.Message)
			message := m.Err.Message + " " + m.Err.Suggestion
			if was == millpond.VMStarting || !v.Provisioned {
				return failed(tx, v, m.Err.Code, message)
			}
			v.FailureCode, v.Failure = m.Err.Code, message
		}
		if was == millpond.VMStarting {
			return failed(tx, v, "OSProvisioningInternalError", "The machine ended before it ran. Its console says why.")
		}
		return finish(tx, v)
	})
}

func (s *Service) ports(ctx context.Context, v *millpond.VirtualMachine) error {
	p, ok := s.Launcher.(launch.Porter)
	card, err := s.card(ctx, v)
	if err != nil || !ok || card == nil {
		return err
	}
	if err := p.SetPorts(ctx, v.Node(), card.Ports, card.Filters); err != nil {
		return err
	}
	list, err := s.Launcher.List(ctx)
	if err != nil {
		return err
	}
	return s.edit(ctx, v.ID, millpond.VMRunning, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		for _, m := range list {
			if m.Node.Key() == v.Node().Key() {
				v.Warnings = warnings(m.Ports)
			}
		}
		return tx.Put(v)
	})
}

// remove takes a machine's row away, after everything that belongs to it.
func (s *Service) remove(ctx context.Context, v *millpond.VirtualMachine) error {
	err := s.edit(ctx, v.ID, millpond.VMDeleting, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		if s.Networks != nil {
			if err := s.Networks.Release(tx, v.ID); err != nil {
				return err
			}
		}
		return s.eachDisk(v, func(d millpond.ResourceID) error {
			err := s.Disks.Event(tx, d, millpond.DiskDetach, v.ID)
			if millpond.KindOf(err) == millpond.NotFound && err != nil {
				return nil
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	for _, d := range disksOf(v) {
		if id, ok := millpond.ParseResourceID(d.ID); ok && d.Delete {
			if _, err := s.Disks.Delete(ctx, id); err != nil {
				return err
			}
		}
	}
	for _, c := range v.Cards {
		if id, ok := millpond.ParseResourceID(c.ID); ok && c.Delete && s.Networks != nil {
			if _, err := s.Networks.Delete(ctx, id); err != nil {
				return err
			}
		}
	}
	s.Log.Info("virtual machine deleted", "vm", v.ID.String())
	return s.edit(ctx, v.ID, millpond.VMDeleting, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
		children, err := tx.Resources(sqlite.Query{Parent: v.ID.Key()})
		if err != nil {
			return err
		}
		for _, c := range children {
			if err := tx.EndOperations(c.ID.Key(), nil); err != nil {
				return err
			}
			if err := tx.DeleteResource(c.ID.Key()); err != nil {
				return err
			}
		}
		if err := tx.DeleteResource(v.ID.Key()); err != nil {
			return err
		}
		return tx.EndOperations(v.ID.Key(), nil)
	})
}
