package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/vmrun"
)

// takeOver finds the VMs of an earlier server.
func (l *Launcher) takeOver() error {
	entries, err := os.ReadDir(l.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(l.cfg.Dir, e.Name())
		if strings.HasPrefix(e.Name(), trashPrefix) {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		if strings.HasPrefix(e.Name(), sparePrefix) {
			if err := l.takeOverSpare(e.Name(), dir); err != nil {
				return fmt.Errorf("take over the spare in %s: %w", dir, err)
			}
			continue
		}
		if !e.IsDir() || !nodeName.MatchString(e.Name()) {
			continue
		}
		if err := l.takeOverVM(e.Name(), dir); err != nil {
			return fmt.Errorf("take over the VM in %s: %w", dir, err)
		}
	}
	return nil
}

func (l *Launcher) takeOverVM(key, dir string) error {
	cfg, err := vmrun.LoadConfig(dir)
	if errors.Is(err, os.ErrNotExist) {
		return os.RemoveAll(dir) // Launch was cut short and had promised nothing
	}
	if err != nil {
		return err
	}
	v := newVM(l.ctx, key, dir, cfg)
	l.mu.Lock()
	l.vms[key] = v
	l.mu.Unlock()
	if err := l.watch.add(dir); err != nil {
		return err
	}
	attached, err := v.attach()
	if err != nil {
		return err
	}
	st, err := vmrun.LoadStatus(dir)
	if attached {
		l.follow(v)
		if err == nil && st.Phase == vmrun.Parked {
			l.loops.Go(func() { l.become(v) })
		}
		return nil
	}
	if err == nil && st.Phase == vmrun.Parked {
		l.startAnew(v) // a spare that has died since a node was promised it
		return nil
	}
	// No supervisor. If the VM was still queued, its start was promised. A
	// supervisor that is just coming up has the folder's lock, and ours gives way.
	if err == nil && st.Phase == launch.Preparing && st.Step == stepQueued {
		l.begin(v, v.enqueue())
	}
	return nil
}
