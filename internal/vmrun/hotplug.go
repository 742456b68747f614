package vmrun

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millpond.dev/millpond/internal/launch"
)

// unplugLimit bounds how long a disk that was taken away may still have requests
// under way.
const unplugLimit = 10 * time.Second

// attach gives the running VM a managed disk at its LUN.
func (s *supervisor) attach(ctx context.Context, disk launch.Disk) error {
	if err := s.running(); err != nil {
		return err
	}
	d := &disks{dir: s.dir, cfg: s.cfg}
	if disk.Managed == "" {
		return errors.New("only a managed disk can be attached to a running VM")
	}
	if err := d.managed(disk); err != nil {
		return err
	}
	drive := d.dataDrive(disk)
	if err := s.qmp.Execute(ctx, "blockdev-add", drive.Node(), nil); err != nil {
		return err
	}
	if err := s.qmp.Execute(ctx, "device_add", drive.Device(), nil); err != nil {
		return errors.Join(err, s.qmp.Execute(ctx, "blockdev-del", map[string]any{"node-name": drive.ID}, nil))
	}
	return nil
}

// detach takes the disk at a LUN away from the running VM.
func (s *supervisor) detach(ctx context.Context, lun int) error {
	if err := s.running(); err != nil {
		return err
	}
	drive := (&disks{dir: s.dir, cfg: s.cfg}).dataDrive(launch.Disk{LUN: lun})
	if err := s.qmp.Execute(ctx, "device_del", map[string]any{"id": "dev-" + drive.ID}, nil); err != nil {
		return err
	}
	// The node is free when the guest's last request has ended.
	ctx, cancel := context.WithTimeout(ctx, unplugLimit)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := s.qmp.Execute(ctx, "blockdev-del", map[string]any{"node-name": drive.ID}, nil)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the guest still uses the disk at LUN %d: %w", lun, err)
		}
	}
}

func (s *supervisor) running() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Phase != launch.Running {
		return errors.New("the VM does not run yet, or not any more")
	}
	return nil
}
