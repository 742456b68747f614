package local

import (
	"runtime"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
	"millpond.dev/millpond/internal/vmrun"
)

// bootsPerCore is how many machines boot at the same time for each of the host's
// processors. An emulated boot is nothing but computing: 32 of Debian at once on two
// cores took 641 s, three times as long as one after another, because what waits in a
// guest for a second of the clock got none of the processor's. Under KVM they wait for
// disks, too.
func bootsPerCore(accel qemu.Accel) int {
	if accel == qemu.KVM {
		return 8
	}
	return 2
}

// bootHold is how long a machine that says nothing keeps others from booting.
const bootHold = 2 * time.Minute

// boots are the places for nodes that boot by themselves. Copies of others need none,
// nor do machines that are no nodes: nobody knows when these have booted. A server
// that comes back gives out all places again, whatever boots still.
type boots chan struct{}

func newBoots(n int, accel qemu.Accel) boots {
	if n <= 0 {
		n = bootsPerCore(accel) * runtime.NumCPU()
	}
	return make(boots, n)
}

// place waits until a VM may boot; in the order in which they came. It returns what
// gives the place back.
func (l *Launcher) place(v *vm) (back func(), err error) {
	v.mu.Lock()
	free := v.spare || v.cfg.Template != "" || v.cfg.Spec.FirstBoot != nil
	v.mu.Unlock()
	if free {
		return func() {}, nil
	}
	select {
	case l.boots <- struct{}{}:
		return func() { <-l.boots }, nil
	case <-v.ctx.Done():
		return nil, v.ctx.Err()
	}
}

// booted says whether a VM needs its place no more.
func booted(st launch.Status) bool {
	return st.Phase == launch.Failed || st.Phase == launch.Stopped || !st.Heard.IsZero()
}

// until waits for a status of a supervisor that has been started, for its end, or for
// no longer than the limit.
func (l *Launcher) until(v *vm, exited <-chan struct{}, limit time.Duration, done func(launch.Status) bool) {
	changed := l.watch.waiter(v.dir)
	defer l.watch.dismiss(v.dir, changed)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		if st, err := vmrun.LoadStatus(v.dir); err != nil || done(st) {
			return
		}
		select {
		case <-changed:
		case <-exited:
			return
		case <-timer.C:
			return
		case <-v.ctx.Done():
			return
		}
	}
}
