package vmrun

import (
	"os"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu/qemutest"
)

// TestStarved: a machine that the host had no time for begins anew by itself, and fails
// by the host's fault when that was of no use too often.
func TestStarved(t *testing.T) {
	defer func(most int, pause time.Duration) { mostStarved, starvedPause = most, pause }(mostStarved, starvedPause)
	starvedPause = 10 * time.Millisecond
	booted := func(dir string) int {
		b, err := os.ReadFile(SupervisorLog(dir))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), "it begins anew")
	}

	dir, _ := newVM(t, qemutest.Starves)
	_, wait := start(t, dir)
	until(t, dir, "running for the third time", func(st launch.Status) bool {
		b, err := Console(t.Context(), dir, 0)
		return err == nil && running(st) && strings.Count(string(b), "SeaBIOS") == 3
	})
	if _, err := Call(t.Context(), dir, Request{Op: OpStop}); err != nil {
		t.Error(err)
	}
	if st := wait(); st.Phase != launch.Stopped || st.Err != nil || booted(dir) != 2 {
		t.Errorf("at the end, begun anew %d times: %+v, %+v", booted(dir), st, st.Err)
	}

	mostStarved = 1
	dir, _ = newVM(t, qemutest.Starves)
	_, wait = start(t, dir)
	st := wait()
	if st.Phase != launch.Failed || st.Err == nil || st.Err.Code != CodeStarved || !st.Err.Host || !strings.Contains(st.Err.Evidence, "timer doesn't work") || booted(dir) != 1 {
		t.Errorf("at the end, begun anew %d times: %+v, %+v", booted(dir), st, st.Err)
	}
}
