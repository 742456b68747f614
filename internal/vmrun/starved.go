package vmrun

import (
	"context"
	"time"

	"millpond.dev/millpond/internal/launch"
)

// mostStarved is how often a machine begins anew that the host had no time for; with
// the pauses between them that is a minute, in which others have booted. Tests set both.
var (
	mostStarved  = 5
	starvedPause = time.Second
)

// starve stops a machine whose kernel has given up for want of ticks, and says for how
// long: 2 s at first, and twice as long each time. Others get its processor, which it
// would use up in the loop of its panic. 0 is for a failure of another kind, and for
// one time too many.
func (s *supervisor) starve(f *launch.Failure) time.Duration {
	if f.Code != CodeStarved || s.starved >= mostStarved {
		return 0
	}
	s.starved++
	pause := starvedPause << s.starved
	s.log.Warn("the host had no time for the machine; it begins anew", "pause", pause, "time", s.starved, "of", mostStarved)
	ctx, cancel := context.WithTimeout(context.Background(), quitLimit)
	defer cancel()
	if err := s.qmp.Execute(ctx, "stop", nil, nil); err != nil {
		s.log.Warn("the machine was not stopped meanwhile", "err", err)
	}
	return pause
}

// beginAnew resets a machine that starve has stopped. One of a template goes on in the
// same QEMU, and has to be told to.
func (s *supervisor) beginAnew(ctx context.Context) error {
	if err := s.reset(ctx); err != nil {
		return err
	}
	if s.cfg.renews() {
		return nil
	}
	return s.qmp.Execute(ctx, "cont", nil, nil)
}
