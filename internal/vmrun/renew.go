package vmrun

import (
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
)

// renews says that a reset of the machine is a new QEMU on the same disks.
//
// Under emulation QEMU keeps the code that it has translated through a reset. All
// pages of the guest's memory that ever had code stay protected, and each write of
// the next boot to one of them takes the slow way, until the last piece of code in
// it is gone: a tiny VM boots in 10 s instead of 4. A template ends when it is
// kept, and is never reset.
func (c Config) renews() bool { return c.Accel == qemu.TCG && !c.Freeze }

// renew makes the supervisor of the machine's next QEMU. What the launcher has
// written to the configuration meanwhile counts from now on. A stop that comes in
// between is for both.
func (s *supervisor) renew() (*supervisor, error) {
	cfg, err := LoadConfig(s.dir)
	if err != nil {
		return s, err
	}
	next := &supervisor{
		dir: s.dir, cfg: cfg, clock: s.clock, begin: s.begin, watcher: s.watcher, log: s.log,
		disks:  &disks{dir: s.dir, cfg: cfg, made: map[string][]string{}},
		broken: make(chan *launch.Failure, 1), full: make(chan struct{}, 1), migration: make(chan string, 16), adoptions: make(chan chan error),
		stop: s.stop, ended: s.ended, handle: s.handle, starved: s.starved,
	}
	next.status = s.now()
	return next, next.change(func(st *launch.Status) {
		st.Phase, st.Step, st.Steps, st.Ports, st.Heard, st.Held = launch.Preparing, "", nil, nil, time.Time{}, nil
	})
}
